"""FuseConvScale: one number per channel goes into the weights; whatever else needs the product keeps it."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import PRESETS
from planc.passes.fuse_conv_scale import FuseConvScale


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


IMAGE = {"x": _draw(2, 4, 6, 5)}
CONV = "a = Conv(x, w)"


def _text(body: str, x: str = "float[n,4,6,5] x", y: str = "float[a,b,c,d] y") -> str:
    return f"g ({x}) => ({y}) {{ {body} }}"


@pytest.mark.parametrize("shape", [(), (1,), (6, 1, 1), (1, 6, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("last", ["Mul(a, c)", "Mul(c, a)", "Add(a, c)", "Add(c, a)", "Div(a, c)", "Sub(a, c)"])
def test_conv(
    shape: tuple[int, ...], last: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    weights = {"w": _draw(6, 4, 3, 3), "b": _draw(6, seed=1), "c": _draw(*shape, seed=2)}
    model = rewrites(FuseConvScale(), _text(f"a = Conv(x, w, b) y = {last}"), feed=IMAGE, rtol=1e-4, **weights)
    assert ops(model) == {"Conv": 1}
    del weights["b"]
    model = rewrites(FuseConvScale(), _text(f"{CONV} y = {last}"), feed=IMAGE, rtol=1e-4, **weights)
    assert ops(model) == {"Conv": 1}


def test_a_chain(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = _text(
        """a = Conv<group=2, strides=[2,1], pads=[1,0,1,0]>(x, w) b = Mul(a, c) d = Add(b, c) e = Div(d, c)
        f = Sub(e, c) y = Relu(f)"""
    )
    model = rewrites(FuseConvScale(), text, feed=IMAGE, rtol=1e-4, w=_draw(6, 2, 3, 3), c=_draw(6, 1, 1))
    assert ops(model) == {"Conv": 1, "Relu": 1}


def test_batch_normalization_stays(
    graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]], ops: Callable[..., Counter[str]]
) -> None:
    """It is another pass, which may be skipped; together they fold what is before and behind it."""
    text = _text(
        f"{CONV} b = Mul(a, c) d = Add(b, c) e = BatchNormalization(d, s, s, s, s) f = Div(e, c) y = Add(f, c)"
    )
    for skip, kept in (("", {"Conv": 1}), ("fuse-conv-bn", {"Conv": 1, "BatchNormalization": 1, "Div": 1, "Add": 1})):
        model = graph(text, w=_draw(6, 4, 3, 3), c=_draw(6, 1, 1), s=_draw(6))
        before = infer(model, **IMAGE)[0]
        for one in PRESETS["onnx"]:
            if one.name != skip:
                one(model)
        np.testing.assert_allclose(infer(model, **IMAGE)[0], before, rtol=1e-4)
        assert ops(model) == kept


@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose(group: int, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = _text(f"a = ConvTranspose<group={group}>(x, w) b = Mul(a, c) y = Add(b, c)")
    model = rewrites(
        FuseConvScale(), text, feed=IMAGE, rtol=1e-4, w=_draw(4, 6 // group, 3, 3), c=_draw(6, 1, 1, seed=2)
    )
    assert ops(model) == {"ConvTranspose": 1}


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 6)])
@pytest.mark.parametrize("gemm", ["Gemm(x, w)", "Gemm<alpha=0.5, beta=3.0>(x, w, b)", "Gemm<transB=1>(x, v, b)"])
def test_gemm(
    shape: tuple[int, ...], gemm: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    text = _text(f"a = {gemm} d = Mul(a, c) y = Add(d, c)", "float[n,4] x", "float[n,6] y")
    weights = {"w": _draw(4, 6), "v": _draw(6, 4), "b": _draw(6, seed=1), "c": _draw(*shape, seed=2)}
    model = rewrites(FuseConvScale(), text, feed={"x": _draw(3, 4)}, rtol=1e-4, **weights)
    assert ops(model) == {"Gemm": 1}


@pytest.mark.parametrize("shape", [(), (6,), (1, 1, 6)])
def test_matmul(shape: tuple[int, ...], rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = _text("a = MatMul(x, w) b = Mul(a, c) y = Add(b, c)", "float[n,5,4] x", "float[n,5,6] y")
    model = rewrites(FuseConvScale(), text, feed={"x": _draw(3, 5, 4)}, rtol=1e-4, w=_draw(4, 6), c=_draw(*shape))
    assert ops(model) == {"MatMul": 1, "Add": 1}


KEPT = {
    "a constant of the caller": (f"{CONV} y = Mul(a, c)", ", float[6,1,1] c"),
    "a weight of the caller": (f"{CONV} y = Mul(a, c)", ", float[6,4,3,3] w"),
    "a vector along the width": (f"{CONV} y = Mul(a, row)", ""),
    "a whole image": (f"{CONV} y = Add(a, whole)", ""),
    "more dimensions": (f"{CONV} b = Mul(a, five) y = Squeeze(b)", ""),
    "more channels": ("a = Conv(x, one) y = Mul(a, c)", ""),
    "a reversed quotient": (f"{CONV} y = Div(c, a)", ""),
    "a division by zero": (f"{CONV} y = Div(a, zero)", ""),
    "infinity": (f"{CONV} y = Mul(a, infinity)", ""),
    "used twice": (f"{CONV} b = Mul(a, c) y = Add(a, b)", ""),
    "squared": (f"{CONV} y = Mul(a, a)", ""),
    "two weights": ("a = Conv(x, u) y = Mul(a, c)", ", float[6,4,3,3] u"),
}


@pytest.mark.parametrize("name", KEPT)
def test_keeps(name: str, keeps: Callable[..., ir.Model]) -> None:
    body, more = KEPT[name]
    arrays = {
        "w": _draw(6, 4, 3, 3), "c": _draw(6, 1, 1), "row": _draw(3), "whole": _draw(6, 4, 3), "one": _draw(1, 4, 3, 3),
        "five": _draw(1, 1, 6, 1, 1), "zero": np.float32([0]), "infinity": np.float32([np.inf]),
    }  # fmt: skip
    keeps(FuseConvScale(), _text(body, f"float[n,4,6,5] x{more}"), **arrays)


def test_a_product_that_is_an_output(keeps: Callable[..., ir.Model]) -> None:
    text = _text(f"{CONV} y = Mul(a, c)", y="float[p,q,r,s] y, float[p,q,r,s] a")
    keeps(FuseConvScale(), text, w=_draw(6, 4, 3, 3), c=_draw(6, 1, 1))


def test_a_column_beside_a_gemm(keeps: Callable[..., ir.Model]) -> None:
    text = _text("a = Gemm(x, w) y = Mul(a, c)", "float[3,4] x", "float[3,6] y")
    keeps(FuseConvScale(), text, w=_draw(4, 6), c=_draw(3, 1))


def test_a_bias_of_a_gemm_that_is_a_column(keeps: Callable[..., ir.Model]) -> None:
    text = _text("a = Gemm(x, w, b) y = Mul(a, c)", "float[3,4] x", "float[3,6] y")
    keeps(FuseConvScale(), text, w=_draw(4, 6), b=_draw(3, 1), c=_draw(6))


def test_a_matmul_of_unknown_rank_takes_no_matrix(keeps: Callable[..., ir.Model]) -> None:
    """The product of a vector has one dimension: the constant would give it a second one."""
    text = _text("a = MatMul(x, w) y = Mul(a, c)", "float[4] x", "float[1,6] y")
    keeps(FuseConvScale(), text, w=_draw(4, 6), c=_draw(1, 6))


def test_a_shared_weight(
    graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]], ops: Callable[..., Counter[str]]
) -> None:
    """A small one is copied, a large one is not; the other user keeps the old one."""
    for width, left in ((6, 0), (600, 1)):
        text = _text(f"{CONV} b = Conv(x, w) y = Mul(a, c)", y="float[p,q,r,s] y, float[p,q,r,s] b")
        model = graph(text, w=_draw(width, 4, 3, 3), c=_draw(width, 1, 1))
        before = infer(model, **IMAGE)
        assert bool(left) != FuseConvScale()(model).modified
        for was, now in zip(before, infer(model, **IMAGE), strict=True):
            np.testing.assert_allclose(now, was, rtol=1e-4)
        assert ops(model)["Mul"] == left


def test_a_weight_that_is_an_output(rewrites: Callable[..., ir.Model]) -> None:
    text = _text(f"{CONV} y = Mul(a, c)", y="float[p,q,r,s] y, float[6,4,3,3] w")
    rewrites(FuseConvScale(), text, feed=IMAGE, rtol=1e-4, w=_draw(6, 4, 3, 3), c=_draw(6, 1, 1))


def test_float16(graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]]) -> None:
    """Scaled weights must not vanish in, nor leave, the range of float16."""
    half = np.float16
    for scale, folds in ((2.0, True), (1e-4, False), (3e4, False)):
        text = _text(f"{CONV} y = Mul(a, c)", "float16[n,4,6,5] x", "float16[p,q,r,s] y")
        weights = _draw(6, 4, 3, 3).astype(half) * half(0.01 if scale < 1 else 4)
        model = graph(text, w=weights, c=np.full((6, 1, 1), scale, half))
        before = infer(model, x=IMAGE["x"].astype(half))[0]
        assert FuseConvScale()(model).modified == folds
        assert infer(model, x=IMAGE["x"].astype(half))[0].dtype == half
        np.testing.assert_allclose(infer(model, x=IMAGE["x"].astype(half))[0], before, rtol=2e-2)


@pytest.mark.parametrize("opset", [13, 15, 18, 20])
def test_opsets(
    opset: int, graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]], ops: Callable[..., Counter[str]]
) -> None:
    """Through the whole preset."""
    text = f'<ir_version: 8, opset_import: ["": {opset}]> ' + _text(
        f"{CONV} b = Mul(a, c) d = Add(b, c) y = BatchNormalization(d, s, s, s, s)"
    )
    model = graph(text, w=_draw(6, 4, 3, 3), c=_draw(6, 1, 1), s=_draw(6))
    before = infer(model, **IMAGE)[0]
    for one in PRESETS["onnx"]:
        one(model)
    np.testing.assert_allclose(infer(model, **IMAGE)[0], before, rtol=1e-4)
    assert ops(model) == {"Conv": 1}


def test_a_subgraph(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    """Within a branch; not from outside into one."""
    body = "then_branch = t () => (float[a,b,c,d] p) { q = Conv(x, w) p = Mul(q, c) }"
    text = f"""g (bool f, float[n,4,6,5] x) => (float[p,q,r,s] y) {{
      o = Conv(x, v)
      y = If(f) <{body}, else_branch = e () => (float[a,b,c,d] r) {{ r = Mul(o, c) }}>
    }}"""
    for condition in (True, False):
        model = rewrites(
            FuseConvScale(),
            text,
            feed={**IMAGE, "f": np.array(condition)},
            w=_draw(6, 4, 3, 3),
            v=_draw(6, 4, 3, 3, seed=3),
            c=_draw(6, 1, 1),
        )
        assert ops(model) == {"If": 1, "Conv": 2, "Mul": 1}


def test_near_misses(graph: Callable[..., ir.Model]) -> None:
    model = graph(_text(f"{CONV} b = Mul(a, c) y = Add(a, b)"), w=_draw(6, 4, 3, 3), c=_draw(6, 1, 1))
    assert [(node.op_type, reason) for node, reason in FuseConvScale().near_misses(model)] == [
        ("Mul", "something else needs 'a' (unknown of unknown shape) of the Conv")
    ]

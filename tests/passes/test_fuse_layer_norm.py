"""FuseLayerNorm: the spellings of exporters become one LayerNormalization; anything that is nearly one stays."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_layer_norm import FuseLayerNorm

MEAN = "m = ReduceMean(x, last)"
ROOT = "v = ReduceMean(q, last) e = Add(v, eps) r = Sqrt(e)"
TAIL = "s = Mul(n, scale) y = Add(s, bias)"
BODIES = {
    "TorchScript": f"{MEAN} d = Sub(x, m) q = Pow(d, two) {ROOT} n = Div(d, r) {TAIL}",
    "two differences": f"{MEAN} c = Sub(x, m) q = Pow(c, two) {ROOT} d = Sub(x, m) n = Div(d, r) {TAIL}",
    "two means": f"{MEAN} k = ReduceMean(x, last) c = Sub(x, k) q = Mul(c, c) {ROOT} d = Sub(x, m) n = Div(d, r) "
    + TAIL,
    "reciprocal": f"{MEAN} d = Sub(x, m) q = Mul(d, d) {ROOT} i = Reciprocal(r) n = Mul(i, d) {TAIL}",
    "one by the root": f"{MEAN} d = Sub(x, m) q = Mul(d, d) {ROOT} i = Div(one, r) n = Mul(d, i) {TAIL}",
    "scale first": f"{MEAN} d = Sub(x, m) q = Mul(d, d) {ROOT} i = Reciprocal(r) w = Mul(scale, d) s = Mul(w, i) "
    "y = Add(bias, s)",
}
CONSTANTS: dict[str, Any] = {
    "two": np.array(2, np.float32),
    "one": np.array(1, np.float32),
    "eps": np.array(1e-5, np.float32),
    "last": np.array([-1]),
    "scale": np.array([1, 2, 3, 4], np.float32),
    "bias": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
}


def _text(body: str, outputs: str = "float[n,3,4] y", inputs: str = "float[n,3,4] x") -> str:
    return f"g ({inputs}) => ({outputs}) {{ {body} }}"


@pytest.fixture
def cube() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 4), dtype=np.float32) * 3 + 5


@pytest.mark.parametrize("name", BODIES)
def test_fuses(
    name: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], cube: np.ndarray
) -> None:
    model = rewrites(FuseLayerNorm(), _text(BODIES[name]), feed={"x": cube}, rtol=1e-4, **CONSTANTS)
    assert ops(model) == {"LayerNormalization": 1}
    (node,) = model.graph
    assert node.attributes["axis"].as_int() == -1
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-5)
    assert [value.name for value in node.inputs] == ["x", "scale", "bias"]
    assert list(FuseLayerNorm().near_misses(model)) == []


@pytest.mark.parametrize(
    ("tail", "left"), [("s = Mul(n, scale) y = Neg(s)", 2), ("y = Add(n, bias)", 2), ("y = Neg(n)", 2), ("", 1)]
)
def test_without_scale_or_bias(
    tail: str, left: int, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], cube: np.ndarray
) -> None:
    body = BODIES["TorchScript"].replace(TAIL, tail or "").replace("n = Div", "n = Div" if tail else "y = Div")
    model = rewrites(FuseLayerNorm(), _text(body), feed={"x": cube}, rtol=1e-4, **CONSTANTS)
    assert ops(model)["LayerNormalization"] == 1
    assert sum(ops(model).values()) == left - ("bias" in tail)  # without a scale the bias is taken all the same


def test_the_last_two_axes(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], cube: np.ndarray
) -> None:
    rng = np.random.default_rng(1)
    own = {name: rng.standard_normal((3, 4), dtype=np.float32) for name in ("scale", "bias")}
    constants = {**CONSTANTS, **own, "last": np.array([2, 1])}
    model = rewrites(FuseLayerNorm(), _text(BODIES["TorchScript"]), feed={"x": cube}, rtol=1e-4, **constants)
    assert ops(model) == {"LayerNormalization": 1}


def test_parameters_with_ones_before(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], cube: np.ndarray
) -> None:
    own = {name: CONSTANTS[name].reshape(1, 1, 4) for name in ("scale", "bias")}
    text = _text(BODIES["TorchScript"])
    assert ops(rewrites(FuseLayerNorm(), text, feed={"x": cube}, rtol=1e-4, **{**CONSTANTS, **own})) == {
        "LayerNormalization": 1
    }


def test_parameters_that_the_caller_gives(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], cube: np.ndarray
) -> None:
    text = _text(BODIES["TorchScript"], inputs="float[n,3,4] x, float[4] scale")
    feed = {"x": cube, "scale": np.full(4, 7, np.float32)}
    model = rewrites(FuseLayerNorm(), text, feed=feed, rtol=1e-4, **CONSTANTS)
    assert ops(model) == {"LayerNormalization": 1}


@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (3, 1), (2, 3, 4)])
def test_another_scale_stays_behind(
    shape: tuple[int, ...], rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], cube: np.ndarray
) -> None:
    own = {**CONSTANTS, "scale": np.full(shape, 2, np.float32)}
    model = rewrites(FuseLayerNorm(), _text(BODIES["TorchScript"]), feed={"x": cube}, rtol=1e-4, **own)
    assert ops(model) == {"LayerNormalization": 1, "Mul": 1, "Add": 1}


def test_float16(rewrites: Callable[..., ir.Model], cube: np.ndarray) -> None:
    constants = {name: one if name == "last" else one.astype(np.float16) for name, one in CONSTANTS.items()}
    text = _text(BODIES["TorchScript"]).replace("float[", "float16[")
    rewrites(FuseLayerNorm(), text, feed={"x": (cube - 5).astype(np.float16)}, rtol=2e-2, **constants)


def test_axes_as_an_attribute(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], cube: np.ndarray
) -> None:
    body = BODIES["TorchScript"].replace("ReduceMean(x, last)", "ReduceMean<axes=[-1]>(x)")
    body = body.replace("ReduceMean(q, last)", "ReduceMean<axes=[2]>(q)")
    text = '<ir_version: 8, opset_import: ["": 17]>' + _text(body)
    assert ops(rewrites(FuseLayerNorm(), text, feed={"x": cube}, rtol=1e-4, **CONSTANTS)) == {"LayerNormalization": 1}


NOT = {
    "no square": ({"two": np.array(3, np.float32)}, "", "", "'q' (float[n,3,4]) is no square"),
    "another axis": ({"last": np.array([1])}, "", "", "is over the axes [1]"),
    "an axis between": ({"last": np.array([0, 2])}, "", "", "is over the axes [0, 2]"),
    "epsilon for each element": ({"eps": np.full((1, 1, 1), 1e-5, np.float32)}, "", "", "no constant epsilon"),
    "no kept axes": ({}, "v = ReduceMean(q, last)", "v = ReduceMean<keepdims=0>(q, last)", "drops the axes"),
    "another mean": ({}, "d = Sub(x, m)", "d = Sub(x, z)", "an input or a constant stands where ReduceMean"),
    "another x": ({}, MEAN, "m = ReduceMean(z, last)", "'m' (float[n,3,1]) is not the mean of 'x'"),
    "the root divided": ({}, "n = Div(d, r)", "n = Div(r, d)", "is divided, not the divisor"),
    "another top": ({}, "n = Div(d, r)", "n = Div(x, r)", "an input or a constant stands where Sub"),
    "a mean for all": ({}, MEAN, "m = ReduceMean(x)", "over the axes None"),
}


@pytest.mark.parametrize("name", NOT)
def test_what_is_nearly_one(name: str, keeps: Callable[..., ir.Model]) -> None:
    other, old, new, reason = NOT[name]
    body = BODIES["TorchScript"]
    assert old in body
    shape = "float[n,3,4] y" if name not in ("no kept axes", "a mean for all") else "float[a,b,c] y"
    text = _text(body.replace(old, new), shape, "float[n,3,4] x, float[n,3,4] z")
    model = keeps(FuseLayerNorm(), text, **{**CONSTANTS, **other})
    ((node, said),) = FuseLayerNorm().near_misses(model)
    assert node.op_type == "Sqrt"
    assert reason in said


@pytest.mark.parametrize("name", ["m", "d", "q", "v", "e", "r"])
def test_an_intermediate_that_others_need(name: str, keeps: Callable[..., ir.Model]) -> None:
    body = BODIES["TorchScript"]
    size = 4 if name in "dq" else 1
    more = f"float[n,3,4] y, float[n,3,{size}] "
    keeps(FuseLayerNorm(), _text(f"{body} z = Neg({name})", more + "z"), **CONSTANTS)
    keeps(FuseLayerNorm(), _text(body, more + name), **CONSTANTS)


@pytest.mark.parametrize("name", ["eps", "two", "last"])
def test_a_constant_that_the_caller_gives(name: str, keeps: Callable[..., ir.Model]) -> None:
    kind = "int64[1]" if name == "last" else "float"
    text = _text(BODIES["TorchScript"], "float[a,b,c] y", f"float[n,3,4] x, {kind} {name}")
    keeps(FuseLayerNorm(), text, **CONSTANTS)


def test_sizes_that_are_not_known(keeps: Callable[..., ir.Model]) -> None:
    keeps(FuseLayerNorm(), _text(BODIES["TorchScript"], "float[n,3,4] y", "float[n,3,k] x"), **CONSTANTS)
    body = "x = Reshape(raw, shape) " + BODIES["TorchScript"]
    keeps(FuseLayerNorm(), _text(body, "float[n,3,4] y", "float[k] raw, int64[r] shape"), **CONSTANTS)


def test_float64_keeps_its_digits(keeps: Callable[..., ir.Model]) -> None:
    constants = {name: one if name == "last" else one.astype(np.float64) for name, one in CONSTANTS.items()}
    keeps(FuseLayerNorm(), _text(BODIES["TorchScript"]).replace("float[", "double["), **constants)


def test_before_opset_17(keeps: Callable[..., ir.Model]) -> None:
    body = BODIES["TorchScript"].replace("(x, last)", "<axes=[-1]>(x)").replace("(q, last)", "<axes=[-1]>(q)")
    keeps(FuseLayerNorm(), '<ir_version: 8, opset_import: ["": 16]>' + _text(body), **CONSTANTS)

"""MergeMatmuls: three projections of one input become one product and a Split."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from planc.compiler import reference, storage
from planc.passes.fold_constants import FoldConstants
from planc.passes.merge_duplicates import MergeDuplicates
from planc.passes.merge_matmuls import MergeMatmuls
from planc.passes.remove_unused import RemoveUnused

PLAIN = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) a = Add(q, k) y = MatMul(a, t)  z = Relu(v)"
BIASED = """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) qb = Add(q, bq) kb = Add(bk, k) vb = Add(v, bv)
  a = Add(qb, kb) y = MatMul(a, t) z = Relu(vb)"""


def _text(body: str, inputs: str = "float[n,4] x", outputs: str = "float[] y, float[] z") -> str:
    return f"g ({inputs}) => ({outputs}) {{ {body} }}"


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"wq": (4, 5), "wk": (4, 5), "wv": (4, 3), "bq": (5,), "bk": (5,), "bv": (3,), "t": (5, 2)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("body", [PLAIN, BIASED], ids=["plain", "biased"])
def test_merges(
    body: str,
    rewrites: Callable[..., ir.Model],
    ops: Callable[..., Counter[str]],
    x: np.ndarray,
    weights: dict[str, np.ndarray],
) -> None:
    model = rewrites(MergeMatmuls(), _text(body), feed={"x": x}, **weights)
    biases = 1 if body is BIASED else 0
    assert ops(model) == {"MatMul": 2, "Split": 1, "Add": 1 + biases, "Relu": 1}


def test_more_dimensions(rewrites: Callable[..., ir.Model], weights: dict[str, np.ndarray]) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 4), dtype=np.float32)
    rewrites(MergeMatmuls(), _text(BIASED, "float[n,m,4] x"), feed={"x": x}, **weights)


def test_least(rewrites: Callable[..., ir.Model], x: np.ndarray, weights: dict[str, np.ndarray]) -> None:
    text = _text("y = MatMul(a, t) q = MatMul(x, wq) k = MatMul(x, wk) a = Add(q, k)", outputs="float[] y")
    text = _text("q = MatMul(x, wq) k = MatMul(x, wk) a = Add(q, k) y = MatMul(a, t)", outputs="float[] y")
    rewrites(MergeMatmuls(least=2), text, feed={"x": x}, **weights)


def test_two_are_too_few(keeps: Callable[..., ir.Model], weights: dict[str, np.ndarray]) -> None:
    text = _text("q = MatMul(x, wq) k = MatMul(x, wk) a = Add(q, k) y = MatMul(a, t)", outputs="float[] y")
    keeps(MergeMatmuls(), text, **weights)


@pytest.mark.parametrize(
    ("body", "inputs", "outputs"),
    [
        (PLAIN + " s = MatMul(p, wk)", "float[n,4] x, float[n,4] p", "float[] y, float[] z, float[] s"),
        (PLAIN + " s = Neg(wk)", "float[n,4] x", "float[] y, float[] z, float[] s"),
        (PLAIN, "float[n,4] x, float[4,5] wk", "float[] y, float[] z"),
        (PLAIN, "float[n,4] x", "float[] y, float[] z, float[] k"),
        (PLAIN.replace("MatMul(x, wk)", "MatMul(p, wk)"), "float[n,4] x, float[n,4] p", "float[] y, float[] z"),
    ],
    ids=["weight of another product", "weight of another node", "weight of the caller", "an output", "another input"],
)
def test_keeps(
    body: str, inputs: str, outputs: str, keeps: Callable[..., ir.Model], weights: dict[str, np.ndarray]
) -> None:
    keeps(MergeMatmuls(), _text(body, inputs, outputs), **weights)


@pytest.mark.parametrize("body", [PLAIN + " w = Neg(k)", BIASED + " w = Neg(k)", BIASED + " w = Neg(kb)"])
def test_products_that_are_used_twice(
    body: str,
    graph: Callable[..., ir.Model],
    infer: Callable[..., list[np.ndarray]],
    x: np.ndarray,
    weights: dict[str, np.ndarray],
) -> None:
    model = graph(_text(body, outputs="float[] y, float[] z, float[] w"), **weights)
    before = infer(model, x=x)
    MergeMatmuls()(model)
    for was, now in zip(before, infer(model, x=x), strict=True):
        np.testing.assert_allclose(now, was, rtol=1e-5, atol=1e-6)


def test_branches(rewrites: Callable[..., ir.Model], x: np.ndarray, weights: dict[str, np.ndarray]) -> None:
    """The names of what is new do not hide a name from outside: exporters call values val_0 too."""
    body = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) a = Add(q, k) p = Concat<axis=1>(a, v, val_0, val_1)"
    text = f"""g (bool c, float[n,4] x) => (float[] y) {{
      val_0 = Neg(x)
      val_1 = Exp(x)
      y = If(c) <then_branch = h () => (float[] p) {{ {body} }}, else_branch = e () => (float[] b) {{ b = Neg(val_0) }}>
    }}"""
    for condition in (True, False):
        rewrites(MergeMatmuls(), text, feed={"c": np.array(condition), "x": x}, **weights)


@pytest.mark.parametrize("turned", [False, True])
def test_equal_weights_are_one_once_they_are_joined(
    turned: bool, onnx_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Layers that share their weights, each with a copy of its own; the last has others."""
    rng = np.random.default_rng(0)
    first, last = ([rng.standard_normal((128, 128), dtype=np.float32) for _ in "qkv"] for _ in range(2))
    lines, arrays = [], {}
    for layer, weights in enumerate((first, first, last)):
        before = f"y{layer - 1}" if layer else "x"
        for name, weight in zip("qkv", weights, strict=True):
            arrays[f"w{name}{layer}"] = weight
            lines.append(f"t{name}{layer} = Transpose<perm=[1,0]>(w{name}{layer})" if turned else "")
            lines.append(f"{name}{layer} = MatMul({before}, {'t' if turned else 'w'}{name}{layer})")
        lines.append(f"a{layer} = Add(q{layer}, k{layer}) y{layer} = Mul(a{layer}, v{layer})")
    text = f"""<ir_version: 8, opset_import: ["": 18]>
    g (float[n,128] x) => (float[n,128] y2) {{ {" ".join(lines)} }}"""
    path = onnx_file(tmp_path / "g.onnx", text, **arrays)
    model, x = storage.load(path), rng.standard_normal((2, 128), dtype=np.float32)
    for one in (FoldConstants(), MergeMatmuls(), MergeDuplicates(), RemoveUnused()):
        one(model)
    large = [value for value in model.graph.initializers.values() if value.const_value.nbytes > 1000]  # type: ignore[union-attr]
    assert sorted(value.const_value.nbytes for value in large) == [3 * 128 * 128 * 4] * 2  # type: ignore[union-attr]
    storage.save_whole(model, tmp_path / "out.onnx")
    before, after = (reference.runner(one)({"x": x})["y2"] for one in (path, tmp_path / "out.onnx"))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=abs(before).max() * 1e-5)

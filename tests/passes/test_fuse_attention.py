"""FuseAttention: attention on heads, or around their transpositions, is one Attention; what only looks so stays."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_attention import FuseAttention

HEAD = '<ir_version: 11, opset_import: ["": 23]>\n'
SPLIT = (
    "qr = Reshape(x, heads) q = Transpose<perm=[0,2,1,3]>(qr) vr = Reshape(z, heads) v = Transpose<perm=[0,2,1,3]>(vr)"
)
KEY = "kr = Reshape(z, heads) kt = Transpose<perm=[0,2,3,1]>(kr)"
CORE = "s = MatMul(q, kt) c = Mul(s, scale) m = Add(c, mask) p = Softmax<axis=-1>(m) o = MatMul(p, v)"
JOIN = "t = Transpose<perm=[0,2,1,3]>(o) y = Reshape(t, whole)"
BODY = f"{SPLIT} {KEY} {CORE} {JOIN}"
CONSTANTS: dict[str, Any] = {
    "heads": np.array([0, 5, 2, 4]),
    "whole": np.array([0, 5, 8]),
    "scale": np.array(0.3, np.float32),
    "mask": np.where(np.eye(5) == 1, -1e9, 0.5).astype(np.float32),
}
ON_HEADS = "k = Identity(a) kt = Transpose<perm=[0,1,3,2]>(k) " + CORE.replace("o = ", "y = ")
FOUR = "float[n,2,3,4] q, float[n,2,5,4] a, float[n,2,5,4] v"

Rewrites = Callable[..., ir.Model]
Ops = Callable[..., Counter[str]]


def _text(body: str = BODY, outputs: str = "float[n,5,8] y", inputs: str = "float[n,5,8] x, float[n,5,8] z") -> str:
    return f"{HEAD} g ({inputs}) => ({outputs}) {{ {body} }}"


@pytest.fixture
def feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((3, 5, 8), dtype=np.float32) for name in "xz"}


@pytest.fixture
def heads() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((3, 2, 3 if name == "q" else 5, 4), dtype=np.float32) for name in "qav"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("c = Mul(s, scale) m = Add(c, mask)", "c = Mul(scale, s) m = Add(mask, c)"),
        ("c = Mul(s, scale) m = Add(c, mask)", "m = Mul(s, scale)"),
        ("c = Mul(s, scale) m = Add(c, mask)", "m = Div(s, scale)"),
        ("s = MatMul(q, kt) c = Mul(s, scale)", "h = Mul(q, scale) c = MatMul(h, kt)"),
        ("s = MatMul(q, kt) c = Mul(s, scale)", "h = Mul(q, scale) l = Mul(kt, scale) c = MatMul(h, l)"),
    ],
)
def test_joins_and_splits_go_too(old: str, new: str, rewrites: Rewrites, ops: Ops, feed: dict[str, Any]) -> None:
    model = rewrites(FuseAttention(), _text(BODY.replace(old, new)), feed=feed, rtol=1e-4, **CONSTANTS)
    assert ops(model) == {"Attention": 1}
    (node,) = model.graph
    assert [value and value.name for value in node.inputs][:3] == ["x", "z", "z"]
    assert list(FuseAttention().near_misses(model)) == []


def test_on_heads(rewrites: Rewrites, ops: Ops, heads: dict[str, Any]) -> None:
    constants = {**CONSTANTS, "mask": np.zeros((1, 1, 3, 5), np.float32)}
    model = rewrites(FuseAttention(), _text(ON_HEADS, "float[n,2,3,4] y", FOUR), feed=heads, rtol=1e-4, **constants)
    assert ops(model) == {"Identity": 1, "Attention": 1}


def test_keys_that_are_transposed_in_another_way(rewrites: Rewrites, ops: Ops, heads: dict[str, Any]) -> None:
    """Keys of [batch, length, heads, width] beside queries on heads."""
    body = ON_HEADS.replace("Transpose<perm=[0,1,3,2]>", "Transpose<perm=[0,2,3,1]>")
    constants = {**CONSTANTS, "mask": np.zeros((3, 5), np.float32)}
    inputs = FOUR.replace("[n,2,5,4] a", "[n,5,2,4] a")
    feed = {**heads, "a": heads["a"].transpose(0, 2, 1, 3)}
    model = rewrites(FuseAttention(), _text(body, "float[n,2,3,4] y", inputs), feed=feed, rtol=1e-4, **constants)
    assert ops(model) == {"Identity": 1, "Transpose": 1, "Attention": 1}


def test_a_result_that_is_joined_in_another_way(rewrites: Rewrites, ops: Ops, feed: dict[str, Any]) -> None:
    text = _text(BODY.replace("t = Transpose<perm=[0,2,1,3]>(o)", "t = Transpose<perm=[0,2,3,1]>(o)"))
    model = rewrites(FuseAttention(), text, feed=feed, rtol=1e-4, **CONSTANTS)
    assert ops(model)["Attention"] == 1
    assert ops(model)["Transpose"] == 4


NOT = {
    "another axis": ("Softmax<axis=-1>", "Softmax<axis=2>", "Softmax is not over the last axis"),
    "weights used twice": ("o = MatMul", "u = Neg(p) o = MatMul", "has 2 uses"),
    "the weights on the right": ("MatMul(p, v)", "MatMul(v5, p)", "is the right side of its product"),
    "scores used twice": ("c = Mul(s", "u = Neg(s) c = Mul(s", "'s' (float[n,2,5,5]) is needed outside"),
    "no transposed keys": (KEY, "kt = Identity(k5)", "Identity '' stands where Transpose"),
    "no product": ("c = Mul(s, scale)", "c = Tanh(s)", "is not a product and a mask"),
    "a scale for each": ("Mul(s, scale)", "Mul(s, scales)", "is not a product and a mask"),
}
FIVE = ", float[n,2,5,5] v5, float[n,2,4,5] k5"


@pytest.mark.parametrize("name", NOT)
def test_what_only_looks_so(name: str, keeps: Rewrites) -> None:
    old, new, reason = NOT[name]
    assert old in BODY
    body = BODY.replace(old, new)
    outputs = "float[n,5,8] y" + (", float[n,2,5,5] u" if "u = " in new else "")
    if "v5, p" in new:
        body, outputs = body.replace(JOIN, ""), "float[n,2,5,5] o"
    scales = np.full((1, 2, 1, 1), 0.3, np.float32)
    model = keeps(
        FuseAttention(), _text(body, outputs, "float[n,5,8] x, float[n,5,8] z" + FIVE), **CONSTANTS, scales=scales
    )
    ((_, said),) = FuseAttention().near_misses(model)
    assert reason in said


@pytest.mark.parametrize("name", ["s", "c", "m", "p"])
def test_an_intermediate_that_is_an_output(name: str, keeps: Rewrites) -> None:
    keeps(FuseAttention(), _text(outputs=f"float[n,5,8] y, float[n,2,5,5] {name}"), **CONSTANTS)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((5,), "has 1 dimensions"), ((5, 1), "is not of the size"), ((1, 5), "is not of the size"), ((), "has 0")],
)
def test_a_mask_of_another_size(shape: tuple[int, ...], reason: str, keeps: Rewrites) -> None:
    """The operator does not broadcast a mask's last dimensions in every runtime."""
    model = keeps(FuseAttention(), _text(), **{**CONSTANTS, "mask": np.zeros(shape, np.float32)})
    ((_, said),) = FuseAttention().near_misses(model)
    assert reason in said


def test_a_mask_whose_batch_has_another_name(keeps: Rewrites) -> None:
    text = _text(inputs="float[n,5,8] x, float[n,5,8] z, float[k,1,5,5] mask")
    keeps(FuseAttention(), text, **{name: one for name, one in CONSTANTS.items() if name != "mask"})


def test_a_scale_that_the_caller_gives(keeps: Rewrites) -> None:
    keeps(FuseAttention(), _text(inputs="float[n,5,8] x, float[n,5,8] z, float scale"), **CONSTANTS)


def test_float64_has_no_kernel(keeps: Rewrites) -> None:
    doubles = {name: one.astype(np.float64) if one.dtype == np.float32 else one for name, one in CONSTANTS.items()}
    keeps(FuseAttention(), _text().replace("float[", "double["), **doubles)


def test_before_opset_23(keeps: Rewrites) -> None:
    keeps(FuseAttention(), _text().replace('"": 23', '"": 22'), **CONSTANTS)


@pytest.mark.parametrize("shape", ["[1,2,5,4]", "[n,1,5,4]", "[k,2,5,4]"])
@pytest.mark.parametrize("name", ["a", "v"])
def test_keys_or_values_that_are_broadcast(name: str, shape: str, keeps: Rewrites) -> None:
    inputs = FOUR.replace(f"[n,2,5,4] {name}", f"{shape} {name}")
    constants = {**CONSTANTS, "mask": np.zeros((3, 5), np.float32)}
    model = keeps(FuseAttention(), _text(ON_HEADS, "float[b,h,3,4] y", inputs), **constants)
    ((_, said),) = FuseAttention().near_misses(model)
    assert "batch and heads are not surely the same" in said

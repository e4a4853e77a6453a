"""SimplifyAttention: torch's scaled_dot_product_attention in fewer operators, where that is surely the same."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import check, signature
from planc.passes.infer_shapes import InferShapes
from planc.passes.simplify_attention import SimplifyAttention

TRANSPOSE = "f = Reshape(k, flat) t = Transpose<perm=[0,2,1]>(f) kt = Reshape(t, back)"
SCALE = "qs = Mul(q, root) ks = Mul(root, kt) s = MatMul(qs, ks)"
GUARD = "p = Softmax<axis=-1>(m) b = IsNaN(p) w = Where(b, zero, p) y = MatMul(w, v)"
BODY = f"{TRANSPOSE} {SCALE} m = Add(s, mask) {GUARD}"
INPUTS = "float[2,2,3,4] q, float[2,2,5,4] k, float[2,2,5,4] v"
CONSTANTS: dict[str, Any] = {
    "flat": np.array([-1, 5, 4]),
    "back": np.array([-1, 2, 4, 5]),
    "root": np.array(0.70710678, np.float32),
    "zero": np.array(0, np.float32),
    "least": np.array(-3.4028235e38, np.float32),
    "mask": np.array([[0, 0, -3.4028235e38, 0, -3.4028235e38]] * 2 + [[-3.4028235e38] * 5], np.float32),
}


def _text(body: str = BODY, outputs: str = "float[2,2,3,4] y", inputs: str = INPUTS) -> str:
    return f"g ({inputs}) => ({outputs}) {{ {body} }}"


@pytest.fixture
def feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 2, 3, 4), "k": (2, 2, 5, 4), "v": (2, 2, 5, 4)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


Rewrites = Callable[..., ir.Model]
Ops = Callable[..., Counter[str]]


def test_all_parts(rewrites: Rewrites, ops: Ops, feed: dict[str, np.ndarray]) -> None:
    """The last row of the mask hides all: finite numbers leave it equal weights, no NaN."""
    model = rewrites(SimplifyAttention(), _text(), feed=feed, rtol=1e-4, **CONSTANTS)
    assert ops(model) == {"Transpose": 1, "Mul": 1, "MatMul": 2, "Add": 1, "Softmax": 1}
    (transpose,) = [node for node in model.graph if node.op_type == "Transpose"]
    assert transpose.attributes["perm"].as_ints() == (0, 1, 3, 2)


def test_a_batch_that_is_not_known(graph: Rewrites, infer: Callable[..., Any], ops: Ops, feed: dict[str, Any]) -> None:
    """Three sizes of the result are as they were, so the fourth is."""
    model = graph(_text().replace("[2,", "[n,"), **CONSTANTS)
    before = infer(model, **feed)[0]
    _run(model)
    assert ops(model)["Reshape"] == 0
    np.testing.assert_allclose(infer(model, **feed)[0], before, rtol=1e-4, atol=1e-6)


def test_a_mask_that_is_chosen(rewrites: Rewrites, ops: Ops, feed: dict[str, np.ndarray]) -> None:
    body = BODY.replace("Add(s, mask)", "Add(mm, s)").replace("m = ", "mm = Where(hide, least, zero) m = ")
    hide = np.array([[True, False, True, True, False], [True] * 5, [False] * 5])
    text = _text(body, inputs=f"{INPUTS}, bool[3,5] hide")
    model = rewrites(SimplifyAttention(), text, feed={**feed, "hide": hide}, rtol=1e-4, **CONSTANTS)
    assert ops(model)["IsNaN"] == 0


def test_without_a_mask(rewrites: Rewrites, ops: Ops, feed: dict[str, np.ndarray]) -> None:
    body = BODY.replace("m = Add(s, mask)", "").replace("Softmax<axis=-1>(m)", "Softmax<axis=-1>(s)")
    model = rewrites(SimplifyAttention(), _text(body), feed=feed, rtol=1e-4, **CONSTANTS)
    assert ops(model) == {"Transpose": 1, "Mul": 1, "MatMul": 2, "Softmax": 1}


def test_weights_that_are_an_output_of_the_block(rewrites: Rewrites, ops: Ops, feed: dict[str, np.ndarray]) -> None:
    text = _text(outputs="float[2,2,3,4] y, float[2,2,3,5] w")
    model = rewrites(SimplifyAttention(), text, feed=feed, rtol=1e-4, **CONSTANTS)
    assert ops(model)["Where"] == 0
    assert [value.name for value in model.graph.outputs] == ["y", "w"]


def _run(model: ir.Model) -> None:
    InferShapes()(model)
    SimplifyAttention()(model)


def _reasons(model: ir.Model) -> dict[str, str]:
    return {node.op_type: reason for node, reason in SimplifyAttention().near_misses(model)}


INFINITE = np.array([[0, 0, -np.inf, 0, 0]] * 3, np.float32)


@pytest.mark.parametrize(
    ("old", "new", "other", "said"),
    [
        ("", "", {"mask": INFINITE}, "the mask 'mask' (float[3,5]) may hold an infinity"),
        ("", "", {"zero": np.array(1, np.float32)}, "Where gives 'zero' = 1 for NaN, not 0"),
        ("Where(b, zero, p)", "Where(b, p, zero)", {}, "Where gives another value than 'p'"),
        ("p = Softmax", "c = Log(m) p = Softmax", {}, ""),
        ("m = Add(s, mask)", "l = Log(s) m = Add(l, mask)", {}, "is not a product of queries and keys"),
        ("m = Add(s, mask)", "m = Div(s, zero)", {}, "is not a product of queries and keys"),
    ],
)
def test_the_guard_stays(old: str, new: str, other: dict[str, Any], said: str, graph: Rewrites, ops: Ops) -> None:
    body = BODY.replace(old, new) if old else BODY
    body = body.replace("Softmax<axis=-1>(m)", "Softmax<axis=-1>(c)") if "c = " in new else body
    model = graph(_text(body), **{**CONSTANTS, **other})
    _run(model)
    assert ops(model)["IsNaN"] == 1
    assert said in _reasons(model)["IsNaN"]


@pytest.mark.parametrize("name", ["mask", "zero"])
def test_a_mask_or_zero_that_the_caller_gives(name: str, graph: Rewrites, ops: Ops) -> None:
    kind = "float[3,5]" if name == "mask" else "float"
    model = graph(_text(inputs=f"{INPUTS}, {kind} {name}"), **CONSTANTS)
    _run(model)
    assert ops(model)["IsNaN"] == 1


def test_weights_of_an_outer_graph_do_not_become_the_output_of_a_branch(graph: Rewrites, ops: Ops) -> None:
    body = """s = MatMul(q, kt) p = Softmax<axis=-1>(s) y = If(c) <
      then_branch = t () => (float[2,2,3,5] w) { b = IsNaN(p) w = Where(b, zero, p) },
      else_branch = e () => (float[2,2,3,5] z) { z = Neg(p) }
    >"""
    model = graph(_text(body, "float[2,2,3,5] y", "float[2,2,3,4] q, float[2,2,4,5] kt, bool c"), **CONSTANTS)
    _run(model)
    check(model, signature(model))
    assert ops(model)["Where"] == 1
    reasons = {node.op_type: reason for node, reason in SimplifyAttention().near_misses(model)}
    assert reasons["IsNaN"] == "'p' (float[2,2,3,5]) is computed outside of the subgraph"


def test_float16_keeps_its_guard_and_scales(graph: Rewrites, ops: Ops) -> None:
    constants = {
        name: one.astype(np.float16) if one.dtype == np.float32 else one
        for name, one in CONSTANTS.items()
        if name not in ("least", "mask")
    }
    model = graph(_text().replace("float[", "float16["), **{**constants, "mask": np.zeros((3, 5), np.float16)})
    _run(model)
    assert (ops(model)["IsNaN"], ops(model)["Mul"]) == (1, 2)


@pytest.mark.parametrize(
    ("old", "new", "other"),
    [
        ("", "", {"root": np.full((1, 1, 1, 1), 0.7, np.float32)}),
        ("", "", {"root": np.full((4, 1), 0.7, np.float32)}),
        ("qs = Mul(q, root)", "qs = Add(q, root)", {}),
        ("s = MatMul(qs, ks)", "s = MatMul(qs, ks) z = Neg(ks)", {}),
    ],
    ids=["a factor of four dimensions", "one for each", "a sum", "used twice"],
)
def test_scales_stay(old: str, new: str, other: dict[str, Any], graph: Rewrites, ops: Ops) -> None:
    outputs = "float[2,2,3,4] y, float[2,2,4,5] z" if "z = " in new else "float[2,2,3,4] y"
    inputs = INPUTS.replace("float[2,2,3,4] q", "float[2,2,4,4] q") if "root" in other else INPUTS
    mask = {"mask": np.zeros(5, np.float32)}
    model = graph(_text(BODY.replace(old, new) if old else BODY, outputs, inputs), **{**CONSTANTS, **mask, **other})
    before = ops(model)["Mul"]
    _run(model)
    assert ops(model)["Mul"] == before
    assert "Softmax" in _reasons(model)


@pytest.mark.parametrize(
    "other",
    [
        {"flat": np.array([-1, 10, 4]), "back": np.array([-1, 2, 4, 5])},
        {"flat": np.array([-1, 5, 4]), "back": np.array([2, -1, 4, 5])},
        {"flat": np.array([-1, 4, 5]), "back": np.array([-1, 2, 5, 4])},
    ],
    ids=["heads in the length", "heads before the batch", "no transposition"],
)
def test_another_transposition_stays(other: dict[str, Any], graph: Rewrites, ops: Ops) -> None:
    model = graph(_text(f"{TRANSPOSE} y = Neg(kt)", "float[a,b,c,d] y", "float[n,2,5,4] k"), **{**CONSTANTS, **other})
    _run(model)
    assert ops(model)["Reshape"] == 2
    assert "Transpose" in _reasons(model)


def test_names_that_differ_are_not_taken_for_equal(graph: Rewrites, ops: Ops) -> None:
    """[n,h,5,4] -> [h,n,4,5] has as many numbers, in another order."""
    text = _text(f"{TRANSPOSE} y = Neg(kt)", "float[a,b,4,5] y", "float[n,h,5,4] k, int64[4] back")
    constants = {name: one for name, one in CONSTANTS.items() if name != "back"}
    model = graph(text, **constants)
    _run(model)
    assert ops(model)["Reshape"] == 2

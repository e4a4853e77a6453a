"""MergeDuplicates: equal weights are kept once, equal computations run once; what only looks equal stays."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planc.passes.merge_duplicates import MergeDuplicates


def _weights(model: ir.Model) -> set[str]:
    return set(model.graph.initializers)


def test_equal_computations(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    text = """g (float[n,4] x) => (float[n,4] y) {
      a = Softmax<axis=1>(x) b = Softmax<axis=1>(x) c = Exp(a) d = Exp(b) e = Softmax<axis=0>(x)
      f = Add(c, d) y = Mul(f, e)
    }"""
    assert ops(rewrites(MergeDuplicates(), text, feed={"x": x})) == {"Softmax": 2, "Exp": 1, "Add": 1, "Mul": 1}


def test_graph_outputs_keep_their_names(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray
) -> None:
    text = """g (float[n,4] x) => (float[n,4] y, float[n,4] z, float[n,4] u, float[n,4] v) {
      a = Neg(x) y = Exp(a) b = Neg(x) z = Exp(b) u = Neg(x) v = Exp(b)
    }"""
    model = rewrites(MergeDuplicates(), text, feed={"x": x})
    assert [value.name for value in model.graph.outputs] == ["y", "z", "u", "v"]
    assert ops(model) == {"Neg": 1, "Exp": 1, "Identity": 2}


def test_branches(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    text = """g (bool c, float[n,4] x) => (float[n,4] y) {
      o = Neg(x)
      y = If(c) <
        then_branch = t () => (float[n,4] a) { p = Exp(o) q = Exp(o) a = Add(p, q) },
        else_branch = e () => (float[n,4] b) { r = Exp(o) s = Exp(o) b = Mul(r, s) }
      >
    }"""
    for condition in (True, False):
        model = rewrites(MergeDuplicates(), text, feed={"c": np.array(condition), "x": x})
        assert ops(model) == {"Neg": 1, "If": 1, "Exp": 2, "Add": 1, "Mul": 1}


@pytest.mark.parametrize(
    "body",
    [
        "{ a = Bernoulli(x) b = Bernoulli(x) y = Sub(a, b) }",
        "{ a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b) }",
        "<float r = {0.5}, bool t = {1}> { a = Dropout(x, r, t) b = Dropout(x, r, t) y = Sub(a, b) }",
        "{ a = LeakyRelu<alpha=0.0>(x) b = LeakyRelu<alpha=-0.0>(x) y = Sub(a, b) }",
        "{ a = Constant<value_float=0.0>() b = Constant<value_float=-0.0>() c = Div(x, a) y = Sub(c, b) }",
        "{ a = Sub(x, z) b = Sub(z, x) y = Sub(a, b) }",
    ],
    ids=["bernoulli", "normal", "dropout", "alpha -0", "constant -0", "order"],
)
def test_what_only_looks_equal(body: str, keeps: Callable[..., ir.Model]) -> None:
    keeps(MergeDuplicates(), f"g (float[n,4] x, float[n,4] z) => (float[n,4] y) {body}")


def test_strings_are_not_compared_by_address(keeps: Callable[..., ir.Model]) -> None:
    nodes = [
        onnx.helper.make_node("Constant", [], [name], value=onnx.helper.make_tensor("t", 8, [1], [word]))
        for name, word in (("a", b"left"), ("b", b"rght"))
    ]
    outputs = [onnx.helper.make_tensor_value_info(name, 8, [1]) for name in ("y", "z")]
    nodes += [onnx.helper.make_node("Identity", [one], [other]) for one, other in (("a", "y"), ("b", "z"))]
    graph = onnx.helper.make_graph(nodes, "g", [], outputs)
    keeps(MergeDuplicates(), ir.from_proto(onnx.helper.make_model(graph)))


def test_equal_weights(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    """Those that differ in the middle only are read to the end."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 1000), dtype=np.float32)
    near = a.copy()
    near[2, 0] += 1
    text = """g (float[n,4] x) => (float[n,1000] y) {
      p = MatMul(x, a) q = MatMul(x, b) r = MatMul(x, c) s = Add(p, q) y = Add(s, r)
    }"""
    model = rewrites(MergeDuplicates(), text, a=a, b=a.copy(), c=near, feed={"x": x})
    assert _weights(model) == {"a", "c"}
    assert ops(model) == {"MatMul": 2, "Add": 2}


FIRST, OTHER = 0x7FC00000, 0x7FC00001
PAIRS: dict[str, tuple[Any, Any]] = {
    "0 and -0": (np.array([0.0], np.float32), np.array([-0.0], np.float32)),
    "NaN payloads": (np.array([FIRST], np.uint32).view(np.float32), np.array([OTHER], np.uint32).view(np.float32)),
    "shapes": (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
    "dtypes": (np.zeros(4, np.float32), np.zeros(4, np.int32)),
    "bf16 and f16": (np.zeros(4, ml_dtypes.bfloat16), np.zeros(4, np.float16)),
    "bf16": (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 3], ml_dtypes.bfloat16)),
    "int4": (np.array([1, -2, 3], ml_dtypes.int4), np.array([1, -2, 4], ml_dtypes.int4)),
}


def _holding(*arrays: Any) -> ir.Model:
    """A graph of one Identity per constant: no arithmetic, so that any dtype will do."""
    values = [ir.Value(name=f"w{index}", const_value=ir.tensor(array)) for index, array in enumerate(arrays)]
    for value in values:
        assert value.const_value is not None
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(value.const_value.shape)
    nodes = [ir.node("Shape", [value]) for value in values]
    graph = ir.Graph([], [node.outputs[0] for node in nodes], nodes=nodes, opset_imports={"": 20})
    for value in values:
        graph.register_initializer(value)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("name", PAIRS)
def test_constants_that_differ_in_a_bit(name: str) -> None:
    model = _holding(*PAIRS[name])
    assert not MergeDuplicates()(model).modified
    assert _weights(model) == {"w0", "w1"}


@pytest.mark.parametrize("name", PAIRS)
def test_constants_that_are_equal_bit_by_bit(name: str) -> None:
    array = PAIRS[name][0]
    model = _holding(array, array.copy())
    assert MergeDuplicates()(model).modified
    assert _weights(model) == {"w0"}


def test_text_inputs_and_outputs_stay(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[2] x, float[2] w) => (float[2] y, float[2] o) { a = Add(x, w) b = Add(a, v) y = Add(b, o) }"
    same = np.ones(2, np.float32)
    model = keeps(MergeDuplicates(), text, v=same, w=same, o=same)
    assert _weights(model) == {"v", "w", "o"}


def test_weights_by_rows_and_by_columns(graph: Callable[..., ir.Model]) -> None:
    """The same bytes in another order are other weights; equal weights in another order are left alone."""
    nodes = "a = MatMul(x, v) y = MatMul(a, w)"
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[n,9] x) => (float[n,9] y) {{ {nodes} }}'
    w = np.random.default_rng(0).standard_normal((9, 9)).astype(np.float32)
    model = graph(text, v=w, w=w)
    model.graph.initializers["v"].const_value = ir.Tensor(w.T, name="v")  # the bytes of w
    assert not MergeDuplicates()(model).modified
    model.graph.initializers["w"].const_value = ir.Tensor(w.copy().T, name="w")
    assert MergeDuplicates()(model).modified
    assert len(model.graph.initializers) == 1

"""CenterActivations: what lies on one side of zero gets the scale of half its range, where integers are symmetric."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.calibration.metrics import sqnr
from planc.passes import ORIGIN, CenterActivations, InferShapes, InsertQdq, check, signature

Graph = Callable[..., ir.Model]
Infer = Callable[..., list[np.ndarray]]
Ops = Callable[[ir.Model], Counter[str]]
CHANNELS = 16
GAINED_DB = 5
"""Half the range is one bit more: about 6 dB."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers that 8 bits hold as they are: what is lost is the activations'."""
    array = np.random.default_rng(seed).integers(-127, 128, shape).astype(np.float32) / 127
    array[(0, slice(None)) if shape[0] == CHANNELS else (slice(None), 0)] = 1
    return array


OFFSETS = np.linspace(1, 3, 16, dtype=np.float32)
X = np.abs(normal(64, 16, seed=1)) + OFFSETS
PRODUCTS = {
    "matmul": ("y = MatMul(x, w)", (16, 7)),
    "matmul and bias": ("a = MatMul(x, w) y = Add(a, b)", (16, 7)),
    "bias first": ("a = MatMul(x, w) y = Add(b, a)", (16, 7)),
    "bias and activation": ("a = MatMul(x, w) c = Add(a, b) y = Relu(c)", (16, 7)),
    "bias of one number": ("a = MatMul(x, w) y = Add(a, n)", (16, 7)),
    "gemm": ("y = Gemm(x, w, b)", (16, 7)),
    "gemm without bias": ("y = Gemm(x, w)", (16, 7)),
    "gemm transB": ("y = Gemm<transB=1>(x, w, b)", (7, 16)),
    "gemm, bias of one number": ("y = Gemm(x, w, n)", (16, 7)),
    "used twice": ("a = MatMul(x, w) c = Relu(a) y = Add(a, c)", (16, 7)),
}


def _quantized(model: ir.Model, name: str, array: np.ndarray, *, centered: bool) -> ir.Model:
    """Quantizes all products of one tensor for TensorRT; with a scale for half the range where it is centered."""
    low, high = array.reshape(-1, array.shape[-1]).min(axis=0), array.reshape(-1, array.shape[-1]).max(axis=0)
    InferShapes()(model)
    wanted, most = signature(model), float(max(-low.min(), high.max()))
    radius = float((high - low).max()) / 2 if centered else most
    assert InsertQdq(family="tensorrt", ranges=((name, -radius, radius),))(model).modified
    if centered:
        one = CenterActivations(centers=((name, tuple(map(float, (low + high) / 2))),))
        assert one(model).modified
        assert not one(model).modified
    check(model, wanted)
    assert all(value.uses() for value in model.graph.initializers.values())
    return model


def _gain(text: str, name: str, array: np.ndarray, graph: Graph, infer: Infer, **arrays: np.ndarray) -> ir.Model:
    """Asserts that centering makes the outputs better, and returns the centered graph."""
    wanted = infer(graph(text, **arrays), x=X)
    plain = _quantized(graph(text, **arrays), name, array, centered=False)
    made = _quantized(graph(text, **arrays), name, array, centered=True)
    for index, reference in enumerate(wanted):
        before, after = (sqnr([reference], [infer(model, x=X)[index]]) for model in (plain, made))
        assert after > before + GAINED_DB
    return made


@pytest.mark.parametrize("case", PRODUCTS)
def test_a_product(case: str, graph: Graph, infer: Infer, ops: Ops) -> None:
    steps, shape = PRODUCTS[case]
    arrays = {"w": weight(*shape), "b": normal(7, seed=2), "n": normal(1, seed=2)}
    used = {name: array for name, array in arrays.items() if f" {name}" in steps or f"({name}" in steps}
    model = _gain(f"g (float[64,16] x) => (float[] y) {{ {steps} }}", "x", X, graph, infer, **used)
    assert ops(model)["Sub"] == 1
    adds = steps.count("Add") + (case in ("matmul", "bias of one number", "gemm, bias of one number", "used twice"))
    assert ops(model)["Add"] == adds


def test_products_of_one_activation(graph: Graph, infer: Infer, ops: Ops) -> None:
    text = "g (float[64,16] x) => (float[] a, float[] b) { a = MatMul(x, w) b = Gemm<transB=1>(x, v) }"
    model = _gain(text, "x", X, graph, infer, w=weight(16, 7), v=weight(9, 16, seed=2))
    assert ops(model)["Sub"] == 1


def test_a_product_that_stays_in_floating_point_reads_what_it_read(graph: Graph, infer: Infer) -> None:
    text = "g (float[64,16] x) => (float[] a, float[] b) { a = MatMul(x, w) b = MatMul(x, v) }"
    model = graph(text, w=weight(16, 7), v=weight(16, 7, seed=2))
    (_, wanted), name = infer(model, x=X), next(node for node in model.graph if node.outputs[0].name == "b").name
    InferShapes()(model)
    InsertQdq(family="tensorrt", ranges=(("x", -2.5, 2.5),), keep=(name or "b",))(model)
    CenterActivations(centers=(("x", tuple(map(float, X.mean(axis=0)))),))(model)
    np.testing.assert_array_equal(infer(model, x=X)[1], wanted)


NORM = "g (float[64,16] x) => ({}) {{ n = LayerNormalization(x, s{}) {} }}"


def _normalized(infer: Infer, graph: Graph, **arrays: np.ndarray) -> np.ndarray:
    bias = ", o" if "o" in arrays else ""
    return infer(graph(f"g (float[64,16] x) => (float[] n) {{ n = LayerNormalization(x, s{bias}) }}", **arrays), x=X)[0]


def test_the_normalization_before_it_subtracts(graph: Graph, infer: Infer, ops: Ops) -> None:
    norm = {"s": normal(16) / 4, "o": OFFSETS * 4}
    text = NORM.format("float[] y", ", o", "y = MatMul(n, w)")
    model = _gain(text, "n", _normalized(infer, graph, **norm), graph, infer, w=weight(16, 7), **norm)
    assert ops(model)["Sub"] == 0


@pytest.mark.parametrize(
    ("outputs", "bias", "steps"),
    [
        ("float[] y, float[] n", ", o", "y = MatMul(n, w)"),
        ("float[] y, float[] z", ", o", "y = MatMul(n, w) z = Exp(n)"),
    ],
)
def test_where_something_else_needs_the_normalized_value(
    outputs: str, bias: str, steps: str, graph: Graph, infer: Infer, ops: Ops
) -> None:
    norm = {"s": normal(16) / 4, "o": OFFSETS / 4}
    text, n = NORM.format(outputs, bias, steps), _normalized(infer, graph, **norm)
    wanted = infer(graph(text, w=weight(16, 7), **norm), x=X)
    model = _quantized(graph(text, w=weight(16, 7), **norm), "n", n, centered=True)
    assert ops(model)["Sub"] == 1
    np.testing.assert_array_equal(infer(model, x=X)[1], wanted[1])


def test_what_is_not_only_multiplied_is_refused(graph: Graph) -> None:
    model = graph("g (float[64,16] x) => (float[] y) { y = MatMul(x, w) }", w=weight(16, 7))
    InferShapes()(model)
    InsertQdq(family="tensorrt", ranges=(("x", -1.0, 1.0),))(model)
    (result,) = (node.outputs[0] for node in model.graph if node.name == "x_DequantizeLinear")
    other = ir.node("Relu", [result])
    other.outputs[0].name, other.outputs[0].type = "other", result.type
    model.graph.append(other)
    with pytest.raises(ValueError, match="quantized for more than products"):
        CenterActivations(centers=(("x", (1.0,) * 16),))(model)


def test_new_nodes_come_from_the_same_module(graph: Graph) -> None:
    model = graph("g (float[64,16] x) => (float[] y) { n = Sigmoid(x) y = MatMul(n, w) }", w=weight(16, 7))
    for node in model.graph:
        node.metadata_props[ORIGIN] = "layers.3"
    _quantized(model, "n", 1 / (1 + np.exp(-X)), centered=True)
    assert {node.metadata_props.get(ORIGIN) for node in model.graph if node.op_type in ("Sub", "Add")} == {"layers.3"}


def test_without_centers_nothing_happens(graph: Graph) -> None:
    model = graph("g (float[64,16] x) => (float[] y) { y = MatMul(x, w) }", w=weight(16, 7))
    assert not CenterActivations()(model).modified

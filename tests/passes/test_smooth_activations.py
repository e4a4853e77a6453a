"""SmoothActivations: the same numbers, with the outliers of activations in the weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import ORIGIN, InferShapes, InsertQdq, check, signature
from planc.passes.smooth_activations import SmoothActivations, channelled, smoothed_name

Graph = Callable[..., ir.Model]
Infer = Callable[..., list[np.ndarray]]
OUTLIERS = np.where(np.arange(16) % 8 == 3, 40, 1).astype(np.float32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


X = normal(5, 16, seed=1) * OUTLIERS


def extremes(name: str, array: np.ndarray) -> tuple[tuple[str, tuple[float, ...]], ...]:
    return ((name, tuple(float(one) for one in abs(array).reshape(-1, array.shape[-1]).max(axis=0))),)


def _smooth(model: ir.Model, infer: Infer, feed: dict[str, Any], name: str, **options: Any) -> ir.Model:
    """Smooths one activation, twice; the outputs stay."""
    InferShapes()(model)
    before, wanted = infer(model, **feed), signature(model)
    array = feed[name] if name in feed else _value(model, infer, feed, name)
    one = SmoothActivations(extremes=extremes(name, array), **options)
    for count in range(2):
        modified = one(model).modified
        assert modified or count
        check(model, wanted)
        for was, now in zip(before, infer(model, **feed), strict=True):
            np.testing.assert_allclose(now, was, atol=2e-5 * float(abs(was).max()))
    assert all(value.uses() for value in model.graph.initializers.values())
    return model


def _value(model: ir.Model, infer: Infer, feed: dict[str, Any], name: str) -> np.ndarray:
    found = next(value for node in model.graph for value in node.outputs if value.name == name)
    if found.is_graph_output():
        return infer(model, **feed)[[value.name for value in model.graph.outputs].index(name)]
    model.graph.outputs.append(found)
    try:
        return infer(model, **feed)[-1]
    finally:
        model.graph.outputs.pop()


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("op", "weight"),
    [
        ("MatMul(x, w)", (16, 7)), ("Gemm(x, w)", (16, 7)), ("Gemm<transB=1>(x, w)", (7, 16)),
        ("Gemm<alpha=0.5,transB=1>(x, w)", (7, 16)),
    ],
)  # fmt: skip
def test_a_mul_stands_before_the_product(op: str, weight: tuple[int, int], graph: Graph, infer: Infer) -> None:
    model = graph(f"g (float[5,16] x) => (float[] y) {{ y = {op} }}", w=normal(*weight))
    _smooth(model, infer, {"x": X}, "x")
    assert _ops(model)[0] == "Mul"
    assert model.graph[0].outputs[0].name == smoothed_name("x")


def test_products_of_one_activation_are_scaled_together(graph: Graph, infer: Infer) -> None:
    text = "g (float[5,16] x) => (float[] a, float[] b) { a = MatMul(x, w) b = Gemm<transB=1>(x, v) }"
    model = _smooth(graph(text, w=normal(16, 7), v=normal(9, 16)), infer, {"x": X}, "x")
    assert _ops(model).count("Mul") == 1


NORM = "g (float[5,16] x) => (float[] y) {{ n = LayerNormalization(x, s, {}) {} }}"
AFFINE = {"s": np.abs(normal(16)) * OUTLIERS + 0.1, "o": normal(16, seed=3) * OUTLIERS}


@pytest.mark.parametrize("bias", ["o", ""])
def test_the_normalization_before_it_divides(bias: str, graph: Graph, infer: Infer) -> None:
    arrays = {"s": AFFINE["s"], **({"o": AFFINE["o"]} if bias else {})}
    text = NORM.format(bias, "a = MatMul(n, w) b = MatMul(n, v) y = Add(a, b)").replace(", )", ")")
    model = _smooth(graph(text, w=normal(16, 7), v=normal(16, 7, seed=4), **arrays), infer, {"x": X}, "n")
    assert "Mul" not in _ops(model)


def test_rms_normalization(graph: Graph, infer: Infer) -> None:
    header = '<ir_version: 11, opset_import: ["": 23]>\n'
    text = header + "g (float[5,16] x) => (float[] y) { n = RMSNormalization(x, s) y = MatMul(n, w) }"
    model = _smooth(graph(text, w=normal(16, 7), s=AFFINE["s"]), infer, {"x": X}, "n")
    assert "Mul" not in _ops(model)


@pytest.mark.parametrize(
    ("steps", "outputs"),
    [
        ("n = LayerNormalization(x, s, o) a = MatMul(n, w) y = Concat<axis=1>(a, n)", "float[] y"),
        ("n = LayerNormalization(x, s, o) y = MatMul(n, w)", "float[] y, float[] n"),
        ("n = LayerNormalization<axis=0>(x, t, u) y = MatMul(n, w)", "float[] y"),
    ],
)
def test_where_something_else_needs_the_normalized_value(steps: str, outputs: str, graph: Graph, infer: Infer) -> None:
    arrays = AFFINE | {"t": normal(5, 16), "u": normal(5, 16)}
    model = graph(f"g (float[5,16] x) => ({outputs}) {{ {steps} }}", w=normal(16, 7), **arrays)
    for name in ("s", "o") if "axis=0" in steps else ("t", "u"):
        del model.graph.initializers[name]
    _smooth(model, infer, {"x": X}, "n")
    assert _ops(model).count("Mul") == 1


def test_parameters_that_two_normalizations_share(graph: Graph, infer: Infer) -> None:
    steps = "n = LayerNormalization(x, s, o) m = LayerNormalization(x, s, o) a = MatMul(n, w) y = Concat<axis=1>(a, m)"
    model = graph(f"g (float[5,16] x) => (float[] y) {{ {steps} }}", w=normal(16, 7), **AFFINE)
    _smooth(model, infer, {"x": X}, "n")
    assert "Mul" not in _ops(model)
    assert {"s", "o"} <= set(model.graph.initializers)


def _alone(model: ir.Model, **options: Any) -> None:
    InferShapes()(model)
    assert not SmoothActivations(extremes=extremes("x", X), **options)(model).modified


def test_what_is_left_alone(graph: Graph) -> None:
    head, w = "g (float[5,16] x) => (float[] y) ", normal(16, 16)
    _alone(graph(head + "{ a = MatMul(x, w) y = MatMul(a, w) }", w=w))  # shared
    _alone(graph(head + "{ y = Gemm<transA=1>(z, w) z = Transpose(x) }".replace("z, w", "x, v"), v=normal(5, 7)))
    _alone(graph(head + "{ v = Abs(w) y = MatMul(x, v) }", w=w))
    _alone(graph(head + "{ y = MatMul(x, w) }", w=normal(3, 16, 7)))
    _alone(graph("g (float[5,16] x, float[16,16] w) => (float[] y) { y = MatMul(x, w) }", w=w))
    _alone(graph("g (float[5,16] x) => (float[] y, float[] w) { y = MatMul(x, w) }", w=w))
    _alone(graph("g (double[5,16] x) => (double[] y) { y = MatMul(x, w) }", w=w.astype(np.float64)))
    branch = (
        "g (float[5,16] x, bool c) => (float[] y) { y = If (c) <then_branch = t () => (float[] a) { a = MatMul(x, w) }"
    )
    _alone(graph(branch + ", else_branch = e () => (float[] b) { b = Relu(x) }> }", w=w))


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ("c = Conv(x, v) r = Relu(c) f = Flatten(r) y = MatMul(f, w)", "f"),
        ("c = Conv(x, v) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, w)", "f"),
        ("c = Conv(x, v) s = Add(c, c) r = Relu(s) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, w)", "f"),
    ],
)
def test_what_a_kernel_in_int8_gives_is_left_alone_though_it_is_pooled(steps: str, name: str, graph: Graph) -> None:
    """A Mul in front of the classifier would leave the last block of a ResNet in floating point."""
    model = graph(f"g (float[5,3,1,1] x) => (float[] y) {{ {steps} }}", v=normal(16, 3, 1, 1), w=normal(16, 7))
    InferShapes()(model)
    assert not SmoothActivations(extremes=extremes(name, X))(model).modified
    other = graph(f"g (float[5,3,1,1] x) => (float[] y) {{ {steps.replace('Relu', 'Sigmoid')} }}",
                     v=normal(16, 3, 1, 1), w=normal(16, 7))  # fmt: skip
    InferShapes()(other)
    assert SmoothActivations(extremes=extremes(name, X))(other).modified, "no kernel in INT8 computes that"


def test_keep(graph: Graph, infer: Infer) -> None:
    text = "g (float[5,16] x) => (float[] a, float[] b) { a = MatMul(x, w) b = MatMul(x, v) }"
    model = graph(text, w=normal(16, 7), v=normal(16, 7, seed=2))
    model.graph[0].metadata_props[ORIGIN] = "head.linear"
    _smooth(model, infer, {"x": X}, "x", keep=("head",))
    product = next(node for node in model.graph if node.outputs[0].name == "a")
    assert product.inputs[0] is model.graph.inputs[0]


def test_dead_channels(graph: Graph, infer: Infer) -> None:
    """Channels that are always zero, of the activation or of the weight, are scaled as the quiet ones are."""
    weight, x = normal(16, 7), X.copy()
    weight[2], x[:, 5], weight[6], x[:, 7] = 0, 0, 1e-30, 1e-20
    model = graph("g (float[5,16] x) => (float[] y) { y = MatMul(x, w) }", w=weight)
    InferShapes()(model)
    (scale,) = SmoothActivations(extremes=extremes("x", x)).scales(model).values()
    assert scale.dtype == np.float32
    assert (scale[[2, 5, 6, 7]] == scale.min()).all()
    _smooth(model, infer, {"x": x}, "x")


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_scale_is_that_of_the_paper(strength: float, graph: Graph) -> None:
    weight = normal(16, 7)
    model = graph("g (float[5,16] x) => (float[] y) { y = MatMul(x, w) }", w=weight)
    InferShapes()(model)
    (found,) = SmoothActivations(extremes=extremes("x", X), strength=strength).scales(model).values()
    wanted = abs(X).max(axis=0) ** strength / abs(weight).max(axis=1) ** (1 - strength)
    np.testing.assert_allclose(found, np.maximum(wanted, np.quantile(wanted, 0.75)), rtol=1e-5)


def test_what_was_quiet_in_calibration_does_not_saturate(graph: Graph) -> None:
    """A channel that the calibration data hardly has, and other data has, is not larger than the outliers then."""
    known, other = X.copy(), X.copy()
    known[:, 5] *= 1e-3
    model = graph("g (float[5,16] x) => (float[] y) { y = MatMul(x, w) }", w=normal(16, 7))
    InferShapes()(model)
    (scale,) = SmoothActivations(extremes=extremes("x", known)).scales(model).values()
    assert abs(other / scale).max() <= 1.01 * abs(known / scale).max()


def test_no_channel_is_of_use(graph: Graph) -> None:
    model = graph("g (float[5,16] x) => (float[] y) { y = MatMul(x, w) }", w=normal(16, 7))
    InferShapes()(model)
    (scale,) = SmoothActivations(extremes=extremes("x", 0 * X)).scales(model).values()
    assert (scale == 1).all()


def test_channelled_names_what_can_be_smoothed(graph: Graph) -> None:
    text = """g (float[5,16] x, float[4,6] z) => (float[] y, float[] q) {
      a = MatMul(x, w) y = Gemm<transB=1>(a, v) q = MatMul(z, u) r = MatMul(q, u)
    }"""
    model = graph(text, w=normal(16, 7), v=normal(9, 7), u=normal(6, 6))
    InferShapes()(model)
    assert channelled(model) == {"x", "a"}


def test_quantized_outliers_lose_less(graph: Graph, infer: Infer) -> None:
    text = "g (float[64,16] x) => (float[] y) { n = LayerNormalization(x, s, o) y = MatMul(n, w) }"
    x = normal(64, 16, seed=1)
    arrays = {"w": normal(16, 32), "s": OUTLIERS, "o": normal(16, seed=3)}
    losses = []
    for smooth in (False, True):
        model = graph(text, **arrays)
        InferShapes()(model)
        (exact,) = infer(model, x=x)
        if smooth:
            array = _value(model, infer, {"x": x}, "n")
            assert SmoothActivations(extremes=extremes("n", array))(model).modified
        array = _value(model, infer, {"x": x}, "n")
        ranges = (("n", float(array.min()), float(array.max())),)
        assert InsertQdq(ranges=ranges)(model).modified
        noise = infer(model, x=x)[0] - exact
        losses.append(10 * np.log10((exact**2).sum() / (noise**2).sum()))
    assert losses[1] > losses[0] + 3, losses

"""FuseConvBn: batch normalization goes into the weights before it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_conv_bn import FuseConvBn

RNG = np.random.default_rng(7)


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def _affine(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    draw = rng.standard_normal((3, size), dtype=np.float32)
    var = rng.uniform(0.5, 2, size).astype(np.float32)
    return {"scale": draw[0], "shift": draw[1], "mean": draw[2], "var": var}


def test_conv(conv_model: ir.Model, image: np.ndarray, infer: Callable[..., list[Any]]) -> None:
    before = infer(conv_model, x=image)
    assert _ops(conv_model).count("BatchNormalization") == 1
    assert FuseConvBn()(conv_model).modified
    assert "BatchNormalization" not in _ops(conv_model)
    assert len(_ops(conv_model)) == 5
    np.testing.assert_allclose(infer(conv_model, x=image)[0], before[0], rtol=1e-4, atol=1e-5)


def test_a_second_run_changes_nothing(conv_model: ir.Model) -> None:
    FuseConvBn()(conv_model)
    assert not FuseConvBn()(conv_model).modified


def test_conv_without_bias_and_gemm(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    conv = """<ir_version: 8, opset_import: ["": 18]>
    g (float[n,3,8,8] x) => (float[n,4,8,8] y) {
      a = Conv<pads=[1,1,1,1]>(x, w)
      y = BatchNormalization<epsilon=0.01>(a, scale, shift, mean, var)
    }"""
    gemm = """<ir_version: 8, opset_import: ["": 18]>
    g (float[n,6] x) => (float[n,4] y) {
      a = Gemm(x, w, b)
      y = BatchNormalization(a, scale, shift, mean, var)
    }"""
    rng = np.random.default_rng(2)
    weights = {"w": rng.standard_normal((4, 3, 3, 3), dtype=np.float32)}
    _fuses(ir.load(onnx_file(tmp_path / "conv.onnx", conv, **weights, **_affine(4))), image, infer)
    weights = {"w": rng.standard_normal((6, 4), dtype=np.float32), "b": rng.standard_normal(4, dtype=np.float32)}
    x = rng.standard_normal((5, 6), dtype=np.float32)
    _fuses(ir.load(onnx_file(tmp_path / "gemm.onnx", gemm, **weights, **_affine(4))), x, infer)


def _fuses(model: ir.Model, x: np.ndarray, infer: Callable[..., list[Any]]) -> None:
    before = infer(model, x=x)
    assert FuseConvBn()(model).modified
    assert "BatchNormalization" not in _ops(model)
    np.testing.assert_allclose(infer(model, x=x)[0], before[0], rtol=1e-4, atol=1e-5)


def test_a_conv_that_others_read_too_stays_right(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[n,3,8,8] x) => (float[n,4,8,8] y, float[n,4,8,8] a) {
      a = Conv<pads=[1,1,1,1]>(x, w)
      y = BatchNormalization(a, scale, shift, mean, var)
    }"""
    w = np.random.default_rng(2).standard_normal((4, 3, 3, 3), dtype=np.float32)
    model = ir.load(onnx_file(tmp_path / "g.onnx", text, w=w, **_affine(4)))
    before = infer(model, x=image)
    FuseConvBn()(model)
    for was, now in zip(before, infer(model, x=image), strict=True):
        np.testing.assert_allclose(now, was, rtol=1e-4, atol=1e-5)


HEAD = '<ir_version: 8, opset_import: ["": 18]> '
IMAGE = "g (float[n,4,8,8] x) => (float[n,c,h,w] y)"
FLAT = "g (float[n,6] x) => (float[n,4] y)"
NORM = "y = BatchNormalization(a, scale, shift, mean, var)"


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(groups: int, graph: Callable[..., ir.Model], infer: Callable[..., list[Any]]) -> None:
    text = f"{HEAD} {IMAGE} {{ a = ConvTranspose<group={groups},strides=[2,2]>(x, w) {NORM} }}"
    w = RNG.standard_normal((4, 6 // groups, 3, 3), dtype=np.float32)
    _fuses(graph(text, w=w, **_affine(6)), RNG.standard_normal((2, 4, 8, 8), dtype=np.float32), infer)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(
    transposed: int, shape: tuple[int, ...], graph: Callable[..., ir.Model], infer: Callable[..., list[Any]]
) -> None:
    text = f"{HEAD} {FLAT} {{ a = Gemm<alpha=0.5,beta=3.0,transB={transposed}>(x, w, b) {NORM} }}"
    w = RNG.standard_normal((4, 6) if transposed else (6, 4), dtype=np.float32)
    b = RNG.standard_normal(shape).astype(np.float32)
    _fuses(graph(text, w=w, b=b, **_affine(4)), RNG.standard_normal((5, 6), dtype=np.float32), infer)


def test_float16(graph: Callable[..., ir.Model], infer: Callable[..., list[Any]]) -> None:
    text = f"{HEAD} {IMAGE} {{ a = Conv(x, w) {NORM} }}".replace("float[", "float16[")
    halves = {name: array.astype(np.float16) for name, array in _affine(3).items()}
    model = graph(text, w=RNG.standard_normal((3, 4, 3, 3)).astype(np.float16), **halves)
    x = RNG.standard_normal((1, 4, 8, 8)).astype(np.float16)
    before = infer(model, x=x)[0]
    assert FuseConvBn()(model).modified
    after = infer(model, x=x)[0]
    assert after.dtype == np.float16
    np.testing.assert_allclose(after, before, rtol=0.02, atol=0.05)


STAYS = {
    "in training": f"{IMAGE} {{ a = Conv(x, w) y = BatchNormalization<training_mode=1>(a, scale, shift, mean, var) }}",
    "weights of others": f"{IMAGE} {{ b = Conv(x, w) a = Conv(b, w) {NORM} }}",
    "a default for the caller": f"{IMAGE.replace(')', ', float[4] scale)', 1)} {{ a = Conv(x, w) {NORM} }}",
    "the product is an output": f"{IMAGE[:-1]}, float[n,c,h,w] a) {{ a = Conv(x, w) {NORM} }}",
    "the product has another user": f"{IMAGE} {{ a = Conv(x, w) z = BatchNormalization(a, scale, shift, mean, var) "
    "y = Add(a, z) }",
    "no product": f"{IMAGE} {{ a = Relu(x) {NORM} }}",
    "computed weights": f"{IMAGE} {{ v = Relu(w) a = Conv(x, v) {NORM} }}",
}


WHY = {
    "in training": "in training mode",
    "weights of others": "something else uses the weight 'w' (float[70,70,1,1]), which is too large to copy",
    "a default for the caller": "the scale is not constant",
    "the product is an output": "something else needs 'a' (float[n,c,h,w]) of the Conv",
    "the product has another user": "something else needs 'a'",
    "no product": "no Conv, ConvTranspose, Gemm computes its input",
    "computed weights": "of the Conv is no constant",
}


@pytest.mark.parametrize("name", STAYS)
def test_stays(name: str, graph: Callable[..., ir.Model]) -> None:
    text = STAYS[name].replace("[n,4,8,8]", "[n,70,8,8]").replace("float[4]", "float[70]")
    model = graph(HEAD + text, w=RNG.standard_normal((70, 70, 1, 1), dtype=np.float32), **_affine(70))
    assert not FuseConvBn()(model).modified
    reasons = [reason for _, reason in FuseConvBn().near_misses(model)]
    assert reasons
    assert WHY[name] in reasons[0]


def test_weights_are_computed_when_they_are_written(graph: Callable[..., ir.Model]) -> None:
    text = f"{HEAD} {IMAGE} {{ a = Conv(x, w) {NORM} }}"
    model = graph(text, w=RNG.standard_normal((4, 4, 1, 1), dtype=np.float32), **_affine(4))
    FuseConvBn()(model)
    assert isinstance(model.graph.initializers["w"].const_value, ir.LazyTensor)


def test_statistics_of_another_type(rewrites: Callable[..., ir.Model]) -> None:
    """Weights of float16 stay so beside statistics of float32, as opset 15 allows: onnxscript's rule mixed them."""
    w = np.random.default_rng(2).standard_normal((4, 3, 3, 3)).astype(np.float16)
    text = """g (float16[n,3,8,8] x) => (float16[n,4,6,6] y) {
      a = Conv(x, w)
      y = BatchNormalization(a, scale, shift, mean, var)
    }"""
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float16)
    model = rewrites(FuseConvBn(), text, feed={"x": x}, rtol=2e-2, w=w, **_affine(4))
    assert _ops(model) == ["Conv"]
    assert {value.dtype for value in model.graph[0].inputs if value is not None} == {ir.DataType.FLOAT16}


QUANTIZED = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,3,8,8] x) => (float[n,4,6,6] y) {
  q = QuantizeLinear<axis=0>(w, s, z)
  d = DequantizeLinear<axis=0>(q, s, z)
  a = Conv(x, d)
  y = BatchNormalization(a, scale, shift, mean, var)
}"""


@pytest.mark.parametrize("sizes", [(), (1,), (4,)])
def test_a_weight_of_quantization_aware_training_keeps_its_integers(
    sizes: tuple[int, ...],
    onnx_file: Callable[..., Path],
    tmp_path: Path,
    infer: Callable[..., list[Any]],
    image: np.ndarray,
) -> None:
    """Its steps are scaled as it is; a negative scale changes the sign of its integers."""
    affine = _affine(4)
    assert (affine["scale"] < 0).any()
    arrays = {"w": RNG.standard_normal((4, 3, 3, 3), dtype=np.float32), "z": np.zeros(sizes, np.int8), **affine}
    arrays["s"] = RNG.uniform(0.02, 0.03, sizes).astype(np.float32)
    model = ir.load(onnx_file(tmp_path / "conv.onnx", QUANTIZED, **arrays))
    _fuses(model, image, infer)
    assert _ops(model) == ["QuantizeLinear", "DequantizeLinear", "Conv"]
    affine["scale"][1] = 0
    model = ir.load(onnx_file(tmp_path / "conv.onnx", QUANTIZED, **arrays | affine))
    before = infer(model, x=image)
    assert not FuseConvBn()(model).modified
    np.testing.assert_array_equal(infer(model, x=image)[0], before[0])

"""FuseConvBn: batch normalization goes into the weights before it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from planc.passes.fuse_conv_bn import FuseConvBn


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


def test_near_misses(graph: Callable[..., ir.Model], image: np.ndarray) -> None:
    text = """g (float[n,3,8,8] x) => (float[n,3,8,8] y) {
      a = %s(x)
      y = BatchNormalization%s(a, scale, shift, mean, var)
    }"""
    ((node, reason),) = FuseConvBn().near_misses(graph(text % ("Relu", ""), **_affine(3)))
    assert (node.op_type, reason) == ("BatchNormalization", "OpType mismatch: expected Conv, got Relu.")
    ((_, reason),) = FuseConvBn().near_misses(graph(text % ("Relu", "<training_mode=1>"), **_affine(3)))
    assert "training mode" in reason

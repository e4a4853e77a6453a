"""FoldQuantizedWeights: graphs of quantization-aware training keep integers, and shrink."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.compiler.optimize import apply
from planc.passes import PRESETS, InsertQdq
from planc.passes.fold_quantized_weights import FoldQuantizedWeights

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((8, 4, 3, 3), dtype=np.float32)
X = RNG.standard_normal((1, 4, 6, 6), dtype=np.float32)
CONV = """g (float[1,4,6,6] x) => (float[1,8,4,4] y) {{
  q = QuantizeLinear<{attributes}>(w, s, z)
  d = DequantizeLinear<{attributes}>(q, s, z)
  y = Conv(x, d)
}}"""


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_per_tensor(dtype: Any, rewrites: Callable[..., ir.Model]) -> None:
    """Halves round to even, what is beyond the range saturates."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    weight = np.concatenate([np.arange(low - 3, low + 141) + 0.5, np.arange(high - 140, high + 4) + 0.5])
    weight = (weight.reshape(8, 4, 3, 3) * 0.25).astype(np.float32)
    zero = dtype(3 if dtype is np.uint8 else 0)
    for shape in ((), (1,)):
        arrays = {"w": weight, "s": np.full(shape, 0.25, np.float32), "z": np.full(shape, zero)}
        text = '<ir_version: 10, opset_import: ["": 21]>\n' + CONV.format(attributes="axis=0")
        model = rewrites(FoldQuantizedWeights(), text, feed={"x": X}, **arrays)
        assert model.graph.initializers["q"].dtype is ir.DataType.from_numpy(np.dtype(dtype))
        assert "w" not in model.graph.initializers


@pytest.mark.parametrize("axis", [0, 1, -4])
def test_per_channel(axis: int, rewrites: Callable[..., ir.Model]) -> None:
    size = WEIGHT.shape[axis]
    scale = RNG.uniform(0.01, 0.03, size).astype(np.float32)
    arrays = {"w": WEIGHT, "s": scale, "z": np.zeros(size, np.int8)}
    rewrites(FoldQuantizedWeights(), CONV.format(attributes=f"axis={axis}"), feed={"x": X}, **arrays)


def test_the_float_weight_stays_where_it_is_used(rewrites: Callable[..., ir.Model]) -> None:
    text = CONV.format(attributes="axis=0").replace("y = Conv(x, d)", "a = Conv(x, d) b = Conv(x, w) y = Add(a, b)")
    model = rewrites(FoldQuantizedWeights(), text, feed={"x": X}, w=WEIGHT, s=np.float32(0.02), z=np.int8(0))
    assert "w" in model.graph.initializers


def test_what_is_no_constant_stays(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[3,4] x) => (float[3,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    keeps(FoldQuantizedWeights(), text, s=np.float32(0.1), z=np.int8(0))
    text = "g (float[3,4] x, float[] s) => (float[3,4] y) { q = QuantizeLinear(w, s) y = DequantizeLinear(q, s) }"
    keeps(FoldQuantizedWeights(), text, w=np.ones((3, 4), np.float32))
    text = "g (float[3,4] w) => (float[3,4] y) { q = QuantizeLinear(w, s) y = DequantizeLinear(q, s) }"
    keeps(FoldQuantizedWeights(), text, w=np.ones((3, 4), np.float32), s=np.float32(0.1))  # the caller may replace it
    text = "g (float[3,4] x) => (uint8[3,4] q) { q = QuantizeLinear(w, s) }"
    keeps(FoldQuantizedWeights(), text, w=np.ones((3, 4), np.float32), s=np.float32(0.1))


@pytest.mark.parametrize(("least", "most"), [(-127, 127), (-8, 7)])
def test_integers_are_clipped(least: int, most: int, rewrites: Callable[..., ir.Model]) -> None:
    text = CONV.format(attributes="axis=0").replace("(q,", "(c,").replace("d =", "c = Clip(q, least, most) d =")
    arrays = {"s": np.float32(0.02), "z": np.int8(0), "least": np.int8(least), "most": np.int8(most)}
    model = rewrites(FoldQuantizedWeights(), text, feed={"x": X}, w=WEIGHT, **arrays)
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "Conv"]
    integers = model.graph.initializers["c"].const_value.numpy()
    assert (integers.dtype, integers.min(), integers.max()) == (np.int8, least, most)


def test_a_clip_to_bounds_that_are_no_constants_stays(rewrites: Callable[..., ir.Model]) -> None:
    text = """g (float[2,4] x, int8 i) => (float[2,4] y) {
      q = QuantizeLinear(w, s, z) c = Clip(q, i) d = DequantizeLinear(c, s, z) y = MatMul(x, d)
    }"""
    feed = {"x": X[0, 0, :2, :4], "i": np.array(-3, np.int8)}
    model = rewrites(FoldQuantizedWeights(), text, feed=feed, w=WEIGHT[:4, :, 0, 0], s=np.float32(0.02), z=np.int8(0))
    assert [node.op_type for node in model.graph] == ["Clip", "DequantizeLinear", "MatMul"]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch-norm"])
def test_quantization_aware_training_of_torch(
    norm: bool, dynamo: bool, tmp_path: Path, infer: Callable[..., list[Any]]
) -> None:
    """FakeQuantize modules export as Q/DQ: planc keeps their scales, adds none, and the file shrinks.

    dynamo exports the operators of torch.ops.quantized_decomposed, which torchao's convert_pt2e leaves, too.
    """
    import torch
    import torch.ao.quantization as quantization
    from torch.ao.quantization.quantize_fx import _convert_to_reference_decomposed_fx, prepare_qat_fx

    torch.manual_seed(0)
    norms = [torch.nn.BatchNorm2d(32)] if norm else []
    net = torch.nn.Sequential(
        torch.nn.Conv2d(4, 32, 3), *norms, torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), *norms, torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(128, 64),
    ).train()  # fmt: skip
    fake = quantization.FakeQuantize.with_args
    activation = fake(observer=quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8)
    weight = fake(
        observer=quantization.MovingAveragePerChannelMinMaxObserver, quant_min=-127 if dynamo else -128, quant_max=127,
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, ch_axis=0,
    )  # fmt: skip
    mapping = quantization.QConfigMapping().set_global(quantization.QConfig(activation=activation, weight=weight))
    x = torch.from_numpy(X)
    prepared = prepare_qat_fx(net, mapping, (x,))
    for _ in range(3):
        prepared(x)
    prepared.eval().apply(quantization.disable_observer)
    if dynamo:
        converted = _convert_to_reference_decomposed_fx(copy.deepcopy(prepared))
        torch.onnx.export(converted, (x,), tmp_path / "qat.onnx", dynamo=True, external_data=False, input_names=["x"])
    else:
        torch.onnx.export(prepared, (x,), tmp_path / "qat.onnx", dynamo=False, opset_version=17, input_names=["x"])
    before = infer(tmp_path / "qat.onnx", x=X)
    for family in ("onnxruntime", "openvino", "tensorrt"):
        model, _, left_out = apply(lambda: ir.load(tmp_path / "qat.onnx"), PRESETS[family])
        assert not left_out
        np.testing.assert_allclose(infer(model, x=X)[0], before[0], atol=1e-4)
        assert not {"BatchNormalization", "Div"} & {node.op_type for node in model.graph}
        ir.save(model, tmp_path / f"{family}.onnx")
        assert (tmp_path / f"{family}.onnx").stat().st_size < 0.4 * (tmp_path / "qat.onnx").stat().st_size
        one = InsertQdq(
            family=family, ranges=tuple((value.name, -9.0, 9.0) for node in model.graph for value in node.outputs)
        )
        assert not one(model).modified
        assert {reason for _, reason in one.near_misses(model)} == {"it has Q/DQ of its own"}
        np.testing.assert_allclose(before[0], prepared(x).detach().numpy(), atol=0.05)

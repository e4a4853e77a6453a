"""Lowering to INT8: what becomes of each layer, by target, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.compiler import calibrate, host, quantize, recipe
from planc.compiler.errors import BuildFailed, UsageError
from planc.compiler.quantize import Lowering
from planc.compiler.recipe import Calibration
from planc.compiler.shapes import TensorSpec, parse_dim

NET = """<ir_version: 10, opset_import: ["": 20]>
g (float[batch,3,8,8] x) => (float[batch,5] y) <float[batch,16,8,8] a, float[batch,16,8,8] r, float[batch,16,1,1] p,
  float[batch,16] f> {
  a = Conv<pads=[1,1,1,1]>(x, w, b)
  r = Relu(a)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  y = Gemm<transB=1>(f, head, bias)
}"""
SPECS = (TensorSpec("x", "float32", ("batch", 3, 8, 8)),)
DIMS = (parse_dim("batch=1..4@2"),)


@pytest.fixture
def graph(onnx_file: Callable[..., Path], tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    arrays = {"w": normal(16, 3, 3, 3), "b": normal(16), "head": normal(5, 16), "bias": normal(5)}
    return onnx_file(tmp_path / "net.onnx", NET, **arrays)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 3, 8, 8), dtype=np.float32)


@pytest.fixture
def table(graph: Path, image: np.ndarray, tmp_path: Path) -> Any:
    np.savez(tmp_path / "c.npz", x=image)
    wanted = Calibration(str(tmp_path / "c.npz"))
    return calibrate.measure(graph, wanted, SPECS, DIMS, emit=lambda *_: None)[0]


@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino", "tensorrt"])
def test_one_table_serves_every_layout(
    scheme: str, graph: Path, table: Any, image: np.ndarray, tmp_path: Path, infer: Callable[..., list[np.ndarray]]
) -> None:
    out = tmp_path / "q.onnx"
    lowered = quantize.lower(graph, out, Lowering(scheme), table)
    assert [row["decision"] for row in lowered.layers] == ["int8", "int8"]
    assert not lowered.kept
    assert set(lowered.effect) == {"int8"}
    wanted, found = infer(graph, x=image)[0], infer(out, x=image)[0]
    assert np.square(found - wanted).sum() < 0.01 * np.square(wanted).sum()
    types = {
        node.outputs[0].dtype for node in ir.load(out).graph if node.op_type == "QuantizeLinear"
    }  # of activations: weights are stored
    assert types == {ir.DataType.INT8 if scheme == "tensorrt" else ir.DataType.UINT8}


def test_float_weights_do_not_stay(graph: Path, table: Any, tmp_path: Path) -> None:
    quantize.lower(graph, tmp_path / "q.onnx", Lowering("onnxruntime"), table)
    model = ir.load(tmp_path / "q.onnx")
    assert not {"w", "head", "b", "bias"} & set(model.graph.initializers)
    used = {value for node in model.graph for value in node.inputs}
    assert set(model.graph.initializers.values()) <= used


def test_what_is_lowered_twice_is_the_same(graph: Path, table: Any, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        quantize.lower(graph, tmp_path / name, Lowering("openvino"), table)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_rows_tell_each_layer(graph: Path, table: Any, tmp_path: Path) -> None:
    conv, gemm = quantize.lower(graph, tmp_path / "q.onnx", Lowering("openvino", sizes={"batch": 2}), table).layers
    assert (conv["op"], conv["tensor"], conv["method"]) == ("Conv", "x", "mse")
    assert conv["low"] < 0 < conv["high"]
    assert conv["scale"] == pytest.approx((conv["high"] - conv["low"]) / 255)
    assert conv["sqnr_db"] > 30
    assert 0 <= conv["saturated"] < 0.01
    assert conv["macs"] == 2 * 16 * 8 * 8 * 3 * 9
    assert gemm["macs"] == 2 * 16 * 5


def test_layers_that_are_kept_say_so(graph: Path, table: Any, tmp_path: Path) -> None:
    name = quantize.lower(graph, tmp_path / "q.onnx", Lowering("openvino"), table).layers[1]["name"]
    lowered = quantize.lower(graph, tmp_path / "q.onnx", Lowering("openvino", keep=(name,)), table)
    assert [row["name"] for row in lowered.kept] == [name]
    assert lowered.kept[0]["reason"]
    assert lowered.effect["int8"]["nodes"] == lowered.effect["float32"]["nodes"] == 1


def test_a_layer_that_is_not_there_is_guessed(graph: Path, table: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--exclude nothing: no layer has that name"):
        quantize.lower(graph, tmp_path / "q.onnx", Lowering("openvino", keep=("nothing",)), table)


def test_no_effect_is_a_failed_build(graph: Path, table: Any, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="INT8 had no effect: ") as caught:
        quantize.lower(graph, tmp_path / "q.onnx", Lowering("openvino", keep=("*",)), table)
    assert "--explain" in caught.value.hint
    assert not (tmp_path / "q.onnx").exists()


def test_outliers_of_channels_go_into_the_weights(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[np.ndarray]]
) -> None:
    text = (
        """<ir_version: 10, opset_import: ["": 20]> g (float[batch,8] x) => (float[batch,8] y) { y = MatMul(x, w) }"""
    )
    rng = np.random.default_rng(0)
    graph = onnx_file(tmp_path / "m.onnx", text, w=rng.standard_normal((8, 8), dtype=np.float32))
    rows = rng.standard_normal((64, 8), dtype=np.float32)
    rows[:, 3] *= 100
    np.savez(tmp_path / "c.npz", x=rows)
    wanted = Calibration(str(tmp_path / "c.npz"), method="minmax")
    specs = (TensorSpec("x", "float32", ("batch", 8)),)
    made = calibrate.measure(graph, wanted, specs, DIMS, emit=lambda *_: None)[0]
    noise = {}
    exact = infer(graph, x=rows)[0]
    for smoothing in (0.0, 0.5):
        lowered = quantize.lower(graph, tmp_path / "q.onnx", Lowering("openvino", smoothing=smoothing), made)
        assert lowered.smoothed == (["x_smoothed"] if smoothing else [])
        noise[smoothing] = float(np.square(infer(tmp_path / "q.onnx", x=rows)[0] - exact).sum())
    assert noise[0.5] < 0.5 * noise[0.0]


def test_x86_without_vnni_gets_weights_of_seven_bits(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = recipe.source(str(workshop / "conv.onnx"), dims=["batch=1..4@2"])
    wanted = recipe.quantization(random=True, smoothing=0.3)
    for vnni, bits in ((True, 8), (False, 7)):
        monkeypatch.setattr(host, "has_vnni", lambda vnni=vnni: vnni)
        job = recipe.job(source, "openvino-cpu", "int8", quantization=wanted)
        assert quantize.lowering(job, DIMS) == Lowering("openvino", (), 0.3, bits, {"batch": 2})
    null = recipe.job(source, "null", "int8", quantization=wanted)
    assert quantize.lowering(null, DIMS).scheme == "onnxruntime"

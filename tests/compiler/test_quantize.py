"""Lowering: the table of layers, the proof of effect, names that stay in floating point."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from planc.calibration.table import RangeTable
from planc.compiler import calibrate, host, quantize, recipe, storage
from planc.compiler.errors import BuildFailed, UsageError
from planc.compiler.recipe import Calibration, Source
from planc.compiler.shapes import Dim, TensorSpec
from planc.compiler.target import Precision

TEXT = """<ir_version: 8, opset_import: ["": 18]> g (float[n,4] x) => (float[n,3] y) <float[n,6] m, float[n,6] r> {
  m = MatMul(x, w)
  r = Relu(m)
  y = MatMul(r, v)
}"""
SPECS = (TensorSpec("x", "float32", ("n", 4)),)
DIMS = (Dim("n", (1, 8), 2),)
HOW = quantize.Lowering("onnxruntime", smoothing=0.0, sizes={"n": 2})


@pytest.fixture
def graph(onnx_file: Callable[..., Path], tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 6), np.float32), "v": rng.standard_normal((6, 3), np.float32)}
    path = onnx_file(tmp_path / "g.onnx", TEXT, **weights)
    model = storage.load(path)
    for index, node in enumerate(model.graph):
        node.name, node.metadata_props["planc.origin"] = f"node_{index}", f"block.{index}.linear"
    storage.save(model, path)
    return path


@pytest.fixture
def table(graph: Path, tmp_path: Path) -> RangeTable:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).standard_normal((32, 4), np.float32))
    wanted = Calibration(data=str(tmp_path / "x.npz"))
    return calibrate.measure(graph, wanted, SPECS, DIMS, emit=lambda *_: None)[0]


def test_each_product_has_a_row(graph: Path, table: RangeTable, tmp_path: Path) -> None:
    lowered = quantize.lower(graph, tmp_path / "q.onnx", HOW, table)
    assert lowered.effect["int8"] == {"nodes": 2, "macs": 84, "weights_bytes": 42, "macs_share": 1.0}
    first, second = lowered.layers
    assert (first["name"], first["origin"], first["op"]) == ("node_0", "block.0.linear", "MatMul")
    assert (first["decision"], first["reason"], first["method"]) == ("int8", "", "minmax")
    assert first["sqnr_db"] > 30
    assert second["low"] == 0
    assert second["scale"] == pytest.approx(second["high"] / 255)
    assert lowered.kept == []


@pytest.mark.parametrize("keep", ["node_2", "block.2", "block.2.linear", "node_[2-9]", "*.2.*"])
def test_a_layer_is_kept_by_its_name_or_module(keep: str, graph: Path, table: RangeTable, tmp_path: Path) -> None:
    lowered = quantize.lower(graph, tmp_path / "q.onnx", replace(HOW, keep=(keep,)), table)
    assert [row["reason"] for row in lowered.kept] == ["kept in floating point by name"]
    assert lowered.effect["float32"]["nodes"] == lowered.effect["int8"]["nodes"] == 1


def test_a_name_that_no_layer_has(graph: Path, table: RangeTable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no layer has that name") as caught:
        quantize.lower(graph, tmp_path / "q.onnx", replace(HOW, keep=("nod_2",)), table)
    assert "node_2" in caught.value.hint


@pytest.mark.parametrize("keep", ["r", "block.1", "block.1.linear"])
def test_16_bits_keep_any_node(keep: str, graph: Path, tmp_path: Path) -> None:
    model = storage.load(graph)
    model.graph[1].name = None  # then it is called after its output
    storage.save(model, tmp_path / "unnamed.onnx")
    how = replace(HOW, precision=Precision.FP16, keep=(keep,))
    lowered = quantize.lower(tmp_path / "unnamed.onnx", tmp_path / "h.onnx", how, None)
    assert [(row["name"], row["reason"]) for row in lowered.kept] == [("r", "its name is among those to keep")]
    (relu,) = (node for node in storage.load(tmp_path / "h.onnx").graph if node.op_type == "Relu")
    assert relu.inputs[0] is not None
    assert relu.inputs[0].dtype is ir.DataType.FLOAT
    with pytest.raises(UsageError, match="no layer has that name") as caught:
        quantize.lower(graph, tmp_path / "h.onnx", replace(how, keep=("nod_1",)), None)
    assert "Did you mean 'node_1'" in caught.value.hint


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_no_effect_is_a_failure(precision: Precision, graph: Path, table: RangeTable, tmp_path: Path) -> None:
    how = replace(HOW, precision=precision, keep=("node_*",))
    with pytest.raises(BuildFailed, match=f"{precision.upper()} had no effect"):
        quantize.lower(graph, tmp_path / "q.onnx", how, table)
    assert not (tmp_path / "q.onnx").exists()


def test_no_product_at_all(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }'
    graph = onnx_file(tmp_path / "relu.onnx", text)
    with pytest.raises(BuildFailed, match="no matrix product or convolution"):
        quantize.lower(graph, tmp_path / "q.onnx", HOW, None)


@pytest.mark.parametrize(("precision", "dtype"), [(Precision.FP16, "FLOAT16"), (Precision.BF16, "BFLOAT16")])
def test_16_bits(precision: Precision, dtype: str, graph: Path, tmp_path: Path) -> None:
    lowered = quantize.lower(graph, tmp_path / "h.onnx", replace(HOW, precision=precision), None)
    assert lowered.effect.keys() == {dtype.lower()}
    made = storage.load(tmp_path / "h.onnx").graph
    assert {value.dtype for value in made.initializers.values()} == {ir.DataType[dtype]}
    assert made.inputs[0].dtype is made.outputs[0].dtype is ir.DataType.FLOAT


def test_smoothing_tells_what_it_changed(graph: Path, table: RangeTable, tmp_path: Path) -> None:
    lowered = quantize.lower(graph, tmp_path / "q.onnx", replace(HOW, smoothing=0.7), table)
    assert lowered.smoothed == ["x_smoothed"], "not what the kernel of a product computes with its Relu"
    assert [row["method"] for row in lowered.layers] == ["smoothed minmax", "minmax"]


def test_one_table_serves_each_scheme(graph: Path, table: RangeTable, tmp_path: Path) -> None:
    types = {}
    for scheme in ("onnxruntime", "openvino", "tensorrt"):
        quantize.lower(graph, tmp_path / f"{scheme}.onnx", replace(HOW, scheme=scheme), table)
        nodes = storage.load(tmp_path / f"{scheme}.onnx").graph
        types[scheme] = {node.outputs[0].dtype for node in nodes if node.op_type == "QuantizeLinear"}
    wanted = {"onnxruntime": ir.DataType.UINT8, "openvino": ir.DataType.UINT8, "tensorrt": ir.DataType.INT8}
    assert types == {scheme: {dtype} for scheme, dtype in wanted.items()}


@pytest.mark.parametrize(("vnni", "bits"), [(True, 8), (False, 7)])
def test_x86_without_vnni_gets_weights_of_7_bits(vnni: bool, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "has_vnni", lambda: vnni)
    job = recipe.job(Source("net.onnx"), "onnxruntime-cpu", "int8", quantization=recipe.Quantization())
    how = quantize.lowering(job, DIMS)
    assert (how.scheme, how.weight_bits, how.sizes) == ("onnxruntime", bits, {"n": 2})


def test_q_dq_of_its_own_is_seen(graph: Path, table: RangeTable, tmp_path: Path) -> None:
    assert not quantize.has_own(graph)
    quantize.lower(graph, tmp_path / "q.onnx", HOW, table)
    assert quantize.has_own(tmp_path / "q.onnx")
    again = quantize.lower(tmp_path / "q.onnx", tmp_path / "again.onnx", HOW, None)
    assert [row["decision"] for row in again.layers] == ["int8", "int8"]


def test_float_weights_do_not_stay(graph: Path, table: RangeTable, tmp_path: Path) -> None:
    quantize.lower(graph, tmp_path / "q.onnx", HOW, table)
    made = storage.load(tmp_path / "q.onnx").graph
    assert set(made.initializers.values()) <= {value for node in made for value in node.inputs}
    assert not {"w", "v"} & set(made.initializers)


def test_the_same_again_gives_the_same_bytes(graph: Path, table: RangeTable, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        quantize.lower(graph, tmp_path / name, replace(HOW, scheme="openvino", smoothing=0.5), table)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


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
        lowered = quantize.lower(graph, tmp_path / "q.onnx", quantize.Lowering("openvino", smoothing=smoothing), made)
        assert bool(lowered.smoothed) == bool(smoothing)
        noise[smoothing] = float(np.square(infer(tmp_path / "q.onnx", x=rows)[0] - exact).sum())
    assert noise[0.5] < 0.5 * noise[0.0]


def test_what_lies_on_one_side_of_zero_is_centered_for_symmetric_integers(
    tmp_path: Path, onnx_file: Callable[..., Path], infer: Callable[..., list[np.ndarray]]
) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]>
    g (float[batch,8] x) => (float[batch,8] y) <float[batch,8] s, float[batch,8] m> {
      s = Softplus(x)
      m = MatMul(s, w)
      y = Add(m, b)
    }"""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((8, 8), dtype=np.float32), "b": rng.standard_normal(8, dtype=np.float32)}
    graph, specs = onnx_file(tmp_path / "m.onnx", text, **arrays), (TensorSpec("x", "float32", ("batch", 8)),)
    x = rng.standard_normal((2048, 8), dtype=np.float32)
    exact, noise = infer(graph, x=x)[0], {}
    for scheme, rows, method in (
        ("tensorrt", 2048, "smoothed and centered minmax"),
        ("tensorrt", 64, "smoothed minmax"),  # too few to know where a channel lies
        ("openvino", 2048, "smoothed minmax"),
    ):
        np.savez(tmp_path / "c.npz", x=x[:rows])
        wanted = Calibration(str(tmp_path / "c.npz"), method="minmax")
        made = calibrate.measure(graph, wanted, specs, DIMS, emit=lambda *_: None)[0]
        lowered = quantize.lower(graph, tmp_path / "q.onnx", quantize.Lowering(scheme, smoothing=0.5), made)
        assert [row["method"] for row in lowered.layers] == [method]
        noise[scheme, rows] = float(np.square(infer(tmp_path / "q.onnx", x=x)[0] - exact).sum())
    assert noise["tensorrt", 2048] < 1.5 * noise["openvino", 2048] < 0.75 * noise["tensorrt", 64]

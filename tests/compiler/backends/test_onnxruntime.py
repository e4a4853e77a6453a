"""ONNX Runtime on the CPU."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from planc.compiler import host
from planc.compiler.backends import Request
from planc.compiler.backends import onnxruntime as backend
from planc.compiler.errors import BuildFailed
from planc.compiler.target import Precision, find_target


def _made(model: Path, folder: Path, precision: Precision = Precision.FP32, **options: Any) -> Any:
    target = find_target("onnxruntime-cpu")
    return backend.build(Request(model, precision, backend.Options(**options), folder, target))


def _build(workshop: Path, folder: Path, **options: Any) -> tuple[Any, ir.Model]:
    folder.mkdir()
    built = _made(workshop / "conv.onnx", folder, **options)
    return built, ir.load(folder / "model.onnx")


def _domains(model: ir.Model) -> set[str]:
    return {node.domain for node in model.graph.all_nodes()}


def test_the_graph_is_optimized_once_and_loads_as_it_is(
    workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    built, model = _build(workshop, tmp_path / "out")
    assert len(list(model.graph)) < 6
    assert "BatchNormalization" not in [node.op_type for node in model.graph]
    assert built.session["graph_optimization_level"] == "disable_all"
    (result,) = backend.load(tmp_path / "out", built.session)([image])
    np.testing.assert_allclose(result, infer(workshop / "conv.onnx", x=image)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not {"avx2", "avx512f"} & host.cpu_flags(), reason="blocked layouts are for AVX2 and AVX-512")
def test_blocked_layouts_are_stated_as_a_requirement(workshop: Path, tmp_path: Path) -> None:
    built, model = _build(workshop, tmp_path / "out")
    assert "com.microsoft.nchwc" in _domains(model)
    assert built.requires == {"vector_width": host.vector_width()}


def test_a_portable_payload_has_none_and_requires_nothing(
    workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    built, model = _build(workshop, tmp_path / "out", portable=True)
    assert "com.microsoft.nchwc" not in _domains(model)
    assert built.requires == {}
    (result,) = backend.load(tmp_path / "out", built.session)([image])
    np.testing.assert_allclose(result, infer(workshop / "conv.onnx", x=image)[0], rtol=1e-4, atol=1e-5)


def test_fusions_whose_kernels_are_slower_are_left_out(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]
) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[n,4,8] a, float[n,4,8] b) => (float[n,4,8] y) {
      sum = Add(a, b) norm = LayerNormalization <axis = -1> (sum, s, t) moved = Add(norm, t) y = Gelu(moved)
    }"""
    vectors = {name: np.linspace(-1, 2, 8, dtype=np.float32) for name in "st"}
    source, kinds = onnx_file(tmp_path / "g.onnx", text, **vectors), {"SkipLayerNormalization", "BiasGelu"}
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "theirs.onnx")
    onnxruntime.InferenceSession(str(source), settings, providers=["CPUExecutionProvider"])
    assert kinds == {node.op_type for node in ir.load(tmp_path / "theirs.onnx").graph}
    (tmp_path / "out").mkdir()
    built = _made(source, tmp_path / "out")
    assert not kinds & {node.op_type for node in ir.load(tmp_path / "out" / "model.onnx").graph}
    a, b = np.random.default_rng(0).standard_normal((2, 3, 4, 8), dtype=np.float32)
    (result,) = backend.load(tmp_path / "out", built.session)([a, b])
    np.testing.assert_allclose(result, infer(source, a=a, b=b)[0], rtol=1e-4, atol=1e-5)


def test_weights_of_training_do_not_saturate_without_vnni(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """255 * 127 twice is more than 16 bits hold. Its zero points are apart, as `quantize` leaves them."""
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[n,64] x) => (float[n,8] y) {
      q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) a = DequantizeLinear(v, t, z) m = MatMul(d, a)
      r = QuantizeLinear(m, b, u) e = DequantizeLinear(r, b, u) c = DequantizeLinear(w, t, z1) y = MatMul(e, c)
    }"""
    weights = {"v": np.full((64, 32), 127, np.int8), "w": np.full((32, 8), 127, np.int8)}
    scales = {"s": np.float32(1 / 255), "t": np.float32(1 / 127), "b": np.float32(64 / 255)}
    zeros = {"u": np.uint8(0), "z": np.int8(0), "z1": np.int8(0)}
    graph = onnx_file(tmp_path / "trained.onnx", text, **weights, **scales, **zeros)
    monkeypatch.setattr(host, "has_vnni", lambda: False)
    (tmp_path / "out").mkdir()
    built = _made(graph, tmp_path / "out", Precision.INT8)
    assert built.effective_precision["products"] == {"int8": 2, "float": 0}
    x = np.random.default_rng(0).uniform(0.8, 1, (3, 64)).astype(np.float32)
    (result,) = backend.load(tmp_path / "out", built.session)([x])
    np.testing.assert_allclose(result, infer(graph, x=x)[0], rtol=0.01)


def test_weights_of_training_that_layers_share_are_built_as_ever(
    onnx_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[n,32] x) => (float[n,32] y) {
      q = QuantizeLinear(x, s, u) d = DequantizeLinear(q, s, u) a = DequantizeLinear(v, t, z) m = MatMul(d, a)
      r = QuantizeLinear(m, s, u) e = DequantizeLinear(r, s, u) y = MatMul(e, a)
    }"""
    arrays = {"v": np.full((32, 32), 127, np.int8), "s": np.float32(0.1), "t": np.float32(0.1)}
    graph = onnx_file(tmp_path / "shared.onnx", text, **arrays, u=np.uint8(0), z=np.int8(0))
    monkeypatch.setattr(host, "has_vnni", lambda: False)
    (tmp_path / "out").mkdir()
    built = _made(graph, tmp_path / "out", Precision.INT8)
    assert built.effective_precision["products"] == {"int8": 2, "float": 0}


def test_threads_reach_the_session(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, _ = _build(workshop, tmp_path / "out", threads=3)
    assert built.session["intra_op_num_threads"] == 3
    seen = []
    real = onnxruntime.InferenceSession

    def spy(path: str, settings: Any, **rest: Any) -> Any:
        seen.append((settings.intra_op_num_threads, settings.graph_optimization_level))
        return real(path, settings, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    backend.load(tmp_path / "out", built.session)
    assert seen == [(3, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)]


def test_effective_precision_is_counted(workshop: Path, tmp_path: Path) -> None:
    built, model = _build(workshop, tmp_path / "out", portable=True)
    assert built.effective_precision["weights_bytes"]["float"] == 4 * (16 * 27 + 16 + 5 * 16 + 5)
    assert sum(built.effective_precision["nodes"].values()) == len(list(model.graph))


def test_large_weights_lie_beside_the_graph(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]
) -> None:
    w = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }'
    source = onnx_file(tmp_path / "big.onnx", text, w=w)
    (tmp_path / "out").mkdir()
    built = _made(source, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size >= w.nbytes
    moved = shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    x = np.ones((2, 64), np.float32)
    np.testing.assert_allclose(backend.load(Path(moved), built.session)([x])[0], x @ w, rtol=1e-4, atol=1e-5)


def test_what_it_cannot_do_has_a_reason() -> None:
    target = find_target("onnxruntime-cpu")
    assert backend.why_not(target, Precision.FP32, backend.Options()) is None
    assert backend.why_not(target, Precision.INT8, backend.Options()) is None
    for precision in (Precision.FP16, Precision.BF16):
        assert precision.upper() in str(backend.why_not(target, precision, backend.Options()))


def test_a_graph_that_it_refuses(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[n] x) => (float[n] y) { y = NoSuchOperator(x) }'
    source = onnx_file(tmp_path / "bad.onnx", text)
    with pytest.raises(BuildFailed, match=r"ONNX Runtime refuses the graph.*NoSuchOperator"):
        _made(source, tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(BuildFailed, match="cannot load"):
        backend.load(tmp_path, {"intra_op_num_threads": 0})


def test_the_manifest_keeps_the_session(ort_artifact: Path) -> None:
    manifest = json.loads((ort_artifact / "manifest.json").read_text())
    assert manifest["session"] == {"graph_optimization_level": "disable_all", "intra_op_num_threads": 0}
    assert manifest["versions"]["onnxruntime"] == onnxruntime.__version__

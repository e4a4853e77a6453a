"""Sessions on execution providers: what is built without them, what runs on them, and what they leave to others.

The logic is tested with ONNX Runtime's own providers, which are everywhere; OpenVINO's where it offers a device.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planc as package
from planc.compiler import host, plugins, quantize, recipe
from planc.compiler.backends import Request
from planc.compiler.backends import onnxruntime_ep as backend
from planc.compiler.errors import BuildFailed, IOFailed, Unavailable, UsageError
from planc.compiler.target import Precision, find_target

TARGETS = ("onnxruntime-cuda", "onnxruntime-openvino", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")
GPU_TARGETS = tuple(name for name in TARGETS if name != "onnxruntime-openvino")
SIZES = ("--dim", "batch=1..4@2")
DET = """<ir_version: 8, opset_import: ["": 18]> g (float[4,4] x) => (float[4,4] y) {
  [a] r = Relu(x)
  [d] q = Det(r)
  [e] s = Sin(q)
  [f] y = Mul(r, s)
}"""
"""OpenVINO has no Det."""


@pytest.fixture(scope="module")
def openvino() -> None:
    """Skips where OpenVINO's provider offers no device."""
    if reason := backend.unverifiable(find_target("onnxruntime-openvino")):
        pytest.skip(reason)


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda` is a provider that takes every node, and `tensorrt` one that takes none."""
    here = replace(backend.PROVIDERS["cuda"], packages=("onnxruntime",), settings=lambda *_: {}, gpu=False)
    every, none = (replace(here, name=f"{name}ExecutionProvider") for name in ("CPU", "Azure"))
    monkeypatch.setattr(backend, "PROVIDERS", {"cuda": every, "tensorrt": none})


def _build(source: Path, folder: Path, precision: Precision = Precision.FP32, **options: Any) -> Any:
    folder.mkdir()
    request = Request(source, precision, backend.Options(**options), folder, find_target("onnxruntime-cuda"))
    return backend.build(request)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


# Any provider


@pytest.mark.usefixtures("providers")
def test_the_nodes_are_counted_and_the_session_runs(
    workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    built = _build(workshop / "conv.onnx", tmp_path / "out", provider="cuda")
    assert built.placement["share"] == 1.0
    assert built.placement["nodes"] == {"CPUExecutionProvider": sum(built.placement["nodes"].values())}
    assert built.placement["fallback"] == []
    (result,) = backend.load(tmp_path / "out", built.session)([image])
    np.testing.assert_allclose(result, infer(workshop / "conv.onnx", x=image)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("providers")
def test_the_profile_of_a_session(workshop: Path, tmp_path: Path, image: np.ndarray) -> None:
    built = _build(workshop / "conv.onnx", tmp_path / "out", provider="cuda")
    seen = backend.profile(tmp_path / "out", built.session, [image], 10)
    assert {one.provider for one in seen} == {backend.provider(built.session)} == {"CPUExecutionProvider"}
    assert "Conv" in {one.op for one in seen}


@pytest.mark.usefixtures("providers")
def test_what_a_provider_leaves_to_others_is_an_error_unless_it_is_allowed(
    workshop: Path, tmp_path: Path, image: np.ndarray
) -> None:
    with pytest.raises(BuildFailed, match=r"Azure.* leaves \d of \d nodes to others: .+CPU.*--allow-fallback"):
        _build(workshop / "conv.onnx", tmp_path / "strict", provider="tensorrt")
    built = _build(workshop / "conv.onnx", tmp_path / "out", provider="tensorrt", allow_fallback=True)
    assert built.placement["share"] == 0.0
    assert {one["provider"] for one in built.placement["fallback"]} == {"CPUExecutionProvider"}
    assert backend.load(tmp_path / "out", built.session)([image])[0].shape == (2, 5)
    with pytest.raises(BuildFailed, match="leaves"):
        backend.load(tmp_path / "out", {**built.session, "allow_fallback": False})


@pytest.mark.usefixtures("providers")
def test_options_reach_the_session(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    def spy(path: str, settings: Any, **rest: Any) -> Any:
        seen.append((settings, rest))
        return real(path, settings, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    options = {"threads": 3, "graph_optimization": "basic", "arena": False, "provider_options": "a=1; b=c,d=2"}
    built = _build(workshop / "conv.onnx", tmp_path / "out", **options)
    settings, rest = seen[0]
    assert settings.intra_op_num_threads == 3
    assert settings.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert settings.enable_cpu_mem_arena is False
    assert rest == {
        "providers": [("CPUExecutionProvider", {"a": "1", "b": "c,d=2"})],
        "enable_fallback": 0,  # ONNX Runtime would try again on the CPU, and say so on stdout
    }
    assert built.session["provider_options"] == {"a": "1", "b": "c,d=2"}


@pytest.mark.usefixtures("providers")
def test_a_damaged_graph(workshop: Path, tmp_path: Path) -> None:
    built = _build(workshop / "conv.onnx", tmp_path / "out")
    (tmp_path / "out" / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(BuildFailed, match="refuses the graph"):
        backend.load(tmp_path / "out", built.session)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"provider": "cudaa"}, "Did you mean 'cuda'"),
        ({"graph_optimization": "most"}, "unknown"),
        ({"provider_options": "a"}, "'a' has no value"),
        ({"ep_context": True}, "compiles nothing"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        backend.Options(**options)


def test_each_provider_gets_the_settings_of_its_precision() -> None:
    def settings(name: str, precision: Precision, **options: Any) -> Mapping[str, str]:
        return backend.PROVIDERS[name].settings(precision, backend.Options(name, **options))

    assert settings("cuda", Precision.FP32, device_id=1) == {"device_id": "1", "use_tf32": "0"}
    assert settings("tensorrt", Precision.FP16) == {"device_id": "0", "trt_fp16_enable": "1"}
    assert settings("tensorrt", Precision.INT8) == {"device_id": "0", "trt_int8_enable": "1"}
    assert settings("tensorrt-rtx", Precision.FP16) == {}  # its precision comes from the graph alone
    told = json.loads(settings("openvino", Precision.FP32, threads=2)["load_config"])
    assert told == {"CPU": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "2"}}


@pytest.mark.parametrize("name", TARGETS)
def test_what_it_cannot_do_has_a_reason(name: str) -> None:
    refused = {"onnxruntime-cuda": {"int8"}, "onnxruntime-openvino": {"fp16", "bf16"}}.get(name, set())
    reasons = {str(one): backend.why_not(find_target(name), one, backend.Options()) for one in Precision}
    assert {precision for precision, reason in reasons.items() if reason} == refused
    assert all(precision.upper() in str(reasons[precision]) for precision in refused)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("onnxruntime-openvino", "openvino"),
        ("onnxruntime-tensorrt", "tensorrt"),
        ("onnxruntime-tensorrt-rtx", "tensorrt"),
    ],
)
def test_int8_is_laid_out_for_the_provider(name: str, scheme: str, workshop: Path) -> None:
    source = recipe.source(str(workshop / "conv.onnx"), dims=["batch=1..4@2"])
    job = recipe.job(source, name, "int8", quantization=recipe.quantization(random=True))
    assert quantize.lowering(job, ()).scheme == scheme
    assert Precision.INT8 in plugins.load("backends", job.target.backend).LOWERED


# Without the provider


def test_why_it_does_not_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, rtx = find_target("onnxruntime-cuda"), find_target("onnxruntime-tensorrt-rtx")
    monkeypatch.setattr(host, "version", lambda _name: None)
    assert "onnxruntime-gpu is not installed" in str(backend.unverifiable(cuda))
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in str(backend.unverifiable(cuda))
    monkeypatch.setattr(host, "version", lambda _name: "1.0")
    monkeypatch.setattr(host, "gpus", list)
    assert "no NVIDIA GPU here" in str(backend.unverifiable(cuda))
    monkeypatch.setattr(host, "gpus", lambda: ["NVIDIA A10, 8.6, 580.0"])
    assert "ONNX Runtime cannot load onnxruntime-ep-nv-tensorrt-rtx-cu12" in str(backend.unverifiable(rtx))
    assert "onnxruntime-gpu offers no device on this machine" in str(backend.unverifiable(cuda))


def test_without_the_provider_it_is_built_and_not_run(
    workshop: Path, tmp_path: Path, planc: Callable[..., Any]
) -> None:
    if backend.unverifiable(find_target("onnxruntime-cuda")) is None:
        pytest.skip("the CUDA provider is here")
    told = planc(
        "compile", workshop / "conv.onnx", *SIZES, "-t", "onnxruntime-cuda", "-p", "fp16", "-o", "art", cwd=tmp_path
    )
    assert "built, not executed here: onnxruntime-gpu is not installed" in told.stdout
    manifest = _manifest(tmp_path / "art")
    assert manifest["verification"]["passed"] is None
    assert "planc verify" in manifest["verification"]["complete_with"]
    assert manifest["placement"] == {}
    assert manifest["session"]["provider"] == "cuda"
    assert manifest["verification"]["graph"]["passed"] is True
    assert manifest["effective_precision"]["nodes"]["float16"] > 0
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3, 8, 8), np.float32))
    for words in (("verify", "art"), ("run", "art", "--inputs", "x.npz")):
        stopped = planc(*words, cwd=tmp_path, expect=3)
        assert "CUDAExecutionProvider" in stopped.stderr
        assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in stopped.stderr
    with pytest.raises(Unavailable):
        package.load(tmp_path / "art")


def test_an_engine_needs_the_provider_before_any_work(
    workshop: Path, tmp_path: Path, planc: Callable[..., Any]
) -> None:
    if backend.unverifiable(find_target("onnxruntime-tensorrt")) is None:
        pytest.skip("the TensorRT provider is here")
    words = ("compile", workshop / "conv.onnx", *SIZES, "-t", "onnxruntime-tensorrt", "-O", "ep_context=true")
    stopped = planc(*words, "-o", "art", cwd=tmp_path, expect=3)
    assert len(stopped.stderr.splitlines()) == 1, "no stage ran"
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt" in stopped.stderr


def test_a_target_without_providers_has_no_fallback(workshop: Path, tmp_path: Path, planc: Callable[..., Any]) -> None:
    words = ("compile", workshop / "conv.onnx", *SIZES, "-t", "openvino-cpu", "--allow-fallback", "-o", "art")
    assert "has no such option" in planc(*words, cwd=tmp_path, expect=2).stderr


# OpenVINO


@pytest.fixture(scope="module")
def artifact(openvino: None, workshop: Path, planc: Callable[..., Any]) -> Path:
    """CONV for onnxruntime-openvino: read only."""
    planc("compile", "conv.onnx", *SIZES, "-t", "onnxruntime-openvino", "-o", "out/ep", cwd=workshop)
    return workshop / "out/ep"


@pytest.mark.usefixtures("openvino")
def test_openvino_runs_every_node(
    artifact: Path, workshop: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    manifest = _manifest(artifact)
    assert manifest["verification"]["passed"] is True
    assert manifest["placement"]["share"] == 1.0
    assert set(manifest["placement"]["nodes"]) == {"OpenVINOExecutionProvider"}
    assert manifest["versions"]["onnxruntime-ep-openvino"] == host.version("onnxruntime-ep-openvino")
    session = package.load(artifact)
    for part in (image, image[:1]):
        np.testing.assert_allclose(session(x=part)["y"], infer(workshop / "conv.onnx", x=part)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("openvino")
def test_openvino_is_profiled(artifact: Path, image: np.ndarray) -> None:
    session = _manifest(artifact)["session"]
    seen = backend.profile(artifact, session, [image], 10)
    assert {one.provider for one in seen} == {backend.provider(session)}
    assert sum(one.ms for one in seen) > 0


@pytest.mark.usefixtures("openvino")
def test_verify_run_and_damage(artifact: Path, tmp_path: Path, image: np.ndarray, planc: Callable[..., Any]) -> None:
    assert "verified against" in planc("verify", artifact, cwd=tmp_path).stdout
    np.savez(tmp_path / "x.npz", x=image)
    assert planc("run", artifact, "--inputs", "x.npz", cwd=tmp_path).stdout.startswith("y=float32[2,5]")
    copy = shutil.copytree(artifact, tmp_path / "copy")
    whole = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(whole[:-20] + bytes(20))
    assert "damaged" in planc("verify", copy, cwd=tmp_path, expect=5).stderr
    (copy / "model.onnx").write_bytes(whole[:-20])
    with pytest.raises(IOFailed, match="cut short"):
        package.load(copy)


@pytest.mark.usefixtures("openvino")
def test_int8_on_openvino(workshop: Path, tmp_path: Path, planc: Callable[..., Any]) -> None:
    words = ("compile", workshop / "conv.onnx", *SIZES, "-t", "onnxruntime-openvino", "-p", "int8")
    planc(*words, "--allow-random-calibration", "-o", "art", cwd=tmp_path)
    manifest = _manifest(tmp_path / "art")
    assert manifest["placement"]["share"] == 1.0
    assert manifest["effective_precision"]["nodes"]["uint8"] > 0
    assert manifest["verification"]["passed"] is True
    exact = [metrics["y"]["max_abs"] == 0 for metrics in manifest["verification"]["points"].values()]
    assert not any(exact), "INT8 has noise"


@pytest.mark.usefixtures("openvino")
def test_an_engine_of_openvino_is_the_same_in_each_build(
    workshop: Path, tmp_path: Path, planc: Callable[..., Any]
) -> None:
    import onnx

    words = ("compile", workshop / "conv.onnx", *SIZES, "-t", "onnxruntime-openvino", "-O", "ep_context=true")
    for name in ("one", "other"):
        planc(*words, "-o", name, cwd=tmp_path)
    assert (tmp_path / "one/model.onnx").read_bytes() == (tmp_path / "other/model.onnx").read_bytes()
    assert [node.op_type for node in onnx.load(tmp_path / "one/model.onnx").graph.node] == ["EPContext"]
    manifest = _manifest(tmp_path / "one")
    assert manifest["placement"]["nodes"]["OpenVINOExecutionProvider"] > 1, "of the graph, not of what became of it"
    assert manifest["verification"]["passed"] is True
    planc("verify", "one", cwd=tmp_path)


@pytest.mark.usefixtures("openvino")
def test_an_operator_that_openvino_lacks(
    onnx_file: Callable[..., Path], tmp_path: Path, planc: Callable[..., Any]
) -> None:
    source = onnx_file(tmp_path / "det.onnx", DET)
    words = ("compile", source, "-t", "onnxruntime-openvino", "-o", "art")
    stopped = planc(*words, cwd=tmp_path, expect=4)
    assert "leaves 1 of 4 nodes to others: d (Det, CPUExecutionProvider). Add --allow-fallback" in stopped.stderr
    assert not (tmp_path / "art").exists()
    assert "75.0% of 4 nodes on OpenVINO" in planc(*words, "--allow-fallback", cwd=tmp_path).stdout
    manifest = _manifest(tmp_path / "art")
    assert manifest["job"]["options"]["allow_fallback"] is True
    assert manifest["placement"] == {
        "provider": "OpenVINOExecutionProvider",
        "share": 0.75,
        "nodes": {"CPUExecutionProvider": 1, "OpenVINOExecutionProvider": 3},
        "fallback": [{"name": "d", "op": "Det", "provider": "CPUExecutionProvider"}],
    }


@pytest.mark.usefixtures("openvino")
def test_what_openvino_refuses(workshop: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"OpenVINOExecutionProvider refuses the graph: .*NO_SUCH"):
        _build(
            workshop / "conv.onnx",
            tmp_path / "out",
            provider="openvino",
            provider_options='load_config={"CPU": {"NO_SUCH": "1"}}',
        )
    with pytest.raises(Unavailable, match="device_id=9"):
        _build(workshop / "conv.onnx", tmp_path / "other", provider="openvino", device_id=9)


# GPUs


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", GPU_TARGETS)
def test_a_gpu_runs_it(
    name: str, precision: str, workshop: Path, tmp_path: Path, planc: Callable[..., Any], image: np.ndarray
) -> None:
    if reason := backend.unverifiable(find_target(name)) or backend.why_not(
        find_target(name), Precision(precision), backend.Options()
    ):
        pytest.skip(reason)
    words = ["compile", workshop / "conv.onnx", *SIZES, "-t", name, "-p", precision, "-o", "art"]
    planc(*words, *(["--allow-random-calibration"] if precision == "int8" else []), cwd=tmp_path)
    manifest = _manifest(tmp_path / "art")
    assert manifest["placement"]["share"] == 1.0
    assert manifest["verification"]["passed"] is True
    assert package.load(tmp_path / "art")(x=image)["y"].shape == (2, 5)

"""OpenVINO on the CPU: the execution precision is pinned and proven."""

import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planc
from planc.compiler import host
from planc.compiler.backends import Request
from planc.compiler.backends import openvino as backend
from planc.compiler.errors import BuildFailed, UsageError
from planc.compiler.target import Precision, find_target

WEIGHTS = 4 * (16 * 27 + 16 + 5 * 16 + 5)
"""Bytes of CONV's weights in fp32 once batch normalization is folded."""


def _build(workshop: Path, folder: Path, precision: Precision = Precision.FP32, **options: Any) -> Any:
    folder.mkdir()
    return backend.build(
        Request(workshop / "conv.onnx", precision, backend.Options(**options), folder, find_target("openvino-cpu"))
    )


def _run(folder: Path, session: Any, image: np.ndarray) -> np.ndarray:
    return np.asarray(backend.load(folder, session)([image])[0])


def test_fp32_pins_f32(workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray) -> None:
    built = _build(workshop, tmp_path / "out")
    assert built.session == {
        "inference_precision_hint": "f32",
        "performance_hint": "LATENCY",
        "inference_num_threads": 0,
    }
    assert not {"f16", "bf16"} & built.effective_precision["layers"].keys()
    assert built.effective_precision["weights_bytes"]["f32"] >= WEIGHTS
    expected = infer(workshop / "conv.onnx", x=image)[0]
    np.testing.assert_allclose(_run(tmp_path / "out", built.session, image), expected, rtol=1e-3, atol=1e-5)


def test_the_plugin_is_compiled_with_the_session(workshop: Path, tmp_path: Path) -> None:
    built = _build(workshop, tmp_path / "out", threads=1, hint="throughput")
    compiled = backend._compile(tmp_path / "out", built.session)
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert str(compiled.get_property("PERFORMANCE_HINT")) == "THROUGHPUT"


def test_fp16_stores_f16_and_runs_f32(
    workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    full = _build(workshop, tmp_path / "fp32")
    built = _build(workshop, tmp_path / "fp16", Precision.FP16)
    assert built.session["inference_precision_hint"] == "f32"
    assert built.effective_precision["weights_bytes"]["f16"] >= WEIGHTS // 2
    assert not {"f16", "bf16"} & built.effective_precision["layers"].keys()
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("fp16", "fp32")]
    assert sizes[0] < 0.6 * sizes[1]
    assert full.effective_precision["weights_bytes"].get("f16", 0) == 0
    expected = infer(workshop / "conv.onnx", x=image)[0]
    np.testing.assert_allclose(_run(tmp_path / "fp16", built.session, image), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(host.has_bf16(), reason="this CPU has bf16")
def test_bf16_is_refused_where_the_cpu_lacks_it(workshop: Path, tmp_path: Path) -> None:
    reason = backend.why_not(find_target("openvino-cpu"), Precision.BF16, backend.Options())
    assert reason is not None
    assert "bf16" in reason
    assert "silently" in reason


@pytest.mark.skipif(not host.has_bf16(), reason="this CPU has no bf16")
def test_bf16_is_effective_where_the_cpu_has_it(
    workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    assert backend.why_not(find_target("openvino-cpu"), Precision.BF16, backend.Options()) is None
    built = _build(workshop, tmp_path / "out", Precision.BF16)
    assert built.session["inference_precision_hint"] == "bf16"
    assert built.effective_precision["layers"]["bf16"] >= 1
    expected = infer(workshop / "conv.onnx", x=image)[0]
    np.testing.assert_allclose(_run(tmp_path / "out", built.session, image), expected, rtol=1e-1, atol=1e-1)


MIXED = """<ir_version: 8, opset_import: ["": 18]> g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
  a = QuantizeLinear(x, step, zero) b = DequantizeLinear(a, step, zero) c = DequantizeLinear(w, scale, signed)
  d = Conv<pads=[1,1,1,1]>(b, c) e = Tanh(d) y = Conv<pads=[1,1,1,1]>(e, v)
}"""


@pytest.mark.skipif(not host.has_bf16(), reason="this CPU has no bf16")
@pytest.mark.parametrize(("around", "hint"), [("", "f32"), ("fp32", "f32"), ("bf16", "bf16")])
def test_what_int8_leaves_computes_as_asked(
    around: str, hint: str, tmp_path: Path, onnx_file: Callable[..., Path], infer: Callable[..., list[Any]]
) -> None:
    rng = np.random.default_rng(0)
    steps = {"step": np.float32(0.02), "zero": np.uint8(128), "scale": np.float32(1e-3), "signed": np.int8(0)}
    w = rng.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8)
    v = 0.1 * rng.standard_normal((16, 16, 3, 3), dtype=np.float32)
    source = onnx_file(tmp_path / "net.onnx", MIXED, w=w, v=v, **steps)
    options, target = backend.Options(around=around), find_target("openvino-cpu")
    assert backend.why_not(target, Precision.INT8, options) is None
    (tmp_path / "out").mkdir()
    built = backend.build(Request(source, Precision.INT8, options, tmp_path / "out", target))
    assert built.session["inference_precision_hint"] == hint
    layers = built.effective_precision["layers"]
    assert layers["i8"] == 1
    assert ("bf16" in layers) == (hint == "bf16"), layers
    assert built.requires == ({"cpu_flag": "bf16"} if hint == "bf16" else {})
    x = rng.standard_normal((1, 16, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(_run(tmp_path / "out", built.session, x), infer(source, x=x)[0], atol=0.05)


@pytest.mark.parametrize(
    ("precision", "floating", "effective"),
    [
        (Precision.FP32, Precision.FP32, {"layers": {"f32": 2, "bf16": 1}, "weights_bytes": {"f32": 9999}}),
        (Precision.FP16, Precision.FP16, {"layers": {"f16": 1}, "weights_bytes": {"f16": 9999}}),
        (Precision.FP16, Precision.FP16, {"layers": {"f32": 1}, "weights_bytes": {"f32": 9999}}),
        (Precision.BF16, Precision.BF16, {"layers": {"f32": 1}, "weights_bytes": {"f32": 9999}}),
        (Precision.INT8, Precision.INT8, {"layers": {"i8": 1, "bf16": 1}, "weights_bytes": {"i8": 9999}}),
        (Precision.INT8, Precision.BF16, {"layers": {"i8": 1, "f32": 1}, "weights_bytes": {"i8": 9999}}),
        (Precision.INT8, Precision.BF16, {"layers": {"bf16": 1}, "weights_bytes": {"i8": 9999}}),
    ],
)
def test_a_precision_that_had_no_effect_is_a_failure(
    precision: Precision, floating: Precision, effective: dict[str, Any]
) -> None:
    with pytest.raises(BuildFailed, match="OpenVINO"):
        backend._prove(precision, floating, effective)


def test_what_is_around_goes_with_int8() -> None:
    with pytest.raises(UsageError, match="goes with -p int8"):
        backend.why_not(find_target("openvino-cpu"), Precision.FP32, backend.Options(around="bf16"))
    with pytest.raises(UsageError, match="unknown around"):
        backend.Options(around="fp16")


def test_bf16_was_really_refused_for_a_reason(workshop: Path, tmp_path: Path) -> None:
    """Where the CPU lacks bf16, the plugin takes the hint in silence: the proof is what finds it out."""
    if host.has_bf16():
        pytest.skip("this CPU has bf16")
    with pytest.raises(BuildFailed, match="no layer in BF16"):
        _build(workshop, tmp_path / "out", Precision.BF16)


def test_what_it_cannot_do_has_a_reason() -> None:
    target = find_target("openvino-cpu")
    assert backend.why_not(target, Precision.FP32, backend.Options()) is None
    assert backend.why_not(target, Precision.FP16, backend.Options()) is None
    assert backend.why_not(target, Precision.INT8, backend.Options()) is None


def test_a_graph_that_it_refuses(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[n] x) => (float[n] y) { y = NoSuchOperator(x) }'
    source = onnx_file(tmp_path / "bad.onnx", text)
    with pytest.raises(BuildFailed, match="OpenVINO refuses the graph"):
        backend.build(Request(source, Precision.FP32, backend.Options(), tmp_path, find_target("openvino-cpu")))
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(BuildFailed, match="OpenVINO cannot load"):
        session = {"inference_precision_hint": "f32", "performance_hint": "LATENCY", "inference_num_threads": 0}
        backend.load(tmp_path, session)


def test_fingerprint() -> None:
    assert backend._runtime().__version__.startswith(backend.fingerprint()["openvino"])


def test_one_inference_after_another_with_other_sizes(openvino_artifact: Path) -> None:
    import planc

    session = planc.load(openvino_artifact)
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((size, 3, 8, 8), dtype=np.float32) for size in (4, 1, 2, 4)]
    whole = session(x=images[0])["y"]
    for image in images:
        rows = [session(x=image[i : i + 1])["y"] for i in range(len(image))]
        np.testing.assert_allclose(session(x=image)["y"], np.concatenate(rows), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(session(x=images[0])["y"], whole)


def test_threads_run_one_session_at_once(openvino_artifact: Path) -> None:
    """Each gets the answer to its own inputs."""
    session = planc.load(openvino_artifact)
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((rows, 3, 8, 8), dtype=np.float32) for rows in (1, 2, 3, 4) * 50]
    wanted = [session(x=image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: session(x=image), images))
    for one, other in zip(found, wanted, strict=True):
        for name, array in other.items():
            np.testing.assert_array_equal(one[name], array)


def test_fp16_of_embeddings_and_products(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]
) -> None:
    """Stored f16 weights travel through Gather and Transpose layers: that is no f16 execution."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((64, 64), dtype=np.float32) for name in ("table", "a", "b")}
    text = """<ir_version: 8, opset_import: ["": 18]> g (int64[n,4] i) => (float[n,4,64] y) {
      e = Gather(table, i)
      p = MatMul(e, a)
      s = Softmax(p)
      bt = Transpose<perm=[1,0]>(b)
      y = MatMul(s, bt)
    }"""
    source = onnx_file(tmp_path / "g.onnx", text, **arrays)
    (tmp_path / "out").mkdir()
    built = backend.build(
        Request(source, Precision.FP16, backend.Options(), tmp_path / "out", find_target("openvino-cpu"))
    )
    assert built.effective_precision["layers"] == {"f32": 3}
    assert built.effective_precision["weights_bytes"]["f16"] == 3 * 64 * 64 * 2
    i = rng.integers(0, 64, (3, 4))
    (result,) = backend.load(tmp_path / "out", built.session)([i])
    np.testing.assert_allclose(result, infer(source, i=i)[0], rtol=2e-2, atol=2e-2)


@pytest.fixture
def start(workshop: Path, tmp_path: Path) -> tuple[Path, Any]:
    """An artifact's folder, and its session."""
    return tmp_path / "out", _build(workshop, tmp_path / "out").session


def test_it_starts_from_what_was_compiled(start: tuple[Path, Any], image: np.ndarray) -> None:
    folder, session = start
    (folder / backend.PAYLOAD).rename(folder / "aside")  # nothing but the blob can be loaded
    quick = _run(folder, session, image)
    (folder / "aside").rename(folder / backend.PAYLOAD)
    (folder / "model.blob.gz").unlink()
    assert np.array_equal(quick, _run(folder, session, image))


@pytest.mark.parametrize(("true", "other"), [(b";isa=", b";isb="), (b"ov=20", b"ov=19"), (b"meta=", b"mess=")])
def test_what_was_compiled_for_another_machine_is_compiled_anew(
    start: tuple[Path, Any], image: np.ndarray, true: bytes, other: bytes
) -> None:
    folder, session = start
    expected, blob = _run(folder, session, image), gzip.decompress((folder / "model.blob.gz").read_bytes())
    assert true in blob
    (folder / "model.blob.gz").write_bytes(gzip.compress(blob.replace(true, other)))
    assert np.array_equal(expected, _run(folder, session, image))
    (folder / backend.PAYLOAD).unlink()
    with pytest.raises(BuildFailed, match="cannot load"):
        backend.load(folder, session)


@pytest.mark.parametrize("kept", [0, 30, -8])
def test_what_was_compiled_and_is_damaged_is_compiled_anew(
    start: tuple[Path, Any], image: np.ndarray, kept: int
) -> None:
    folder, session = start
    expected, whole = _run(folder, session, image), (folder / "model.blob.gz").read_bytes()
    (folder / "model.blob.gz").write_bytes(whole[:kept])
    assert np.array_equal(expected, _run(folder, session, image))


def test_only_the_ir_is_kept_where_that_is_wanted(workshop: Path, tmp_path: Path, image: np.ndarray) -> None:
    built = _build(workshop, tmp_path / "out", precompiled=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.xml", "model.bin"}
    assert _run(tmp_path / "out", built.session, image).shape[0] == image.shape[0]

"""The whole compiler: stages, candidates, replacing, and a light parent process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planc
from planc.compiler import files, pipeline, recipe
from planc.compiler.cache import Store
from planc.compiler.errors import BuildFailed, GateFailed
from planc.compiler.worker import Limits

LIMITS = Limits(300)
TRAINED = """<ir_version: 10, opset_import: ["": 21]> g (float[batch,64] x) => (float[batch,64] y) {
  q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) first = DequantizeLinear(w1, ws, wz)
  a = MatMul(d, first) r = Relu(a)
  q2 = QuantizeLinear(r, s, z) d2 = DequantizeLinear(q2, s, z) second = DequantizeLinear(w2, ws, other)
  y = MatMul(d2, second)
}"""


def _job(workshop: Path, target: str, precision: str = "fp32", **words: Any) -> recipe.Job:
    source = recipe.source(str(workshop / "conv.onnx"), dims=["batch=1..4@2"])
    return recipe.job(source, target, precision, **words)


def test_cpu_builds_both_and_keeps_the_faster(workshop: Path, tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    result = pipeline.run(
        _job(workshop, "cpu"),
        tmp_path / "out",
        limits=LIMITS,
        on_event=lambda kind, value: events.append((kind, value)),
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == result.report
    latency = {name: figures["latency_p50_ms"] for name, figures in report["latency"].items()}
    assert latency.keys() == {"onnxruntime-cpu", "openvino-cpu"}
    chosen = result.artifact.manifest["job"]["target"]
    assert latency[chosen] <= min(latency.values()) / 0.97
    assert sorted(row["status"] for row in report["candidates"]) in (["kept", "not better"], ["kept", "slower"])
    for figures in report["latency"].values():
        assert figures["latency_p50_ms_low"] <= figures["latency_p50_ms"] <= figures["latency_p50_ms_high"]
    assert report["graph"]["before"]["operators"]["BatchNormalization"] == 1
    assert "BatchNormalization" not in report["graph"]["after"]["operators"]
    assert report["layers"] == [], "no precision is laid down in a graph of fp32"
    assert report["seconds"]["total"] >= report["seconds"]["export"] > 0
    stages = [value for kind, value in events if kind == "stage"]
    assert stages.count("build") == 2
    assert stages[-1] == "measure"
    assert planc.load(tmp_path / "out").inputs[0].name == "x"


def test_cpu_keeps_going_when_one_backend_cannot(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    """CDist is an operator of ONNX Runtime's own."""
    text = """<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>
    g (float[n,8] x) => (float[n,4] y) { y = com.microsoft.CDist<metric="euclidean">(x, w) }"""
    w = np.random.default_rng(0).standard_normal((4, 8), dtype=np.float32)
    source = recipe.source(str(onnx_file(tmp_path / "cdist.onnx", text, w=w)), dims=["n=1..2"])
    result = pipeline.run(recipe.job(source, "cpu", "fp32"), tmp_path / "out", limits=LIMITS)
    assert result.artifact.manifest["job"]["target"] == "onnxruntime-cpu"
    assert result.report["latency"] == {}
    (row,) = result.report["candidates"]
    assert (row["name"], row["status"]) == ("openvino-cpu", "failed")
    assert "CDist" in row["reason"]


@pytest.mark.parametrize("kept", [True, False], ids=["cache", "no cache"])
def test_a_pass_that_kills_its_worker_is_left_out(
    kept: bool, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of an ONNX model has made the export as well: that is not made again."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if 'PLANC_WORKER' in os.environ:\n"
        "    import planc.passes\n"
        "    planc.passes.names()['fuse-conv-bn'].call = lambda *_: os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    store = Store(tmp_path / "cache") if kept else None
    events: list[Any] = []
    result = pipeline.run(
        _job(workshop, "null"), tmp_path / "out", limits=LIMITS, store=store, on_event=lambda *one: events.append(one)
    )
    assert result.report["graph"]["after"]["operators"]["BatchNormalization"] == 1
    assert "fuse-conv-bn" not in [one["name"] for one in result.report["passes"]]
    (note,) = [value for kind, value in events if kind == "note"]
    assert note.startswith("left out the pass fuse-conv-bn: the worker was killed by SIGKILL")
    assert events.count(("stage", "reference")) == 1
    assert set(result.report["stages"].values()) == {"built"}
    assert result.report["seconds"]["export"] > 0


def test_unchanged_is_left_alone_and_overwrite_replaces(workshop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = _job(workshop, "null")
    assert pipeline.run(job, out, limits=LIMITS).status == "built"
    old = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert pipeline.run(job, out, limits=LIMITS).status == "unchanged"
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == old
    assert pipeline.run(job, out, limits=LIMITS, overwrite=True).status == "replaced"
    assert (out / "manifest.json").stat().st_mtime_ns > old["manifest.json"]


def test_a_damaged_or_other_artifact_is_replaced(workshop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipeline.run(_job(workshop, "null"), out, limits=LIMITS)
    (out / "model.onnx").write_text("damaged")
    assert pipeline.run(_job(workshop, "null"), out, limits=LIMITS).status == "replaced"
    assert pipeline.run(_job(workshop, "openvino-cpu"), out, limits=LIMITS).status == "replaced"
    assert not (out / "model.onnx").exists()
    assert (out / "model.xml").exists()


def test_a_gate_that_says_no_leaves_the_old_artifact(ort_artifact: Path, workshop: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(ort_artifact, tmp_path / "out"))
    before = {path.name: files.digest(path) for path in out.iterdir()}
    with pytest.raises(GateFailed) as caught:
        pipeline.run(_job(workshop, "openvino-cpu", "fp16", tolerance=["sqnr_db=200", "atol=0"]), out, limits=LIMITS)
    assert "openvino-cpu does not compute what onnxruntime" in caught.value.what
    assert "SQNR" in caught.value.what
    assert "--tolerance" in caught.value.hint
    assert {path.name: files.digest(path) for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_limits_reach_the_stages(workshop: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="did not finish within"):
        pipeline.run(_job(workshop, "null"), tmp_path / "out", limits=Limits(0.05))
    with pytest.raises(BuildFailed, match="memory limit"):
        pipeline.run(_job(workshop, "null"), tmp_path / "out", limits=Limits(60, 1 << 20, 1 << 20))
    assert list(tmp_path.iterdir()) == []


PARENT = """
import sys
from pathlib import Path
from planc.compiler import pipeline, recipe
from planc.compiler.errors import PlancError
from planc.compiler.worker import Limits

model, words, out = sys.argv[1], sys.argv[2].split(";"), Path(sys.argv[3])
try:
    source = recipe.source(model, inputs=words[:1] if words[0] else (), dims=words[1:])
    result = pipeline.run(recipe.job(source, "null", "fp32"), out, limits=Limits(300))
    print("result", result.status)
except PlancError as error:
    print("error", type(error).__name__)
print(*sorted({"torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "onnxscript"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("conv.onnx", ";batch=1..4@2", "result built"),
        ("conv.onnx", ";", "error UsageError"),
        ("net.py:net", "x=float32[batch,3,8,8];batch=1..4", "result built"),
        ("net.py:nett", "x=float32[1,3,8,8]", "error UsageError"),
    ],
)
def test_the_parent_stays_light(
    model: str, words: str, said: str, workshop: Path, tmp_path: Path, python: Callable[..., str]
) -> None:
    """Neither a result nor an error that crosses the pipe makes the parent import a heavy package."""
    if words == ";":
        words = ""
    assert python(PARENT, model, words, tmp_path / "out", cwd=workshop).splitlines() == [said, ""]


@pytest.mark.parametrize("target", ["openvino-cpu", "onnxruntime-cpu"])
def test_what_the_runtime_does_not_run_in_int8_is_told(
    target: str, onnx_file: Callable[..., Path], tmp_path: Path
) -> None:
    """A weight with a zero point: the graph says INT8, and the runtime computes with its float values."""
    rng = np.random.default_rng(0)
    whole = {name: rng.integers(-63, 63, (64, 64), dtype=np.int8) for name in ("w1", "w2")}
    scales = {"s": np.float32(0.02), "z": np.uint8(128), "ws": np.float32(0.002)}
    source = onnx_file(tmp_path / "trained.onnx", TRAINED, **whole, **scales, wz=np.int8(0), other=np.int8(9))
    told: list[tuple[str, Any]] = []
    result = pipeline.run(
        recipe.job(recipe.source(str(source), dims=["batch=1..4@2"]), target, "int8"),
        tmp_path / "out",
        limits=LIMITS,
        on_event=lambda *event: told.append(event),
    )
    assert result.artifact.manifest["effective_precision"]["products"] == {"int8": 1, "float": 1}
    assert ("note", "of 2 layers in INT8 the runtime computes 1 in float all the same") in told

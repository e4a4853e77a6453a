"""planc diff."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planc.compiler import difference


def _compare(old: Path, new: Path) -> dict[str, Any]:
    return difference.compare(old, new, emit=lambda _kind, _value: None)


def test_an_artifact_is_the_same_as_its_copy(ort_artifact: Path, copied: Path) -> None:
    (copied / "report.json").write_text(json.dumps({"latency": {"a": {"latency_p50_ms": 3.0}}}))
    found = _compare(ort_artifact, copied)
    assert found["same"]
    assert found["differs"] == []
    assert found["parts"]["latency"] == [{"name": "a.latency_p50_ms", "old": None, "new": 3.0}]
    assert difference.lines(found) == [
        "latency (measured, which makes no difference):",
        "  a.latency_p50_ms: none -> 3",
    ]


def test_two_targets_differ(ort_artifact: Path, openvino_artifact: Path) -> None:
    found = _compare(ort_artifact, openvino_artifact)
    assert set(found["differs"]) >= {"job", "graph", "precision", "size", "files", "tools"}
    job = {one["name"]: (one["old"], one["new"]) for one in found["parts"]["job"]}
    assert job["target"] == ("onnxruntime-cpu", "openvino-cpu")
    assert job["session.intra_op_num_threads"] == (0, None)
    graph = {one["name"]: (one["old"], one["new"]) for one in found["parts"]["graph"]}
    assert graph["op.Convolution"] == (None, 1)
    assert "input x" not in graph
    tools = {one["name"] for one in found["parts"]["tools"]}
    assert "openvino" in tools
    assert "planc" not in tools


def test_what_each_part_sees(ort_artifact: Path, copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["effective_precision"]["products"]["int8"] = 1
    manifest["files"]["model.onnx"]["bytes"] *= 2
    manifest["verification"]["points"]["opt"]["y"]["cosine"] = 0.5
    manifest["versions"]["onnxruntime"] = "1.0"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    found = _compare(ort_artifact, copied)
    assert found["differs"] == ["precision", "size", "accuracy", "tools"]
    text = "\n".join(difference.lines(found))
    assert "  products.int8: 0 -> 1" in text
    assert "  model.onnx: " in text
    assert "(+100.0%)" in text
    assert "  opt.y.cosine: 1 -> 0.5\n" in text


def test_the_verb(ort_artifact: Path, openvino_artifact: Path, planc: Callable[..., Any], tmp_path: Path) -> None:
    same = shutil.copytree(ort_artifact, tmp_path / "same")
    assert planc("diff", ort_artifact, same, cwd=tmp_path).stdout.startswith(f"{ort_artifact} and {same} are the same")
    done = planc("diff", ort_artifact, openvino_artifact, "--format", "json", cwd=tmp_path, expect=1)
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert not document["same"]
    assert "differ in job, graph, precision" in done.stderr
    assert "no such artifact" in planc("diff", ort_artifact, "gone", cwd=tmp_path, expect=2).stderr

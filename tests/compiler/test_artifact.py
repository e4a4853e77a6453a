"""Artifacts: loading, refusing, and knowing when they are damaged."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planc
from planc.compiler import artifact, files, golden, host
from planc.compiler.errors import IOFailed, Unavailable, UsageError


def _change_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_the_folder_holds_what_the_contract_says(ort_artifact: Path, openvino_artifact: Path) -> None:
    assert {path.name for path in ort_artifact.iterdir()} >= {
        "manifest.json", "report.json", "golden.npz", "model.onnx",
    }  # fmt: skip
    assert {path.name for path in openvino_artifact.iterdir()} == {
        "manifest.json", "report.json", "golden.npz", "model.xml", "model.bin", "model.blob.gz",
    }  # fmt: skip


def test_the_manifest_lists_every_file_with_its_digest(openvino_artifact: Path) -> None:
    manifest = json.loads((openvino_artifact / "manifest.json").read_text())
    listed = manifest["files"]
    assert listed.keys() == {path.name for path in openvino_artifact.iterdir()} - {"manifest.json", "report.json"}
    for name, facts in listed.items():
        file = openvino_artifact / name
        assert facts == {"bytes": file.stat().st_size, "sha256": files.digest(file)}


def test_the_manifest_tells_the_job(openvino_artifact: Path) -> None:
    manifest = json.loads((openvino_artifact / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["job"]["id"] == "conv-openvino-cpu-fp32"
    assert manifest["job"]["dims"] == {"batch": {"min": 1, "opt": 2, "max": 4, "sizes": [1, 2, 4], "choice": False}}
    assert manifest["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]
    assert manifest["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 5]}]
    assert manifest["versions"]["openvino"] == host.version("openvino")
    assert "fuse-conv-bn" in manifest["passes"]
    assert manifest["verification"]["passed"] is True
    assert manifest["verification"]["reference"].startswith("onnxruntime ")


@pytest.mark.parametrize("which", ["ort_artifact", "openvino_artifact"])
def test_load_and_run(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    session = planc.load(folder)
    assert isinstance(session, planc.Session)
    assert [str(spec) for spec in session.inputs] == ["x=float32[batch,3,8,8]"]
    assert [str(dim) for dim in session.dims] == ["batch=1..4@2"]
    for one in golden.load(folder / "golden.npz"):
        result = session(**one.inputs)
        np.testing.assert_allclose(result["y"], one.outputs["y"], rtol=1e-3, atol=1e-5)


def test_results_are_the_callers_own(openvino_artifact: Path, image: np.ndarray) -> None:
    session = planc.load(str(openvino_artifact))
    first = session(x=image)["y"]
    kept = first.copy()
    session(x=image * 2)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("arrays", "what", "hint"),
    [
        ({}, "input 'x' is missing", "Give x=float32[batch,3,8,8]"),
        ({"X": np.zeros((1, 3, 8, 8), np.float32)}, "there is no input 'X'", "Did you mean 'x'?"),
        ({"x": np.zeros((1, 3, 8, 8))}, "input 'x' is float64[1,3,8,8]", "Give x=float32[batch,3,8,8]"),
        ({"x": np.zeros((1, 3, 8), np.float32)}, "input 'x' is float32[1,3,8]", "Give x="),
        ({"x": np.zeros((1, 4, 8, 8), np.float32)}, "input 'x' is float32[1,4,8,8]", "with batch=1"),
        ({"x": np.zeros((9, 3, 8, 8), np.float32)}, "dimension 'batch' is 9", "wider --dim batch"),
    ],
)
def test_arrays_that_do_not_fit(ort_artifact: Path, arrays: dict[str, np.ndarray], what: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        planc.load(ort_artifact)(**arrays)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_inputs_have_names(ort_artifact: Path, image: np.ndarray) -> None:
    with pytest.raises(UsageError, match="inputs are given by name") as caught:
        planc.load(ort_artifact)(image)
    assert caught.value.hint == "Write session(x=array)"


def test_a_dimension_has_one_size_in_all_inputs() -> None:
    from planc.compiler.shapes import parse_input

    specs = [parse_input("a=float32[n,2]"), parse_input("b=float32[n,3]")]
    a, b = np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32)
    assert artifact.check_arrays(specs, {"b": b, "a": a})[0] is a
    with pytest.raises(UsageError, match=r"'b' is float32\[1,3\].*with n=2"):
        artifact.check_arrays(specs, {"a": a, "b": b[:1]})


def test_a_missing_or_short_file_is_an_io_failure(copied: Path) -> None:
    payload = copied / "model.onnx"
    payload.write_bytes(payload.read_bytes()[:-1])
    with pytest.raises(IOFailed, match=r"model\.onnx is missing or cut short"):
        planc.load(copied)
    payload.unlink()
    with pytest.raises(IOFailed, match="Build the artifact again"):
        planc.load(copied)
    assert artifact.read(copied).damage() == ["model.onnx is missing"]


def test_damage_of_one_bit_is_found(copied: Path) -> None:
    assert artifact.read(copied).damage() == []
    data = bytearray((copied / "golden.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (copied / "golden.npz").write_bytes(data)
    assert artifact.read(copied).damage() == ["golden.npz is not the file that was built"]


def test_a_model_is_no_artifact(workshop: Path) -> None:
    with pytest.raises(UsageError, match=r"conv\.onnx is a model, not an artifact"):
        planc.load(workshop / "conv.onnx")


def test_no_artifact(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(UsageError, match="no such artifact"):
        planc.load(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is not an artifact"):
        planc.load(tmp_path / "empty")
    _change_manifest(copied, schema_version=99)
    with pytest.raises(UsageError, match="schema version"):
        planc.load(copied)
    (copied / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match="is not an artifact"):
        planc.load(copied)


def test_layouts_of_another_cpu_are_unavailable(copied: Path) -> None:
    _change_manifest(copied, requires={"vector_width": "avx1024"})
    with pytest.raises(Unavailable) as caught:
        planc.load(copied)
    assert "avx1024" in caught.value.what
    assert "portable=true" in caught.value.hint


def test_a_deployed_process_loads_nothing_of_the_build(ort_artifact: Path, python: Callable[..., str]) -> None:
    code = """
import sys
import planc
planc.load(sys.argv[1])
own = {name.removeprefix("planc.compiler.") for name in sys.modules if name.startswith("planc.compiler.")}
runs = {"artifact", "backends", "backends.onnxruntime", "_ort", "errors", "host", "plugins", "shapes", "target"}
print(*sorted(own - runs))
print(*sorted({"onnx", "torch", "subprocess", "importlib.metadata", "rich", "typer"} & set(sys.modules)))
"""
    assert python(code, str(ort_artifact)).split() == []


def test_null_artifacts_run_nowhere(null_artifact: Path) -> None:
    with pytest.raises(Unavailable, match="runs nowhere"):
        planc.load(null_artifact)


def test_run_file_writes_what_it_tells(ort_artifact: Path, tmp_path: Path, image: np.ndarray) -> None:
    np.savez(tmp_path / "in.npz", x=image)
    (told,) = artifact.run_file(ort_artifact, tmp_path / "in.npz", tmp_path / "out.npz", emit=lambda *_: None)
    written = files.load_arrays(tmp_path / "out.npz")["y"]
    assert (told["name"], told["dtype"], told["shape"]) == ("y", "float32", [2, 5])
    assert told["first"] == written.reshape(-1)[:6].tolist()
    np.testing.assert_array_equal(written, planc.load(ort_artifact)(x=image)["y"])


def test_only_planc_artifacts_are_replaceable(copied: Path, tmp_path: Path) -> None:
    artifact.require_replaceable(copied)
    artifact.require_replaceable(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    artifact.require_replaceable(tmp_path / "empty")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(copied)
    for name in ("mine", "file", "link"):
        with pytest.raises(UsageError, match="is not an artifact of planc"):
            artifact.require_replaceable(tmp_path / name)


def test_same_content_ignores_measured_figures_only(copied: Path) -> None:
    manifest = dict(artifact.read(copied).manifest)
    checked = manifest["verification"]
    assert artifact.same_content(copied, {**manifest, "verification": {**checked, "points": {}}})
    bounds = {**checked["tolerance"], "cosine": 0.5}
    assert not artifact.same_content(copied, {**manifest, "verification": {**checked, "tolerance": bounds}})
    assert not artifact.same_content(copied, {**manifest, "backend": "other"})
    (copied / "model.onnx").write_text("x")
    assert not artifact.same_content(copied, manifest)
    assert not artifact.same_content(copied / "gone", manifest)


def test_a_log_of_the_users_is_not_ours(copied: Path) -> None:
    (copied / artifact.LOG).write_text("mine")
    with pytest.raises(UsageError, match="not an artifact of planc"):
        artifact.require_replaceable(copied)
    manifest = {**artifact.read(copied).manifest, "log": artifact.LOG}
    (copied / artifact.MANIFEST).write_text(json.dumps(manifest))
    artifact.require_replaceable(copied)


def test_a_file_with_a_semantic_digest_is_compared_by_it(copied: Path) -> None:
    manifest = artifact.read(copied).manifest
    named = {**manifest, "semantic_sha256": {"model.onnx": "what it is made of"}}
    (copied / artifact.MANIFEST).write_text(json.dumps(named))
    other_bytes = {**named["files"]["model.onnx"], "sha256": "other"}
    assert artifact.same_content(copied, {**named, "files": {**named["files"], "model.onnx": other_bytes}})
    assert not artifact.same_content(copied, {**named, "semantic_sha256": {"model.onnx": "something else"}})
    assert not artifact.same_content(copied, {**named, "files": {**named["files"], "golden.npz": other_bytes}})


def test_run_file_replaces_arrays_only(ort_artifact: Path, tmp_path: Path, image: np.ndarray) -> None:
    np.savez(tmp_path / "in.npz", x=image)
    for _ in range(2):
        artifact.run_file(ort_artifact, tmp_path / "in.npz", tmp_path / "out.npz", emit=lambda *_: None)
    (tmp_path / "new.npz").touch()
    artifact.run_file(ort_artifact, tmp_path / "in.npz", tmp_path / "new.npz", emit=lambda *_: None)
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(UsageError, match=r"net\.pt exists and is no \.npz"):
        artifact.run_file(ort_artifact, tmp_path / "in.npz", tmp_path / "net.pt", emit=lambda *_: None)
    (tmp_path / "net.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match=r"net\.py exists and is no \.npz"):
        artifact.run_file(ort_artifact, tmp_path / "in.npz", tmp_path / "net.py", emit=lambda *_: None)
    assert (tmp_path / "net.py").read_text() == "x = 1\n"


def test_run_file_names_the_file_that_does_not_fit(ort_artifact: Path, tmp_path: Path, image: np.ndarray) -> None:
    np.savez(tmp_path / "in.npz", y=image)
    with pytest.raises(UsageError, match=r"in\.npz: there is no input 'y'"):
        artifact.run_file(ort_artifact, tmp_path / "in.npz", None, emit=lambda *_: None)

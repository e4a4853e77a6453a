"""What is measured, with which inputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import artifact, shapes, subjects
from planc.compiler.errors import UsageError


@pytest.fixture
def here(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workshop)
    return workshop


def test_names_are_short_and_differ(ort_artifact: Path, here: Path) -> None:
    found = subjects.find([str(ort_artifact), "conv.onnx", str(ort_artifact)], "torch:net.py:net")
    long = str(ort_artifact)
    assert [(one.name, one.kind) for one in found] == [
        (long, "artifact"),
        ("conv.onnx", "onnx"),
        (f"{long}#2", "artifact"),
        ("torch:net.py:net", "torch"),
    ]
    assert subjects.find([long])[0].name == ort_artifact.name
    assert found[3].source == "net.py:net"


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        ([["nowhere"]], "no such artifact: nowhere", "planc compile"),
        ([["net.py:net"]], "neither an artifact nor an ONNX file", "torch:net.py:net"),
        ([["conv.onnx"], "trch:net.py:net"], "neither an artifact nor", "Did you mean 'torch'?"),
        ([["conv.onnx"], "torch:net.py"], "torch:file.py:callable", "torch:net.py:net"),
        ([["conv.onnx"], "torch:nett.py:net"], "no such file: nett.py", "Did you mean 'net.py'?"),
        ([["torch:net.py:net"]], "no shapes of its own", "--against torch:net.py:net"),
    ],
)
def test_what_is_no_subject(words: list[object], what: str, hint: str, here: Path) -> None:
    with pytest.raises(UsageError) as raised:
        subjects.find(*words)  # type: ignore[arg-type]
    assert what in raised.value.what
    assert hint in raised.value.hint


def test_all_get_the_golden_inputs_of_the_first_artifact(ort_artifact: Path, here: Path) -> None:
    found = subjects.find(["conv.onnx", str(ort_artifact)])
    arrays, origin, kept = subjects.inputs(found, (), None)
    assert arrays["x"].shape == (2, 3, 8, 8)
    assert origin == f"golden.npz of {ort_artifact.name}"
    assert kept.dims == artifact.read(ort_artifact).dims


def test_inputs_of_a_file_must_fit_all(ort_artifact: Path, here: Path, tmp_path: Path) -> None:
    found = subjects.find([str(ort_artifact)])
    np.savez(tmp_path / "x.npz", x=np.ones((3, 3, 8, 8), np.float32))
    arrays, origin, _ = subjects.inputs(found, (), tmp_path / "x.npz")
    assert arrays["x"].shape[0] == 3
    assert origin == str(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=np.ones((9, 3, 8, 8), np.float32))
    with pytest.raises(UsageError, match=r"onnxruntime-cpu: dimension 'batch' is 9; .*1\.\.4"):
        subjects.inputs(found, (), tmp_path / "x.npz")


def test_an_onnx_file_alone_needs_sizes(here: Path) -> None:
    found = subjects.find(["conv.onnx"])
    with pytest.raises(UsageError, match="without sizes"):
        subjects.inputs(found, (), None)
    arrays, origin, _ = subjects.inputs(found, (shapes.parse_dim("batch=1..8@3"),), None)
    assert arrays["x"].shape == (3, 3, 8, 8)
    assert origin == "drawn"


def test_sizes_are_for_an_onnx_file_alone(ort_artifact: Path) -> None:
    with pytest.raises(UsageError, match=r"--dim batch=3: the inputs come from golden\.npz"):
        subjects.inputs(subjects.find([str(ort_artifact)]), (shapes.parse_dim("batch=3"),), None)


def test_sweeps(ort_artifact: Path) -> None:
    kept = subjects.signature(subjects.find([str(ort_artifact)])[0])
    assert subjects.sweep("1,4,1", kept) == ("batch", (1, 4))
    assert subjects.sweep("batch=2", kept) == ("batch", (2,))
    x = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    larger = subjects.resized(kept, {"x": x}, "batch", 3)["x"]
    assert np.array_equal(larger, x[[0, 1, 0]])


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("5", "batch=5: the artifact is verified for 1..4", "wider --dim batch=..."),
        ("batsh=2", "no dimension 'batsh'", "Did you mean 'batch'?"),
        ("1;2", "not of the form 1,4,8", "--batch batch=1,4,8"),
    ],
)
def test_sweeps_that_make_no_sense(text: str, what: str, hint: str, ort_artifact: Path) -> None:
    with pytest.raises(UsageError) as raised:
        subjects.sweep(text, subjects.signature(subjects.find([str(ort_artifact)])[0]))
    assert what in raised.value.what
    assert hint in raised.value.hint


def test_facts_and_threads(ort_artifact: Path, openvino_artifact: Path, null_artifact: Path, here: Path) -> None:
    ort, openvino, null, onnx = subjects.find(
        [*map(str, (ort_artifact, openvino_artifact, null_artifact)), "conv.onnx"]
    )
    facts = subjects.facts(ort)
    assert facts["size_bytes"] == sum(path.stat().st_size for path in ort_artifact.glob("model.onnx*"))
    assert (facts["target"], facts["precision"]) == ("onnxruntime-cpu", "fp32")
    assert subjects.facts(onnx)["size_bytes"] == (here / "conv.onnx").stat().st_size
    assert "onnxruntime" in facts["versions"]
    for one, key in ((ort, "intra_op_num_threads"), (openvino, "inference_num_threads")):
        manifest = artifact.read(one.source).manifest
        assert one.settings(manifest, 3)["session"][key] == 3
        assert one.settings(manifest, 0)["session"] == manifest["session"]
    subjects.require_threads([ort, openvino, onnx], 2)
    with pytest.raises(UsageError, match="takes no number of threads"):
        subjects.require_threads([ort, null], 2)


@pytest.mark.parametrize("text", ["1,x", "1,,2", "-1"])
def test_numbers(text: str) -> None:
    assert subjects.numbers("--pin", "1, 0,1") == (1, 0)
    assert subjects.numbers("--pin", "") == ()
    with pytest.raises(UsageError, match="--pin"):
        subjects.numbers("--pin", text)


def test_a_golden_file_is_not_deployed(ort_artifact: Path, python: Callable[..., str]) -> None:
    manifest = artifact.read(ort_artifact).manifest
    whole = sum(one["bytes"] for one in manifest["files"].values())
    assert subjects.deployed_bytes(manifest) == whole - manifest["files"]["golden.npz"]["bytes"]
    assert python("import sys, planc.compiler.player; print('numpy' in sys.modules)").strip() == "False"

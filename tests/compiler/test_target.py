"""Targets and precisions."""

from dataclasses import replace
from pathlib import Path

import pytest

from planc.compiler import target
from planc.compiler.errors import UsageError
from planc.compiler.target import Precision, Target, find_precision, find_target, resolve, target_names


def test_every_file_is_a_target() -> None:
    assert target_names() == sorted(path.stem for path in target.TARGETS.glob("*.toml"))
    for name in target_names():
        assert find_target(name).name == name


def test_a_target_names_a_backend_or_candidates() -> None:
    assert find_target("openvino-cpu") == Target("openvino-cpu", "OpenVINO IR for the CPU plugin", "openvino")
    cpu = find_target("cpu")
    assert cpu.backend == ""
    assert cpu.candidates == ("onnxruntime-cpu", "openvino-cpu")


def test_unknown_target_says_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find_target("openvino")
    assert "unknown target 'openvino'" in caught.value.what
    assert "Did you mean 'openvino-cpu'?" in caught.value.hint
    assert "planc targets" in caught.value.hint


@pytest.mark.parametrize("name", ["../targets/cpu", "/etc/passwd", "", "cpu.toml"])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="unknown target"):
        find_target(name)


def test_one_file_adds_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge.toml").write_text(
        'description = "An edge box"\nbackend = "openvino"\nfamily = "onnx"\n[options]\nthreads = 4\n'
    )
    monkeypatch.setattr(target, "TARGETS", tmp_path)
    assert target_names() == ["edge"]
    assert find_target("edge") == Target("edge", "An edge box", "openvino", options={"threads": 4})


def test_unknown_key_in_a_target_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge.toml").write_text('description = "x"\nbackand = "openvino"\n')
    monkeypatch.setattr(target, "TARGETS", tmp_path)
    with pytest.raises(UsageError, match=r"unknown key 'backand'.*Did you mean 'backend'\?"):
        find_target("edge")


OWN = {
    "edge": {"backend": "tensorrt-rtx", "arch": "sm89+sm86", "options": {"tf32": True}, "description": "Mine"},
    "box": {"backend": "onnxruntime", "memory": "4GiB"},
}


def test_targets_of_a_projects_own() -> None:
    like = find_target("tensorrt-rtx:sm86+sm89")
    wanted = replace(like, name="edge", description="Mine", options={"tf32": True})
    assert resolve("edge", OWN) == wanted
    assert resolve("box", OWN) == replace(find_target("onnxruntime-cpu"), name="box"), "the only target of the backend"
    assert resolve("tensorrt-rtx:sm89", OWN) == find_target("tensorrt-rtx:sm89")


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("edg", OWN, "unknown target 'edg'. Did you mean 'edge'?"),
        ("edge:sm89", OWN, "unknown target 'edge:sm89'. Did you mean 'edge'?"),
        ("x", {"x": {"backend": "onnxruntime_ep"}}, "target x: unknown backend 'onnxruntime_ep'. Did"),
        ("x", {"x": {"backend": "l4", "arch": "sm90"}}, "target x: l4 takes no arch. Leave arch out"),
        ("x", {"x": {"backend": "tensorrt", "arch": "sm9"}}, "target 'tensorrt:sm9': unknown compute capability"),
        ("x", {"x": {"backend": ":sm90"}}, "target x: unknown backend ':sm90'"),
        ("l4", {"l4": {"backend": "tensorrt"}}, "target l4: planc has one of this name. Choose another name"),
    ],
)  # fmt: skip
def test_wrong_targets_of_a_projects_own(name: str, own: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(name, own)
    assert str(caught.value).startswith(message)


def test_precisions() -> None:
    assert find_precision("bf16") is Precision.BF16
    assert f"{Precision.FP16}" == "fp16"
    with pytest.raises(UsageError, match=r"unknown precision 'fp23'.*Did you mean 'fp32'\?"):
        find_precision("fp23")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tensorrt-rtx:l4", "Write -t l4, or tensorrt-rtx:sm89"),
        ("tensorrt:sm89+h100", "Write -t h100, or tensorrt:sm90"),
        ("tensorrt:sm99", "Known: sm75, sm80"),
        ("tensorrt:cpu", "Known: sm75, sm80"),
    ],
)
def test_what_to_write_for_a_gpu(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match="unknown compute capability") as caught:
        target.find_target(name)
    assert caught.value.hint.startswith(hint)

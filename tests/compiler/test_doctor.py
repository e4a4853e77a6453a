"""What can be built and run here."""

from importlib import metadata

import pytest

from planc.compiler import doctor, host
from planc.compiler.target import Precision, find_target, target_names


def test_versions_are_the_installed_ones() -> None:
    versions = doctor.versions()
    assert versions["onnxruntime"] == metadata.version("onnxruntime")
    assert versions["planc"] == metadata.version("planc")


def test_support_gives_a_reason_or_none() -> None:
    support = doctor.support(find_target("openvino-cpu"))
    assert support.keys() == {str(one) for one in Precision}
    assert support["fp32"] is None
    assert support["fp16"] is None
    assert (support["bf16"] is None) == host.has_bf16()
    assert support["int8"] is None


def test_a_target_with_candidates_can_what_one_of_them_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "has_bf16", lambda: False)
    support = doctor.support(find_target("cpu"))
    assert support["fp16"] is None  # OpenVINO
    assert support["bf16"]
    assert "onnxruntime-cpu" in support["bf16"]
    assert "OpenVINO" in support["bf16"]


def test_examine_covers_every_target() -> None:
    facts = doctor.examine()
    assert facts["targets"].keys() == set(target_names())
    for one in facts["targets"].values():
        assert set(one["buildable"]) | set(one["why_not"]) == {str(precision) for precision in Precision}
        assert not set(one["buildable"]) & set(one["why_not"])
    assert facts["targets"]["onnxruntime-cpu"]["runnable"] is True
    assert facts["targets"]["onnxruntime-cpu"]["why_not_run"] is None
    assert facts["targets"]["null"]["runnable"] is False
    assert "executes nothing" in facts["targets"]["null"]["why_not_run"]
    assert facts["host"]["cores"] == host.cores()

"""The file is the registration."""

from pathlib import Path

import pytest

from planc.compiler import plugins


def test_names_are_the_public_files() -> None:
    assert {"null", "onnxruntime", "openvino"} <= set(plugins.names("backends"))
    assert plugins.names("frontends") == ["onnx", "torch"]
    for folder in ("backends", "frontends"):
        assert not [name for name in plugins.names(folder) if name.startswith("_")]


def test_load() -> None:
    assert plugins.load("backends", "null").TRIALS is False
    for name in ("nil", "_graph", "../errors", "__init__"):
        with pytest.raises(LookupError):
            plugins.load("backends", name)


def test_a_new_file_is_a_new_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "fresh.py").write_text("")
    (tmp_path / "backends" / "_hidden.py").write_text("")
    monkeypatch.setattr(plugins, "HERE", tmp_path)
    assert plugins.names("backends") == ["fresh"]

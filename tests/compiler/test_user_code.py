"""The user's Python files: a callable is found, and what it raises becomes one line with its place."""

import sys
from pathlib import Path

import pytest

from planc.compiler import user_code
from planc.compiler.errors import UsageError


@pytest.fixture(autouse=True)
def _unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports of the user's files leave no trace."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def _write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_callable_of_a_file_and_of_a_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, "beside.py", "SEVEN = 7\n")
    path = _write(tmp_path, "own_data.py", "import beside\ndef seven():\n    return beside.SEVEN\n")
    assert user_code.find(f"{path}:seven")() == 7
    monkeypatch.chdir(tmp_path)
    assert user_code.find("own_data:seven")() == 7


def test_a_file_may_have_the_name_of_an_installed_module(tmp_path: Path) -> None:
    import json

    path = _write(tmp_path, "json.py", "def seven():\n    return 7\n")
    assert user_code.find(f"{path}:seven")() == 7
    assert sys.modules["json"] is json


def test_a_name_that_is_not_there_is_guessed(tmp_path: Path) -> None:
    path = _write(tmp_path, "names.py", "def samples():\n    pass\n")
    with pytest.raises(UsageError, match="has no 'sample'") as caught:
        user_code.find(f"{path}:sample")
    assert "samples" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0\n", r"importing .*: division by zero at broken\.py:1"),
        ("import sys\nsys.exit(3)\n", r"raised SystemExit: 3 at broken\.py:2"),
        ("def f(:\n", r"raised SyntaxError"),
        ("import not_installed\n", r"No module named 'not_installed' at broken\.py:1"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = _write(tmp_path, "broken.py", text)
    with pytest.raises(UsageError, match=words) as caught:
        user_code.find(f"{path}:f")
    assert "\n" not in caught.value.what


def test_the_deepest_place_in_the_users_file_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "deep.py", "import numpy\ndef f():\n    return numpy.zeros(-1)\n")
    found = user_code.find(f"{path}:f")
    with pytest.raises(UsageError, match=r"calling f raised ValueError: negative dimensions .* at deep\.py:3"):
        user_code.guard("f", "calling", found)


def test_the_files_that_were_loaded_are_the_users_own(tmp_path: Path) -> None:
    _write(tmp_path, "loaded_too.py", "")
    path = _write(tmp_path, "loads.py", "import loaded_too, colorsys\ndef f():\n    pass\n")
    before = set(sys.modules)
    user_code.find(f"{path}:f")
    assert {file.name for file in user_code.loaded(before)} == {"loads.py", "loaded_too.py"}

"""Callables in the user's files, and errors that say where they come from."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planc.compiler import user_code
from planc.compiler.errors import UsageError


def _file(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_callable_is_found(tmp_path: Path) -> None:
    assert user_code.find(f"{_file(tmp_path, 'def f(): return 7')}:f")() == 7


def test_a_file_may_be_called_like_a_module_of_the_standard_library(tmp_path: Path) -> None:
    assert user_code.find(f"{_file(tmp_path, 'def f(): return 8', 'json.py')}:f")() == 8
    assert sys.modules["json"].__name__ == "json"


def test_a_package_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _file(tmp_path, "def f(): return 9", "mine_too.py")
    assert user_code.find("mine_too:f")() == 9


def test_a_package_in_the_folder_of_planc_toml(tmp_path: Path) -> None:
    _file(tmp_path, "def f(): return 10", "mine_there.py")
    assert user_code.find("mine_there:f", tmp_path)() == 10


def test_nothing_is_written_beside_the_users_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    _file(tmp_path, "X = 1", "mine_beside.py")
    user_code.find(f"{_file(tmp_path, 'import mine_beside' + chr(10) + 'def f(): ...', 'mine_first.py')}:f")
    assert {path.name for path in tmp_path.iterdir()} == {"mine_beside.py", "mine_first.py"}


def test_a_missing_name_is_told_with_a_near_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        user_code.find(f"{_file(tmp_path, 'def samples(): ...')}:sample")
    assert "no 'sample'" in caught.value.what
    assert "samples" in caught.value.hint


def test_an_error_names_the_users_line(tmp_path: Path) -> None:
    place = _file(tmp_path, "def f():\n    raise KeyError('x')\n")
    with pytest.raises(UsageError, match=r"calling .* raised KeyError.* at mine.py:2"):
        user_code.guard(place, "calling", user_code.find(f"{place}:f"))
    with pytest.raises(UsageError, match=r"importing .* raised SyntaxError"):
        user_code.find(f"{_file(tmp_path, 'def f(', 'broken.py')}:f")


def test_what_was_imported_are_sources(tmp_path: Path) -> None:
    _file(tmp_path, "X = 1", "mine_helper.py")
    before = set(sys.modules)
    user_code.find(f"{_file(tmp_path, 'import mine_helper, difflib' + chr(10) + 'def f(): ...', 'mine_main.py')}:f")
    assert {path.name for path in user_code.modules(before).values()} == {"mine_helper.py", "mine_main.py"}


def test_a_module_may_name_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("made_up")
    module.__file__ = str(tmp_path / "_made_up.py")
    before = set(sys.modules)
    monkeypatch.setitem(sys.modules, "made_up", module)
    assert user_code.modules(before) == {}


def test_data_may_come_by_torch(planc: Callable[..., Any], onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    """torch.classes names such a file; here nothing has imported torch before the data do."""
    onnx_file(tmp_path / "g.onnx", '<ir_version: 8, opset_import: ["": 18]> g (float[n,4] x) => (float[n,4] y) {'
              " y = MatMul(x, w) }", w=np.eye(4, dtype=np.float32))  # fmt: skip
    text = "import torch" + chr(10) + "def rows():" + chr(10) + "    yield {'x': torch.ones(2, 4).numpy()}"
    _file(tmp_path, text, "data.py")
    words = ("calibrate", "g.onnx", "--dim", "n=1..4", "--calibration", "data.py:rows")
    assert "samples" in planc(*words, "-o", "ranges.json", "--format", "json", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    "line",
    [
        "def load(): ...",
        "class load: ...",
        "load = max",
        "from os import listdir as load",
        "import load.inner",
        "if True:\n    load = max\nelse:\n    load = min",
        "try:\n    from nowhere import load\nexcept ImportError:\n    def load(): ...",
        "for load in (max, min): pass",
        "from elsewhere import *",
        "def __getattr__(name): ...",
        "globals()['lo' + 'ad'] = max",
        "def make():\n    global load\n    load = max\nmake()",
        "def make(name):\n    globals()[name] = max\nmake('load')",
        "import sys\nsys.modules[__name__].load = max",
        "match 1:\n    case load: pass",
        "match [1]:\n    case [*load]: pass",
        "match {}:\n    case {**load}: pass",
        "if (load := max): pass",
        "with open('x') as load: pass",
        f"x = {'1 + ' * 5000}1",
    ],
)
def test_a_name_is_found_without_running_the_file(line: str, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(f"raise SystemExit\n{line}\n")
    user_code.require("--eval", f"{tmp_path}/data.py:load")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def lod(): ...", "--eval: .*data.py has no 'load'. Did you mean 'lod'"),
        ("def other():\n    def load(): ...", "--eval: .*data.py has no 'load'"),
        ("class other:\n    load = max", "--eval: .*data.py has no 'load'"),
        ("x = 1\ndef load(:", "--eval .*data.py:2 is not Python"),
        ("\0", "--eval .*data.py is not Python"),
    ],
)
def test_a_slip_is_told_without_running_the_file(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(text)
    with pytest.raises(UsageError, match=told):
        user_code.require("--eval", f"{tmp_path}/data.py:load")


def test_a_missing_file_is_told_without_running_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        user_code.require("--eval", f"{tmp_path}/data.py:load")

"""What user code reads is seen: files, folders, modules and packages, but not what planc and Python read."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from planc.compiler import files, observe, user_code


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def _run(code: str, place: Path, name: str, *, ignored: tuple[Path, ...] = ()) -> observe.Seen:
    path = place / f"{name}.py"
    path.write_text(code)
    with observe.watching(ignored) as seen:
        user_code.find(f"{path}:f")()
    return seen


def test_files_folders_and_modules_are_seen(place: Path) -> None:
    (place / "seen_helper.py").write_text("import json\n")
    (place / "w.bin").write_bytes(b"w")
    (place / "data").mkdir()
    code = """
import os, pathlib
import seen_helper
def f():
    here = pathlib.Path(__file__).parent
    (here / "w.bin").read_bytes()
    os.listdir(here / "data")
    (here / "made.txt").write_text("x")
    (here / "made.txt").read_text()
"""
    seen = _run(code, place, "seen_main")
    reads = seen.reads(place, files.digest)
    assert set(reads["files"]) == {"seen_helper.py", "seen_main.py", "w.bin"}  # what it wrote itself is no dependency
    assert reads["folders"] == {"data": []}
    assert reads["modules"] == {"seen_helper": "seen_helper.py", "seen_main": "seen_main.py"}
    assert {path.name for path in observe.sources(reads, place)} == {"seen_helper.py", "seen_main.py", "w.bin"}
    assert observe.holds(reads, place, files.digest)
    (place / "data" / "new.npy").touch()
    assert list(observe.changes(reads, place, files.digest)) == ["the files in data/ are others"]
    (place / "w.bin").write_bytes(b"v")
    (place / "seen_helper.py").unlink()
    changed = set(observe.changes(reads, place, files.digest))
    assert {"w.bin changed", "seen_helper.py is gone"} <= changed


def test_what_two_processes_have_read_is_put_together() -> None:
    one, other = {"files": {"a": "1", "b": "2"}, "folders": {}}, {"files": {"b": "2", "c": "3"}, "modules": {"m": "a"}}
    assert observe.union(one, other) == {"files": {"a": "1", "b": "2", "c": "3"}, "folders": {}, "modules": {"m": "a"}}
    assert observe.union({}, one) == one
    assert observe.union({}, {}) == {}


def test_packages_are_seen_by_their_versions(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "iniconfig"]:
        monkeypatch.delitem(sys.modules, name)
    seen = _run("import iniconfig\ndef f(): pass\n", place, "seen_packages")
    reads = seen.reads(place, files.digest)
    assert list(reads["packages"]) == ["iniconfig"]
    assert set(reads["files"]) == {"seen_packages.py"}
    other = {**reads, "packages": {"iniconfig": "0.0"}}
    assert not observe.holds(other, place, files.digest)


def test_a_package_that_shadows_a_module_is_seen(place: Path) -> None:
    (place / "seen_shadow.py").write_text("X = 1\n")
    seen = _run("import seen_shadow\ndef f(): pass\n", place, "seen_first")
    reads = seen.reads(place, files.digest)
    (place / "seen_shadow").mkdir()
    (place / "seen_shadow" / "__init__.py").write_text("X = 2\n")
    assert list(observe.changes(reads, place, files.digest)) == ["module seen_shadow is __init__.py now"]


def test_folders_of_planc_are_left_out(place: Path) -> None:
    own = place / "own"
    own.mkdir()
    (own / "model.onnx").write_bytes(b"m")
    code = f"def f(): open({str(own / 'model.onnx')!r}, 'rb').close()\n"
    assert set(_run(code, place, "seen_own", ignored=(own,)).reads(place, files.digest)["files"]) == {"seen_own.py"}


def test_nothing_is_seen_after_the_block(place: Path) -> None:
    seen = _run("def f(): pass\n", place, "seen_after")
    (place / "late.txt").write_text("x")
    (place / "late.txt").read_text()
    assert place / "late.txt" not in seen.files
    assert seen.reads(place, files.digest)["files"].keys() == {"seen_after.py"}


def test_weights_that_a_library_maps_are_seen(place: Path) -> None:
    """safetensors reads in Rust, which no audit event tells of."""
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    numpy.save_file({"w": np.zeros(4096, np.float32)}, place / "w.safetensors")
    code = f"""
import safetensors
kept = []
def f():
    kept.append(safetensors.safe_open({str(place / "w.safetensors")!r}, "np"))
"""
    reads = _run(code, place, "seen_mapped").reads(place, files.digest)
    assert "w.safetensors" in reads["files"]


def test_paths_are_relative(place: Path) -> None:
    (place / "sub").mkdir()
    (place / "w.bin").write_bytes(b"w")
    code = "import os\ndef f(): open(os.path.join(os.path.dirname(__file__), '..', 'w.bin'), 'rb').close()\n"
    reads = _run(code, place / "sub", "seen_sub").reads(place / "sub", files.digest)
    assert set(reads["files"]) == {os.path.join("..", "w.bin"), "seen_sub.py"}


@pytest.fixture
def data(place: Path) -> Path:
    (place / "data.bin").write_bytes(b"d")
    return place / "data.bin"


def test_what_forked_workers_read_is_seen(place: Path, data: Path) -> None:
    """As those of a DataLoader do."""
    (place / "listed").mkdir()
    code = f"""
import multiprocessing, os
def read(path):
    os.listdir(os.path.join(os.path.dirname(path), "listed"))
    return open(path, "rb").read()
def f():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read, [{str(data)!r}] * 4) == [b"d"] * 4
"""
    seen = _run(code, place, "seen_forked")
    reads = seen.reads(place, files.digest)
    assert set(reads["files"]) == {"data.bin", "seen_forked.py"}
    assert reads["folders"] == {"listed": []}
    assert seen.programs == set()


@pytest.mark.parametrize(
    ("call", "program"),
    [
        ("subprocess.check_output(['cat', PATH])", "cat"),
        ("multiprocessing.get_context('spawn').Process(target=len, args=((),)).start()", "python, by multiprocessing"),
        ("os.popen('cat ' + PATH).read()", "sh"),
        ("platform.processor()", ""),
    ],
)
def test_other_programs_are_named(call: str, program: str, data: Path, python: Callable[..., str]) -> None:
    """What they read is not seen; what Python itself asks the system for is no matter."""
    (data.parent / "mine.py").write_text(
        f"import multiprocessing, os, platform, subprocess\nPATH = {str(data)!r}\ndef f():\n    {call}\n"
    )
    code = f"""
from planc.compiler import observe, user_code
if __name__ == "__main__":
    with observe.watching() as seen:
        user_code.find({str(data.parent / "mine.py")!r} + ":f")()
    print(*seen.programs)
"""
    assert python(code).strip() == program


def test_weights_that_are_read_and_let_go_are_seen(place: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(8)}, place / "w.safetensors")
    save_file({"w": torch.zeros(8)}, place / "v.safetensors")
    code = f"""
import safetensors
from safetensors.torch import load_file
def f():
    with safetensors.safe_open({str(place / "v.safetensors")!r}, "pt") as file:
        file.get_tensor("w")
    assert load_file({str(place / "w.safetensors")!r})["w"].shape == (8,)
"""
    assert {"v.safetensors", "w.safetensors"} <= set(
        _run(code, place, "seen_let_go").reads(place, files.digest)["files"]
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("tokenizer.json", "from tokenizers import Tokenizer\ndef f(): return Tokenizer.from_file(PATH).to_str()"),
        ("x.onnx", "import onnxruntime\ndef f(): onnxruntime.InferenceSession(PATH).get_inputs()"),
        ("x.db", "import sqlite3\ndef f(): sqlite3.connect(PATH).execute('select 1')"),
    ],
)
def test_what_libraries_open_is_seen(
    name: str, code: str, place: Path, onnx_file: Callable[..., Path], python: Callable[..., str]
) -> None:
    """They are imported after the watch began, as in a worker."""
    pytest.importorskip("tokenizers").Tokenizer(sys.modules["tokenizers"].models.BPE()).save(
        str(place / "tokenizer.json")
    )
    onnx_file(place / "x.onnx", '<ir_version: 8, opset_import: ["": 18]> g (float[n] x) => (float[n] y) { y = Neg(x) }')
    (place / "x.db").touch()
    (place / "mine.py").write_text(f"PATH = {str(place / name)!r}\n{code}\n")
    said = python(f"""
from planc.compiler import observe, user_code
with observe.watching() as seen:
    user_code.find({str(place / "mine.py")!r} + ":f")()
print(*(path.name for path in seen.files))
""")
    assert name in said.split()

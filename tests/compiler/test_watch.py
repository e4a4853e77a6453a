"""planc build --watch: a saved file is seen, builds what it touches, and no failure ends the watch."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import watch
from planc.compiler.errors import Unavailable
from planc.compiler.sources import Sources

TOML = """
[model.one]
source = "one.onnx"
calibration = "data.py:samples"
[model.two]
source = "two.onnx"
[[build]]
models = ["one"]
targets = ["null"]
precisions = ["int8"]
[[build]]
models = ["two"]
targets = ["null"]
"""
GRAPH = '<ir_version: 8, opset_import: ["": 18]> g (float[4,64] x) => (float[4,32] y) { y = MatMul(x, w) }'
DATA = """
import numpy as np
from helper import SCALE


def samples():
    yield {"x": np.full((4, 64), SCALE, np.float32)}
"""


def _sources(*files: Path, folders: tuple[Path, ...] = ()) -> Sources:
    return Sources(frozenset(files), frozenset(folders))


@pytest.mark.parametrize("name", ["a.bin", "new.py", "data/new.npy"])
def test_what_is_saved_is_named_and_other_files_are_not(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "a.bin").touch()
    sources = _sources(tmp_path / "a.bin", folders=(tmp_path / "data",))

    def save() -> None:
        (tmp_path / "build.xml").write_text("x")
        (tmp_path / name).write_text("x")

    later = threading.Timer(0.5, save)
    later.start()
    assert watch.wait(sources, time.time_ns()) == [Path(name).name]


def test_what_was_saved_during_the_build_is_not_lost(tmp_path: Path) -> None:
    since = time.time_ns()
    time.sleep(0.02)
    (tmp_path / "a.bin").touch()
    assert watch.wait(_sources(tmp_path / "a.bin"), since) == ["a.bin"]


def test_without_watchfiles_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(Unavailable, match=r"pip install 'planc\[watch\]'"):
        watch.require()


class Watching:
    """`planc build --watch` in a folder."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        command = [str(Path(sys.executable).with_name("planc")), "build", "--watch", "--depfile", "all.d", *words]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )  # fmt: skip

    def round(self) -> str:
        """What it says until it waits."""
        assert self.process.stdout
        said = ""
        for line in self.process.stdout:
            said += line
            if "until Ctrl-C" in line:
                return said
        raise AssertionError(said)

    def save(self, name: str, old: str, new: str) -> str:
        """Edits a file, and returns what it says until it waits again."""
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))
        return self.round()


@pytest.fixture
def site(tmp_path: Path, onnx_file: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(1)
    for name in ("one", "two"):
        onnx_file(tmp_path / f"{name}.onnx", GRAPH, w=rng.standard_normal((64, 32), dtype=np.float32))
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "helper.py").write_text("SCALE = 2\n")
    (tmp_path / "planc.toml").write_text(TOML)
    return tmp_path


@pytest.fixture
def watching(site: Path) -> Iterator[Callable[..., Watching]]:
    """Starts a watch, once; it does not outlive the test."""
    made: list[Watching] = []

    def start(*words: str) -> Watching:
        made.append(Watching(site, *words))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


def test_a_saved_file_builds_what_it_touches_and_no_failure_ends_the_watch(
    site: Path, watching: Callable[..., Watching]
) -> None:
    one = watching()
    assert "2 jobs: 2 built\n" in one.round()
    rules = (site / "all.d").read_text().splitlines()[:2]
    assert rules == [
        "out/one-null-int8/manifest.json: data.py helper.py one.onnx planc.toml",
        "out/two-null-fp32/manifest.json: planc.toml two.onnx",
    ]

    said = one.save("helper.py", "2", "3")
    assert "planc: saved: helper.py\n" in said
    assert "planc: one-null-int8: built" in said
    assert "planc: two-null-fp32: cached" in said

    said = one.save("helper.py", "3", "= 3")
    assert "planc: one-null-int8: failed: " in said
    assert "SyntaxError" in said
    assert (site / "all.d").read_text().splitlines()[:2] == rules  # make must come again
    assert "2 jobs: 2 cached\n" in one.save("helper.py", "= = 3", "= 3")

    said = one.save("planc.toml", "[[build]]", "[[bulid]]")
    assert "planc: planc.toml: top level: unknown key 'bulid'. Did you mean 'build'?\n" in said
    assert "2 jobs: 2 cached\n" in one.save("planc.toml", "bulid", "build")

    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(30) == 0


def test_a_helper_that_never_worked_is_watched_too(site: Path, watching: Callable[..., Watching]) -> None:
    (site / "later").mkdir()
    (site / "later" / "deep.py").write_text("DEEP = = 1\n")
    (site / "helper.py").write_text("from later.deep import DEEP\nSCALE = DEEP\n")
    one = watching("--only", "one-*")
    assert "SyntaxError" in one.round()
    assert "planc: one-null-int8: built" in one.save("later/deep.py", "= =", "=")
    one.process.terminate()
    assert one.process.wait(30) == 0


def test_one_document_and_a_watch_exclude_each_other(planc: Callable[..., object], tmp_path: Path) -> None:
    planc("build", "--watch", "--format", "json", cwd=tmp_path, expect=2)

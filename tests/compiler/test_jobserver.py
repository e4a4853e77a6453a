"""make's jobserver: its tokens are taken one by one, and all of them come back."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import jobserver
from planc.compiler.errors import GateFailed
from planc.compiler.executors import Task, local
from planc.compiler.worker import Emit


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe with two tokens that differ: a client gives back the ones that it took."""
    reader, writer = os.pipe()
    os.write(writer, b"+-")
    yield reader, writer
    os.close(reader)
    os.close(writer)


def _left(reader: int) -> bytes:
    os.set_blocking(reader, False)
    try:
        return bytes(sorted(os.read(reader, 16)))
    except BlockingIOError:
        return b""


def _nothing(_kind: str, _value: object) -> None:
    pass


def test_tokens_of_a_pipe_are_taken_and_given_back(pipe: tuple[int, int]) -> None:
    server = jobserver.connect(f" -j --jobserver-auth=98,99 --jobserver-auth={pipe[0]},{pipe[1]}")  # the last counts
    assert server is not None
    assert not server.note
    assert [server.take() for _ in range(3)] == [True, True, False]
    assert os.get_blocking(pipe[0]), "make reads from it, too"
    server.give()
    server.give()
    assert _left(pipe[0]) == b"+-"


def test_tokens_of_a_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "GMfifo1"
    os.mkfifo(fifo)
    keeper = os.open(fifo, os.O_RDWR)
    os.write(keeper, b"+")
    server = jobserver.connect(f"-j2 --jobserver-auth=fifo:{fifo}")
    assert server is not None
    assert [server.take(), server.take()] == [True, False]
    server.give()
    assert _left(keeper) == b"+"


@pytest.mark.parametrize("flags", ["", "k", "-j4", " -- NAME=--jobs"])
def test_without_a_server_there_is_none(flags: str) -> None:
    assert jobserver.connect(flags) is None


@pytest.mark.parametrize("auth", ["-2,-2", "98,99", "fifo:/no/such/fifo", "0,1"])
def test_a_server_out_of_reach_gives_no_token_and_says_so(auth: str) -> None:
    code = f"""
from planc.compiler import jobserver
server = jobserver.connect("-j3 --jobserver-auth={auth}")
print(server.take(), server.note)
"""
    made = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert made.stdout.startswith("False make's jobserver ")
    assert made.stdout.endswith("one job at a time. Put + before planc in the recipe, or give -j N\n")


def test_each_task_after_the_first_has_a_token(pipe: tuple[int, int]) -> None:
    """Three of eight meet, as there are two tokens; a fourth would break the barrier's count."""
    barrier, lock, running, most = threading.Barrier(3), threading.Lock(), 0, 0

    def work(_emit: Emit) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(30)
        with lock:
            running -= 1
        if most % 2:
            raise GateFailed("tokens come back from those that fail, too")

    executor = local.create(9, 100, jobserver=jobserver.connect(f"--jobserver-auth={pipe[0]},{pipe[1]}"))
    wait([executor.submit(Task(str(number), work), _nothing) for number in range(9)])
    executor.stop()
    assert most == 3
    assert _left(pipe[0]) == b"+-"


def test_a_cancelled_build_gives_all_back(pipe: tuple[int, int]) -> None:
    barrier = threading.Barrier(4)

    def long(emit: Emit) -> None:
        barrier.wait(30)
        while True:
            emit("tick", None)

    executor = local.create(9, 100, jobserver=jobserver.connect(f"--jobserver-auth={pipe[0]},{pipe[1]}"))
    for number in range(5):
        executor.submit(Task(str(number), long), _nothing)
    barrier.wait(30)
    executor.stop()
    assert _left(pipe[0]) == b"+-"


def test_without_a_token_tasks_run_one_by_one() -> None:
    running: list[int] = []

    def work(_emit: Emit) -> int:
        running.append(1)
        time.sleep(0.01)
        most = len(running)
        running.pop()
        return most

    executor = local.create(4, 100, jobserver=jobserver.connect("--jobserver-auth=-2,-2"))
    futures = [executor.submit(Task(str(number), work), _nothing) for number in range(4)]
    assert [future.result() for future in futures] == [1, 1, 1, 1]


TOKENS = """
import os, re
fifo, reader = re.findall(r"--jobserver-auth=(?:fifo:(\\S+)|(\\d+),)", os.environ["MAKEFLAGS"])[-1]
pipe = os.open(fifo or f"/dev/fd/{reader}", os.O_RDWR | os.O_NONBLOCK)
try:
    there = os.read(pipe, 16)
except BlockingIOError:
    there = b""
os.write(pipe, there)
print("tokens:", len(there), flush=True)
"""
MAKEFILE = """
all:
\t+@$(PYTHON) tokens.py
\t+@$(PLANC) build & until [ -e one.started -a -e two.started ]; do sleep 0.1; done; $(PYTHON) tokens.py; \\
\t  kill -TERM $$!; wait $$!; echo ended $$?
\t+@$(PYTHON) tokens.py
\t+@$(PLANC) build --set model.one.calibration=data.npz --set model.two.calibration=data.npz
\t+@$(PYTHON) tokens.py
hidden:
\t@echo "$$MAKEFLAGS"
\t@$(PLANC) build --set model.one.calibration=data.npz --set model.two.calibration=data.npz
"""
TOML = """
[model.one]
source = "net.onnx"
calibration = "data.py:one"
[model.two]
source = "net.onnx"
calibration = "data.py:two"
[[build]]
targets = ["null"]
precisions = ["int8"]
"""
DATA = """
import time
from pathlib import Path


def one():
    Path("one.started").touch()
    time.sleep(600)
    yield {}


def two():
    Path("two.started").touch()
    time.sleep(600)
    yield {}
"""


def test_a_build_under_make_takes_part_and_gives_back_when_it_is_stopped(
    tmp_path: Path, onnx_file: Callable[..., Path]
) -> None:
    """`make -j3` has two tokens beside its own job; a build that runs two jobs holds one of them."""
    graph = '<ir_version: 8, opset_import: ["": 18]> g (float[4,64] x) => (float[4,32] y) { y = MatMul(x, w) }'
    rng = np.random.default_rng(1)
    onnx_file(tmp_path / "net.onnx", graph, w=rng.standard_normal((64, 32), dtype=np.float32))
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((8, 64), dtype=np.float32))
    for name, text in {"planc.toml": TOML, "data.py": DATA, "tokens.py": TOKENS, "Makefile": MAKEFILE}.items():
        (tmp_path / name).write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def make(goal: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-j3", goal, f"PYTHON={sys.executable}", f"PLANC={Path(sys.executable).with_name('planc')}"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    done = make("all")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith(("tokens", "ended", "2 jobs"))]
    built = (
        "2 jobs: 2 built",
        "2 jobs: 1 built, 1 cached",
    )  # they are alike: the faster one may lend the other its stages
    assert told[4] in built
    assert [*told[:4], *told[5:]] == ["tokens: 2", "tokens: 1", "ended 130", "tokens: 2", "tokens: 2"]
    assert "jobserver" not in done.stderr
    hidden = make("hidden")  # the recipe lacks its +
    assert hidden.returncode == 0, hidden.stderr
    if "fifo:" not in hidden.stdout:  # as of make 4.4, whose server any child may open
        assert "one job at a time. Put + before planc in the recipe" in hidden.stderr

"""make's jobserver: its tokens are taken one by one, and all of them come back."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

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

    executor = local.create(9, 100, jobserver.connect(f"--jobserver-auth={pipe[0]},{pipe[1]}"))
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

    executor = local.create(9, 100, jobserver.connect(f"--jobserver-auth={pipe[0]},{pipe[1]}"))
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

    executor = local.create(4, 100, jobserver.connect("--jobserver-auth=-2,-2"))
    futures = [executor.submit(Task(str(number), work), _nothing) for number in range(4)]
    assert [future.result() for future in futures] == [1, 1, 1, 1]

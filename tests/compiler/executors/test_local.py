"""Tasks on this machine: as many as workers and memory allow, and cancelled when asked."""

import threading
import time
from concurrent.futures import wait

import pytest

from planc.compiler.errors import GateFailed, UsageError
from planc.compiler.executors import Task, find, local
from planc.compiler.worker import Emit


def _nothing(_kind: str, _value: object) -> None:
    pass


def _most_at_once(workers: int, memory: int, needs: int) -> int:
    executor = local.create(workers, memory)
    lock, running, most = threading.Lock(), 0, 0

    def work(_emit: Emit) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1

    wait([executor.submit(Task(str(number), work, memory=needs), _nothing) for number in range(6)])
    return most


def test_workers_and_memory_bound_what_runs_at_once() -> None:
    assert _most_at_once(workers=3, memory=100, needs=10) == 3
    assert _most_at_once(workers=3, memory=100, needs=60) == 1
    assert _most_at_once(workers=3, memory=100, needs=500) == 1  # more than there is: alone


def test_results_and_errors_come_back() -> None:
    def fail(_emit: Emit) -> None:
        raise GateFailed("no")

    executor = local.create(1)
    assert executor.submit(Task("a", lambda _: 7), _nothing).result() == 7
    with pytest.raises(GateFailed):
        executor.submit(Task("b", fail), _nothing).result()


def test_stop_cancels_what_runs_and_what_waits() -> None:
    started = threading.Event()

    def long(emit: Emit) -> None:
        started.set()
        while True:
            emit("tick", None)
            time.sleep(0.01)

    executor = local.create(1)
    running, waiting = executor.submit(Task("a", long), _nothing), executor.submit(Task("b", long), _nothing)
    started.wait()
    executor.stop()
    assert isinstance(running.exception() if not running.cancelled() else local.Stopped(), local.Stopped)
    assert waiting.cancelled() or isinstance(waiting.exception(), local.Stopped)


def test_what_exceeds_the_memory_together_does_not_overlap() -> None:
    """Two big ones wait for each other while small ones, which fit beside a big one, begin before it ends."""
    executor = local.create(8, memory=100)
    log: list[str] = []
    small = threading.Barrier(3)  # both small ones, beside a big one that does not end before

    def work(name: str) -> Task:
        def run(_emit: Emit) -> None:
            log.append(f"{name} begins")
            if name != "second":
                small.wait(30)
            log.append(f"{name} ends")

        return Task(name, run, memory=70 if name in ("first", "second") else 15)

    first = executor.submit(work("first"), _nothing)
    while not log:
        time.sleep(0.001)
    rest = [executor.submit(work(name), _nothing) for name in ("second", "a", "b")]
    wait([first, *rest])
    assert log.index("second begins") > log.index("first ends")
    assert max(log.index("a begins"), log.index("b begins")) < log.index("first ends")


def test_an_unknown_executor_and_an_address_without_a_cluster_are_refused() -> None:
    with pytest.raises(UsageError, match="local"):
        find("locale")
    with pytest.raises(UsageError, match="--executor dask"):
        local.create(address="tcp://here:1")

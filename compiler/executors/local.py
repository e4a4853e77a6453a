"""This machine: each task in a thread that supervises worker processes; together they keep within its memory."""

import threading
from concurrent.futures import Future
from typing import Any

from .. import host
from ..errors import UsageError
from ..worker import Emit
from . import Task

ELSEWHERE = False


def create(workers: int = 0, memory: int | None = None, *, address: str = "") -> "Local":
    """Returns an executor.

    Args:
        workers: tasks that run at once; 0 for one per core.
        memory: bytes that they may take together; None for nine tenths of the machine's.
        address: none: this machine has no other name.

    Raises:
        UsageError: there is an address.
    """
    if address:
        raise UsageError(f"--address {address} goes with a cluster", hint="Add --executor dask")
    return Local(workers or host.cores(), memory or host.memory_bytes() * 9 // 10)


class Stopped(BaseException):
    """The build was cancelled; no error of a job."""


class Local:
    """Runs tasks in threads. A task that needs more memory than there is runs alone."""

    elsewhere = ELSEWHERE

    def __init__(self, workers: int, memory: int) -> None:
        self.workers = workers
        self.memory = memory
        self.free = memory
        self.running = 0
        self.stopped = False
        self.changed = threading.Condition()
        self.threads: list[threading.Thread] = []

    def submit(self, task: Task, on_event: Emit) -> "Future[Any]":
        """Begins a task when there is a free worker, and memory for it."""
        future: Future[Any] = Future()
        thread = threading.Thread(target=self._run, args=(task, on_event, future), daemon=True)
        self.threads.append(thread)
        thread.start()
        return future

    def stop(self) -> None:
        """Cancels what runs, which kills its workers, and waits for it to end."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()

    def _run(self, task: Task, on_event: Emit, future: "Future[Any]") -> None:
        share = self.memory if task.alone else min(task.memory, self.memory)
        most = 1 if task.alone else self.workers

        def tell(kind: str, value: Any) -> None:
            if self.stopped:
                raise Stopped
            if kind != "tick":
                on_event(kind, value)

        with self.changed:
            self.changed.wait_for(lambda: self.stopped or (self.running < most and share <= self.free))
            if self.stopped:
                future.cancel()
                return
            self.running += 1
            self.free -= share
        try:
            future.set_result(task.run(tell))
        except BaseException as error:
            future.set_exception(error)
        finally:
            with self.changed:
                self.running -= 1
                self.free += share
                self.changed.notify_all()

"""This machine: each task in a thread that supervises worker processes; together they keep within its memory.

Under `make -jN` they keep within its jobs, too, see `jobserver`.
"""

import threading
from concurrent.futures import Future
from typing import Any

from .. import host
from ..errors import UsageError
from ..jobserver import Jobserver
from ..worker import Emit
from . import Task

ELSEWHERE = False
_LOOK_SECONDS = 0.05  # between looks for a token of make's


def create(
    workers: int = 0, memory: int | None = None, *, address: str = "", jobserver: Jobserver | None = None
) -> "Local":
    """Returns an executor.

    Args:
        workers: tasks that run at once; 0 for one per core.
        memory: bytes that they may take together; None for nine tenths of the machine's.
        address: none: this machine has no other name.
        jobserver: has a token for each task beside the first; None for as many as there are workers.

    Raises:
        UsageError: there is an address.
    """
    if address:
        raise UsageError(f"--address {address} goes with a cluster", hint="Add --executor dask")
    return Local(workers or host.cores(), memory or host.memory_bytes() * 9 // 10, jobserver)


class Stopped(BaseException):
    """The build was cancelled; no error of a job."""


class Local:
    """Runs tasks in threads. A task that needs more memory than there is runs alone."""

    elsewhere = ELSEWHERE

    def __init__(self, workers: int, memory: int, jobserver: Jobserver | None = None) -> None:
        self.workers = workers
        self.memory = memory
        self.jobserver = jobserver
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

        def may_begin() -> bool:
            return (
                self.stopped
                or future.cancelled()
                or (self.running < most and share <= self.free and self._is_allowed())
            )

        with self.changed:
            while not self.changed.wait_for(may_begin, _LOOK_SECONDS if self.jobserver else None):
                pass
            if self.stopped:
                future.cancel()
            if not future.set_running_or_notify_cancel():
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
                self._give_back()
                self.changed.notify_all()

    def _is_allowed(self) -> bool:
        """Whether one more task may run: the first one needs no token."""
        server = self.jobserver
        return server is None or len(server.tokens) >= self.running or server.take()

    def _give_back(self) -> None:
        while self.jobserver and len(self.jobserver.tokens) > max(self.running - 1, 0):
            self.jobserver.give()

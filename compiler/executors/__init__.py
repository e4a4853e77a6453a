"""One file per executor, with `create(workers, address=...) -> Executor`: where the tasks of a build run."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from .. import plugins
from ..errors import UsageError, did_you_mean
from ..worker import Emit


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Attributes:
        name: the job's id, or a name of its own.
        run: called with an `Emit`; it starts worker processes of its own.
        after: names of the tasks that come first.
        memory: bytes that it is estimated to take at its peak.
        resources: what the machine must have, by name.
        job: whether it is a job, and its result a `build.Outcome`.
        owner: id of the job whose row shows the stages that it made.
        alone: whether it measures, so that nothing may run beside it on its machine.
    """

    name: str
    run: Callable[[Emit], Any]
    after: tuple[str, ...] = ()
    memory: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    job: bool = False
    owner: str = ""
    alone: bool = False


def find(name: str) -> Any:
    """Returns the module of an executor: it has `create`, and `ELSEWHERE` as its executor has.

    Raises:
        UsageError: there is none of that name.
    """
    known = plugins.names("executors")
    if name not in known:
        raise UsageError(f"--executor {name}: unknown executor", hint=did_you_mean(name, known))
    return plugins.load("executors", name)


class Executor(Protocol):
    """Runs tasks.

    Attributes:
        elsewhere: whether they run on other machines, which say themselves what they cannot build.
    """

    elsewhere: bool

    def submit(self, task: Task, on_event: Emit) -> "Future[Any]":
        """Begins a task, or queues it; the future has its result, or what it raised."""

    def stop(self) -> None:
        """Cancels what runs and what is queued."""

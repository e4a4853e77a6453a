"""Runs one function in a child process under a time and a memory limit.

User code, graph libraries and third-party compilers can crash, hang or eat all memory. Here that costs the child:
its death is a `BuildFailed` with its last words, never a dead command line.

Parent and child speak pickles over a pipe of their own; what the child prints goes to a log.
"""

import logging
import math
import os
import pickle
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from . import errors, process
from .process import Process

log = logging.getLogger(__name__)

T = TypeVar("T")
Emit = Callable[[str, Any], None]
"""Sends (kind, value) to the parent.

("stage", name) begins a stage, ("within", seconds) bounds its time, ("memory", bytes) says what the model needs,
("kept", entry) tells of a stage that is in the store, ("note", text) is for the user, and ("read", paths) is what
user code that failed has read. The parent hears ("tick", None) now and then: what it raises there cancels the child.
"""

_LONGER = {"calibrate": "Data that never end need --samples N, others --time-limit SECONDS"}
_POLL_SECONDS = 0.02
_LOOK_SECONDS = 0.2  # between looks at the processes that a child started
_GRACE_SECONDS = 3.0  # for a child that closed its pipe to die
_KILL_ROUNDS = 100


@dataclass(frozen=True)
class Limits:
    """What one child may use.

    Attributes:
        seconds: wall time.
        memory: anonymous resident memory in bytes; mapped files do not count.
        cap: the most, in bytes, to which the child may raise `memory` by saying what a model needs.
        steady: whether the child's memory has the same addresses each time, where the system allows it.
    """

    seconds: float = 3600
    memory: int = 0
    cap: int = 0
    steady: bool = False


def call(
    function: Callable[..., T], *args: object, limits: Limits, on_event: Emit | None = None, **kwargs: object
) -> T:
    """Calls `function(*args, emit=..., **kwargs)` in a child process and returns its result.

    Whatever the child started is dead when this returns, even where it left the child's session.

    Args:
        function: a module-level function that takes a keyword `emit`.
        *args: picklable.
        limits: time and memory.
        on_event: receives what the child emits.
        **kwargs: picklable.

    Raises:
        PlancError: as raised by the function.
        BuildFailed: the child died, ran out of time or memory, or raised anything else.
    """
    child = process.SPARES.pop() if process.SPARES and not limits.steady else Process(steady=limits.steady)
    try:
        with os.fdopen(child.reader, "rb", buffering=0) as pipe:
            _send(child.popen, (function.__module__, function.__qualname__, args, kwargs))
            return _supervise(child, pipe, limits, on_event or (lambda _kind, _value: None))  # type: ignore[no-any-return]
    finally:
        _kill(child.popen, f"{process.MARK}={child.mark}")
        child.words.close()
        if child.words.kept:
            log.debug("worker output of %s:\n%s", function.__qualname__, child.words.text())


def _send(child: "subprocess.Popen[bytes]", request: object) -> None:
    assert child.stdin
    with suppress(BrokenPipeError):  # it died already: its exit tells why
        child.stdin.write(pickle.dumps(request))
        child.stdin.close()


def _supervise(child: Process, pipe: IO[bytes], limits: Limits, on_event: Emit) -> Any:
    watch = _Watch(child.popen.pid, limits)
    try:
        return _listen(child.popen, pipe, watch, on_event, child.words)
    except errors.BuildFailed as error:
        error.stage = watch.stage
        raise


def _listen(
    child: "subprocess.Popen[bytes]", pipe: IO[bytes], watch: "_Watch", on_event: Emit, words: process.Words
) -> Any:
    buffer = b""
    while True:
        died = child.poll() is not None  # before the read: what it said last is in the pipe
        ready, _, _ = select.select([pipe, *filter(None, [words.stream])], [], [], 0 if died else _POLL_SECONDS)
        if words.stream in ready:
            words.read()
        if pipe in ready:
            chunk = pipe.read(1 << 16)
            if not chunk:
                raise _death(child, watch.stage, words)
            buffer += chunk
            while (message := _take(buffer, watch.stage)) is not None:
                (kind, value), buffer = message
                if kind == "done":
                    return value
                if kind == "error":
                    raise _revive(value, watch.stage)
                watch.hear(kind, value)
                on_event(kind, value)
        elif died:  # a process that it left behind may still hold the pipe open
            raise _death(child, watch.stage, words)
        watch.enforce()
        on_event("tick", None)  # it may raise, to cancel


class _Watch:
    """What a child does, and whether it keeps its limits."""

    def __init__(self, pid: int, limits: Limits) -> None:
        self.limits = limits
        self.tree = _Tree(pid)
        self.memory = limits.memory
        self.stage = "start"
        self.deadline = time.monotonic() + limits.seconds
        self.stage_limit = math.inf
        self.stage_start = time.monotonic()

    def hear(self, kind: str, value: Any) -> None:
        """Notes what the child says of itself."""
        if kind == "memory":
            self.memory = max(self.memory, min(int(value), self.limits.cap))
        elif kind == "stage":
            self.stage, self.stage_limit, self.stage_start = str(value), math.inf, time.monotonic()
        elif kind == "within":
            self.stage_limit = float(value)

    def enforce(self) -> None:
        """Raises where a limit is passed.

        Raises:
            WorkerDied: too much memory, or too much time.
        """
        if self.memory and self.tree.uses_more_than(self.memory):
            raise errors.WorkerDied(
                f"stage {self.stage} needed more than its memory limit of {self.memory / 2**30:.2f} GiB",
                hint="Raise it with --memory-limit, such as --memory-limit 8GiB",
            )
        now = time.monotonic()
        if now > self.deadline or now > self.stage_start + self.stage_limit:
            raise errors.WorkerDied(
                f"stage {self.stage} did not finish within {min(self.limits.seconds, self.stage_limit):g} s",
                hint=_LONGER.get(self.stage, "Raise the limit with --time-limit SECONDS"),
            )


class _Tree:
    """Memory of a process and of those that it started."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.others = 0
        self.looked = 0.0
        self.strikes = 0

    def uses_more_than(self, limit: int) -> bool:
        """Whether the limit is passed: by the root at once, by the whole tree in two looks.

        A process on its way from vfork to exec shows its parent's memory as its own, for a moment.
        """
        own = _anonymous_bytes(self.root)
        if own > limit:
            return True
        if time.monotonic() - self.looked >= _LOOK_SECONDS:
            self.looked = time.monotonic()
            self.others = sum(map(_share_of_anonymous_bytes, _descendants(self.root)))
            self.strikes = self.strikes + 1 if own + self.others > limit else 0
        return self.strikes >= 2


def _take(buffer: bytes, stage: str) -> tuple[tuple[str, Any], bytes] | None:
    if len(buffer) < 8:
        return None
    size = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 + size:
        return None
    try:
        kind, value = pickle.loads(buffer[8 : 8 + size])  # noqa: S301  our own child
    except Exception as error:  # user code in the child wrote to a file descriptor that is not its own
        raise errors.BuildFailed(f"the worker gave no readable answer in stage {stage}: {error}") from error
    return (str(kind), value), buffer[8 + size :]


def _revive(value: tuple[str, str, str, str], stage: str) -> errors.PlancError:
    name, what, hint, trace = value
    log.debug("in the worker:\n%s", trace)
    kind = getattr(errors, name, None)
    if kind is None:
        return errors.BuildFailed(f"stage {stage}: {what}", hint=hint)
    error: errors.PlancError = kind(what, hint=hint)
    return error


def _death(child: "subprocess.Popen[bytes]", stage: str, words: process.Words) -> errors.WorkerDied:
    try:
        code = child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:  # it lives, but closed all its files: no answer can come any more
        return errors.WorkerDied(f"the worker closed its connection in stage {stage}")
    words.read_rest()
    how = f"exited with code {code}"
    if code < 0:
        try:
            how = f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"was killed by signal {-code}"
    last = [
        line
        for line in words.text()[-4096:].splitlines()
        if line.strip() and not line.startswith((" ", "Extension modules"))
    ]
    said = f": {last[-1]}" if last and code >= 0 else ""
    return errors.WorkerDied(f"the worker {how} in stage {stage}{said}")


def _kill(child: "subprocess.Popen[bytes]", mark: str) -> None:
    """Kills the child, its session, and what left the session but still has our mark in its environment."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for _ in range(_KILL_ROUNDS):
        left = _marked(mark.encode())
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(_POLL_SECONDS / 2)


def _marked(mark: bytes) -> list[int]:
    """Processes of this user, other than this one, whose environment holds the mark (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def _descendants(pid: int) -> list[int]:
    """Processes below `pid`; none where the system does not tell."""
    found, pending = [], [pid]
    while pending:
        with suppress(OSError):
            for task in Path(f"/proc/{pending.pop()}/task").iterdir():
                children = [int(child) for child in (task / "children").read_text().split()]
                found += children
                pending += children
    return found


def _anonymous_bytes(pid: int) -> int:
    """Anonymous resident memory of a process in bytes; 0 where the system does not tell."""
    return _sum_of_lines(Path(f"/proc/{pid}/status"), ("RssAnon:", "RssShmem:"))


def _share_of_anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a forked process, what it shares with others counted in part."""
    return _sum_of_lines(Path(f"/proc/{pid}/smaps_rollup"), ("Pss_Anon:", "Pss_Shmem:"))


def _sum_of_lines(path: Path, starts: tuple[str, ...]) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(starts))

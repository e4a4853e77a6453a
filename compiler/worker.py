"""Runs one function in a child process under a time and a memory limit.

User code, graph libraries and third-party compilers can crash, hang or eat all memory. Here that costs the child:
its death is a `BuildFailed` with its last words, never a dead command line.

Parent and child speak pickles over a pipe of their own; what the child prints goes to a log.
"""

import faulthandler
import importlib
import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from . import errors

log = logging.getLogger(__name__)

T = TypeVar("T")
Emit = Callable[[str, Any], None]
"""Sends (kind, value) to the parent: ("stage", name), ("note", text) or ("memory", bytes needed)."""

_POLL_SECONDS = 0.02
_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime 1.31 writes files into the user's cache on import without it
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Limits:
    """What one child may use.

    Attributes:
        seconds: wall time.
        memory: anonymous resident memory in bytes; mapped files do not count.
        cap: the most, in bytes, to which the child may raise `memory` by saying what a model needs.
    """

    seconds: float = 3600
    memory: int = 0
    cap: int = 0


def call(
    function: Callable[..., T], *args: object, limits: Limits, on_event: Emit | None = None, **kwargs: object
) -> T:
    """Calls `function(*args, emit=..., **kwargs)` in a child process and returns its result.

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
    reader, writer = os.pipe()
    with tempfile.TemporaryFile("w+b") as output:
        command = [sys.executable, "-P", "-m", __name__, str(writer)]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=(writer,),
            env={**os.environ, **_ENVIRONMENT}, start_new_session=True,
        )  # fmt: skip
        os.close(writer)
        try:
            with os.fdopen(reader, "rb", buffering=0) as pipe:
                _send(child, (function.__module__, function.__qualname__, args, kwargs, os.getpid()))
                return _supervise(child, pipe, limits, on_event or (lambda _kind, _value: None), output)  # type: ignore[no-any-return]
        finally:
            _kill(child)
            words = _tail(output, 1 << 20)
            if words:
                log.debug("worker output of %s:\n%s", function.__qualname__, words)


def _send(child: "subprocess.Popen[bytes]", request: object) -> None:
    assert child.stdin
    with suppress(BrokenPipeError):  # it died already: its exit tells why
        child.stdin.write(pickle.dumps(request))
        child.stdin.close()


def _supervise(
    child: "subprocess.Popen[bytes]", pipe: IO[bytes], limits: Limits, on_event: Emit, output: IO[bytes]
) -> Any:
    deadline = time.monotonic() + limits.seconds
    memory, stage = limits.memory, "start"
    buffer = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], _POLL_SECONDS)
        if ready:
            chunk = pipe.read(1 << 16)
            if not chunk:
                raise _death(child, stage, output)
            buffer += chunk
            while (message := _take(buffer)) is not None:
                (kind, value), buffer = message
                if kind == "done":
                    return value
                if kind == "error":
                    raise _revive(value, stage)
                if kind == "memory":
                    memory = max(memory, min(int(value), limits.cap))
                elif kind == "stage":
                    stage = str(value)
                on_event(kind, value)
        used = _anonymous_bytes(child.pid)
        if memory and used > memory:
            raise errors.BuildFailed(
                f"stage {stage} needed more than its memory limit of {memory / 2**30:.2f} GiB",
                hint="Raise it with --memory-limit, such as --memory-limit 8GiB",
            )
        if time.monotonic() > deadline:
            raise errors.BuildFailed(
                f"stage {stage} did not finish within {limits.seconds:g} s",
                hint="Raise the limit with --time-limit SECONDS",
            )


def _take(buffer: bytes) -> tuple[tuple[str, Any], bytes] | None:
    if len(buffer) < 8:
        return None
    size = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 + size:
        return None
    return pickle.loads(buffer[8 : 8 + size]), buffer[8 + size :]  # noqa: S301  our own child


def _revive(value: tuple[str, str, str, str], stage: str) -> errors.PlancError:
    name, what, hint, trace = value
    log.debug("in the worker:\n%s", trace)
    kind = getattr(errors, name, None)
    if kind is None:
        return errors.BuildFailed(f"stage {stage}: {what}", hint=hint)
    error: errors.PlancError = kind(what, hint=hint)
    return error


def _death(child: "subprocess.Popen[bytes]", stage: str, output: IO[bytes]) -> errors.BuildFailed:
    code = child.wait()
    how = f"exited with code {code}"
    if code < 0:
        try:
            how = f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"was killed by signal {-code}"
    last = [
        line
        for line in _tail(output, 4096).splitlines()
        if line.strip() and not line.startswith((" ", "Extension modules"))
    ]
    words = f": {last[-1]}" if last and code >= 0 else ""
    return errors.BuildFailed(f"the worker {how} in stage {stage}{words}")


def _kill(child: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _tail(output: IO[bytes], size: int) -> str:
    end = output.seek(0, os.SEEK_END)
    output.seek(max(0, end - size))
    return output.read().decode(errors="replace").strip()


def _anonymous_bytes(pid: int) -> int:
    """Anonymous resident memory of a process in bytes; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _describe(error: BaseException) -> tuple[str, str, str, str]:
    """Class, what, hint and traceback of what the function raised."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, errors.PlancError):
        return type(error).__name__, error.what, error.hint, trace
    if isinstance(error, OSError) and error.errno is not None:
        where = f" {error.filename!r}" if error.filename else ""
        return "IOFailed", f"{error.strerror}{where}", "Check free space and permissions", trace
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate memory" in str(error):
        return (
            "BuildFailed",
            f"out of memory: {error or 'an allocation failed'}",
            "Raise it with --memory-limit",
            trace,
        )
    return "", f"{type(error).__name__}: {error}", "", trace


def main() -> None:
    """Entry point of the child: a request from stdin, answers to the file descriptor given as argument."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    pipe = open(int(sys.argv[1]), "wb", buffering=0)  # noqa: SIM115, PTH123  open until exit

    def emit(kind: str, value: Any) -> None:
        data = pickle.dumps((kind, value))
        message = memoryview(len(data).to_bytes(8, "little") + data)
        while message:
            message = message[pipe.write(message) :]

    try:
        module, name, args, kwargs, parent = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
        _die_with(parent)
        function = getattr(importlib.import_module(module), name)
        result = function(*args, emit=emit, **kwargs)
    except BaseException as error:
        emit("error", _describe(error))
    else:
        emit("done", result)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the result is out: third-party destructors have nothing to add but crashes


if __name__ == "__main__":
    main()

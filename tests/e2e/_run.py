"""Runs the real command line as a user would, and measures the whole tree of processes that it starts."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

COMMAND = (sys.executable, "-P", "-m", "planc")
TABLE = {0, 1, 2, 3, 4, 5, 130}
"""Exit codes that an answer may have; 70 is a bug."""

T = TypeVar("T")

_POLL_SECONDS = 0.01

Disturb = Callable[["subprocess.Popen[bytes]", Callable[[], str]], None]


@dataclass(frozen=True)
class Answer:
    """What a command line gave.

    Attributes:
        code: exit code.
        stdout: what it printed.
        stderr: log and error.
        seconds: wall time.
        peak: most anonymous memory of the whole tree of processes, in bytes.
        left: processes of the tree that outlived the command line, as "pid name".
        cwd: working folder.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak: int
    left: tuple[str, ...]
    cwd: Path

    @property
    def error(self) -> str:
        """The last line on stderr."""
        lines = self.stderr.splitlines()
        return lines[-1] if lines else ""


def planc(
    *words: object,
    cwd: Path,
    timeout: float = 60,
    disturb: "Disturb | None" = None,
    env: dict[str, str] | None = None,
) -> Answer:
    """Runs `planc WORDS` in `cwd`.

    Args:
        *words: arguments.
        cwd: working folder.
        timeout: seconds after which the tree is killed and the test fails.
        disturb: called once with the running process and a function that gives its stderr so far: sends signals,
            fills disks.
        env: variables beside those of this process.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(
            [*COMMAND, *map(str, words)], cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            env={**os.environ, **(env or {})}, start_new_session=True,
        )  # fmt: skip
        peak, seen = 0, {process.pid}
        try:
            if disturb:
                disturb(process, lambda: os.pread(err.fileno(), 1 << 16, 0).decode())
            while process.poll() is None:
                tree = descendants(process.pid)
                seen.update(tree)
                peak = max(peak, sum(map(anonymous_bytes, (process.pid, *tree))))
                if time.monotonic() - start > timeout:
                    pytest.fail(f"no answer within {timeout} s: planc {' '.join(map(str, words))}")
                time.sleep(_POLL_SECONDS)
            seconds = time.monotonic() - start
        finally:
            alive = _still_alive(seen - {process.pid})
            for pid in (process.pid, *alive):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        for stream in (out, err):
            stream.seek(0)
        return Answer(
            process.returncode, out.read().decode(), err.read().decode(), seconds, peak,
            tuple(f"{pid} {name}" for pid, name in alive.items()), cwd,
        )  # fmt: skip


def check_refusal(answer: Answer, code: int, *names: str) -> None:
    """Asserts an answer that is no result: the exit code, one clear line last, no traceback, nothing left running."""
    assert answer.code == code, f"exit code {answer.code}, not {code}:\n{answer.stderr}"
    assert "Traceback" not in answer.stderr + answer.stdout
    lines = answer.stderr.splitlines()
    assert lines, "nothing on stderr"
    assert all(line.startswith("planc: ") for line in lines), answer.stderr
    assert all(" " not in line.removeprefix("planc: ") for line in lines[:-1]), f"more than one error:\n{answer.stderr}"
    assert code == 130 or re.search(r"[.] \S", answer.error), f"it does not say what to do next: {answer.error}"
    for name in names:
        assert name in answer.error, f"{name!r} is not in: {answer.error}"
    assert len(answer.error) < 1500
    assert not answer.left, f"still running: {answer.left}"


def slowness() -> float:
    """How much longer than on a quiet machine things may take: two cases run at a time, and others on these cores."""
    return 1 + os.getloadavg()[0] / len(os.sched_getaffinity(0))


def names_in(folder: Path) -> set[str]:
    """Returns all names in a folder, hidden ones too."""
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


def descendants(pid: int) -> list[int]:
    """Returns the process ids below `pid`, children first."""
    found, pending = [], [pid]
    while pending:
        for child in _children(pending.pop()):
            found.append(child)
            pending.append(child)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def anonymous_bytes(pid: int) -> int:
    """Anonymous and shared resident memory of one process; 0 once it is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return 0


def _still_alive(pids: set[int]) -> dict[int, str]:
    """Those of the processes that run on (not zombies) with their names; a killed one takes a moment to free memory."""
    deadline = time.monotonic() + 2
    while (alive := _running(pids)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return alive


def _running(pids: set[int]) -> dict[int, str]:
    alive = {}
    for pid in pids:
        with suppress(OSError):
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
            if rest.split()[0] not in "ZX":
                alive[pid] = name
    return alive


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Waits until the condition holds, or fails the test."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s for {what}")
        time.sleep(_POLL_SECONDS)


@contextmanager
def ahead(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run: Callable[[str, Path], T]
) -> Iterator[dict[str, "Future[T]"]]:
    """Runs the cases of this file that were asked for, two at a time: a command line uses one core.

    Args:
        request: of a fixture with the scope of a module; tests have the parameter `name`.
        tmp_path_factory: makes a folder for each case.
        run: from the name and a folder to what the test looks at.
    """
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = [item.callspec.params["name"] for item in items if request.fixturename in item.fixturenames]
    folders = {name: tmp_path_factory.mktemp("case") for name in names}
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, name, folder) for name, folder in folders.items()}
        pool.shutdown(cancel_futures=True)


@contextmanager
def disk(folder: Path, size: str, *options: str) -> Iterator[Path]:
    """Mounts a small disk in memory on `folder`; skips the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    words: Sequence[str] = ("mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "none", str(folder))
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small disk here, so a full or read-only one is not tested: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)

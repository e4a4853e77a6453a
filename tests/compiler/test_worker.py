"""A child process may do anything; the parent gets a result or one line."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from planc.compiler import errors, process, worker
from planc.compiler.errors import BuildFailed
from planc.compiler.worker import Limits

JOBS = """\
import ctypes, os, signal, subprocess, sys, time

from planc.compiler.errors import GateFailed, UsageError


def add(a, b, *, emit):
    emit("stage", "adding")
    emit("note", "about to add")
    return a + b


def has_imported(name, *, emit):
    return name in sys.modules


def large(size, *, emit):
    emit("note", "y" * size)
    return b"x" * size


def usage(*, emit):
    raise UsageError("no such thing", hint="try another")


def gate(*, emit):
    raise GateFailed("too slow")


def bug(*, emit):
    emit("stage", "sums")
    return 1 / 0


def missing(*, emit):
    open("/nowhere/at/all")


def leave(*, emit):
    print("these were my last words")
    sys.exit(7)


def vanish(*, emit):
    print("these were my last words", flush=True)
    os._exit(7)


def sleep(stage="dream", *, emit):
    emit("stage", stage)
    time.sleep(60)


def with_child(path, *, emit):
    child = subprocess.Popen(["sleep", "60"])
    path.write_text(str(child.pid))
    time.sleep(60)


def eat(size, *, emit):
    emit("stage", "lunch")
    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(1)
    return len(held)


def ask_and_eat(size, *, emit):
    emit("memory", 2 * size)
    return eat(size, emit=emit)


def kill(number, *, emit):
    emit("stage", "death")
    os.kill(os.getpid(), number)
    time.sleep(60)


def crash(*, emit):
    emit("stage", "crash")
    ctypes.string_at(0)


def noise(*, emit):
    print("noise on stdout")
    print("noise on stderr", file=sys.stderr)
    os.write(1, b"noise on the descriptor")
    return "quiet"


def interrupt(*, emit):
    os.kill(os.getpid(), signal.SIGINT)
    return "still here"


def environment(*, emit):
    return sys.stdin.read(), sorted(sys.modules)


def unpicklable(*, emit):
    return lambda: None
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jobs")
    (path / "worker_jobs.py").write_text(JOBS)
    return path


@pytest.fixture
def jobs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions in a module that the child can import."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    import worker_jobs

    return worker_jobs


def _failure(function: Callable[..., Any], *args: object, seconds: float = 30, memory: int = 0) -> BuildFailed:
    with pytest.raises(BuildFailed) as caught:
        worker.call(function, *args, limits=Limits(seconds, memory, memory))
    return caught.value


def test_result_and_events(jobs: ModuleType) -> None:
    events: list[tuple[str, object]] = []
    assert (
        worker.call(jobs.add, 2, b=3, limits=Limits(), on_event=lambda kind, value: events.append((kind, value))) == 5
    )
    told = [event for event in events if event[0] != "tick"]
    assert told == [("stage", "adding"), ("note", "about to add")]
    assert ("tick", None) in events


def test_what_a_tick_raises_cancels_the_child(jobs: ModuleType) -> None:
    class Enough(Exception):
        pass

    def stop(kind: str, _value: object) -> None:
        if kind == "tick":
            raise Enough

    start = time.monotonic()
    with pytest.raises(Enough):
        worker.call(jobs.sleep, limits=Limits(), on_event=stop)
    assert time.monotonic() - start < 30


def test_large_messages(jobs: ModuleType) -> None:
    events = []
    size = 3 << 20
    result = worker.call(jobs.large, size, limits=Limits(), on_event=lambda _, value: events.append(value))
    assert result == b"x" * size
    assert list(filter(None, events)) == ["y" * size]


def test_planc_errors_cross_the_pipe(jobs: ModuleType) -> None:
    with pytest.raises(errors.UsageError) as caught:
        worker.call(jobs.usage, limits=Limits())
    assert (caught.value.what, caught.value.hint) == ("no such thing", "try another")
    with pytest.raises(errors.GateFailed, match="too slow"):
        worker.call(jobs.gate, limits=Limits())


def test_other_exceptions_name_the_stage(jobs: ModuleType) -> None:
    assert _failure(jobs.bug).what == "stage sums: ZeroDivisionError: division by zero"


def test_system_errors_are_io_failures(jobs: ModuleType) -> None:
    with pytest.raises(errors.IOFailed, match="No such file or directory '/nowhere/at/all'"):
        worker.call(jobs.missing, limits=Limits())


def test_sys_exit_does_not_pass_for_a_result(jobs: ModuleType) -> None:
    assert "SystemExit: 7" in _failure(jobs.leave).what


def test_a_result_that_cannot_be_sent(jobs: ModuleType) -> None:
    assert "pickle" in _failure(jobs.unpicklable).what.lower()


def test_death_by_exit_keeps_the_last_words(jobs: ModuleType) -> None:
    assert _failure(jobs.vanish).what == "the worker exited with code 7 in stage start: these were my last words"


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (6, "SIGABRT")])
def test_death_by_signal(jobs: ModuleType, number: int, name: str) -> None:
    assert _failure(jobs.kill, number).what == f"the worker was killed by {name} in stage death"


def test_a_segmentation_fault(jobs: ModuleType) -> None:
    assert _failure(jobs.crash).what == "the worker was killed by SIGSEGV in stage crash"


def test_time_limit(jobs: ModuleType) -> None:
    start = time.monotonic()
    failure = _failure(jobs.sleep, seconds=1)
    assert time.monotonic() - start < 10
    assert failure.what == "stage dream did not finish within 1 s"
    assert failure.hint == "Raise the limit with --time-limit SECONDS"
    assert "--samples N" in _failure(jobs.sleep, "calibrate", seconds=1).hint
    assert "--time-limit" in failure.hint


def test_nothing_outlives_the_call(jobs: ModuleType, tmp_path: Path) -> None:
    _failure(jobs.with_child, tmp_path / "pid", seconds=1)
    grandchild = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _runs(grandchild):
        time.sleep(0.05)
    assert not _runs(grandchild)


def test_memory_limit(jobs: ModuleType) -> None:
    failure = _failure(jobs.eat, 400 << 20, memory=100 << 20)
    assert failure.what == "stage lunch needed more than its memory limit of 0.10 GiB"
    assert "--memory-limit" in failure.hint
    assert worker.call(jobs.eat, 20 << 20, limits=Limits(30, 200 << 20, 200 << 20)) == 20 << 20


def test_a_child_may_raise_its_memory_up_to_the_cap(jobs: ModuleType) -> None:
    size = 300 << 20
    assert worker.call(jobs.ask_and_eat, size, limits=Limits(30, 100 << 20, 2 << 30)) == size
    with pytest.raises(BuildFailed, match="memory limit"):
        worker.call(jobs.ask_and_eat, size, limits=Limits(30, 100 << 20, 150 << 20))


def test_a_childs_noise_stays_away(jobs: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert worker.call(jobs.noise, limits=Limits()) == "quiet"
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_interrupts_are_the_parents_business(jobs: ModuleType) -> None:
    assert worker.call(jobs.interrupt, limits=Limits()) == "still here"


def test_a_child_has_no_stdin_and_starts_light(jobs: ModuleType) -> None:
    stdin, modules = worker.call(jobs.environment, limits=Limits())
    assert stdin == ""
    assert not {"numpy", "torch", "onnx", "onnxruntime", "openvino", "rich", "typer"} & set(modules)


def test_a_prepared_child_has_its_module_and_takes_the_next_call(jobs: ModuleType) -> None:
    process.prepare("colorsys")
    assert worker.call(jobs.has_imported, "colorsys", limits=Limits())
    assert not worker.call(jobs.has_imported, "colorsys", limits=Limits())


def test_a_module_that_cannot_be_prepared_fails_the_call(jobs: ModuleType) -> None:
    process.prepare("no_such_module")
    assert "No module named 'no_such_module'" in _failure(jobs.add, 1, 2).what


def test_a_prepared_child_without_a_call_dies_with_its_parent(tmp_path: Path) -> None:
    script = f"""
import pathlib
from planc.compiler import process
process.prepare("colorsys")
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(process.SPARES[0].popen.pid))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    _await_death(int((tmp_path / "pid").read_text()))


def test_a_child_dies_with_its_parent(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, worker_jobs; from pathlib import Path; from planc.compiler import worker\n"
        "worker.call(worker_jobs.with_child, Path(sys.argv[1]), limits=worker.Limits())"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")], env=environment)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (tmp_path / "pid").exists():
        time.sleep(0.05)
    time.sleep(0.1)
    child = _parent_of(int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    _await_death(child)


def _await_death(process: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _runs(process):
        time.sleep(0.05)
    assert not _runs(process)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])

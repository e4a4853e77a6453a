"""Conducts players: starts one process per subject, again and again, and lets them run in turns.

On a shared machine speed changes from one tenth of a second to the next, by more than what is to be found. So turns are
a few milliseconds long, and a player is stopped (SIGSTOP) while another one has its turn: threads of a runtime spin for
up to 45 ms after a call, and would take cores from the next one. Two processes of one program differ, too, by how their
memory and threads happen to lie: hence several of each.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from . import errors, host, player
from ._subject import Setting, Subject
from .worker import Emit

T = TypeVar("T")

_BLOCK_MS = 5.0
_LEAST_CALLS, _MOST_CALLS = 3, 200
_LEAST_ROUNDS = 3
_POWER = Path("/sys/class/powercap")


@dataclass
class Measured:
    """What was seen of one subject.

    Attributes:
        blocks: latencies in ms, processes x rounds x calls.
        cold: ms of each step of each start.
        peaks: peak resident bytes of each process.
        warm_ups: how each process warmed up.
        joules: energy per call of each block, as the processor counts it; empty where it does not.
    """

    blocks: list[list[list[float]]] = field(default_factory=list)
    cold: list[dict[str, float]] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    warm_ups: list[dict[str, Any]] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)


class Part:
    """The conductor's end of one player."""

    def __init__(self, subject: Subject, setting: Setting, inputs: Path) -> None:
        self.name = subject.name
        (theirs, mine), (my_answers, their_answers) = os.pipe(), os.pipe()
        born = time.monotonic_ns()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", player.__name__, str(theirs), str(their_answers)],
            pass_fds=(theirs, their_answers), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(their_answers)
        self.requests, self.answers = os.fdopen(mine, "wb"), os.fdopen(my_answers, "rb")
        try:
            self.steps: dict[str, float] = self.ask("begin", subject, setting, inputs, born)
        except BaseException:
            self.close()
            raise

    def ask(self, name: str, *args: object) -> Any:
        """Calls a method of the player.

        Raises:
            PlancError: as raised there.
            WorkerDied: the player is gone.
        """
        try:
            player.send(self.requests, (name, *args))
            kind, value = player.receive(self.answers)
        except (EOFError, BrokenPipeError):
            raise errors.WorkerDied(f"{self.name} {_ended(self.process.wait())} while it was measured") from None
        if kind == "error":
            cls, what, hint = value
            raise getattr(errors, cls)(what if self.name in what else f"{self.name}: {what}", hint=hint)
        return value

    def turn(self, name: str, *args: object) -> Any:
        """Calls a method of a player that is stopped, and stops it again."""
        self.process.send_signal(signal.SIGCONT)
        try:
            return self.ask(name, *args)
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.requests, self.answers):
            try:
                pipe.close()
            except BrokenPipeError:
                continue


@contextmanager
def stage(subjects: Sequence[Subject], setting: Setting, inputs: Path) -> Iterator[dict[str, Part]]:
    """Starts the players, one after the other, and stops each after its first call; ends them after the block."""
    parts: dict[str, Part] = {}
    try:
        for subject in subjects:
            parts[subject.name] = Part(subject, setting, inputs)
            parts[subject.name].process.send_signal(signal.SIGSTOP)
        yield parts
    finally:
        for part in parts.values():
            part.close()


def measure(
    subjects: Sequence[Subject],
    setting: Setting,
    inputs: Path,
    *,
    seconds: float,
    processes: int,
    emit: Emit,
    warm_up: float = 1.0,
    found: dict[str, Measured] | None = None,
) -> dict[str, Measured]:
    """Measures latency, cold start and memory in `processes` new processes of each subject, each with some rounds.

    In a round each subject has one block of calls; who is first changes. Only one of them runs at a time.

    Args:
        subjects: what is measured.
        setting: threads and cores of each process.
        inputs: .npz with an array per input.
        seconds: for the rounds of all processes together; at least three rounds are made in each.
        processes: of each subject.
        emit: hears of the progress.
        warm_up: seconds at most until a process settles, beside its share of `seconds`.
        found: what was measured before: more processes, with as many rounds of as many calls, are added to it.
    """
    found = found or {subject.name: Measured() for subject in subjects}
    blocks = {name: one.blocks[0] for name, one in found.items() if one.blocks}
    rounds = max(map(len, blocks.values()), default=0)
    calls = {name: len(block[0]) for name, block in blocks.items()}
    share = seconds / processes / len(subjects)
    for number in range(processes):
        emit("stage", f"measure {', '.join(found)} ({number + 1} of {processes})")
        with stage(_turn_order(subjects, number), setting, inputs) as parts:
            for name, part in parts.items():
                found[name].cold.append(part.steps)
                found[name].warm_ups.append(part.turn("warm", warm_up + share))
            calls = calls or {name: _calls(part) for name, part in parts.items()}
            for measured in found.values():
                measured.blocks.append([])
            begin, done = time.monotonic(), 0
            while done < rounds or (
                not rounds and (done < _LEAST_ROUNDS or time.monotonic() - begin < seconds / processes)
            ):
                _round(_turn_order(list(parts), done), parts, calls, found)
                done += 1
            rounds = done
            for name, part in parts.items():
                found[name].peaks.append(part.turn("memory"))
    return found


def _round(
    order: Sequence[str], parts: Mapping[str, Part], calls: Mapping[str, int], found: Mapping[str, Measured]
) -> None:
    for name in order:
        before = energy_joules()
        block = parts[name].turn("block", calls[name])
        after = energy_joules()
        found[name].blocks[-1].append(block)
        if before is not None and after is not None and after > before:  # the counter wraps
            found[name].joules.append((after - before) / (len(block) + 1))


def throughput(
    subjects: Sequence[Subject], setting: Setting, inputs: Mapping[int, Path], *, seconds: float, rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Returns calls per second of each subject at each size, a figure per round: all streams at once.

    Args:
        subjects: what is measured.
        setting: threads and cores of each process, and the number of streams.
        inputs: .npz by size.
        seconds: for one subject at one size in one round.
        rounds: how often.
    """
    found: dict[str, dict[int, list[float]]] = {subject.name: {} for subject in subjects}
    with stage(subjects, setting, next(iter(inputs.values()))) as parts:
        for size, path in inputs.items():
            for part in parts.values():
                part.turn("use", path)
                part.turn("warm", 1.0)
            for done in range(rounds):
                for name in _turn_order(list(parts), done):
                    found[name].setdefault(size, []).append(parts[name].turn("together", seconds))
    return found


def energy_joules(folder: Path = _POWER) -> float | None:
    """Returns what the processor packages used since some time, in joules (RAPL); None where the machine hides it."""
    total, seen = 0.0, False
    for counter in folder.glob("intel-rapl:*/energy_uj"):
        if counter.parent.name.count(":") == 1:  # packages, not the cores in them
            try:
                total += int(counter.read_text()) / 1e6
                seen = True
            except (OSError, ValueError):
                return None
    return total if seen else None


@contextmanager
def watching(found: dict[str, float]) -> Iterator[None]:
    """Puts into `found` the share of the cores that other work took during the block, as "others_share"."""
    wall, busy, own = time.monotonic(), host.busy_seconds(), _own_seconds()
    yield
    wall, busy, own = time.monotonic() - wall, host.busy_seconds() - busy, _own_seconds() - own
    found["others_share"] = min(1.0, max(0.0, busy - own) / (wall * (os.cpu_count() or 1)))


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _turn_order(names: Sequence[T], number: int) -> list[T]:
    """The order of a round: each the other way round than the one before, each two with another one first."""
    first = number // 2 % len(names)
    order = [*names[first:], *names[:first]]
    return order[::-1] if number % 2 else order


def _calls(part: Part) -> int:
    median = float(statistics.median(part.turn("block", 10)))
    return max(_LEAST_CALLS, min(_MOST_CALLS, round(_BLOCK_MS / median)))


def _ended(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

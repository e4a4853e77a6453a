"""A process of its own that loads one runtime and runs it on command: what `planc bench` measures.

Each subject plays in its own process, so that its memory, its start and its threads are its own. The conductor in
`rounds.py` gives turns to one player at a time. Requests and answers are pickles over two pipes.

`python -m planc.compiler.player READ_FD WRITE_FD`
"""

import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from ._subject import Setting, Subject

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

_WINDOW_CALLS = 5
_WINDOW_SECONDS = 0.05
_STABLE = 0.03
"""Warm-up ends where the medians of three windows in a row lie within this share of each other."""

Run = Callable[["Mapping[str, np.ndarray]"], "Sequence[np.ndarray]"]


class Player:
    """One loaded subject.

    Attributes:
        runs: a function per stream, each with a session of its own.
        inputs: arrays by name, for the next calls.
    """

    def __init__(self, runs: "Sequence[Run]", inputs: "Mapping[str, np.ndarray]") -> None:
        self.runs = list(runs)
        self.inputs = inputs

    def use(self, path: "Path") -> None:
        """Takes other inputs, from an .npz."""
        self.inputs = _arrays(path)

    def warm(self, seconds: float) -> dict[str, Any]:
        """Calls until three windows in a row have like medians, or the time is over.

        Returns:
            `calls`, `seconds` and whether it became `stable`.
        """
        start = time.perf_counter()
        medians: list[float] = []
        calls = 0
        while len(medians) < 3 or time.perf_counter() - start < seconds:
            window = self.calls(_WINDOW_CALLS, _WINDOW_SECONDS)
            calls += len(window)
            medians.append(sorted(window)[len(window) // 2])
            last = medians[-3:]
            if len(last) == 3 and max(last) <= (1 + _STABLE) * min(last):
                return {"calls": calls, "seconds": time.perf_counter() - start, "stable": True}
            if len(medians) >= 3 and time.perf_counter() - start >= seconds:
                break
        return {"calls": calls, "seconds": time.perf_counter() - start, "stable": False}

    def calls(self, least: int, seconds: float) -> list[float]:
        """Makes at least `least` calls, and goes on for `seconds`; returns latencies in ms."""
        run, inputs, clock = self.runs[0], self.inputs, time.perf_counter
        latencies: list[float] = []
        end = clock() + seconds
        while len(latencies) < least or clock() < end:
            begin = clock()
            run(inputs)
            latencies.append((clock() - begin) * 1e3)
        return latencies

    def block(self, calls: int) -> list[float]:
        """Makes one call to wake up, then `calls` measured ones; returns latencies in ms."""
        self.runs[0](self.inputs)
        return self.calls(calls, 0)

    def together(self, seconds: float) -> float:
        """Calls in all streams at once for `seconds`; returns the calls per second of all of them."""
        import threading

        counts = [0] * len(self.runs)
        ends = [0.0] * len(self.runs)
        failures: list[BaseException] = []
        barrier = threading.Barrier(len(self.runs) + 1)

        def stream(index: int) -> None:
            run, inputs = self.runs[index], self.inputs
            try:
                run(inputs)
                barrier.wait()
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    run(inputs)
                    counts[index] += 1
                ends[index] = time.perf_counter()
            except BaseException as error:
                failures.append(error)
                barrier.abort()

        threads = [threading.Thread(target=stream, args=(index,)) for index in range(len(self.runs))]
        for thread in threads:
            thread.start()
        with suppress(threading.BrokenBarrierError):  # a stream failed: see below
            barrier.wait()
        begin = time.perf_counter()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return sum(count / (end - begin) for count, end in zip(counts, ends, strict=True))

    def losses(self, path: "Path", bounds: Sequence[str]) -> dict[str, Any]:
        """Runs golden inputs and returns the loss by bound, worst output first, and the number of `samples`.

        Args:
            path: what `golden.save` wrote.
            bounds: as `--max-drop` takes them.
        """
        from ..calibration import metrics
        from . import golden

        goldens = golden.load(path)
        made = [self.runs[0](one.inputs) for one in goldens]
        found: dict[str, float] = {}
        for text in bounds:
            bound = metrics.parse(text)
            losses = []
            for index, name in enumerate(goldens[0].outputs):
                references = [one.outputs[name] for one in goldens]
                if references[0].dtype.kind == "f" or bound.metric == "top1":
                    losses.append(bound.loss([outputs[index] for outputs in made], references))
            found[text] = max(losses)
        return {"losses": found, "samples": sum(len(next(iter(one.inputs.values()))) for one in goldens)}

    def profile(self, subject: Subject, setting: Setting) -> dict[str, Any]:
        """Loads the subject once more, under its runtime's profiler, and returns what that tells."""
        from . import profile

        return profile.take(subject, setting, self.inputs)

    def memory(self) -> int:
        """Returns the most memory that this process had resident at once, in bytes."""
        return peak_bytes()


def peak_bytes() -> int:
    """Returns the peak resident memory of this program in bytes.

    Not by getrusage: a new process starts there with the peak of the one that made it.
    """
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123  pathlib would be part of the cold start
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))


def load(subject: Subject, setting: Setting) -> list[Run]:
    """Loads the subject once per stream.

    Raises:
        PlancError: it cannot be loaded here.
    """
    if subject.kind == "artifact":
        return [_artifact(subject, setting) for _ in range(setting.streams)]
    if subject.kind == "onnx":
        return [_onnx(subject, setting) for _ in range(setting.streams)]
    return [_torch(subject, setting)] * setting.streams


def _artifact(subject: Subject, setting: Setting) -> Run:
    from . import artifact

    made = artifact.read(subject.source)
    session = artifact.session(artifact.Artifact(made.path, subject.settings(made.manifest, setting.threads)))
    return lambda inputs: list(session(**inputs).values())


def _onnx(subject: Subject, setting: Setting) -> Run:
    from ._ort import open_cpu, runtime

    settings = runtime().SessionOptions()
    settings.intra_op_num_threads = setting.threads
    session = open_cpu(subject.source, settings)
    return lambda inputs: session.run(None, dict(inputs))


def _torch(subject: Subject, setting: Setting) -> Run:
    import torch

    from . import user_code
    from .errors import UsageError

    if setting.threads:
        torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    made = user_code.guard(subject.source, "calling", user_code.find(subject.source))
    module = made[0] if isinstance(made, tuple) and len(made) == 2 else made
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{subject.source} gave {type(module).__name__}, not a torch.nn.Module",
            hint="Return the module, or (module, example_inputs)",
        )
    import inspect

    module = module.eval()
    names = inspect.signature(module.forward).parameters
    tree = torch.utils._pytree

    def run(inputs: "Mapping[str, np.ndarray]") -> "Sequence[np.ndarray]":
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        with torch.inference_mode():
            result = module(**tensors) if tensors.keys() <= names.keys() else module(*tensors.values())
        return [leaf.numpy() for leaf in tree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]

    return lambda inputs: user_code.guard(subject.source, "running the forward of", lambda: run(inputs))


def _arrays(path: "Path") -> "dict[str, np.ndarray]":
    from .files import load_arrays

    return load_arrays(path)


def _begin(subject: Subject, setting: Setting, inputs: "Path", born: int) -> tuple[Player, dict[str, float]]:
    """Loads and makes the first call; returns the player and the ms of each step since the process was asked for."""
    loading = time.monotonic_ns()
    runs = load(subject, setting)
    loaded = time.monotonic_ns()
    player = Player(runs, _arrays(inputs))
    calling = time.monotonic_ns()
    player.runs[0](player.inputs)
    steps = (loading - born, loaded - loading, time.monotonic_ns() - calling)
    return player, dict(zip(("process_ms", "load_ms", "first_run_ms"), (step / 1e6 for step in steps), strict=True))


def receive(pipe: BinaryIO) -> Any:
    """Reads one message.

    Raises:
        EOFError: the other side is gone.
    """
    size = pipe.read(8)
    if len(size) < 8:
        raise EOFError
    return pickle.loads(pipe.read(int.from_bytes(size, "little")))  # noqa: S301  from our own parent or child


def send(pipe: BinaryIO, message: object) -> None:
    """Writes one message."""
    data = pickle.dumps(message)
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()


def main() -> None:
    """Entry point of the process: the first request loads, each other one names a method of `Player`."""
    requests, answers = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    player: Player | None = None
    while True:
        try:
            name, *args = receive(requests)
        except EOFError:
            os._exit(0)  # third-party destructors have nothing to add but crashes
        try:
            if player is None:
                subject, setting, inputs, born = args
                if setting.cores:
                    os.sched_setaffinity(0, setting.cores)
                player, result = _begin(subject, setting, inputs, born)
                _die_with_parent()
            else:
                result = getattr(player, name)(*args)
            answer: tuple[str, Any] = ("done", result)
        except BaseException as error:
            answer = ("error", _told(error))
        send(answers, answer)


def _die_with_parent() -> None:
    """Asks the kernel to kill this process when its conductor dies (Linux): one that is stopped sees no closed pipe."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig, sigkill = 1, 9
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, sigkill)


def _told(error: BaseException) -> tuple[str, str, str]:
    """Class, what and hint of an error; other than planc's own are failures of the runtime."""
    from . import errors

    if isinstance(error, errors.PlancError):
        return type(error).__name__, error.what, error.hint
    return "BuildFailed", errors.named(error) + _place(error), ""


def _place(error: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""


if __name__ == "__main__":
    main()

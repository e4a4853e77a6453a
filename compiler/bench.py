"""Latency of sessions, measured interleaved so that a noisy machine is unfair to all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

_WARM_UP = 3
_BURST = 5
_QUIET_SECONDS = 0.02  # several ticks of the clock that counts the CPU time of other threads
_MOST_QUIET_TRIES = 25


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Calls the functions in turn, in short bursts, each from rest, and returns their latencies in ms.

    Args:
        runs: functions by name.
        rounds: bursts of each function, at most.
        seconds: no round starts after this time; at least three are made.
        clock: seconds; time.process_time gives CPU time, which other work on the machine hardly changes.
    """
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    latencies: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        for name, run in runs.items():
            _wait_until_idle()
            run()
            for _ in range(_BURST):
                begin = clock()
                run()
                latencies[name].append((clock() - begin) * 1e3)
    return latencies


def _wait_until_idle() -> None:
    """Sleeps until no thread of this process spins: idle ones do for 1 (OpenVINO) to 45 ms (ONNX Runtime) after a run.

    They would take cores from the next runtime. How long they spin depends on the runtime and on the CPU.
    """
    for _ in range(_MOST_QUIET_TRIES):
        before = time.process_time()
        time.sleep(_QUIET_SECONDS)
        if time.process_time() - before < _QUIET_SECONDS / 10:
            return


def summary(latencies: list[float]) -> dict[str, float]:
    """Returns `latency_p50_ms`, `latency_p95_ms`, `latency_p99_ms` and `throughput_per_s` (one call at a time)."""
    ordered = sorted(latencies)

    def quantile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    median = statistics.median(ordered)
    return {
        "latency_p50_ms": median,
        "latency_p95_ms": quantile(0.95),
        "latency_p99_ms": quantile(0.99),
        "throughput_per_s": 1e3 / median,
    }

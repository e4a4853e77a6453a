"""Latency of sessions, measured interleaved so that a noisy machine is unfair to all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

_WARM_UP = 3
_BURST = 5
_PAUSE_SECONDS = 0.03  # a runtime's idle threads spin for some ms and would take cores from the next one


def interleaved(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 20, seconds: float = 3.0
) -> dict[str, list[float]]:
    """Calls the functions in turn, in short bursts after a pause, and returns their latencies in ms.

    Args:
        runs: functions by name.
        rounds: bursts of each function, at most.
        seconds: no round starts after this time; at least three are made.
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
            time.sleep(_PAUSE_SECONDS)
            run()
            for _ in range(_BURST):
                begin = time.perf_counter()
                run()
                latencies[name].append((time.perf_counter() - begin) * 1e3)
    return latencies


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

"""Latencies from the rounds in which the machine did little else: other work is far from unfair to all alike.

OpenMP threads (torch) wait for each other actively: on a machine with other work they lose far more than their share.
"""

import time
from collections.abc import Callable, Mapping

from planc.compiler import host
from planc.compiler.bench import interleaved

MOST_OTHERS = 0.05


def quiet(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 12, patience: float = 300.0
) -> tuple[dict[str, list[float]], str]:
    """Measures until `rounds` rounds were quiet, or `patience` seconds are over, and says what it kept.

    Returns:
        Latencies in ms by name, and one sentence for the reader; with less than three quiet rounds, all of them.
    """
    kept: list[dict[str, list[float]]] = []
    noisy: list[dict[str, list[float]]] = []
    deadline = time.monotonic() + patience
    while len(kept) < rounds and (time.monotonic() < deadline or len(kept) + len(noisy) < 3):
        share, latencies = others(lambda: interleaved(runs, rounds=1))
        (kept if share < MOST_OTHERS else noisy).append(latencies)
    chosen = kept if len(kept) >= 3 else kept + noisy
    merged = {name: [latency for one in chosen for latency in one[name]] for name in runs}
    if chosen is kept:
        return (
            merged,
            f"{len(kept)} quiet rounds; {len(noisy)} left out, in which other work took over 5% of the cores.",
        )
    return merged, f"NOT RELIABLE: other work took over 5% of the cores in {len(noisy)} of {len(chosen)} rounds."


def others(measure: Callable[[], dict[str, list[float]]]) -> tuple[float, dict[str, list[float]]]:
    """Runs `measure`; returns the share of the cores that others took meanwhile, and its result."""
    begin, busy, own = time.monotonic(), host.busy_seconds(), time.process_time()
    result = measure()
    wall, busy, own = time.monotonic() - begin, host.busy_seconds() - busy, time.process_time() - own
    return max(0.0, busy - own) / (wall * host.cores()), result

"""Confidence intervals for latencies by a bootstrap over processes, and over blocks of calls within them.

Calls are not independent: other work on a machine slows many in a row, and where a process happened to get its memory
changes all of its calls. So what is drawn again, with replacement, is whole processes, and in each of them runs of
blocks: a burst of other work stays together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

Blocks = Sequence[Sequence[Sequence[float]]]
"""Latencies in ms: processes x blocks x calls. Every process has as many blocks."""

DRAWS = 2000
_SEED = 0
_MOST_NUMBERS = 5_000_000  # at once, to bound the memory
_FEW = 4  # fewer processes are taken for so many: an interval of Student's t over two would say nothing at all
_NORMAL = 2.5758293  # 99.5th percentile of the normal distribution
_MIDDLE = (0.25, 0.75)


@dataclass(frozen=True)
class Estimate:
    """A figure with what the data might as well have said.

    Attributes:
        value: the figure.
        draws: the same figure from data drawn again, shape (DRAWS,).
    """

    value: float
    draws: np.ndarray = field(repr=False)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Returns the ends between which `confidence` (0 to 1) of the draws lie, with equal shares beyond both."""
        low, high = np.quantile(self.draws, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def above(self, limit: float) -> float:
        """Returns the share of the draws above a limit: how sure it is that the figure is."""
        return float(np.mean(self.draws > limit))

    def inverse(self) -> "Estimate":
        """Returns 1 / the figure."""
        return Estimate(1 / self.value, 1 / self.draws)

    def times(self, factor: float) -> "Estimate":
        """Returns the figure in another unit."""
        return Estimate(self.value * factor, self.draws * factor)


@lru_cache(maxsize=4)
def counts(processes: int, blocks: int, *, seed: int = _SEED) -> np.ndarray:
    """Draws processes, and in each drawn one runs of blocks in a row; returns how often each block is in.

    Runs are sqrt(blocks) long, and the last block is followed by the first.

    Args:
        processes: number of processes.
        blocks: number of blocks in each of them.
        seed: draws with one seed are the same draws: figures of subjects that ran in turns are drawn together.

    Returns:
        Shape (DRAWS, processes * blocks).
    """
    rng = np.random.default_rng(seed)
    length = math.ceil(math.sqrt(blocks))
    process = rng.integers(processes, size=(DRAWS, processes, 1))
    starts = rng.integers(blocks, size=(DRAWS, processes, math.ceil(blocks / length)))
    block = (starts[..., None] + np.arange(length)).reshape(DRAWS, processes, -1)[..., :blocks] % blocks
    row = np.arange(DRAWS)[:, None, None] * (processes * blocks)
    flat = (row + process * blocks + block).ravel()
    return np.bincount(flat, minlength=DRAWS * processes * blocks).reshape(DRAWS, -1).astype(np.int32)


def quantiles(blocks: Blocks, shares: Sequence[float]) -> list[Estimate]:
    """Returns quantiles of all calls: for each share the least latency that so many of the calls do not exceed."""
    flat = [block for process in blocks for block in process]
    calls = np.concatenate([np.asarray(block, float) for block in flat])
    order = np.argsort(calls, kind="stable")
    owner = np.repeat(np.arange(len(flat)), [len(block) for block in flat])[order]
    ranked = calls[order]
    drawn = np.concatenate([np.ones((1, len(flat)), np.int32), counts(len(blocks), len(blocks[0]))])
    found = np.empty((len(shares), len(drawn)))
    step = max(1, _MOST_NUMBERS // len(calls))
    for start in range(0, len(drawn), step):
        heaps = np.cumsum(drawn[start : start + step][:, owner], axis=1, dtype=np.int32)
        for row, share in enumerate(shares):
            wanted = np.ceil(share * heaps[:, -1:] - 1e-9)
            found[row, start : start + step] = ranked[np.argmax(heaps >= wanted, axis=1)]
    return [Estimate(float(row[0]), _widened(row[1:], float(row[0]), len(blocks))) for row in found]


def mean(blocks: Blocks) -> Estimate:
    """Returns the mean of all calls."""
    sums = np.array([float(np.sum(block)) for process in blocks for block in process])
    sizes = np.array([len(block) for process in blocks for block in process])
    drawn = counts(len(blocks), len(blocks[0]))
    value = float(sums.sum() / sizes.sum())
    return Estimate(value, _widened((drawn @ sums) / (drawn @ sizes), value, len(blocks)))


def of_processes(values: Sequence[float]) -> Estimate:
    """Returns the mean of one value per process, such as the time of its first call."""
    given = np.asarray(values, float)
    drawn = counts(len(given), 1)
    value = float(given.mean())
    return Estimate(value, _widened(drawn @ given / len(given), value, len(given)))


def speedup(blocks: Blocks, others: Blocks) -> Estimate:
    """Returns how many times as fast `blocks` is as `others`, whose blocks ran in turns with its own.

    It is exp of the mean of the middle half of log(median of the other's block / median of its own), block by block:
    what slows both for a while cancels, and what hits one block is left out.
    """
    ratios = (np.log(medians(others)) - np.log(medians(blocks))).ravel()
    drawn = counts(len(blocks), len(blocks[0]))
    return _exp(_middle(ratios, drawn), len(blocks))


def speedup_apart(blocks: Blocks, others: Blocks) -> Estimate:
    """Returns how many times as fast `blocks` is as `others`, which was measured at another time."""
    own, theirs = (np.log(medians(one)) for one in (blocks, others))
    mine = _middle(own.ravel(), counts(*own.shape))
    their = _middle(theirs.ravel(), counts(*theirs.shape, seed=_SEED + 1))
    return _exp(their - mine, min(len(own), len(theirs)))


def medians(blocks: Blocks) -> np.ndarray:
    """Returns the median of each block in ms, shape (processes, blocks)."""
    return np.array([[float(np.median(block)) for block in process] for process in blocks])


def _middle(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the values, of themselves first and then of each draw; shape (1 + DRAWS,)."""
    order = np.argsort(values, kind="stable")
    heaps = np.cumsum(np.concatenate([np.ones((1, len(values)), drawn.dtype), drawn])[:, order], axis=1)
    total = heaps[:, -1:]
    inside = np.clip(heaps, _MIDDLE[0] * total, _MIDDLE[1] * total)
    weights = np.diff(inside, axis=1, prepend=_MIDDLE[0] * total)
    found: np.ndarray = (weights @ values[order]) / weights.sum(axis=1)
    return found


def _exp(logs: np.ndarray, processes: int) -> Estimate:
    value = math.exp(logs[0])
    return Estimate(value, _widened(np.exp(logs[1:]), value, processes))


def _widened(draws: np.ndarray, value: float, processes: int) -> np.ndarray:
    """Draws of a positive figure, as far from it as a few processes warrant.

    A bootstrap over n processes is too narrow by sqrt((n - 1) / n), and knows the spread among processes from n of them
    only: by as much as Student's t is wider than the normal distribution. One process tells nothing of others.
    """
    if processes < 2 or value <= 0:
        return draws
    known = max(processes, _FEW)
    factor = math.sqrt(known / (known - 1)) * student(known - 1) / _NORMAL
    widened: np.ndarray = value * (draws / value) ** factor
    return widened


def student(freedom: int) -> float:
    """Returns the 99.5th percentile of Student's t distribution, by its expansion about the normal one."""
    z = _NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms)))

"""MSE: the range with the least expected squared error, clipping against rounding.

The trade of Sung et al., "Resiliency of deep neural networks under quantization" (2015), and Banner et al., "Post
training 4-bit quantization" (2019), solved on the histogram instead of a fitted distribution.
"""

from itertools import product

import numpy as np

from ._quantize import error, running, with_zero
from .observers import Histogram, Statistics

_COARSE = 48  # candidates of each end in the search of both at once; their neighbours are searched after it
_ROUNDS = 2  # of moving one end, then the other
_AROUND = [(x, y) for x, y in product((0.8, 0.9, 1.0, 1.1, 1.25), repeat=2) if x == y or 1.0 in (x, y)]
"""Factors to try last, by the exact error: the search takes rounding errors as uniform, which steep tails are not."""


def ranges(statistics: Statistics, *, symmetric: bool, bits: int = 8) -> tuple[float, float]:
    """Returns (low, high), which are never worse than the whole range."""
    whole = with_zero(statistics.low, statistics.high, symmetric=symmetric)
    if not statistics.histogram.total:
        return whole

    def cost(candidate: tuple[float, float]) -> float:
        return error(statistics.histogram, *candidate, symmetric=symmetric, bits=bits)

    middle = _symmetric(statistics.magnitudes, bits)
    found = [middle] if symmetric else _affine(statistics.histogram, middle, bits)
    low, high = min([whole, *found], key=cost)
    factors = [(x, y) for x, y in _AROUND if x == y or not symmetric]
    around = [(low * x, high * y) for x, y in factors if low * x >= whole[0] and high * y <= whole[1]]
    return min([(low, high), *around], key=cost)


def _symmetric(magnitudes: Histogram, bits: int) -> tuple[float, float]:
    highs = magnitudes.right
    best = _Side(magnitudes).error(highs, highs / (2 ** (bits - 1) - 1)).argmin()
    return 0.0 - float(highs[best]), float(highs[best])


def _affine(histogram: Histogram, middle: tuple[float, float], bits: int) -> list[tuple[float, float]]:
    """Moves each end among all edges while the other stands, from the best pairs of a coarse grid and of `middle`."""
    zero = int(np.searchsorted(histogram.left, 0.0))
    negative, positive = _mirrored(histogram, zero), _rest(histogram, zero)
    below, above = _Side(negative), _Side(positive)
    lows, highs = _ends(negative), _ends(positive)

    def cost(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        step = (low + high) / (2**bits - 1)
        total: np.ndarray = below.error(low, step) + above.error(high, step)
        return total

    def settle(low: float, high: float) -> tuple[float, float]:
        for _ in range(_ROUNDS):
            low = lows[cost(lows, np.full_like(lows, high)).argmin()]
            high = highs[cost(np.full_like(highs, low), highs).argmin()]
        return 0.0 - float(low), float(high)

    pairs = np.meshgrid(_thinned(lows), _thinned(highs))
    at = cost(*pairs).argmin()
    starts = [(pairs[0].flat[at], pairs[1].flat[at]), (min(lows.max(), middle[1]), min(highs.max(), middle[1]))]
    settled = [settle(float(low), float(high)) for low, high in starts]
    return [*settled, *((0.0 - float(low), float(high)) for low, high in starts)]


class _Side:
    """The error of the values on one side of zero, at many ends at once.

    What is within half a step of zero costs its square, what lies between that and the end step^2 / 12, what lies
    beyond the end the square of its distance. All are read from running sums, those of the tail from the far end, since
    a difference of sums would lose the tail in the bulk's rounding.
    """

    def __init__(self, histogram: Histogram) -> None:
        self.right = histogram.right
        self.corners = np.column_stack((histogram.left, histogram.right)).ravel()
        self.counts, self.squares = running(histogram.counts), running(histogram.squares)
        middles = (histogram.left + histogram.right) / 2
        self.beyond = [
            running(moment[::-1])[::-1]
            for moment in (histogram.counts, histogram.counts * middles, histogram.squares)
        ]  # fmt: skip

    def error(self, ends: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Returns the sum of squared errors, shaped as `ends`, which are edges of bins or zero."""
        core = np.minimum(steps / 2, ends)
        tail = np.searchsorted(self.right, ends, side="right")
        count, linear, square = (moment[tail] for moment in self.beyond)
        rounded = self.counts[tail] - self._up_to(core, self.counts)
        total: np.ndarray = (
            self._up_to(core, self.squares)
            + np.maximum(rounded, 0) * steps**2 / 12
            + (square - 2 * ends * linear + ends**2 * count)
        )
        return total

    def _up_to(self, ends: np.ndarray, sums: np.ndarray) -> np.ndarray:
        if not self.right.size:
            return np.zeros_like(ends)
        below = np.repeat(sums, 2)[1:-1]  # at each bin's left edge the sum before it, at its right edge the one with it
        up_to: np.ndarray = np.interp(ends, self.corners, below)
        return up_to


def _mirrored(histogram: Histogram, stop: int) -> Histogram:
    left, right, counts = (array[:stop][::-1] for array in (histogram.left, histogram.right, histogram.counts))
    return Histogram(-right, -left, counts)


def _rest(histogram: Histogram, start: int) -> Histogram:
    return Histogram(histogram.left[start:], histogram.right[start:], histogram.counts[start:])


def _ends(side: Histogram) -> np.ndarray:
    """Where a range may end on this side: zero, without values here; otherwise at any bin."""
    return side.right if side.counts.size else np.zeros(1)


def _thinned(ends: np.ndarray) -> np.ndarray:
    thinned: np.ndarray = ends[np.unique(np.linspace(0, ends.size - 1, _COARSE).round().astype(np.intp))]
    return thinned

"""What a range costs: the error of quantizing a histogram, and the grid that a range stands for."""

import math
from dataclasses import dataclass

import numpy as np

from .observers import Histogram, Statistics


@dataclass(frozen=True)
class Quality:
    """What quantizing one tensor with one range does to the values that were observed.

    Attributes:
        sqnr_db: power of the values over that of the expected error, in dB; None where there is no error.
        saturated: share of the values that are more than half a step outside of the range: clipping moves them further
            than rounding would.
    """

    sqnr_db: float | None
    saturated: float


def quality(statistics: Statistics, low: float, high: float, *, symmetric: bool, bits: int = 8) -> Quality:
    """Returns the expected SQNR and the saturated share of the range [low, high]."""
    histogram = statistics.histogram
    if not histogram.total:
        return Quality(sqnr_db=None, saturated=0.0)
    noise, power = error(histogram, low, high, symmetric=symmetric, bits=bits), float(histogram.squares.sum())
    step, least, most = grid(low, high, symmetric=symmetric, bits=bits)
    ends = np.array([(least - 0.5) * step, (most + 0.5) * step])
    below, within = histogram.below(np.nextafter(ends, [-math.inf, math.inf]))
    return Quality(
        sqnr_db=10 * math.log10(power / noise) if noise > 0 and power > 0 else None,
        saturated=max(0.0, 1 - float(within - below) / histogram.total),
    )


def grid(low: float, high: float, *, symmetric: bool, bits: int = 8) -> tuple[float, int, int]:
    """Returns step, least and greatest integer of the range, with zero at the integer 0.

    Affine ranges have 2^bits levels and move by at most half a step, so that zero falls on one. Symmetric ranges have
    2^bits - 1 levels: -128 is not used.
    """
    levels = 2**bits - 2 if symmetric else 2**bits - 1
    step = (high - low) / levels
    least = -levels // 2 if symmetric else -round(-low / step) if step else 0
    return step, least, least + levels


def error(histogram: Histogram, low: float, high: float, *, symmetric: bool, bits: int = 8) -> float:
    """Returns the expected sum of squared errors, rounding and clipping together.

    The error of u = x / step is u - n(u), n the nearest integer of the grid. Its square has the antiderivative
    G(u) = n / 12 + (u - n)^3 / 3, also beyond the grid's ends where n stays the last integer, so that the mean over a
    bin is (G(b) - G(a)) / (b - a): exact for values that are evenly spread in it. What rounds to zero costs its square.
    """
    step, least, most = grid(low, high, symmetric=symmetric, bits=bits)
    if not step:
        return float(histogram.squares.sum())
    start, stop = np.searchsorted(histogram.right, -step / 2), np.searchsorted(histogram.left, step / 2)
    total = 0.0
    for bins in (slice(None, start), slice(stop, None)):
        a, b = histogram.left[bins] / step, histogram.right[bins] / step
        first, last = np.clip(np.rint(a), least, most), np.clip(np.rint(b), least, most)
        a, b = a - first, b - last
        mean = (a * a + a * b + b * b) / 3
        (over,) = np.nonzero(first != last)
        jumps = (last - first)[over]
        mean[over] = (jumps / 12 + (b[over] ** 3 - a[over] ** 3) / 3) / (jumps + b[over] - a[over])
        total += float(mean @ histogram.counts[bins])
    # Bins that straddle +-step/2 are left whole in the core below: their few values err by half a step either way.
    return total * step * step + float(histogram.squares[start:stop].sum())


def with_zero(low: float, high: float, *, symmetric: bool) -> tuple[float, float]:
    """Returns the least range around [low, high] that has zero in it, or in its middle."""
    if symmetric:
        most = max(abs(low), abs(high))
        return 0.0 - most, most  # not -most, which is -0.0 for zero
    return min(low, 0.0), max(high, 0.0)


def running(values: np.ndarray) -> np.ndarray:
    """Returns float64[n + 1]: the sum of the first 0, 1, ..., n values."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))

"""Entropy: the range whose quantized distribution is nearest to the clipped one, by Kullback-Leibler divergence.

After Migacz, "8-bit inference with TensorRT" (GTC 2017), and `Entropy` of ONNX Runtime: P is the distribution within a
candidate range, with what lies outside added to its outermost bins; Q is the same without the outside, merged into as
many bins as there are integers and spread again over the bins that P occupies. As there, one threshold clips both
sides: an affine range ends at it, or before it where no value is. Three things differ:

- exact zeros are left out: they are exact in any range, and half of all values behind a ReLU;
- the histogram is resampled from the logarithmic one, within whose bins values count as evenly spread;
- thresholds beyond 16 times the 99th percentile of magnitudes are not tried: an outlier that puts the bulk into one bin
  would make it look as if quantizing lost nothing.
"""

import numpy as np

from ._quantize import running, with_zero
from .observers import Histogram, Statistics

_FINE = 16  # bins for each integer: 2048 for the 128 magnitudes of int8
_CANDIDATES = 128
_BULK, _BEYOND = 0.99, 16
_FLOOR = 1e-9  # Q where it is empty and P is not, so that the divergence stays finite


def ranges(statistics: Statistics, *, symmetric: bool, bits: int = 8) -> tuple[float, float]:
    """Returns (low, high), of which the side that is not clipped ends at its extreme."""
    low, high = with_zero(statistics.low, statistics.high, symmetric=symmetric)
    histogram = _without_zero(statistics.magnitudes if symmetric else statistics.histogram)
    if not histogram.total:
        return low, high
    levels = 2 ** (bits - 1) if symmetric else 2**bits
    bulk = _without_zero(statistics.magnitudes).quantile(_BULK) * _BEYOND
    threshold = _threshold(histogram, 0.0 if symmetric else max(low, -bulk), min(high, bulk), levels)
    return max(low, -threshold), min(high, threshold)


def _threshold(histogram: Histogram, low: float, high: float, levels: int) -> float:
    bins = levels * _FINE
    width = (high - low) / bins
    edges = np.linspace(low, high, bins + 1)
    edges[0] = np.nextafter(low, -np.inf)  # values that are exactly `low` are inside
    zero = round(-low / width)
    least = levels - min(zero, bins - zero, levels // 2)  # at least one bin for each integer
    reach = np.linspace(least, max(zero, bins - zero), _CANDIDATES).round().astype(np.intp)
    starts, stops = np.maximum(zero - reach, 0), np.minimum(zero + reach, bins)
    costs = _divergences(histogram.below(edges), histogram.total, starts, stops, levels)
    return float(reach[costs.argmin()] * width)


def _divergences(below: np.ndarray, total: int, starts: np.ndarray, stops: np.ndarray, levels: int) -> np.ndarray:
    """Returns KL(P || Q) in nats, float64[windows], of the windows starts..stops of bins.

    Q is constant over the occupied bins of an integer, so that sum(p log q) needs P's sum over each integer only, and
    sum(p log p) is a difference of running sums but for the two bins that take what is outside: no window is walked.

    Args:
        below: float64[bins + 1], counts below each edge.
        total: of all counts.
        starts: int[windows], the first bin of each.
        stops: int[windows], the bin after its last.
        levels: integers that a window is merged into.
    """
    inside = np.maximum(np.diff(below), 0)
    occupied, entropies = running(inside > 0), running(_x_log_x(inside))
    cuts = starts[:, None] + np.arange(levels + 1) * (stops - starts)[:, None] // levels
    merged, sizes = np.diff(below[cuts]), np.diff(occupied[cuts])
    masses, reference = merged.copy(), entropies[stops] - entropies[starts]
    for level, bins, outside in ((0, starts, below[starts]), (-1, stops - 1, total - below[stops])):
        masses[:, level] += outside
        sizes[:, level] += (outside > 0) & (inside[bins] == 0)
        reference += _x_log_x(inside[bins] + outside) - _x_log_x(inside[bins])
    kept = merged.sum(axis=1)
    spread = merged / np.maximum(sizes, 1) / np.maximum(kept, 1e-300)[:, None]
    crossed = (masses * np.log(np.maximum(spread, _FLOOR))).sum(axis=1)
    return np.where(kept > 0, (reference - crossed) / total - np.log(total), np.inf)


def _x_log_x(values: np.ndarray) -> np.ndarray:
    """0 where a value is 0."""
    logs: np.ndarray = values * np.log(np.where(values > 0, values, 1.0))
    return logs


def _without_zero(histogram: Histogram) -> Histogram:
    some = (histogram.left != 0) | (histogram.right != 0)
    return Histogram(histogram.left[some], histogram.right[some], histogram.counts[some])

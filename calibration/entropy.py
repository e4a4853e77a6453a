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

from ._quantize import with_zero
from .observers import Histogram, Statistics

_FINE = 16  # bins for each integer: 2048 for the 128 magnitudes of int8
_CANDIDATES = 64
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
    below = histogram.below(edges)
    zero = round(-low / width)
    least = levels - min(zero, bins - zero, levels // 2)  # at least one bin for each integer
    reach = np.linspace(least, max(zero, bins - zero), _CANDIDATES).round().astype(np.intp).tolist()
    costs = [_divergence(below, max(zero - n, 0), min(zero + n, bins), histogram.total, levels) for n in reach]
    return float(reach[int(np.argmin(costs))] * width)


def _divergence(below: np.ndarray, start: int, stop: int, total: int, levels: int) -> float:
    """Returns KL(P || Q) in nats of the bins start..stop, from the counts below their edges."""
    inside = np.diff(below[start : stop + 1])
    reference = inside.copy()
    reference[0] += below[start]
    reference[-1] += total - below[stop]
    occupied = reference > 0
    starts = np.arange(levels) * inside.size // levels
    sums, sizes = np.add.reduceat(inside, starts), np.add.reduceat(occupied.astype(np.intp), starts)
    spread = np.repeat(sums / np.maximum(sizes, 1), np.diff(starts, append=inside.size))[occupied]
    if not spread.any():
        return np.inf
    p, q = reference[occupied] / total, np.maximum(spread / spread.sum(), _FLOOR)
    return float(p @ np.log(p / q))


def _without_zero(histogram: Histogram) -> Histogram:
    some = (histogram.left != 0) | (histogram.right != 0)
    return Histogram(histogram.left[some], histogram.right[some], histogram.counts[some])

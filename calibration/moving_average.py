"""Moving average: the mean of the samples' extremes, which one odd sample moves little.

An exponential average depends on the order of the samples; the plain mean does not, so that shards can be merged.
"""

from ._quantize import with_zero
from .observers import Statistics


def ranges(statistics: Statistics, *, symmetric: bool, bits: int = 8) -> tuple[float, float]:  # noqa: ARG001
    """Returns (low, high): the mean of the least values and the mean of the greatest."""
    return with_zero(statistics.mean_low, statistics.mean_high, symmetric=symmetric)

"""Percentile: the range of all values but the outermost few.

After McKinstry et al., "Discovering low-precision networks close to full-precision networks" (2018), and `Percentile`
of ONNX Runtime: the share left out is split evenly between both ends; of magnitudes, it is taken from the top.
"""

from ._quantize import with_zero
from .observers import Statistics


def ranges(
    statistics: Statistics, *, symmetric: bool, bits: int = 8, percentile: float = 99.99  # noqa: ARG001
) -> tuple[float, float]:  # fmt: skip
    """Returns (low, high), which hold `percentile` percent of the values."""
    share = percentile / 100
    if symmetric:
        high = statistics.magnitudes.quantile(share)
        return with_zero(-high, high, symmetric=True)
    histogram = statistics.histogram
    low, high = histogram.quantile((1 - share) / 2), histogram.quantile((1 + share) / 2)
    return with_zero(low, high, symmetric=False)

"""MinMax: the range of all values that were seen, so that none of them saturates."""

from ._quantize import with_zero
from .observers import Statistics


def ranges(statistics: Statistics, *, symmetric: bool, bits: int = 8) -> tuple[float, float]:  # noqa: ARG001
    """Returns (low, high), which hold every finite value."""
    return with_zero(statistics.low, statistics.high, symmetric=symmetric)

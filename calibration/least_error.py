"""Least error: for each tensor, the method whose range has the least expected squared error.

Methods are asked in an order of growing eagerness to clip, and a later one must gain 0.1 dB: a clip that gains less is
not worth the saturation of values that calibration has not seen.
"""

from . import entropy, minmax, moving_average, mse, percentile
from ._quantize import error
from .observers import Statistics

CANDIDATES = {
    "minmax": minmax.ranges,
    "moving-average": moving_average.ranges,
    "percentile": percentile.ranges,
    "entropy": entropy.ranges,
    "mse": mse.ranges,
}
"""The methods to choose from, in order."""

_GAIN = 10**0.01  # 0.1 dB of power


def ranges(statistics: Statistics, *, symmetric: bool, bits: int = 8) -> tuple[float, float]:
    """Returns (low, high) of the method that errs least."""
    _, low, high = choose(statistics, symmetric=symmetric, bits=bits)
    return low, high


def choose(statistics: Statistics, *, symmetric: bool, bits: int = 8) -> tuple[str, float, float]:
    """Returns the method's name with its range."""
    best, least = ("", 0.0, 0.0), float("inf")
    for name, method in CANDIDATES.items():
        low, high = method(statistics, symmetric=symmetric, bits=bits)
        cost = error(statistics.histogram, low, high, symmetric=symmetric, bits=bits)
        if not best[0] or cost * _GAIN < least:
            best, least = (name, low, high), cost
    return best

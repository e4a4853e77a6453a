"""MSE: no range errs much less, on the values themselves."""

import numpy as np
import pytest

from planc.calibration import minmax, mse
from planc.calibration._quantize import error, grid

KINDS = ("relu", "normal", "laplace", "silu", "heavy", "outlier", "negative", "shifted", "huge")


def noise(values: np.ndarray, low: float, high: float, *, symmetric: bool, bits: int) -> float:
    """Squared errors of quantizing the values themselves."""
    step, least, most = grid(low, high, symmetric=symmetric, bits=bits)
    exact = values.astype(np.float64)
    return float(np.square(np.clip(np.rint(exact / step), least, most) * step - exact).sum())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_no_worse_than_minmax_on_the_values(kind: str, symmetric: bool, bits: int, draw, observe) -> None:
    values = draw(kind)
    statistics = observe(values)
    options = {"symmetric": symmetric, "bits": bits}
    clipped, whole = mse.ranges(statistics, **options), minmax.ranges(statistics, **options)
    assert noise(values, *clipped, **options) <= noise(values, *whole, **options) * 1.02
    assert error(statistics.histogram, *clipped, **options) <= error(statistics.histogram, *whole, **options)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_search_by_brute_force_finds_little_better(kind: str, symmetric: bool, draw, observe) -> None:
    statistics = observe(draw(kind, size=20000))
    low, high = minmax.ranges(statistics, symmetric=symmetric)
    factors = np.geomspace(1e-3, 1, 40)
    pairs = [(x, x) for x in factors] if symmetric else [(x, y) for x in factors for y in factors]
    best = min(error(statistics.histogram, low * x, high * y, symmetric=symmetric) for x, y in pairs)
    found = mse.ranges(statistics, symmetric=symmetric)
    assert error(statistics.histogram, *found, symmetric=symmetric) <= best * 1.05


def test_fewer_bits_clip_more(draw, observe) -> None:
    statistics = observe(draw("laplace", size=30000))
    found = [mse.ranges(statistics, symmetric=True, bits=bits)[1] for bits in (3, 4, 6, 8)]
    assert found == sorted(found)
    # Banner et al. (2019), table 1: 2.83, 3.89 and 5.03 standard deviations / sqrt(2) for 2, 3 and 4 bits.
    assert found[1] == pytest.approx(5.03, rel=0.1)

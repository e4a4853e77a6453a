"""MinMax: everything that was seen."""

import numpy as np

from planc.calibration.minmax import ranges


def test_all_samples_count(observe) -> None:
    statistics = observe([-1, 2], [3, -0.5])
    assert ranges(statistics, symmetric=False) == (-1, 3)
    assert ranges(statistics, symmetric=True) == (-3, 3)


def test_zero_is_added(observe) -> None:
    assert ranges(observe([2, 3]), symmetric=False) == (0, 3)
    assert ranges(observe([-2, -3]), symmetric=False) == (-3, 0)


def test_what_is_not_finite_is_left_out(observe) -> None:
    assert ranges(observe([-1, np.inf, np.nan, 2]), symmetric=False) == (-1, 2)

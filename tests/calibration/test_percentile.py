"""Percentile: all but the outermost few."""

import numpy as np
import pytest

from planc.calibration.percentile import ranges


def test_both_ends_lose_the_same_share(observe) -> None:
    statistics = observe(np.linspace(-1, 3, 30001))
    assert ranges(statistics, symmetric=False, percentile=90) == pytest.approx((-0.8, 2.8), abs=0.02)
    assert ranges(statistics, symmetric=True, percentile=90) == pytest.approx((-2.6, 2.6), abs=0.02)


def test_a_hundred_percent_is_minmax(draw, observe) -> None:
    values = draw("normal")
    assert ranges(observe(values), symmetric=False, percentile=100) == (values.min(), values.max())


def test_an_outlier_is_left_out(draw, observe) -> None:
    low, high = ranges(observe(draw("outlier", size=30000)), symmetric=False)
    assert -5 < low < -3
    assert 3 < high < 5


def test_one_sided_stays_one_sided(draw, observe) -> None:
    assert ranges(observe(draw("relu")), symmetric=False)[0] == 0

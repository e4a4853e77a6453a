"""Entropy: the tail goes where it is thin, the side that does not clip stays."""

from itertools import pairwise

import numpy as np
import pytest

from planc.calibration.entropy import _divergences, ranges


@pytest.mark.parametrize("symmetric", [False, True])
def test_long_tails_are_clipped_and_bounded_ones_are_not(symmetric: bool, draw, observe) -> None:
    heavy = draw("heavy", size=30000)
    assert ranges(observe(heavy), symmetric=symmetric)[1] < np.abs(heavy).max() / 2
    flat = np.random.default_rng(0).uniform(-1, 1, 30000)
    assert ranges(observe(flat), symmetric=symmetric)[1] > 0.95


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_outlier_does_not_set_the_range(symmetric: bool, draw, observe) -> None:
    low, high = ranges(observe(draw("outlier", size=30000)), symmetric=symmetric)
    assert -20 < low < -2.5
    assert 2.5 < high < 20


def test_the_side_that_does_not_clip_stays(draw, observe) -> None:
    values = draw("silu", size=30000)
    low, high = ranges(observe(values), symmetric=False)
    assert low == values.min()
    assert 2 < high <= values.max()
    assert ranges(observe(draw("relu")), symmetric=False)[0] == 0
    assert ranges(observe(draw("negative")), symmetric=False)[1] == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_do_not_matter(symmetric: bool, draw, observe) -> None:
    values = draw("relu")
    zeros = np.zeros(20000)
    found = ranges(observe(values), symmetric=symmetric)
    assert ranges(observe(values, zeros), symmetric=symmetric) == found


def test_the_divergence_is_that_of_the_definition() -> None:
    """Migacz's loop, bin by bin."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3 * np.exp(-np.arange(256) / 40)).astype(float)
    below = np.concatenate(([0], np.cumsum(counts)))
    starts, stops, levels = np.array([0, 0, 10, 100]), np.array([256, 100, 131, 120]), 16
    found = _divergences(below, int(counts.sum()), starts, stops, levels)
    for start, stop, value in zip(starts, stops, found, strict=True):
        inside = counts[start:stop]
        p, q = inside.copy(), np.zeros(stop - start)
        p[0] += counts[:start].sum()
        p[-1] += counts[stop:].sum()
        cuts = np.arange(levels + 1) * (stop - start) // levels
        for first, last in pairwise(cuts):
            some = p[first:last] > 0
            q[first:last][some] = inside[first:last].sum() / max(some.sum(), 1)
        p, q = p / p.sum(), np.maximum(q / q.sum(), 1e-9)
        assert value == pytest.approx(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])), abs=1e-12)

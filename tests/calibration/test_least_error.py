"""Least error: the best of all methods but for what is not worth clipping."""

import pytest

from planc.calibration import METHODS
from planc.calibration._quantize import quality
from planc.calibration.least_error import CANDIDATES, choose, ranges


def test_all_other_methods_are_candidates() -> None:
    assert set(CANDIDATES) == set(METHODS) - {"least-error"}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["relu", "normal", "silu", "heavy", "outlier", "huge"])
def test_none_is_better(kind: str, symmetric: bool, draw, observe) -> None:
    statistics = observe(draw(kind), draw(kind, seed=1))
    name, *found = choose(statistics, symmetric=symmetric)
    assert tuple(found) == ranges(statistics, symmetric=symmetric) == CANDIDATES[name](statistics, symmetric=symmetric)
    best = quality(statistics, *found, symmetric=symmetric).sqnr_db
    for method in CANDIDATES.values():
        other = quality(statistics, *method(statistics, symmetric=symmetric), symmetric=symmetric)
        assert best >= other.sqnr_db - 0.11


def test_what_need_not_be_clipped_is_not(draw, observe) -> None:
    assert choose(observe(draw("huge")), symmetric=True)[0] == "minmax"
    assert choose(observe([0, 0]), symmetric=True)[0] == "minmax"

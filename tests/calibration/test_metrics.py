"""Metrics and the bounds that `--max-drop` sets on them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planc.calibration import metrics
from planc.calibration.metrics import HIGHER_IS_BETTER, METRICS, Bound, parse

REFERENCE = [np.float32([[1, 2, 3], [3, 2, 1]]), np.float32([[0, 5, 0], [1, 0, 0]])]
OTHER = [np.float32([[1, 2, 3], [1, 2, 3]]), np.float32([[0, 5, 0], [1, 0, 0]])]


def test_top1_is_agreement_without_labels() -> None:
    assert metrics.top1(REFERENCE, REFERENCE) == 1
    assert metrics.top1(OTHER, REFERENCE) == 0.75
    assert metrics.top1(OTHER, REFERENCE, [[2, 2], [0, 0]]) == 0.75
    assert metrics.top1(REFERENCE, REFERENCE, [np.array([2, 2]), np.array([0, 0])]) == 0.5
    with pytest.raises(ValueError, match="sample 0: 3 labels for 2 answers"):
        metrics.top1(OTHER, REFERENCE, [[1, 2, 3], [0]])


def test_the_others() -> None:
    ones = [np.ones((1, 4), np.float32)]
    assert metrics.cosine([2 * ones[0]], ones) == pytest.approx(1)
    assert metrics.cosine([-ones[0]], ones) == pytest.approx(-1)
    assert metrics.cosine([0 * ones[0]], [0 * ones[0]]) == 1
    assert metrics.mse([1.1 * ones[0]], ones) == pytest.approx(0.01)
    assert metrics.sqnr([1.1 * ones[0]], ones) == pytest.approx(20)
    assert metrics.sqnr(ones, ones) == math.inf
    assert metrics.mse(ones, [0 * ones[0]]) == math.inf
    assert metrics.sqnr([np.nan * ones[0]], ones) == -math.inf


def test_each_metric_has_a_direction() -> None:
    assert METRICS.keys() == HIGHER_IS_BETTER.keys()
    for name, metric in METRICS.items():
        good, bad = metric(REFERENCE, REFERENCE), metric([-one for one in REFERENCE], REFERENCE)
        assert (good > bad) == HIGHER_IS_BETTER[name]


@pytest.mark.parametrize("text", ["top1=0", "cosine=0", "mse=0", "sqnr=100"])
def test_the_reference_itself_holds(text: str) -> None:
    bound = parse(text)
    assert bound.holds(bound.loss(REFERENCE, REFERENCE))
    assert not bound.holds(bound.loss(OTHER, REFERENCE))
    assert not bound.holds(math.nan)


def test_a_loss_of_top1_is_of_the_model_against_the_reference() -> None:
    bound = parse("top1=25pp")
    assert bound.loss(OTHER, REFERENCE) == 0.25
    assert bound.holds(0.25)
    assert bound.loss(OTHER, REFERENCE, [[2, 2], [1, 0]]) == -0.25


@pytest.mark.parametrize(
    ("text", "metric", "limit", "shown"),
    [
        ("top1=0.5pp", "top1", 0.005, "top1=0.5pp"),
        ("top1=0.5%", "top1", 0.005, "top1=0.5pp"),
        ("top1=0.005", "top1", 0.005, "top1=0.5pp"),
        (" cosine = .005 ", "cosine", 0.005, "cosine=0.005"),
        ("sqnr=20dB", "sqnr", 20, "sqnr=20dB"),
        ("sqnr=20", "sqnr", 20, "sqnr=20dB"),
        ("mse=1e-3", "mse", 0.001, "mse=0.001"),
    ],
)
def test_bounds_are_parsed(text: str, metric: str, limit: float, shown: str) -> None:
    assert parse(text) == Bound(metric, pytest.approx(limit))
    assert str(parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top1", "not of the form METRIC=VALUE"),
        ("top1=-1", "not of the form"),
        ("top1=nan", "not of the form"),
        ("top5=1pp", "no metric 'top5', there are top1, cosine"),
        ("cosine=1pp", "cosine has no unit 'pp'"),
        ("top1=1dB", "top1 has no unit 'dB', but 'pp'"),
        ("top1=5", "top1 cannot drop by more than 1: write top1=5pp"),
        ("cosine=3", "cosine cannot drop by more than 2"),
    ],
)
def test_other_bounds_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


@given(st.sampled_from(sorted(METRICS)), st.floats(0, 1))
def test_a_bound_is_read_as_it_is_shown(metric: str, limit: float) -> None:
    assert parse(str(Bound(metric, limit))).limit == pytest.approx(limit, rel=1e-5)


def test_outputs_must_match() -> None:
    with pytest.raises(ValueError, match="1 outputs for 2 references"):
        metrics.mse(OTHER[:1], REFERENCE)
    with pytest.raises(ValueError, match="0 outputs for 0 references"):
        metrics.cosine([], [])
    with pytest.raises(ValueError, match="sample 0: the output has the shape"):
        metrics.sqnr([one[:1] for one in OTHER], REFERENCE)

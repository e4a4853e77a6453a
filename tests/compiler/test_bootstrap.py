"""Intervals: right about synthetic noise, where calls taken as independent are wrong."""

import math

import numpy as np
import pytest

from planc.compiler import bootstrap

Noise = tuple[list[list[list[float]]], list[list[list[float]]]]


def _machine(seed: int, slower: float = 0.0, *, processes: int = 10, rounds: int = 16) -> Noise:
    """Two subjects on a shared machine: its speed drifts for both, bursts hit blocks, each process has its own luck."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(0, 0.1, (processes, rounds))
    for index in range(1, rounds):
        drift[:, index] += 0.8 * drift[:, index - 1]

    def subject(more: float) -> list[list[list[float]]]:
        luck = rng.normal(0, 0.007, (processes, 1))
        bursts = 0.8 * (rng.random((processes, rounds)) < 0.1)
        level = np.exp(drift + luck + bursts + rng.normal(0, 0.03, (processes, rounds)) + math.log1p(more))
        calls = level[..., None] * np.exp(np.abs(rng.normal(0, 0.02, (processes, rounds, 5))))
        return calls.tolist()  # type: ignore[no-any-return]

    return subject(0.0), subject(slower)


def test_two_of_a_kind_never_differ_beyond_one_percent_and_five_percent_are_found() -> None:
    copies = [bootstrap.speedup(*reversed(_machine(seed))).inverse().interval(0.99) for seed in range(40)]
    assert sum(low > 1.01 or high < 1 / 1.01 for low, high in copies) == 0
    assert sum(low > 1 or high < 1 for low, high in copies) <= 2
    slowed = [bootstrap.speedup(*reversed(_machine(seed, 0.05))).inverse() for seed in range(40)]
    assert sum(one.interval(0.99)[0] > 1.01 for one in slowed) >= 37
    assert np.mean([one.value for one in slowed]) == pytest.approx(1.05, abs=0.005)


def test_calls_taken_as_independent_would_find_differences_that_are_not_there() -> None:
    """What this module is for: the same data, each call drawn on its own."""
    wrong = 0
    for seed in range(40):
        one, other = (np.log(np.asarray(side)).ravel() for side in _machine(seed))
        error = math.sqrt(one.var() / one.size + other.var() / other.size)
        wrong += abs(one.mean() - other.mean()) > 2.576 * error
    assert wrong >= 8


def test_a_baseline_of_another_time_is_less_sure() -> None:
    one, other = _machine(0)
    paired, apart = bootstrap.speedup(one, other).interval(0.99), bootstrap.speedup_apart(one, other).interval(0.99)
    assert apart[1] - apart[0] > 2 * (paired[1] - paired[0])
    assert bootstrap.speedup_apart(one, [[[2 * ms for ms in block] for block in side] for side in one]).value == (
        pytest.approx(2)
    )


def test_quantiles_are_those_of_all_calls() -> None:
    blocks = [[[5.0, 1.0, 2.0], [4.0, 3.0]], [[8.0, 7.0], [6.0, 9.0, 10.0]]]
    shares = [0.1, 0.5, 0.9, 0.95, 0.99]
    flat = [ms for process in blocks for block in process for ms in block]
    expected = np.quantile(flat, shares, method="inverted_cdf")
    assert [one.value for one in bootstrap.quantiles(blocks, shares)] == list(expected)


def test_the_mean_and_its_draws_stay_within_the_data() -> None:
    estimate = bootstrap.mean([[[1.0, 2.0], [3.0]], [[4.0], [5.0, 6.0]]])
    assert estimate.value == 3.5
    assert estimate.draws.shape == (bootstrap.DRAWS,)
    low, high = estimate.interval(0.9)
    assert low < 3.5 < high
    assert estimate.above(0) == 1
    assert estimate.above(100) == 0


def test_draws_take_whole_processes_and_runs_of_blocks() -> None:
    drawn = bootstrap.counts(3, 16).reshape(bootstrap.DRAWS, 3, 16)
    assert (drawn.sum(axis=(1, 2)) == 48).all()
    per_process = drawn.sum(axis=2)
    assert set(np.unique(per_process)) == {0, 16, 32, 48}
    once = drawn[per_process == 16]
    seams = (np.diff(once, axis=1) != 0).sum(axis=1)
    assert seams.mean() < 9, "16 blocks drawn alone change their number from one to the next about 11 times"


def test_few_processes_widen_the_interval() -> None:
    widths = []
    for processes in (4, 10):
        low, high = bootstrap.of_processes([1.0, 1.1] * (processes // 2)).interval(0.99)
        widths.append(high - low)
    assert widths[0] > 1.8 * widths[1], "sqrt(10 / 4) = 1.6 by their number alone"


@pytest.mark.parametrize(("freedom", "expected"), [(3, 5.8409), (5, 4.0321), (9, 3.2498), (30, 2.7500)])
def test_student(freedom: int, expected: float) -> None:
    assert bootstrap.student(freedom) == pytest.approx(expected, rel=0.04)


def test_inverse_and_unit() -> None:
    estimate = bootstrap.of_processes([2.0, 2.0])
    assert estimate.inverse().times(1e3).interval(0.99) == (500.0, 500.0)

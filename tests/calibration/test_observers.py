"""Observers: statistics are exact where they say so, and merge to the same bits in any order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from planc.calibration import observers
from planc.calibration.observers import SUBSAMPLE, Observer, Statistics

floats = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
samples = st.lists(floats, max_size=6)


def run(data: list[np.ndarray]) -> Observer:
    observer = Observer()
    for sample in data:
        observer.update(sample)
    return observer


def same(a: Statistics, b: Statistics) -> bool:
    scalars = ("count", "non_finite", "samples", "low", "high", "mean_low", "mean_high")
    equal = all(getattr(a, name) == getattr(b, name) for name in scalars)
    return equal and np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts)


@settings(max_examples=100, deadline=None)
@given(samples, st.randoms(use_true_random=False), st.integers(0, 6))
def test_shards_in_any_order_give_the_bits_of_one_run(data, random, cut) -> None:
    whole = run(data).statistics()
    random.shuffle(data)
    shards = [run(data[:cut]), run(data[cut:])]
    random.shuffle(shards)
    shards[0].merge(shards[1])
    assert same(shards[0].statistics(), whole)


@settings(max_examples=50, deadline=None)
@given(samples, samples, samples)
def test_merging_is_associative(a, b, c) -> None:
    left, right = run(a), run(b)
    left.merge(run(b))
    left.merge(run(c))
    right.merge(run(c))
    other = run(a)
    other.merge(right)
    assert same(left.statistics(), other.statistics())


@settings(max_examples=100, deadline=None)
@given(samples)
def test_counts_and_extremes_are_exact(data) -> None:
    found = run(data).statistics()
    values = np.concatenate([np.empty(0, np.float32), *data])
    finite = values[np.isfinite(values)]
    assert found.count == values.size
    assert found.non_finite == values.size - finite.size
    assert found.histogram.total == found.magnitudes.total == finite.size
    assert (found.low, found.high) == ((finite.min(), finite.max()) if finite.size else (0, 0))
    assert found.low <= found.mean_low <= found.mean_high <= found.high
    histogram = found.histogram
    assert np.all(histogram.left <= histogram.right)
    assert np.all(histogram.right[:-1] <= histogram.left[1:])


def test_the_histogram_counts_what_numpy_counts(draw) -> None:
    values = draw("laplace")
    histogram = run([values]).statistics().histogram
    below = np.searchsorted(np.sort(values), histogram.right, side="right")
    # A bin of negative values has its upper edge open, which a value lies on only where it has few bits.
    assert np.array_equal(np.cumsum(histogram.counts), below)
    assert np.array_equal(histogram.below(histogram.right), below)
    assert abs(histogram.quantile(0.5) - np.median(values)) < 0.01
    assert histogram.squares.sum() == pytest.approx(np.square(values.astype(float)).sum(), rel=1e-3)


def test_magnitudes_fold_both_signs(draw) -> None:
    values = draw("normal")
    folded, plain = run([values]).statistics().magnitudes, run([np.abs(values)]).statistics().histogram
    assert np.array_equal(folded.counts, plain.counts)
    assert np.array_equal(folded.right, plain.right)


def test_a_large_sample_is_thinned_evenly(draw) -> None:
    columns = np.tile(np.arange(1, 65, dtype=np.float32), 2000)  # a stride that shared a factor with 64 would miss some
    found = run([columns]).statistics()
    assert found.keys.size == 64
    assert np.ptp(found.counts) <= found.counts.max() * 0.01
    assert found.histogram.total == pytest.approx(columns.size, rel=1e-3)
    large = draw("normal", size=5 * SUBSAMPLE)
    assert (run([large]).statistics().low, run([large]).statistics().high) == (large.min(), large.max())


def test_samples_of_other_lengths_weigh_what_they_hold() -> None:
    found = run([np.full(4 * SUBSAMPLE, 1, np.float32), np.full(SUBSAMPLE, 2, np.float32)]).statistics()
    assert found.counts[0] / found.counts[1] == pytest.approx(4, rel=1e-3)


def test_the_mean_of_extremes_is_exact() -> None:
    data = [np.float32([-1e-45, 3e38]), np.float32([-3e38, 1e-45])]
    found, turned = run(data).statistics(), run(data[::-1]).statistics()
    assert found.mean_high == turned.mean_high == pytest.approx(1.5e38)
    assert found.mean_low == -found.mean_high


def test_other_floats_are_observed_as_float32() -> None:
    values = np.array([[1.5, -2.25], [0.0, 3.0]])
    expected = run([values.astype(np.float32)]).statistics()
    assert same(run([values]).statistics(), expected)
    assert same(run([values.astype(np.float16)]).statistics(), expected)
    assert same(run([np.asfortranarray(values)]).statistics(), expected)
    assert run([np.array([1e300, 1.0])]).statistics().non_finite == 1


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="int64 cannot be observed"):
        Observer().update(np.arange(3))


def test_what_is_saved_is_loaded_and_merges(tmp_path: Path, draw) -> None:
    parts = {"a/b": [draw("relu")], "ä": [draw("heavy", seed=1), np.float32([np.nan, 1])], "none": []}
    first = {name: run(data) for name, data in parts.items()}
    observers.save(tmp_path / "a.npz", first)
    second = observers.load(tmp_path / "a.npz")
    assert list(second) == sorted(first)
    assert all(same(first[name].statistics(), second[name].statistics()) for name in first)
    second["a/b"].merge(first["a/b"])
    assert second["a/b"].count == 2 * first["a/b"].count
    observers.save(tmp_path / "none.npz", {})
    assert observers.load(tmp_path / "none.npz") == {}


def test_statistics_that_are_none_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "text.npz").write_text("text")
    whole = tmp_path / "whole.npz"
    observers.save(whole, {"x": run([np.float32([1])])})
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-40])
    for name in ("other", "text", "cut"):
        with pytest.raises(ValueError, match=f"{name}.npz: not statistics"):
            observers.load(tmp_path / f"{name}.npz")

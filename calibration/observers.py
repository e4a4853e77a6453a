"""Mergeable statistics of tensors, gathered in one pass.

The histogram has one bin for each upper half of a float32, which is the value's bfloat16 truncation: sign, exponent and
7 bits of the mantissa. Its 65,536 bins cover all of float32 with a relative width of 2^-7 or less, so the range never
grows and nothing is ever binned anew. All that is kept is an integer or an extreme: merging is exact, commutative and
associative, and shards that were observed apart give the same bits as one run.
"""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

BINS = 1 << 16
SUBSAMPLE = 1 << 15
"""Most elements of one sample that enter the histogram."""

_PENDING = 1 << 17  # keys that wait for one bincount: it costs as much as 60,000 keys even for a single one
_SIGN, _INFINITY = 0x8000, 0x7F80  # bfloat16's sign bit; the key of +inf, above which there are only NaNs
_SCALE_BITS = 149  # every finite float32 is a whole multiple of 2^-149, its least denormal
_UPPER = 1 if np.little_endian else 0


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts over ascending, disjoint bins; within a bin, values count as evenly spread.

    Attributes:
        left: float64[bins], lower edges.
        right: float64[bins], upper edges; equal to `left` where all values of the bin are one.
        counts: int64[bins], all positive.
    """

    left: np.ndarray
    right: np.ndarray
    counts: np.ndarray

    @cached_property
    def total(self) -> int:
        """Sum of the counts."""
        return int(self.counts.sum())

    @cached_property
    def squares(self) -> np.ndarray:
        """float64[bins]: sum of x^2 in each bin, (a^2 + ab + b^2) / 3 for each of its values."""
        squares: np.ndarray = self.counts * (self.left**2 + self.left * self.right + self.right**2) / 3
        return squares

    @cached_property
    def _steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Edges and the counts below them: the corners of the piecewise linear distribution function."""
        above = np.cumsum(self.counts)
        edges = np.column_stack((self.left, self.right)).ravel()
        return edges, np.column_stack((above - self.counts, above)).ravel().astype(np.float64)

    def below(self, values: np.ndarray) -> np.ndarray:
        """Returns float64, shaped as `values`: how many observations are not greater than each."""
        edges, below = self._steps
        return np.interp(values, edges, below, left=0.0) if edges.size else np.zeros(np.shape(values))

    def quantile(self, share: float) -> float:
        """Returns the value that `share` of the observations do not exceed; 0 without observations."""
        edges, below = self._steps
        return float(np.interp(share * self.total, below, edges)) if edges.size else 0.0


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of one tensor, as the methods want it.

    Attributes:
        count: elements seen, with those that are not finite.
        non_finite: elements that are NaN or infinite in float32; they enter nothing else.
        samples: samples that had a finite element.
        low: least finite value; 0 where there is none.
        high: greatest finite value; 0 where there is none.
        mean_low: mean of the samples' least values.
        mean_high: mean of the samples' greatest values.
        keys: uint16[bins], ascending: the upper halves of float32 that occur.
        counts: int64[bins], how often they do.
    """

    count: int
    non_finite: int
    samples: int
    low: float
    high: float
    mean_low: float
    mean_high: float
    keys: np.ndarray
    counts: np.ndarray

    @cached_property
    def histogram(self) -> Histogram:
        """Of the values. The bin of zero has no width; the outermost ones end at `low` and `high`."""
        below, above = self.keys > _SIGN, (self.keys > 0) & (self.keys < _SIGN)
        inner, outer = _edges(self.keys[below][::-1] & 0x7FFF)  # more negative as the key grows
        left, right = _edges(self.keys[above])
        zeros = self.counts[self.keys & 0x7FFF == 0].sum(keepdims=True)
        return _clamped(
            np.concatenate((-outer, np.zeros(1), left)),
            np.concatenate((-inner, np.zeros(1), right)),
            np.concatenate((self.counts[below][::-1], zeros, self.counts[above])),
            self.low,
            self.high,
        )

    @cached_property
    def magnitudes(self) -> Histogram:
        """Of the absolute values."""
        dense = np.zeros(BINS, np.int64)
        dense[self.keys] = self.counts
        folded = dense[:_SIGN] + dense[_SIGN:]
        left, right = _edges(np.arange(_INFINITY, dtype=np.uint16))
        right[0] = 0.0
        least = max(self.low, -self.high, 0.0)
        return _clamped(left, right, folded[:_INFINITY], least, max(abs(self.low), abs(self.high)))


class Observer:
    """Gathers the statistics of one tensor, one sample at a time.

    Extremes are exact over all elements. A sample of more than SUBSAMPLE elements enters the histogram with every n-th
    of them, each counted n times; n is coprime with the sample's size, hence with every stride of its axes, so that all
    channels and columns are visited alike. Which elements these are depends on the sample alone: give `update` one
    sample at a time, and the result does not depend on how samples were put into batches and shards.

    The moving average is the mean of the samples' extremes, which unlike an exponential one depends on no order. Their
    sums are kept as Python integers in units of 2^-149, so that they are exact too.

    Memory: 512 KiB for the counts and 256 KiB for keys that wait to be counted, whatever was seen.
    """

    def __init__(self) -> None:
        self.count = 0
        self.non_finite = 0
        self.samples = 0
        self.low = math.inf
        self.high = -math.inf
        self._low_sum = 0
        self._high_sum = 0
        self._counts = np.zeros(BINS, np.int64)
        self._pending: np.ndarray | None = None
        self._waiting = 0
        self._weight = 1

    def update(self, sample: np.ndarray) -> None:
        """Adds one sample: floats of any shape and precision, observed as float32.

        Raises:
            ValueError: the sample does not hold floats.
        """
        values = _float32(sample)
        if not values.size:
            return
        self.count += values.size
        self._count_keys(values)
        with np.errstate(invalid="ignore"):
            low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN comes out of either, infinity out of one
            finite = values[np.isfinite(values)]
            self.non_finite += values.size - finite.size
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
        self.samples += 1
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._low_sum += _units(low)
        self._high_sum += _units(high)

    def merge(self, other: "Observer") -> None:
        """Adds what `other` has seen."""
        self._flush()
        other._flush()
        self.count += other.count
        self.non_finite += other.non_finite
        self.samples += other.samples
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._low_sum += other._low_sum
        self._high_sum += other._high_sum
        self._counts += other._counts

    def statistics(self) -> Statistics:
        """Returns what is known so far."""
        self._flush()
        finite = self._counts.copy()
        finite[_INFINITY:_SIGN] = 0
        finite[_SIGN + _INFINITY :] = 0
        keys = np.flatnonzero(finite)
        units = self.samples << _SCALE_BITS
        return Statistics(
            count=self.count,
            non_finite=self.non_finite,
            samples=self.samples,
            low=self.low + 0.0 if self.samples else 0.0,  # + 0.0: no -0.0, which would depend on the order
            high=self.high + 0.0 if self.samples else 0.0,
            mean_low=self._low_sum / units if units else 0.0,
            mean_high=self._high_sum / units if units else 0.0,
            keys=keys.astype(np.uint16),
            counts=finite[keys],
        )

    def _count_keys(self, values: np.ndarray) -> None:
        weight = _stride(values.size)
        keys = values.view(np.uint16)[_UPPER :: 2 * weight]
        if self._pending is None:
            self._pending = np.empty(_PENDING, np.uint16)
        if weight != self._weight or self._waiting + keys.size > _PENDING:
            self._flush()
            self._weight = weight
        self._pending[self._waiting : self._waiting + keys.size] = keys
        self._waiting += keys.size

    def _flush(self) -> None:
        if self._pending is not None and self._waiting:
            counts = np.bincount(self._pending[: self._waiting])
            self._counts[: counts.size] += counts * self._weight
            self._waiting = 0


def save(path: Path, observers: Mapping[str, Observer]) -> None:
    """Writes observers to an .npz, which `load` reads in another process."""
    names = sorted(observers)
    each = [observers[name] for name in names]
    for one in each:
        one._flush()
    keys = [np.flatnonzero(one._counts) for one in each]
    arrays = {
        "names": np.array(names, dtype=np.str_),
        "integers": np.array([[one.count, one.non_finite, one.samples] for one in each], np.int64).reshape(-1, 3),
        "extremes": np.array([[one.low, one.high] for one in each], np.float64).reshape(-1, 2),
        "sums": np.array([[str(one._low_sum), str(one._high_sum)] for one in each], np.str_).reshape(-1, 2),
        "bins": np.array([key.size for key in keys], np.int64),
        "keys": np.concatenate([np.empty(0, np.uint16), *keys]).astype(np.uint16),
        "counts": np.concatenate(
            [np.empty(0, np.int64), *(one._counts[key] for one, key in zip(each, keys, strict=True))]
        ),
    }
    with Path(path).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load(path: Path) -> dict[str, Observer]:
    """Reads what `save` wrote.

    Raises:
        ValueError: the file does not hold statistics.
        OSError: the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _loaded({name: archive[name] for name in archive.files})
    except (ValueError, KeyError, IndexError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not statistics of planc: {error}") from error


def _loaded(arrays: Mapping[str, np.ndarray]) -> dict[str, Observer]:
    observers: dict[str, Observer] = {}
    starts = np.cumsum(arrays["bins"]) - arrays["bins"]
    for row, name in enumerate(arrays["names"]):
        one = observers[str(name)] = Observer()
        one.count, one.non_finite, one.samples = (int(value) for value in arrays["integers"][row])
        one.low, one.high = (float(value) for value in arrays["extremes"][row])
        one._low_sum, one._high_sum = (int(value) for value in arrays["sums"][row])
        bins = slice(starts[row], starts[row] + arrays["bins"][row])
        one._counts[arrays["keys"][bins]] = arrays["counts"][bins]
    return observers


def _float32(sample: np.ndarray) -> np.ndarray:
    if sample.dtype.kind != "f" and sample.dtype.name != "bfloat16":
        raise ValueError(f"a sample of {sample.dtype} cannot be observed, only floats")
    with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite there, and is counted as such
        return np.ascontiguousarray(sample, dtype=np.float32).reshape(-1)


def _stride(size: int) -> int:
    """Returns the least n that is coprime with `size` and leaves at most SUBSAMPLE of its elements."""
    stride = -(-size // SUBSAMPLE)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


def _units(value: float) -> int:
    return int(value * 2.0**_SCALE_BITS)


def _edges(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the float64 edges of the bins of positive `keys`, uint16; the one below infinity ends at infinity."""
    wide = keys.astype(np.uint32)
    left, right = ((one << 16).view(np.float32).astype(np.float64) for one in (wide, wide + 1))
    return left, right


def _clamped(left: np.ndarray, right: np.ndarray, counts: np.ndarray, low: float, high: float) -> Histogram:
    """A histogram of the bins that are not empty, cut at the extremes, which are known exactly."""
    some = counts > 0
    return Histogram(np.clip(left[some], low, high), np.clip(right[some], low, high), counts[some])

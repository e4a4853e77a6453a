"""The calibration table, `ranges.json`: each tensor's range for either kind of quantization, hence for all backends."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from . import METHODS, least_error
from ._quantize import quality
from .observers import Observer, Statistics

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Choice:
    """How one range came about and what it does to the values that were observed.

    Attributes:
        method: the method that gave it: where the table's is "least-error", the one that was chosen.
        sqnr_db: expected signal-to-quantization-noise ratio in dB; None where there is no error, as of zeros.
        saturated: share of the values more than half a step outside of the range, 0 to 1.
    """

    method: str
    sqnr_db: float | None
    saturated: float


@dataclass(frozen=True)
class TensorRange:
    """Ranges of one tensor, both with zero in them; empty, (0, 0), where all values are zero.

    Attributes:
        count: elements seen.
        non_finite: how many of them are NaN or infinite; the ranges are of the others.
        min: least finite value.
        max: greatest finite value.
        affine: (low, high) of unsigned, asymmetric quantization; zero can be moved onto an integer.
        symmetric: the greatest magnitude of signed quantization with zero point 0.
        affine_choice: how `affine` came about.
        symmetric_choice: how `symmetric` came about.
    """

    count: int
    non_finite: int
    min: float
    max: float
    affine: tuple[float, float]
    symmetric: float
    affine_choice: Choice
    symmetric_choice: Choice


@dataclass(frozen=True)
class Channels:
    """Extremes of each channel, on the last axis of a tensor.

    Attributes:
        low: least values.
        high: greatest values.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class RangeTable:
    """Ranges of all tensors, and what they were made from.

    Attributes:
        method: one of METHODS.
        samples: samples that were run.
        source: name of the data, or "random".
        source_digest: sha256 of the data, in hexadecimal; empty for random data.
        model_digest: sha256 of the model that was run, in hexadecimal.
        tensors: by name.
        bits: of the integers, for which methods weigh rounding against clipping.
        channels: extremes of the channels of what a matrix multiplies, by name of the tensor.
    """

    method: str
    samples: int
    source: str
    source_digest: str
    model_digest: str
    tensors: Mapping[str, TensorRange] = field(default_factory=dict)
    bits: int = 8
    channels: Mapping[str, Channels] = field(default_factory=dict)

    @property
    def non_finite(self) -> dict[str, int]:
        """How many values are NaN or infinite, by tensor that has any: to be left alone if a mask, mended if not."""
        return {name: one.non_finite for name, one in self.tensors.items() if one.non_finite}

    def save(self, path: Path) -> None:
        """Writes the table, a line for each tensor: equal tables give equal bytes."""
        content = sorted({"schema_version": SCHEMA_VERSION, **vars(self)}.items())
        text = ",\n".join(f"{_json(key)}: {_json_lines(value)}" for key, value in content)
        Path(path).write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def table(
    statistics: Mapping[str, Observer],
    method: str,
    *,
    source: str,
    source_digest: str,
    model_digest: str,
    samples: int | None = None,
    bits: int = 8,
    percentile: float | None = None,
    channels: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    whole: Collection[str] = (),
) -> RangeTable:
    """Returns the ranges that `method` chooses from the statistics of each tensor.

    Args:
        statistics: by tensor.
        method: one of METHODS.
        source: name of the data, or "random".
        source_digest: sha256 of the data; empty for random data.
        model_digest: sha256 of the model.
        samples: samples that were run; None: the most that a tensor has seen.
        bits: of the integers.
        percentile: the share in percent that "percentile" keeps; None: its default.
        channels: least and greatest value of each channel, of shape [channels], by tensor.
        whole: tensors of which nothing may be clipped: they get "minmax" whatever the method.

    Raises:
        ValueError: the method is unknown, or has no percentile, or a tensor was never observed.
    """
    if method not in METHODS:
        raise ValueError(f"no calibration method {method!r}: there are {', '.join(METHODS)}")
    if percentile is not None and (method != "percentile" or not 50 < percentile <= 100):
        raise ValueError(f"percentile {percentile:g} with the method {method!r}: wanted 50 to 100 with 'percentile'")
    options = {} if percentile is None else {"percentile": percentile}
    tensors = {}
    for name in sorted(statistics):
        one = statistics[name].statistics()
        if not one.count:
            raise ValueError(f"tensor {name!r} was never observed")
        tensors[name] = _tensor(one, "minmax" if name in whole else method, bits, {} if name in whole else options)
    most = max((one.samples for one in statistics.values()), default=0)
    count = most if samples is None else samples
    extremes = {name: Channels(_numbers(low), _numbers(high)) for name, (low, high) in sorted((channels or {}).items())}
    return RangeTable(method, count, source, source_digest, model_digest, tensors, bits, extremes)


def load(path: Path) -> RangeTable:
    """Reads what `RangeTable.save` wrote.

    Raises:
        ValueError: the file does not hold a calibration table.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise ValueError(f"{path}: not a calibration table: it has no schema_version")
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema_version {content['schema_version']!r}; this planc reads {SCHEMA_VERSION}")
    try:
        return _Reader(content).table()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, default=vars)


def _json_lines(value: Any) -> str:
    """An object with a line for each of its items; anything else on one line."""
    if not isinstance(value, Mapping) or not value:
        return _json(value)
    return "{\n" + ",\n".join(f" {_json(key)}: {_json(one)}" for key, one in sorted(value.items())) + "\n}"


def _tensor(statistics: Statistics, method: str, bits: int, options: Mapping[str, Any]) -> TensorRange:
    *affine, affine_choice = _choose(statistics, method, bits, options, symmetric=False)
    _, amax, symmetric_choice = _choose(statistics, method, bits, options, symmetric=True)
    return TensorRange(
        count=statistics.count,
        non_finite=statistics.non_finite,
        min=_rounded(statistics.low),
        max=_rounded(statistics.high),
        affine=(affine[0], affine[1]),
        symmetric=amax,
        affine_choice=affine_choice,
        symmetric_choice=symmetric_choice,
    )


def _choose(
    statistics: Statistics, method: str, bits: int, options: Mapping[str, Any], *, symmetric: bool
) -> tuple[float, float, Choice]:
    if method == "least-error":
        method, low, high = least_error.choose(statistics, symmetric=symmetric, bits=bits)
    else:
        module = import_module(f".{method.replace('-', '_')}", __package__)
        low, high = module.ranges(statistics, symmetric=symmetric, bits=bits, **options)
    low, high = _rounded(low), _rounded(high)
    found = quality(statistics, low, high, symmetric=symmetric, bits=bits)
    sqnr = None if found.sqnr_db is None else round(found.sqnr_db, 3)
    return low, high, Choice(method, sqnr, round(found.saturated, 9))


def _rounded(value: float) -> float:
    """Nine digits: every float32 stays what it is, and the text stays short."""
    return float(f"{value:.9g}")


def _numbers(array: np.ndarray) -> tuple[float, ...]:
    return tuple(_rounded(float(value)) + 0.0 for value in array)  # no -0.0, which would depend on the order


class _Reader:
    """Reads values by their path in the document, which is what its errors name."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def table(self) -> RangeTable:
        return RangeTable(
            method=self.text("method"),
            samples=self.whole("samples"),
            source=self.text("source"),
            source_digest=self.text("source_digest"),
            model_digest=self.text("model_digest"),
            tensors={name: self.tensor(name) for name in self.get("tensors", kind=dict)},
            bits=self.whole("bits"),
            channels={name: self.channels(name) for name in self.get("channels", kind=dict)},
        )

    def channels(self, name: str) -> Channels:
        sides = []
        for side in ("low", "high"):
            at = ("channels", name, side)
            sides.append(tuple(_number(one, at) for one in self.get(*at, kind=list)))
        low, high = sides
        if len(low) != len(high) or any(one > other for one, other in zip(low, high, strict=True)):
            raise ValueError(f"channels of {name!r}: low and high do not fit")
        return Channels(low, high)

    def tensor(self, name: str) -> TensorRange:
        at = ("tensors", name)
        affine = self.get(*at, "affine", kind=list)
        if len(affine) != 2:
            raise ValueError(f"tensor {name!r}: affine is not [low, high]")
        low, high = (_number(one, (*at, "affine")) for one in affine)
        one = TensorRange(
            count=self.whole(*at, "count"),
            non_finite=self.whole(*at, "non_finite"),
            min=self.number(*at, "min"),
            max=self.number(*at, "max"),
            affine=(low, high),
            symmetric=self.number(*at, "symmetric"),
            affine_choice=self.choice(*at, "affine_choice"),
            symmetric_choice=self.choice(*at, "symmetric_choice"),
        )
        if one.min > one.max:
            raise ValueError(f"tensor {name!r}: min {one.min:g} is greater than max {one.max:g}")
        if not low <= 0 <= high:
            raise ValueError(f"tensor {name!r}: the affine range [{low:g}, {high:g}] does not have zero in it")
        if one.symmetric < 0:
            raise ValueError(f"tensor {name!r}: the symmetric range {one.symmetric:g} is negative")
        return one

    def choice(self, *at: str) -> Choice:
        sqnr = self.get(*at, "sqnr_db", kind=(int, float, type(None)))
        return Choice(
            method=self.text(*at, "method"),
            sqnr_db=None if sqnr is None else _number(sqnr, (*at, "sqnr_db")),
            saturated=self.number(*at, "saturated"),
        )

    def number(self, *at: str) -> float:
        return _number(self.get(*at, kind=(int, float)), at)

    def whole(self, *at: str) -> int:
        value: int = self.get(*at, kind=int)
        if value < 0:
            raise ValueError(f"{_path(at)} is negative: {value}")
        return value

    def text(self, *at: str) -> str:
        value: str = self.get(*at, kind=str)
        return value

    def get(self, *at: str, kind: type | tuple[type, ...]) -> Any:
        found: Any = self.content
        for key in at:
            if not isinstance(found, dict) or key not in found:
                raise ValueError(f"{_path(at)} is missing")
            found = found[key]
        if not isinstance(found, kind) or isinstance(found, bool):
            raise ValueError(f"{_path(at)} is wrong: {found!r:.60}")
        return found


def _number(value: Any, at: tuple[str, ...]) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{_path(at)} is not a finite number: {value!r:.60}")
    return float(value)


def _path(at: tuple[str, ...]) -> str:
    """`tensor 'conv1': symmetric`, or a key of the top level."""
    return f"tensor {at[1]!r}: {'.'.join(at[2:])}" if at[0] == "tensors" and len(at) > 2 else ".".join(at)

"""The shape language: `--input NAME=dtype[dim,...][:low..high]` and `--dim NAME=min..max@opt | a|b|c | n`.

One language for torch.export dims, ONNX inputs, backend bounds and the sizes at which an artifact is proven.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .errors import UsageError, did_you_mean

DTYPES = (
    "float32", "float16", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip

_INPUT = re.compile(r"(?P<name>[^=]+)=(?P<dtype>\w+)\[(?P<dims>[^\]]*)\](?::(?P<low>[^.]+(?:\.\d+)?)\.\.(?P<high>.+))?")
_RANGE = re.compile(r"(?P<min>\d+)\.\.(?P<max>\d+)(?:@(?P<opt>\d+))?", re.ASCII)
_INTEGER = re.compile(r"(?P<unsigned>u?)int(?P<bits>\d+)")
_SYMBOL = re.compile(r"[^\s,\[\]=|]+")  # as ONNX files have them: p2o.DynamicDimension.0
_NUMBER_LIKE = re.compile(r"[\d.+-]")


@dataclass(frozen=True)
class Dim:
    """A named dimension and the sizes it may take.

    Attributes:
        name: symbol used in input shapes.
        sizes: ascending sizes that are proven; the first is the minimum, the last the maximum.
        opt: the size that matters most; latency is measured there.
        choice: whether `sizes` are all that there are, as in `128|256`; else they are the ends and the best of a range.
    """

    name: str
    sizes: tuple[int, ...]
    opt: int
    choice: bool = False

    @property
    def min(self) -> int:
        """Least size."""
        return self.sizes[0]

    @property
    def max(self) -> int:
        """Greatest size."""
        return self.sizes[-1]

    def __str__(self) -> str:
        if self.min == self.max:
            return f"{self.name}={self.min}"
        return f"{self.name}={self.min}..{self.max}@{self.opt}"


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output.

    Attributes:
        name: name in the graph.
        dtype: one of DTYPES.
        shape: sizes (int) and symbols (str), outermost first.
        low: least value drawn where planc makes data itself; None: by dtype.
        high: greatest value drawn, included.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: float | None = None
    high: float | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the dynamic dimensions."""
        return tuple(size for size in self.shape if isinstance(size, str))

    def at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Returns the shape with every symbol replaced by its size."""
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    def __str__(self) -> str:
        return f"{self.name}={self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Point:
    """One assignment of sizes to all dimensions, such as the one where each has its minimum."""

    label: str
    sizes: Mapping[str, int]


def parse_input(text: str) -> TensorSpec:
    """Parses `x=float32[batch,3,224,224]` or `ids=int64[batch,seq]:0..30521`.

    Raises:
        UsageError: the text is not of that form, the dtype is unknown or a size is not positive.
    """
    match = _INPUT.fullmatch(text.strip())
    if not match:
        raise UsageError(
            f"--input {text!r} is not of the form NAME=dtype[dim,...]",
            hint="Write --input 'x=float32[batch,3,224,224]'",
        )
    dtype = match["dtype"]
    if dtype not in DTYPES:
        near = {"double": "float64", "float": "float32", "half": "float16", "int": "int64", "long": "int64"}.get(dtype)
        hint = f"Did you mean {near!r}?" if near else did_you_mean(dtype, DTYPES)
        raise UsageError(f"--input {text!r}: unknown dtype {dtype!r}", hint=hint)
    dims = [size.strip() for size in match["dims"].split(",")] if match["dims"].strip() else []
    low, high = _bounds(text, dtype, match["low"], match["high"])
    return TensorSpec(match["name"].strip(), dtype, tuple(_size(text, size) for size in dims), low, high)


def parse_dim(text: str) -> Dim:
    """Parses `batch=1..32@8`, `batch=1..32`, `seq=128|256|512` or `batch=8`.

    Without `@opt` the minimum is the optimum.

    Raises:
        UsageError: the text is not of that form or the sizes contradict each other.
    """
    name, _, rest = (part.strip() for part in text.partition("="))
    if not _SYMBOL.fullmatch(name) or not rest:
        raise UsageError(
            f"--dim {text!r} is not of the form NAME=min..max@opt",
            hint="Write --dim batch=1..32@8, seq=128|256 or batch=8",
        )
    if match := _RANGE.fullmatch(rest):
        least, most = int(match["min"]), int(match["max"])
        opt = int(match["opt"] or least)
        if not 1 <= least <= opt <= most:
            low, high = sorted((max(least, 1), max(most, 1)))
            raise UsageError(
                f"--dim {text!r}: sizes must satisfy 1 <= min <= opt <= max",
                hint=f"Write --dim {name}={low}..{high}@{min(max(opt, low), high)}",
            )
        return Dim(name, tuple(sorted({least, opt, most})), opt)
    sizes = rest.split("|")
    if not all(size.strip().isdecimal() and size.isascii() and int(size) > 0 for size in sizes):
        raise UsageError(
            f"--dim {text!r} is not of the form NAME=min..max@opt",
            hint=f"Write --dim {name}=1..32@8, {name}=128|256 or {name}=8",
        )
    values = [int(size) for size in sizes]
    return Dim(name, tuple(sorted(set(values))), values[0], choice=len(set(values)) > 1)


def check_dims(inputs: Sequence[TensorSpec], dims: Sequence[Dim]) -> None:
    """Checks that every symbol of the inputs has a Dim and that every Dim is used.

    Raises:
        UsageError: a symbol without sizes, sizes without a symbol, or a name given twice.
    """
    for kind, names in (("--input", [spec.name for spec in inputs]), ("--dim", [dim.name for dim in dims])):
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"{kind} {name} is given twice", hint=f"Keep one {kind} {name}=...")
    symbols = {symbol for spec in inputs for symbol in spec.symbols}
    known = {dim.name for dim in dims}
    for name in sorted(known - symbols):
        raise UsageError(
            f"--dim {name}: no input has a dimension {name!r}",
            hint=did_you_mean(name, symbols) or "The inputs have no dynamic dimension: leave --dim out",
        )
    for spec in inputs:
        for symbol in spec.symbols:
            if symbol not in known:
                raise UsageError(
                    f"input {spec} has the dynamic dimension {symbol!r} without sizes",
                    hint=f"Add --dim {symbol}=1..8@1, or fix it with --dim {symbol}=1",
                )


def fix(specs: Sequence[TensorSpec], dims: Sequence[Dim]) -> tuple[tuple[TensorSpec, ...], tuple[Dim, ...]]:
    """Replaces the symbols of dimensions that have one size by that size; returns specs and the other dims."""
    sizes = {dim.name: dim.min for dim in dims if dim.min == dim.max}
    fixed = tuple(
        replace(spec, shape=tuple(sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape))
        for spec in specs
    )
    return fixed, tuple(dim for dim in dims if dim.name not in sizes)


def points(dims: Sequence[Dim]) -> tuple[Point, ...]:
    """Returns the sizes at which an artifact is proven: all at opt, all at min, all at max, then each choice.

    The first point is always "opt". Points with equal sizes are given once.
    """
    wanted = [
        Point("opt", {dim.name: dim.opt for dim in dims}),
        Point("min", {dim.name: dim.min for dim in dims}),
        Point("max", {dim.name: dim.max for dim in dims}),
    ]
    for dim in dims:
        wanted += [Point(f"{dim.name}={size}", {**wanted[0].sizes, dim.name: size}) for size in dim.sizes[1:-1]]
    return _distinct(wanted)


def _distinct(wanted: Iterable[Point]) -> tuple[Point, ...]:
    seen: dict[tuple[tuple[str, int], ...], Point] = {}
    for point in wanted:
        seen.setdefault(tuple(sorted(point.sizes.items())), point)
    return tuple(seen.values())


def _size(text: str, size: str) -> int | str:
    if size.isdecimal() and size.isascii() and int(size) > 0:
        return int(size)
    if _SYMBOL.fullmatch(size) and not _NUMBER_LIKE.match(size):
        return size
    raise UsageError(
        f"--input {text!r}: {size!r} is neither a positive size nor a name",
        hint="Write --input 'x=float32[batch,3,224,224]'",
    )


def _bounds(text: str, dtype: str, low: str | None, high: str | None) -> tuple[float | None, float | None]:
    if low is None or high is None:
        return None, None
    try:
        least, most = float(low), float(high)
    except ValueError:
        least = most = math.nan
    if not (math.isfinite(least) and math.isfinite(most)):
        raise UsageError(
            f"--input {text!r}: {low}..{high} is not a range of numbers",
            hint="Write --input 'ids=int64[batch,seq]:0..30521'",
        )
    if least > most:
        raise UsageError(f"--input {text!r}: the range {low}..{high} is empty", hint=f"Write :{high}..{low}")
    if kind := _INTEGER.fullmatch(dtype):
        bits = int(kind["bits"])
        lowest, highest = (0, 2**bits - 1) if kind["unsigned"] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if not (least.is_integer() and most.is_integer() and lowest <= least and most <= highest):
            raise UsageError(
                f"--input {text!r}: {low}..{high} are not bounds of {dtype}",
                hint=f"Give whole numbers within {lowest}..{highest}",
            )
    return least, most

"""Calibration data: feeds of one sample each, from an .npz, a folder or Python, checked against the model's inputs.

An array whose rank is the input's has one row for each sample: the row is fed with its leading axis kept at 1, or as
many rows at once as the input's first dimension is fixed to, where a remainder is dropped. An array of one rank more
holds whole feeds: `array[i]` is fed as it is. Dtypes may differ where the model loses nothing: floats become any
float, integers and booleans become any integer or float that holds their values. A float never becomes an integer.
"""

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.format import MAGIC_PREFIX

from . import _archive

Feed = dict[str, np.ndarray]


class DataError(ValueError):
    """The data is not what the model wants; the text names the file or item, and the input."""


class InputSpec(Protocol):
    """Name, dtype and shape of a model's input, as `planc.compiler.shapes.TensorSpec` has them."""

    @property
    def name(self) -> str:
        """Name in the graph."""

    @property
    def dtype(self) -> str:
        """Numpy's name, such as "float32"."""

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Sizes, and symbols for the dynamic ones."""


@dataclass
class Tally:
    """What `feeds` has yielded so far.

    Attributes:
        samples: feeds that were yielded.
        dropped: rows that did not fill the last feed of an array.
        integers: inputs whose integers were made floats, with both dtypes: images may lack their normalization.
    """

    samples: int = 0
    dropped: int = 0
    integers: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, feed: Mapping[str, np.ndarray]) -> None:
        """Counts one feed."""
        self.samples += 1
        for name in sorted(feed):
            array = feed[name]
            self._sha256.update(f"{name}\0{array.dtype.name}{array.shape}\0".encode())
            self._sha256.update(np.ascontiguousarray(array).tobytes())

    def digest(self) -> str:
        """Returns the sha256 of names, dtypes, shapes and values in order, whatever files they came from."""
        return self._sha256.hexdigest()


def feeds(
    source: Path | Callable[[], Iterable[Mapping[str, Any]]] | Iterable[Mapping[str, Any]],
    specs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    tally: Tally | None = None,
    strip: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Iterator[Feed]:
    """Yields feeds of one sample each: one array for each input, with the dtype and the shape that it wants.

    Args:
        source: an .npz with an array for each input; an .npy of the only input; a folder of such files, read one after
            the other in natural order of their names ("x2" before "x10"); or an iterable of dicts from input name to
            array, or a function that returns one. A file or dict may hold one sample or several.
        specs: the model's inputs.
        samples: the most feeds to yield, the first ones; None: all.
        tally: is told of every feed.
        strip: takes what is no input, such as labels, out of a file or dict.

    Raises:
        DataError: there is no sample, or one does not fit the inputs.
        OSError: a file cannot be read.
    """
    if samples is not None and samples < 1:
        raise DataError(f"{samples} samples: at least 1 is needed")
    counted = Tally() if tally is None else tally
    for feed in islice(_all(source, specs, counted, strip or dict), samples):
        counted.add(feed)
        yield feed
    if not counted.samples:
        where = str(source) if isinstance(source, str | Path) else "the calibration data"
        rows = f": {counted.dropped} rows do not fill one batch" if counted.dropped else ""
        raise DataError(f"{where}: no samples{rows}")


def random(specs: Sequence[InputSpec], sizes: Sequence[Mapping[str, int]], n: int, seed: int = 0) -> Iterator[Feed]:
    """Yields `n` random feeds, the same at every call; the symbols have each of `sizes` in turns.

    Floats are standard normal and integers 0 or 1, unless the spec has `low` and `high`: then they are uniform.
    """
    rng = np.random.default_rng(seed)
    for index in range(n):
        yield {spec.name: _draw(rng, spec, sizes[index % len(sizes)]) for spec in specs}


def _draw(rng: "np.random.Generator", spec: InputSpec, sizes: Mapping[str, int]) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    shape = tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)
    low: float | None = getattr(spec, "low", None)
    high: float | None = getattr(spec, "high", None)
    if dtype.kind == "f":
        if low is not None and high is not None:
            return np.asarray(rng.uniform(low, high, shape), dtype)
        return np.asarray(rng.standard_normal(shape, dtype=np.float32), dtype)
    whole = np.int64 if dtype == np.bool_ else dtype
    least, most = (int(low), int(high)) if low is not None and high is not None else (0, 1)
    return open_rows(np.asarray(rng.integers(least, most, shape, dtype=whole, endpoint=True), dtype), least, most)


def open_rows(array: np.ndarray, least: int, most: int) -> np.ndarray:
    """Lets rows of 0 and 1 begin with 1: as masks they hide no row wholly, where runtimes differ."""
    if (least, most) == (0, 1) and array.ndim:
        array[..., :1] = 1
    return array


def _all(
    source: Any, specs: Sequence[InputSpec], tally: Tally, strip: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[Feed]:
    if isinstance(source, str | Path):
        for path in _files(Path(source), specs):
            with _opened(path, specs) as arrays:
                yield from _feeds(strip(arrays), specs, str(path), tally)
        return
    items = source() if callable(source) else source
    if not isinstance(items, Iterable) or isinstance(items, Mapping):
        raise DataError(f"the calibration data is {type(items).__name__}, not an iterable of dicts")
    for index, item in enumerate(items):
        where = f"item {index} of the calibration data"
        if not isinstance(item, Mapping):
            raise DataError(f"{where} is {type(item).__name__}, not a dict from input name to array")
        arrays = {str(name): np.asarray(_detached(value)) for name, value in item.items()}
        yield from _feeds(strip(arrays), specs, where, tally)


def _detached(value: Any) -> Any:
    """A tensor of torch that has a gradient, without it."""
    return value.detach() if getattr(value, "requires_grad", False) else value


def _files(path: Path, specs: Sequence[InputSpec]) -> list[Path]:
    if path.is_dir():
        suffixes = (".npz", ".npy") if len(specs) == 1 else (".npz",)
        found = [
            one for one in path.iterdir() if one.suffix in (".npz", ".npy") and one.is_file() and one.name[0] != "."
        ]
        files = sorted((one for one in found if one.suffix in suffixes), key=_natural)
        if found and not files:
            raise DataError(f"{path}: an .npy holds one input, the model has {len(specs)}: save each sample as .npz")
        if not files:
            raise DataError(f"{path}: no .npz or .npy files in this folder")
        return files
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix not in (".npz", ".npy"):
        raise DataError(f"{path}: neither an .npz, an .npy nor a folder of them")
    if path.suffix == ".npy" and len(specs) != 1:
        raise DataError(f"{path}: an .npy holds one input, the model has {len(specs)}: save them as .npz")
    return [path]


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


@contextmanager
def _opened(path: Path, specs: Sequence[InputSpec]) -> Iterator[dict[str, Any]]:
    """Opens a file: arrays by name, whose rows are read as they are asked for."""
    with path.open("rb") as file:
        is_array = file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
    try:
        if is_array and path.suffix == ".npy":
            yield {specs[0].name: np.load(path, mmap_mode="r", allow_pickle=False)}
        elif is_array or (path.suffix == ".npy" and zipfile.is_zipfile(path)):
            other = ".npy" if is_array else ".npz"
            raise DataError(f"{path}: not an {path.suffix}, but {other}: rename it")
        else:
            with _archive.rows(path) as arrays:
                yield arrays
    except (OSError, DataError):
        raise
    except Exception as error:  # zip, zlib and numpy have an error of their own for each way to be broken
        reason = "it holds Python objects" if str(error).startswith("Object arrays") else "the file is damaged"
        raise DataError(f"{path}: not an {path.suffix} of numbers: {reason}") from error


def _feeds(arrays: Mapping[str, Any], specs: Sequence[InputSpec], where: str, tally: Tally) -> Iterator[Feed]:
    _check_names(list(arrays), specs, where)
    counts: dict[str, int] = {}
    for spec in specs:
        array = arrays[spec.name]
        counts[spec.name] = _count(array, spec, where)
        if array.ndim == len(spec.shape) > 0 and counts[spec.name] * _rows(spec) < len(array):
            tally.dropped += len(array) % _rows(spec) if spec is specs[0] else 0
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise DataError(f"{where}: the inputs differ in their number of samples: {listed}")
    for index in range(next(iter(counts.values()), 0)):
        at = f"{where}, sample {index}"
        feed = {spec.name: _sample(arrays[spec.name], spec, index, at) for spec in specs}
        for spec in specs:
            given = arrays[spec.name].dtype
            if given.kind in "iu" and np.dtype(spec.dtype).kind == "f":
                tally.integers[spec.name] = str(given), spec.dtype
        _check_symbols(feed, specs, at)
        yield feed


def _check_names(names: Sequence[str], specs: Sequence[InputSpec], where: str) -> None:
    wanted = [spec.name for spec in specs]
    listed = f"the model's inputs are {', '.join(wanted)}; given are {', '.join(names) or 'none'}"
    for name in wanted:
        if name not in names:
            raise DataError(f"{where}: input {name!r} is missing: {listed}")
    for name in names:
        if name not in wanted:
            raise DataError(f"{where}: {name!r} is not an input: {listed}")


def _rows(spec: InputSpec) -> int:
    """Rows of an array that make one feed."""
    return spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else 1


def _count(array: Any, spec: InputSpec, where: str) -> int:
    """Returns how many feeds an array holds."""
    rank = len(spec.shape)
    sizes = array.shape[array.ndim - rank + 1 :] if rank else ()
    fits = all(isinstance(want, str) or want == size for want, size in zip(spec.shape[1:], sizes, strict=False))
    if array.ndim == rank and rank and fits:
        return len(array) // _rows(spec)
    if array.ndim == rank == 0:
        return 1
    if (
        array.ndim == rank + 1
        and fits
        and (not rank or isinstance(spec.shape[0], str) or array.shape[1] == _rows(spec))
    ):
        return len(array)
    raise DataError(
        f"{where}: input {spec.name!r} has the shape {list(array.shape)}; "
        f"wanted [{', '.join(map(str, ('samples', *spec.shape[1:])))}] or [samples, {', '.join(map(str, spec.shape))}]"
    )


def _sample(array: Any, spec: InputSpec, index: int, at: str) -> np.ndarray:
    if array.ndim == len(spec.shape):
        rows = _rows(spec)
        taken = array[index * rows : (index + 1) * rows] if array.ndim else array
    else:
        taken = array[index]
    given, dtype = np.asarray(taken), np.dtype(spec.dtype)
    if given.dtype.kind not in "fiub":
        raise DataError(f"{at}: input {spec.name!r} is {given.dtype}; wanted {dtype}")
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        raise DataError(f"{at}: input {spec.name!r} has values that are NaN or infinite")
    return _cast(given, dtype, spec.name, at)


def _cast(given: np.ndarray, dtype: np.dtype[Any], name: str, at: str) -> np.ndarray:
    if given.dtype == dtype:
        return np.asarray(given, order="C")
    if given.dtype.kind == "f" and dtype.kind != "f":
        raise DataError(f"{at}: input {name!r} is {given.dtype}; wanted {dtype}, which cannot hold it")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = given.astype(dtype)
    lost = not np.isfinite(cast).all() if given.dtype.kind == "f" else not _equal(given, cast)
    if lost:
        raise DataError(f"{at}: input {name!r} is {given.dtype} with values that {dtype} cannot hold")
    return np.asarray(cast, order="C")


def _equal(given: np.ndarray, cast: np.ndarray) -> bool:
    """Whether integers survived a cast: back they are what they were, and have their sign."""
    with np.errstate(invalid="ignore"):
        back = cast.astype(given.dtype)
    return np.array_equal(back, given) and np.array_equal(cast < 0, given < 0)


def _check_symbols(feed: Feed, specs: Sequence[InputSpec], at: str) -> None:
    """Checks that each symbol has one size within a feed."""
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for symbol, size in zip(spec.shape, feed[spec.name].shape, strict=True):
            if isinstance(symbol, str):
                known, first = sizes.setdefault(symbol, (size, spec.name))
                if known != size:
                    raise DataError(f"{at}: {symbol} is {known} in input {first!r} and {size} in {spec.name!r}")

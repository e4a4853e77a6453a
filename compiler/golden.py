"""Golden data: inputs at each proven point with the reference's outputs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..calibration.dataset import open_rows
from . import files
from .errors import UsageError
from .shapes import Dim, Point, TensorSpec, points

SEED = 0


@dataclass(frozen=True)
class Golden:
    """Inputs and the reference's outputs at one point.

    Attributes:
        label: the point's label, such as "opt".
        inputs: arrays by input name.
        outputs: arrays by output name.
    """

    label: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (*self.inputs.values(), *self.outputs.values()))


def draw(specs: Sequence[TensorSpec], point: Point) -> dict[str, np.ndarray]:
    """Draws one array per spec at the sizes of `point`, the same at every call.

    Floats are standard normal and integers 0 or 1 (an index that every embedding has), unless the spec has bounds.
    Rows of 0 and 1 begin with 1: as masks they hide no row wholly.
    """
    rng = np.random.default_rng(SEED)
    return {spec.name: _draw_one(rng, spec, spec.at(point.sizes)) for spec in specs}


def of_samples(
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    samples: Sequence[Mapping[str, np.ndarray]],
    specs: Sequence[TensorSpec],
    dims: Sequence[Dim],
) -> list[Golden]:
    """Returns golden data at each point, made of real samples, each in rows of its own as long as there are others.

    Rows that differ show where a batch mixes them up; other axes repeat a sample where they are longer, else cut it.

    Args:
        run: the reference, from inputs to outputs.
        samples: arrays by name of the input; at least one, see `enough`.
        specs: of the inputs.
        dims: sizes of their named dimensions.
    """
    made = []
    for point in points(dims):
        inputs = _joined(samples, specs, point.sizes)
        made.append(Golden(point.label, inputs, dict(run(inputs))))
    return made


def at_points(
    proven: Iterable[Point],
    specs: Sequence[TensorSpec],
    real: Mapping[str, np.ndarray] | None,
    run: Callable[[Mapping[str, np.ndarray], Point], Mapping[str, np.ndarray]],
) -> list[Golden]:
    """Runs the reference at each point, on real inputs where they have its sizes, else on random ones.

    Args:
        proven: the points.
        specs: of the inputs.
        real: one array per input, or none.
        run: from inputs, at a point, to outputs.

    Raises:
        UsageError: an output holds NaN.
    """
    made: list[Golden] = []
    for point in proven:
        fits = real and all(real[spec.name].shape == spec.at(point.sizes) for spec in specs)
        inputs = real if real and fits else draw(specs, point)
        made.append(Golden(point.label, inputs, dict(run(inputs, point))))
        check(made[-1])
    return made


def others_than(data: Path, goldens: Sequence[Golden]) -> list[str]:
    """Returns the labels of golden data whose inputs have other sizes than the user's: they are random."""
    given = {name: array.shape for name, array in files.load_arrays(data).items()}
    return [one.label for one in goldens if {name: array.shape for name, array in one.inputs.items()} != given]


def enough(samples: Sequence[Mapping[str, np.ndarray]], specs: Sequence[TensorSpec], dims: Sequence[Dim]) -> bool:
    """Whether samples fill the largest batch that is proven: `of_samples` asks for no more."""
    batch = _batch(specs)
    most = max((dim.max for dim in dims if dim.name == batch), default=1)
    return sum(_rows(sample, specs, batch) for sample in samples) >= most


def first(
    source: Iterable[Mapping[str, np.ndarray]], specs: Sequence[TensorSpec], dims: Sequence[Dim]
) -> list[Mapping[str, np.ndarray]]:
    """Returns the first samples of a source, as many as `of_samples` asks for."""
    taken: list[Mapping[str, np.ndarray]] = []
    for sample in source:
        taken.append({name: array.copy() for name, array in sample.items()})  # user code may fill the same arrays again
        if enough(taken, specs, dims):
            break
    return taken


def resized(
    arrays: Mapping[str, np.ndarray], specs: Sequence[TensorSpec], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns one array per spec at other sizes of the dimensions: longer axes repeat it, shorter ones cut it."""
    return {spec.name: _fitted(arrays[spec.name], spec.at(sizes)) for spec in specs}


def check(golden: Golden) -> None:
    """Checks that the reference gave numbers.

    Raises:
        UsageError: an output holds NaN.
    """
    for name, array in golden.outputs.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            share = float(np.isnan(array).mean())
            raise UsageError(
                f"the model's own output {name!r} is NaN in {share:.1%} of its elements at {golden.label}",
                hint="Mend the model, or give real inputs with --inputs FILE.npz",
            )


def save(path: Path, goldens: Sequence[Golden]) -> None:
    """Writes goldens to an .npz with the keys LABEL/inputs/NAME and LABEL/outputs/NAME."""
    arrays: dict[str, np.ndarray] = {}
    for golden in goldens:
        arrays |= {f"{golden.label}/inputs/{name}": array for name, array in golden.inputs.items()}
        arrays |= {f"{golden.label}/outputs/{name}": array for name, array in golden.outputs.items()}
    files.save_arrays(path, arrays)


def load(path: Path) -> list[Golden]:
    """Reads what `save` wrote, "opt" first."""
    sides: dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = {}
    for key, array in files.load_arrays(path).items():
        label, side, name = key.split("/", 2)
        sides.setdefault(label, ({}, {}))[side == "outputs"][name] = array
    order = sorted(sides, key=lambda label: (label != "opt", label))
    return [Golden(label, *sides[label]) for label in order]


def within(goldens: Sequence[Golden], most_bytes: int) -> list[Golden]:
    """Returns the goldens, in order, that fit into `most_bytes` together; always the first."""
    kept, used = list(goldens[:1]), sum(golden.nbytes for golden in goldens[:1])
    for golden in goldens[1:]:
        if used + golden.nbytes <= most_bytes:
            kept.append(golden)
            used += golden.nbytes
    return kept


def _batch(specs: Sequence[TensorSpec]) -> str | None:
    """Symbol of the first axis, along which samples can be joined; None where there is none."""
    leading = next((spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)), None)
    return leading if leading is not None and all(spec.shape.count(leading) <= 1 for spec in specs) else None


def _rows(sample: Mapping[str, np.ndarray], specs: Sequence[TensorSpec], batch: str | None) -> int:
    return next((sample[spec.name].shape[spec.shape.index(batch)] for spec in specs if batch in spec.shape), 1)


def _joined(
    samples: Sequence[Mapping[str, np.ndarray]], specs: Sequence[TensorSpec], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns one array per spec at `sizes`: samples below each other, from the first on again where they end."""
    batch = _batch(specs)
    if batch is None:
        return resized(samples[0], specs, sizes)
    parts = [resized(one, specs, {**sizes, batch: _rows(one, specs, batch)}) for one in samples]
    whole = {
        spec.name: np.concatenate([part[spec.name] for part in parts], axis=spec.shape.index(batch))
        if batch in spec.shape
        else parts[0][spec.name]
        for spec in specs
    }
    return resized(whole, specs, sizes)


def _draw_one(rng: "np.random.Generator", spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        if spec.low is not None and spec.high is not None:
            return rng.uniform(spec.low, spec.high, shape).astype(dtype)
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    low, high = (0, 1) if spec.low is None or spec.high is None else (int(spec.low), int(spec.high))
    return open_rows(rng.integers(low, high, shape, endpoint=True).astype(dtype), low, high)


def _fitted(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, size in enumerate(shape):
        if array.shape[axis] != size:
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return array

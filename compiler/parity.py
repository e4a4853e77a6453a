"""Holds a graph that the passes changed against its source: both run on the same inputs at several sizes."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BuildFailed, UsageError, one_line, words_of
from .recipe import Source
from .shapes import Dim, Point, TensorSpec, points
from .worker import Emit

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from .golden import Golden

    Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

SIZES = (1, 2, 7)
"""Sizes of a dimension without --dim: none is special, one is odd, two are broken differently."""
LARGER = (16, 32, 64, 224)
"""Sizes for models that run at none of these, such as those for images: the first at which they do."""
FIXED = "its fixed sizes"
_RANDOM = (
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
)  # fmt: skip
_SAME_INDICES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_FLOATS = {"FLOAT": "float32", "FLOAT16": "float16", "DOUBLE": "float64"}
_SUM = re.compile(r"\w+(?: *\+ *\w+)+")


@dataclass(frozen=True)
class Check:
    """What the graphs run on and what may differ.

    Attributes:
        source: the ONNX file, with what the user says of its inputs and sizes, or real inputs in their place.
        tolerance: bounds that replace those of `tolerance.TOLERANCES`, by name.
    """

    source: Source
    tolerance: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Difference:
    """An output that is not what the source computes.

    Attributes:
        point: label of the sizes, such as "batch=2, seq=7".
        output: its name; empty where the graph does not run there at all.
        reason: how far apart they are, and which bounds that misses.
    """

    point: str
    output: str
    reason: str

    def __str__(self) -> str:
        return f"output {self.output!r} at {self.point}: {self.reason}" if self.output else self.reason


def reference(check: Check, *, emit: Emit) -> "list[Golden]":
    """Runs the source, unoptimised, where it runs (in a worker); the points where it does not are told as notes.

    Raises:
        UsageError: it runs nowhere, or gives another answer each time: then there is nothing to compare with.
        BuildFailed: ONNX Runtime cannot load it.
    """
    from .frontends.onnx import read
    from .golden import Golden
    from .reference import runner

    emit("stage", "reference")
    path = Path(check.source.text)
    model = read(path)
    try:
        run = runner(path)
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime cannot load {path}: {words_of(error)}") from error
    found: list[Golden] = []
    failures: dict[str, str] = {}
    for label, inputs, spare in _feeds(model, check.source):
        if spare and found:
            continue
        try:
            outputs, again = run(inputs), run(inputs)
        except Exception as error:
            failures[label] = one_line(words_of(error))
            continue
        _require_repeatable(model, path, Golden(label, inputs, outputs), again)
        found.append(Golden(label, inputs, outputs))
    if not found:
        first = next(iter(failures.values()))
        raise UsageError(
            f"nothing to compare with: {path} runs neither at {' nor at '.join(failures)}: {first}",
            hint="Say which inputs it takes with --dim NAME=MIN..MAX, --input SPEC:LOW..HIGH or --inputs FILE.npz",
        )
    for label, reason in failures.items():
        emit("note", f"not compared at {label}: the source itself does not run there: {one_line(reason, 200)}")
    for name in _numberless(found):
        emit("note", f"output {name!r} is NaN or infinite throughout: give real inputs with --inputs FILE.npz")
    return found


def differences(
    run: "Run", goldens: "Sequence[Golden]", tolerance: Sequence[tuple[str, float]] = ()
) -> tuple[list[Difference], dict[str, dict[str, Any]]]:
    """Runs a graph on the inputs of each golden.

    Returns:
        What differs, and by point the metrics of each output, as `verify.compare` gives them.
    """
    from .verify import compare, judge

    found = []
    metrics: dict[str, dict[str, Any]] = {}
    for golden in goldens:
        try:
            actual = run(golden.inputs)
        except Exception as error:
            reason = f"ONNX Runtime cannot run it at {golden.label}: {one_line(words_of(error), 300)}"
            found.append(Difference(golden.label, "", reason))
            continue
        metrics[golden.label] = {}
        for name, expected in golden.outputs.items():
            one = metrics[golden.label][name] = compare(expected, actual[name])
            if reasons := judge(one, _bounds(expected, tolerance)):
                found.append(Difference(golden.label, name, "; ".join([*_largest(one), *reasons])))
    return found, metrics


def worst(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Returns the largest absolute and relative error over all points and outputs."""
    every = [one for outputs in metrics.values() for one in outputs.values()]
    return {key: max((one.get(key, 0.0) for one in every), default=0.0) for key in ("max_abs", "relative")}


def _largest(metrics: Mapping[str, Any]) -> list[str]:
    return [f"off by {metrics['max_abs']:.3g}"] if "max_abs" in metrics else []


def _bounds(expected: "np.ndarray", tolerance: Sequence[tuple[str, float]]) -> Any:
    from .target import Precision
    from .tolerance import tolerance as bounds

    return bounds(Precision.FP16 if expected.dtype == "float16" else Precision.FP32, tolerance)


def _require_repeatable(model: "ir.Model", path: Path, first: "Golden", again: "Mapping[str, np.ndarray]") -> None:
    from ..passes import all_nodes

    found, _ = differences(lambda _: again, [first])
    if not found:
        return
    drawing = next((node for node in all_nodes(model) if node.op_type in _RANDOM), None)
    why = f": {drawing.op_type} {drawing.name!r} draws random numbers" if drawing is not None else ""
    raise UsageError(
        f"{path} cannot be checked: its output {found[0].output!r} differs from run to run{why}",
        hint="Export it in evaluation mode, or do without the check",
    )


def _numberless(goldens: "Sequence[Golden]") -> list[str]:
    """Names of the outputs without one finite number: of them little can be compared."""
    import numpy as np

    def finite(array: "np.ndarray") -> bool:
        return array.dtype.kind != "f" or not array.size or bool(np.isfinite(array).any())

    return [name for name in goldens[0].outputs if not any(finite(golden.outputs[name]) for golden in goldens)]


def _feeds(model: "ir.Model", source: Source) -> "Iterator[tuple[str, dict[str, np.ndarray], bool]]":
    """Yields label and inputs of each run, and whether it is only for models that ran at none before."""
    from . import golden
    from .artifact import read_inputs

    if source.data is not None:
        yield source.data.name, read_inputs(source.data, _specs(model)), False
        return
    defaults = _defaults(model)
    specs, wanted = _points(model, source)
    limited = _within_tables(model, specs)
    for index, (point, spare) in enumerate(wanted):
        drawn = _ones(limited) if index == 0 and len(wanted) > 1 else limited
        yield point.label, golden.draw(drawn, point), spare
    if defaults:
        point = wanted[0][0]
        label = f"{point.label} with other values for {', '.join(spec.name for spec in defaults)}"
        yield label, golden.draw([*limited, *defaults], point), False


def _points(model: "ir.Model", source: Source) -> tuple[tuple[TensorSpec, ...], list[tuple[Point, bool]]]:
    """Returns the specs of the inputs, and the points to run at: whether each is only for models that ran at none."""
    from .frontends.onnx import bind

    given = {spec.name: spec for spec in source.inputs}
    symbols = dict.fromkeys(symbol for spec in _specs(model) for symbol in given.get(spec.name, spec).symbols)
    known = {dim.name for dim in source.dims}
    sums = _sums(symbols.keys() - known, symbols)
    free = [symbol for symbol in symbols if symbol not in known and symbol not in sums]
    specs, _ = bind(
        model, replace(source, dims=(*source.dims, *(Dim(name, SIZES, SIZES[1]) for name in (*free, *sums))))
    )
    dims = [*(Dim(name, SIZES, SIZES[1]) for name in free), *source.dims]
    usual = [point.sizes for point in points(dims)]
    if sum(dim.min < dim.max for dim in dims) > 1:  # what takes one dimension for another shows where no two are equal
        usual.append(
            {dim.name: 3 + at if dim.name in free else dim.sizes[at % len(dim.sizes)] for at, dim in enumerate(dims)}
        )
    larger = [{dim.name: size if dim.name in free else dim.opt for dim in dims} for size in LARGER if free]
    return specs, [
        (Point(_label(sizes), {**sizes, **{name: _sum(terms, sizes) for name, terms in sums.items()}}), spare)
        for spare, several in ((False, usual), (True, larger))
        for sizes in several
    ]


def _sums(symbols: Iterable[str], known: Collection[str]) -> dict[str, list[str]]:
    """Returns the terms of the symbols that are sums of others, such as `past + seq`, as exporters write them."""
    terms = {symbol: re.split(r" *\+ *", symbol) for symbol in sorted(symbols) if _SUM.fullmatch(symbol)}
    return {name: parts for name, parts in terms.items() if all(one.isdecimal() or one in known for one in parts)}


def _sum(terms: Sequence[str], sizes: Mapping[str, int]) -> int:
    return sum(int(term) if term.isdecimal() else sizes[term] for term in terms)


def _label(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or FIXED


def _specs(model: "ir.Model") -> tuple[TensorSpec, ...]:
    from .frontends._graph import input_specs

    return input_specs(model)


def _defaults(model: "ir.Model") -> list[TensorSpec]:
    """Specs of the float inputs that have a default, which a pass must not take for a constant."""
    found = [(value.name or "", value.const_value) for value in model.graph.inputs if value.is_initializer()]
    return [
        TensorSpec(name, _FLOATS[tensor.dtype.name], tuple(tensor.shape.numpy()))
        for name, tensor in found
        if tensor is not None and tensor.dtype.name in _FLOATS
    ]


def _ones(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Lets integers without bounds be ones, for once: a mask that hides nothing."""
    return [replace(spec, low=1, high=1) if _unbounded_integer(spec) else spec for spec in specs]


def _unbounded_integer(spec: TensorSpec) -> bool:
    return spec.low is None and "float" not in spec.dtype


def _within_tables(model: "ir.Model", specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Lets integers that look up rows of a stored table draw any row of the smallest, not only the first two."""
    import numpy as np

    values = {value.name: value for value in model.graph.inputs}
    limited = []
    for spec in specs:
        rows = list(_rows(values[spec.name])) if _unbounded_integer(spec) and spec.dtype != "bool" else []
        limited.append(replace(spec, low=0, high=min(min(rows) - 1, np.iinfo(spec.dtype).max)) if rows else spec)
    return limited


def _rows(value: "ir.Value") -> Iterator[int]:
    for node, index in value.uses():
        if node.op_type in _SAME_INDICES and index == 0:
            yield from chain.from_iterable(map(_rows, node.outputs))
        elif node.op_type == "Gather" and index == 1 and (table := node.inputs[0]) is not None:
            shape = table.shape if table.is_initializer() else None
            axis = node.attributes.get_int("axis", 0)
            if shape is not None and -len(shape) <= axis < len(shape) and isinstance(size := shape[axis], int) and size:
                yield size

"""What both frontends do to a graph: read its specs, name its dimensions."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from ...passes import all_values
from ..errors import IOFailed, UsageError
from ..shapes import DTYPES, TensorSpec

if TYPE_CHECKING:
    import numpy as np


def require_space(folder: Path, weights: int) -> None:
    """Checks, before any work, that `folder` has room for what a compile writes: three forms of the weights.

    Raises:
        IOFailed: it has not.
    """
    needed, free = 3 * weights, shutil.disk_usage(folder).free
    if free < needed:
        place = folder.parent
        raise IOFailed(
            f"no space left in {place}: about {needed / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free",
            hint="Free some space or give another -o",
        )


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Returns the specs of the graph's inputs, initializers apart; unnamed dynamic sizes become NAME_AXIS."""
    return tuple(_spec(value) for value in model.graph.inputs if value.name not in model.graph.initializers)


def output_specs(model: ir.Model, seen: "Mapping[str, np.ndarray]") -> tuple[TensorSpec, ...]:
    """Returns the specs of the graph's outputs; sizes that are not known become NAME_AXIS.

    Args:
        model: the graph.
        seen: an output array by name: it tells rank and dtype where the graph does not.
    """
    specs = []
    for value in model.graph.outputs:
        array = seen[value.name or ""]
        sizes = list(value.shape) if value.shape is not None and len(value.shape) == array.ndim else [None] * array.ndim
        specs.append(TensorSpec(value.name or "", str(array.dtype), _sizes(value.name or "", sizes)))
    return tuple(specs)


def rename_symbols(model: ir.Model, names: Mapping[str, str | int]) -> None:
    """Renames symbolic dimensions, or gives them a fixed size, in every value of the model."""
    if not names:
        return
    for value in all_values(model):
        if value.shape is None:
            continue
        sizes = [names.get(str(size.value), size) if isinstance(size, ir.SymbolicDim) else size for size in value.shape]
        if sizes != list(value.shape):
            value.shape = ir.Shape(sizes)  # the old one may be frozen


def _spec(value: ir.Value) -> TensorSpec:
    if value.dtype is None or not isinstance(value.type, ir.TensorType):
        raise UsageError(f"{value.name!r} is not a tensor of known dtype", hint="planc takes tensors only")
    dtype = {"float": "float32", "double": "float64"}.get(value.dtype.name.lower(), value.dtype.name.lower())
    if dtype not in DTYPES:
        raise UsageError(
            f"{value.name!r} has dtype {dtype}, which planc does not take at its borders",
            hint="Cast inside the model",
        )
    return TensorSpec(value.name or "", dtype, _sizes(value.name or "", list(value.shape or ())))


def _sizes(name: str, shape: Sequence[int | ir.SymbolicDim | None]) -> tuple[int | str, ...]:
    return tuple(
        size if isinstance(size, int) else (size and size.value) or f"{name}_{axis}" for axis, size in enumerate(shape)
    )

"""What both frontends do to a graph: write it, read its specs, name its dimensions."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ...passes import all_values
from ..errors import UsageError
from ..shapes import DTYPES, TensorSpec


def save(model: ir.Model, path: Path) -> None:
    """Writes the graph to `path`, and its weights beside it to `NAME.data`."""
    ir.save(model, path, external_data=f"{path.name}.data")


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Returns the specs of the graph's inputs, initializers apart; unnamed dynamic sizes become NAME_AXIS."""
    return tuple(_spec(value) for value in model.graph.inputs if value.name not in model.graph.initializers)


def output_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Returns the specs of the graph's outputs; sizes that are not known become NAME_AXIS."""
    return tuple(_spec(value) for value in model.graph.outputs)


def rename_symbols(model: ir.Model, names: Mapping[str, str | int]) -> None:
    """Renames symbolic dimensions, or gives them a fixed size, in every value of the model."""
    for value in all_values(model):
        if value.shape is None or value.shape.frozen:
            continue
        for axis, size in enumerate(value.shape):
            if isinstance(size, ir.SymbolicDim) and size.value in names:
                value.shape[axis] = names[str(size.value)]


def _spec(value: ir.Value) -> TensorSpec:
    if value.dtype is None or not isinstance(value.type, ir.TensorType):
        raise UsageError(f"{value.name!r} is not a tensor of known dtype", hint="planc takes tensors only")
    dtype = {"float": "float32", "double": "float64"}.get(value.dtype.name.lower(), value.dtype.name.lower())
    if dtype not in DTYPES:
        raise UsageError(f"{value.name!r} has dtype {dtype}, which planc does not take at its borders", hint="Cast inside the model")
    if value.shape is None:
        return TensorSpec(value.name or "", dtype, ())
    sizes = [size if isinstance(size, int) else size.value or f"{value.name}_{axis}" for axis, size in enumerate(value.shape)]
    return TensorSpec(value.name or "", dtype, tuple(sizes))

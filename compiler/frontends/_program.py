"""torch.export archives (.pt2): a traced program, which is data, not code."""

from collections.abc import Mapping
from typing import Any

import torch

from .. import shapes
from ..errors import UsageError
from ..recipe import Source
from ..shapes import Dim, TensorSpec
from ._module import Loaded, dtype_name


def load_program(source: Source) -> Loaded:
    """Reads the archive; dims come from its own constraints and names for them from --input.

    Raises:
        UsageError: it is no such archive, or the sizes given do not fit it.
    """
    program = _read(source)
    specs, dims, examples = _program_inputs(source, program)
    by_name = bool(program.example_inputs and program.example_inputs[1])
    return Loaded(program.module(), specs, dims, examples, by_name, program)


def _read(source: Source) -> torch.export.ExportedProgram:
    try:
        return torch.export.load(source.text)
    except Exception as error:
        raise UsageError(
            f"{source.text} is not a torch.export archive: {error}", hint="Write it with torch.export.save"
        ) from error


def _program_inputs(
    source: Source, program: torch.export.ExportedProgram
) -> tuple[tuple[TensorSpec, ...], tuple[Dim, ...], dict[str, torch.Tensor]]:
    """Specs and dims of an exported program: symbols and ranges come from its own constraints."""
    args, kwargs = program.example_inputs or ((), {})
    names = list(program.graph_signature.user_inputs)
    values = {
        node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    }
    if args and kwargs:
        raise UsageError(f"{source.text} mixes positional and keyword inputs", hint="Export it with one kind")
    if any(not isinstance(value, torch.Tensor) for value in values.values()):
        raise UsageError(
            f"{source.text} has inputs that are not tensors", hint="Export a module that takes tensors only"
        )
    symbols = {str(symbol): bounds for symbol, bounds in program.range_constraints.items()}
    names_by_symbol = _symbol_names(source, values, symbols)
    specs = [
        TensorSpec(
            name,
            dtype_name(value.dtype),
            tuple(names_by_symbol.get(str(size), None) or int(size) for size in value.shape),
        )
        for name, value in values.items()
    ]
    given = {dim.name: dim for dim in source.dims}
    dims = []
    for symbol, name in names_by_symbol.items():
        low, high = int(symbols[symbol].lower), symbols[symbol].upper
        if name not in given:
            raise UsageError(
                f"{source.text} has the dynamic dimension {name!r} without sizes",
                hint=f"Add --dim {name}={max(low, 1)}..8@{max(low, 1)}",
            )
        if given[name].min < low or (high.is_number and given[name].max > high):
            raise UsageError(
                f"--dim {given[name]} is outside what {source.text} was exported for: {low}..{high}",
                hint="Export it with wider bounds",
            )
        dims.append(given[name])
    shapes.check_dims(specs, source.dims)
    examples = dict(zip(values, args or kwargs.values(), strict=False))
    return *shapes.fix(specs, dims), examples


def _symbol_names(source: Source, values: Mapping[str, Any], symbols: Mapping[str, Any]) -> dict[str, str]:
    """Names the symbols of an exported program: by --input where it is given, else s0 -> NAME_AXIS."""
    given = {spec.name: spec for spec in source.inputs}
    names: dict[str, str] = {}
    for name, value in values.items():
        for axis, size in enumerate(value.shape):
            if str(size) in symbols and str(size) not in names:
                spec = given.get(name)
                word = spec.shape[axis] if spec and axis < len(spec.shape) else None
                names[str(size)] = word if isinstance(word, str) else f"{name}_{axis}"
    return names

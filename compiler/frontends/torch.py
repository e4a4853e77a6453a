"""PyTorch: `file.py:callable`, `pkg.mod:callable`, a torch.export archive (.pt2), or a trusted pickle (.pt, .pth)."""

import ast
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ...passes import ORIGIN, StripMetadata, all_nodes
from .. import golden, host, shapes, storage
from ..artifact import read_inputs
from ..errors import BuildFailed, UsageError, root_cause
from ..golden import Golden
from ..recipe import Source
from ..shapes import Dim, Point, TensorSpec
from ..user_code import guard, where
from ..worker import Emit
from . import Exported
from ._graph import output_specs, rename_symbols
from ._module import Loaded, load_module, source_files
from ._program import load_program

OPSET = 20
_NOWHERE = "_empty_nn_module_stack_from_metadata_hook"
"""What torch.export writes for a node that no module made."""


def export(source: Source, folder: Path, *, emit: Emit) -> Exported:
    """Loads the module, runs it at each point, and exports it with the dynamo exporter.

    Raises:
        UsageError: the module cannot be loaded, its inputs do not fit, or its forward raises.
        BuildFailed: torch.export or the ONNX exporter cannot express it.
    """
    warnings.filterwarnings("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    seconds = {}
    emit("stage", "load")
    start = time.perf_counter()
    torch.manual_seed(golden.SEED)  # weights that the callable draws are the same at every build
    before = set(sys.modules)
    loaded = load_program(source) if source.text.endswith(".pt2") else load_module(source)
    seconds["load"] = time.perf_counter() - start

    emit("stage", "reference")
    start = time.perf_counter()
    goldens = _reference(source, loaded)
    seconds["reference"] = time.perf_counter() - start

    emit("stage", "export")
    start = time.perf_counter()
    outputs = list(goldens[0].outputs)
    version = str(torch.__version__)  # its own class would make the parent import torch
    model = _to_onnx(source, loaded, outputs)
    seconds["export"] = time.perf_counter() - start
    _keep_origins(model)
    path = folder / "model.onnx"
    storage.save(model, path)
    return Exported(
        path=path,
        inputs=loaded.specs,
        outputs=output_specs(model, goldens[0].outputs),
        dims=loaded.dims,
        goldens=tuple(goldens),
        reference=f"torch {version} eager",
        sources=tuple(source_files(before, source)),
        versions={"torch": version, "onnxscript": host.version("onnxscript") or ""},
        seconds=seconds,
    )


def _reference(source: Source, loaded: Loaded) -> list[Golden]:
    """Runs the module at each point; real inputs take the place of random ones where they fit."""

    def run(arrays: Mapping[str, np.ndarray], _point: Point) -> dict[str, np.ndarray]:
        return guard(source.text, "running the forward of", partial(_forward, loaded, arrays))

    proven = shapes.points(loaded.dims)
    made = golden.at_points(proven, loaded.specs, _real_inputs(source, loaded), run)
    again = run(made[0].inputs, proven[0])
    if not all(np.allclose(again[name], array, 1e-3, 1e-5, equal_nan=True) for name, array in made[0].outputs.items()):
        raise UsageError(
            f"{source.text} gives other outputs at each call: its forward draws random numbers, or keeps a state",
            hint="Take them as inputs",
        )
    return made


def _real_inputs(source: Source, loaded: Loaded) -> dict[str, np.ndarray] | None:
    if source.data is not None:
        return read_inputs(source.data, loaded.specs)
    return {name: tensor.detach().cpu().numpy() for name, tensor in loaded.examples.items()}


def _forward(loaded: Loaded, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    with torch.no_grad():
        result = loaded.module(**tensors) if loaded.by_name else loaded.module(*tensors.values())
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(result)
    named = {_path_name(path): leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)}
    if not named:
        raise ValueError(f"forward gave no tensor but {type(result).__name__}")
    return {name: leaf.detach().cpu().numpy() for name, leaf in named.items()}


def _path_name(path: Sequence[Any]) -> str:
    """Name of an output from its place in the module's result: `last_hidden_state`, `output_1`, `output`."""
    words = [str(getattr(step, "key", getattr(step, "idx", getattr(step, "name", step)))) for step in path]
    if not words:
        return "output"
    return ".".join(words) if not words[0].isdigit() else f"output_{'_'.join(words)}"


def _to_onnx(source: Source, loaded: Loaded, outputs: Sequence[str]) -> ir.Model:
    try:
        program = torch.onnx.export(
            loaded.program or _to_program(loaded),
            dynamo=True,
            optimize=False,  # folding and fusion are planc's own stage
            verbose=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in loaded.specs],
            output_names=list(outputs),
        )
    except Exception as error:
        cause = _finding(error)
        raise BuildFailed(
            f"torch cannot export {source.text}: {cause}{where(error)}", hint=_way_out(cause, loaded.dims)
        ) from error
    assert program is not None
    model: ir.Model = program.model
    if len(model.graph.outputs) != len(outputs):
        raise BuildFailed(
            f"torch exported {len(model.graph.outputs)} outputs of {source.text}, its forward gives {len(outputs)}",
            hint="Wrap the module so that it returns tensors only",
        )
    _name_dims(model, loaded.specs)
    return model


def _way_out(cause: str, dims: Sequence[Dim]) -> str:
    """What to do where torch cannot export a module."""
    if "specialized" in cause:
        named = next((dim for dim in dims if dim.name in cause), None)
        if named is not None:
            return f"Give that dimension one size: --dim {named.name}={named.opt}"
    if any(word in cause for word in ("data-dependent", "DataDependent", "specialized")):
        return "Python code depends on the values of a tensor there: torch.where or torch.cond are exported"
    return ""


def _to_program(loaded: Loaded) -> torch.export.ExportedProgram:
    """Traces the module at its optimum, where sizes of 1 become 2: torch.export takes 0 and 1 for constants."""
    sizes = {dim.name: max(dim.opt, min(2, dim.max)) for dim in loaded.dims}
    arrays = golden.draw(loaded.specs, Point("export", sizes))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    symbols = {dim.name: torch.export.Dim(dim.name, min=dim.min, max=dim.max) for dim in loaded.dims}
    dynamic = {
        spec.name: {axis: symbols[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in loaded.specs
    }
    if loaded.by_name:
        return torch.export.export(loaded.module, (), tensors, dynamic_shapes=dynamic, strict=False)
    ordered: tuple[Any, ...] = tuple(dynamic.values())
    kinds = [parameter.kind for parameter in inspect.signature(loaded.module.forward).parameters.values()]
    if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]:
        ordered = (ordered,)  # torch.export takes *args for one nested input
    return torch.export.export(loaded.module, tuple(tensors.values()), dynamic_shapes=ordered, strict=False)


def _keep_origins(model: ir.Model) -> None:
    """Replaces the exporter's notes, which hold absolute paths, by the module path that each node came from."""
    origins = {}
    for node in all_nodes(model):
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        origins[node] = next((scope for scope in reversed(scopes[:-1]) if scope not in ("", _NOWHERE)), "")
    StripMetadata()(model)
    for node, origin in origins.items():
        if origin:
            node.metadata_props[ORIGIN] = origin


def _name_dims(model: ir.Model, specs: Sequence[TensorSpec]) -> None:
    """Gives the graph's inputs the names of the user's dimensions, where the exporter made up its own."""
    renamed: dict[str, str] = {}
    for value, spec in zip(model.graph.inputs, specs, strict=True):
        assert value.shape is not None
        for have, want in zip(value.shape, spec.shape, strict=True):
            if isinstance(have, ir.SymbolicDim) and isinstance(want, str) and have.value and have.value != want:
                renamed[str(have.value)] = want
    if renamed:
        rename_symbols(model, renamed)


def _finding(error: BaseException) -> str:
    """First telling line of the innermost error; for violated dimensions, what torch found about them."""
    error = root_cause(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    findings = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return f"{type(error).__name__}: {' '.join(findings[:2] or lines[:1])}"

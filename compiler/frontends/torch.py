"""PyTorch: `file.py:callable`, `pkg.mod:callable`, a torch.export archive (.pt2), or a trusted pickle (.pt, .pth)."""

import ast
import importlib
import importlib.util
import inspect
import logging
import sys
import sysconfig
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ...passes import ORIGIN, StripMetadata, all_nodes
from .. import golden, host, shapes
from ..errors import BuildFailed, UsageError, did_you_mean
from ..golden import Golden
from ..recipe import Source
from ..shapes import Dim, Point, TensorSpec
from ..worker import Emit
from . import Exported
from ._graph import output_specs, save

log = logging.getLogger(__name__)

OPSET = 20
_PLANC = __name__.partition(".")[0]


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
    if source.text.endswith(".pt2"):
        program = _load_program(source)
        module, specs, dims, examples = program.module(), *_program_inputs(source, program)
    else:
        program = None
        module, examples = _load_module(source)
        specs, dims = _inputs(source, module, examples)
    sources = _source_files(before, source)
    seconds["load"] = time.perf_counter() - start

    emit("stage", "reference")
    start = time.perf_counter()
    by_name = _by_name(module, specs)
    goldens = _reference(source, module, specs, dims, examples, by_name)
    seconds["reference"] = time.perf_counter() - start

    emit("stage", "export")
    start = time.perf_counter()
    outputs = list(goldens[0].outputs)
    version = str(torch.__version__)  # its own class would make the parent import torch
    model = _to_onnx(source, program or module, specs, dims, by_name, outputs)
    seconds["export"] = time.perf_counter() - start
    _keep_origins(model)
    path = folder / "model.onnx"
    save(model, path)
    return Exported(
        path=path,
        inputs=tuple(specs),
        outputs=output_specs(model, goldens[0].outputs),
        dims=tuple(dims),
        goldens=tuple(goldens),
        reference=f"torch {version} eager",
        sources=tuple(sources),
        versions={"torch": version, "onnxscript": host.version("onnxscript") or ""},
        seconds=seconds,
    )


def load_reference(source: Source) -> tuple[torch.nn.Module, list[TensorSpec], bool]:
    """Loads the module alone: (module in eval mode, input specs, whether inputs go by name). For benchmarks."""
    module, examples = _load_module(source)
    specs, _ = _inputs(source, module, examples)
    return module, specs, _by_name(module, specs)


def _load_module(source: Source) -> tuple[torch.nn.Module, Any]:
    """Returns the module in eval mode, and example inputs or None."""
    if source.text.endswith((".pt", ".pth")):
        made = _guard(source, "reading", lambda: torch.load(source.text, weights_only=False, map_location="cpu"))
    else:
        made = _guard(source, "calling", _callable(source))
    module, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{source.text} gave {type(module).__name__}, not a torch.nn.Module",
            hint="Return the module, or (module, example_inputs)",
        )
    if source.weights is not None:
        _load_weights(source, module)
    return module.eval().cpu(), examples


def _callable(source: Source) -> Any:
    place, _, name = source.text.rpartition(":")
    if place.endswith(".py"):
        path = Path(place).resolve()
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        _guard(source, "importing", lambda: spec.loader.exec_module(module))
    else:
        sys.path.insert(0, str(Path.cwd()))
        module = _guard(source, "importing", lambda: importlib.import_module(place))
    if not hasattr(module, name):
        public = [word for word in vars(module) if not word.startswith("_") and callable(getattr(module, word))]
        raise UsageError(f"{place} has no {name!r}", hint=did_you_mean(name, public))
    return getattr(module, name)


def _guard(source: Source, doing: str, action: Any) -> Any:
    """Runs the user's code; what it raises becomes one line with the place in the user's file."""
    try:
        return action()
    except (Exception, SystemExit) as error:
        detail = traceback.format_exc()
        log.debug("%s", detail)
        raise UsageError(f"{doing} {source.text} raised {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: BaseException) -> str:
    """Returns " at FILE:LINE" of the deepest frame outside the installed packages."""
    installed = (
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        sysconfig.get_path("stdlib"),
        str(Path(__file__).parents[1]),
    )
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(("<", *installed))
    ]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _load_weights(source: Source, module: torch.nn.Module) -> None:
    assert source.weights
    path = source.weights
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except Exception as error:
            raise UsageError(f"--weights {path}: {error}", hint="Give a whole .safetensors file") from error
    else:
        try:
            state = torch.load(path, weights_only=not source.trust_pickle, map_location="cpu", mmap=True)
        except Exception as error:
            if "weights_only" in str(error).lower() or "Unsupported" in str(error):
                raise UsageError(
                    f"--weights {path} holds pickled code, not only tensors",
                    hint="Save a state dict, or add --trust-pickle if you trust its author",
                ) from error
            raise UsageError(
                f"--weights {path} cannot be read: {error}", hint="Give a state dict written by torch.save"
            ) from error
    if not isinstance(state, Mapping):
        raise UsageError(
            f"--weights {path} holds {type(state).__name__}, not a state dict",
            hint="torch.save(net.state_dict(), path)",
        )
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"--weights {path} does not fit the module: {error}", hint="Give the state dict of this module"
        ) from error


def _load_program(source: Source) -> Any:
    try:
        return torch.export.load(source.text)
    except Exception as error:
        raise UsageError(
            f"{source.text} is not a torch.export archive: {error}", hint="Write it with torch.export.save"
        ) from error


def _program_inputs(source: Source, program: Any) -> tuple[list[TensorSpec], list[Dim], Any]:
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
            _dtype(value.dtype),
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
    shapes.check_dims(specs, list(source.dims))
    return specs, dims, dict(zip(values, args or kwargs.values(), strict=False)) or None


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


def _inputs(source: Source, module: torch.nn.Module, examples: Any) -> tuple[list[TensorSpec], list[Dim]]:
    """Specs and dims: as the user gave them, else the fixed shapes of the example inputs."""
    if source.inputs:
        return list(source.inputs), list(source.dims)
    if examples is None:
        names = [name for name in inspect.signature(module.forward).parameters if name not in ("args", "kwargs")]
        example = f"--input '{names[0] if names else 'x'}=float32[batch,3,224,224]' --dim batch=1..8"
        raise UsageError(
            f"{source.text} needs the shapes of its inputs: forward({', '.join(names)})",
            hint=f"Add {example}",
        )
    named = _named(module, examples)
    specs = [TensorSpec(name, _dtype(tensor.dtype), tuple(tensor.shape)) for name, tensor in named.items()]
    shapes.check_dims(specs, list(source.dims))
    return specs, []


def _named(module: torch.nn.Module, examples: Any) -> dict[str, torch.Tensor]:
    """Example inputs by the names of forward's parameters."""
    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    if not isinstance(examples, Mapping):
        examples = dict(zip(inspect.signature(module.forward).parameters, examples, strict=False))
    for name, value in examples.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"example input {name!r} is {type(value).__name__}, not a tensor",
                hint="Wrap the module so that it takes tensors only",
            )
    return dict(examples)


def _by_name(module: torch.nn.Module, specs: Sequence[TensorSpec]) -> bool:
    """Whether the inputs are forward's keywords (True) or its positional arguments in order (False)."""
    parameters = inspect.signature(module.forward).parameters
    known = [spec.name for spec in specs if spec.name in parameters]
    if known and len(known) < len(specs):
        wrong = next(spec.name for spec in specs if spec.name not in parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            raise UsageError(f"--input {wrong}: forward has no such parameter", hint=did_you_mean(wrong, parameters))
    return bool(known)


def _reference(
    source: Source,
    module: torch.nn.Module,
    specs: Sequence[TensorSpec],
    dims: Sequence[Dim],
    examples: Any,
    by_name: bool,
) -> list[Golden]:
    """Runs the module at each point; real inputs take the place of random ones where they fit."""
    real = _real_inputs(source, module, specs, examples)
    goldens = []
    for point in shapes.points(dims):
        arrays = golden.draw(specs, point)
        if real and all(real[spec.name].shape == spec.at(point.sizes) for spec in specs):
            arrays = real
        outputs = _guard(source, "running the forward of", lambda arrays=arrays: _forward(module, arrays, by_name))
        made = Golden(point.label, arrays, outputs)
        golden.check(made)
        goldens.append(made)
    return goldens


def _real_inputs(
    source: Source, module: torch.nn.Module, specs: Sequence[TensorSpec], examples: Any
) -> dict[str, np.ndarray] | None:
    from ..artifact import check_arrays
    from ..files import load_arrays

    if source.data is not None:
        arrays = load_arrays(source.data)
        return dict(zip([spec.name for spec in specs], check_arrays(specs, arrays), strict=True))
    if examples is None:
        return None
    named = _named(module, examples)
    return {spec.name: tensor.detach().cpu().numpy() for spec, tensor in zip(specs, named.values(), strict=False)}


def _forward(module: torch.nn.Module, arrays: Mapping[str, np.ndarray], by_name: bool) -> dict[str, np.ndarray]:
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    with torch.no_grad():
        result = module(**tensors) if by_name else module(*tensors.values())
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


def _to_onnx(
    source: Source,
    model: Any,
    specs: Sequence[TensorSpec],
    dims: Sequence[Dim],
    by_name: bool,
    outputs: Sequence[str],
) -> ir.Model:
    sizes = {dim.name: dim.opt if dim.opt > 1 or dim.max == 1 else min(2, dim.max) for dim in dims}
    arrays = golden.draw(specs, Point("export", sizes))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    declared = {dim.name: torch.export.Dim(dim.name, min=dim.min, max=dim.max) for dim in dims if dim.min < dim.max}
    dynamic = {
        spec.name: {
            axis: declared[size] for axis, size in enumerate(spec.shape) if isinstance(size, str) and size in declared
        }
        for spec in specs
    }
    try:
        if not isinstance(model, torch.export.ExportedProgram):
            args = () if by_name else tuple(tensors.values())
            kwargs = tensors if by_name else None
            dynamic_shapes = dynamic if by_name else tuple(dynamic.values())
            model = torch.export.export(
                model, args, kwargs, dynamic_shapes=_for_signature(model, dynamic_shapes), strict=False
            )
        names = {"input_names": [spec.name for spec in specs], "output_names": list(outputs)}
        program = torch.onnx.export(model, dynamo=True, optimize=False, verbose=False, opset_version=OPSET, **names)
    except Exception as error:
        raise BuildFailed(f"torch cannot export {source.text}: {_root_cause(error)}{_where(error)}") from error
    assert program is not None
    graph: ir.Model = program.model
    if len(graph.graph.outputs) != len(outputs):
        raise BuildFailed(
            f"torch exported {len(graph.graph.outputs)} outputs of {source.text}, its forward gives {len(outputs)}"
        )
    _name_dims(graph, specs)
    return graph


def _keep_origins(model: ir.Model) -> None:
    """Replaces the exporter's notes, which hold absolute paths, by the module path that each node came from."""
    origins = {}
    for node in all_nodes(model):
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        origins[node] = next((scope for scope in reversed(scopes[:-1]) if scope), "")
    StripMetadata()(model)
    for node, origin in origins.items():
        if origin:
            node.metadata_props[ORIGIN] = origin


def _for_signature(module: torch.nn.Module, dynamic_shapes: Any) -> Any:
    """torch.export wants a *args parameter's shapes as one nested tuple."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    if isinstance(dynamic_shapes, tuple) and parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return (dynamic_shapes,)
    return dynamic_shapes


def _name_dims(model: ir.Model, specs: Sequence[TensorSpec]) -> None:
    """Gives the graph's inputs the names of the user's dimensions, where the exporter made up its own."""
    renamed: dict[str, str] = {}
    for value, spec in zip(model.graph.inputs, specs, strict=True):
        assert value.shape is not None
        for have, want in zip(value.shape, spec.shape, strict=True):
            if isinstance(have, ir.SymbolicDim) and isinstance(want, str) and have.value and have.value != want:
                renamed[str(have.value)] = want
    if renamed:
        from ._graph import rename_symbols

        rename_symbols(model, renamed)


def _source_files(before: set[str], source: Source) -> list[Path]:
    """Files that the model depends on: modules loaded from outside the installed packages, and its own files."""
    installed = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib", "stdlib"))
    found = {Path(source.text)} if ":" not in source.text else set()
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and name.partition(".")[0] != _PLANC and not str(Path(file).resolve()).startswith(installed):
            found.add(Path(file))
    return sorted(found | {path for path in (source.weights, source.data) if path})


def _root_cause(error: BaseException) -> str:
    """First telling line of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _dtype(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in shapes.DTYPES:
        raise UsageError(f"inputs of dtype {name} are not supported", hint="Cast inside the module")
    return name

"""The user's Python code: importing it, calling it, loading weights into its module, and what it depends on."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import shapes, user_code
from ..errors import UsageError, did_you_mean
from ..recipe import Source
from ..shapes import Dim, TensorSpec
from ..user_code import guard


@dataclass(frozen=True)
class Loaded:
    """A module that is ready to run and to export.

    Attributes:
        module: in eval mode, on the CPU.
        specs: specs of its inputs, in order.
        dims: sizes of the named dimensions.
        examples: example inputs by name; may be empty.
        by_name: whether the inputs are forward's keywords, or its positional arguments in order.
        program: the traced program, where the model came as one.
    """

    module: torch.nn.Module
    specs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...]
    examples: Mapping[str, torch.Tensor]
    by_name: bool
    program: torch.export.ExportedProgram | None = None


def load_module(source: Source) -> Loaded:
    """Imports and calls the user's callable, or reads a trusted pickle.

    Raises:
        UsageError: that fails, or gives no module; or the shapes of its inputs are not known.
    """
    module, examples = _make_module(source)
    specs, dims = _inputs(source, module, examples)
    named = {spec.name: tensor for spec, tensor in zip(specs, examples.values(), strict=False)}
    return Loaded(module, *shapes.fix(specs, dims), named, takes_names(module, specs))


def _make_module(source: Source) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Returns the module in eval mode, and its example inputs."""
    if source.text.endswith((".pt", ".pth")):
        made = guard(source.text, "reading", lambda: torch.load(source.text, weights_only=False, map_location="cpu"))
    else:
        found = user_code.find(source.text, source.root)
        made = found if isinstance(found, torch.nn.Module) else guard(source.text, "calling", found)
    module, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{source.text} gave {type(module).__name__}, not a torch.nn.Module",
            hint="Return the module, or (module, example_inputs)",
        )
    if source.weights is not None:
        _load_weights(source, module)
    return module.eval().cpu(), {} if examples is None else _named(module, examples)


def _inputs(
    source: Source, module: torch.nn.Module, examples: Mapping[str, torch.Tensor]
) -> tuple[list[TensorSpec], list[Dim]]:
    """Specs and dims: as the user gave them, else the fixed shapes of the example inputs."""
    if source.inputs:
        return list(source.inputs), list(source.dims)
    if not examples:
        names = [name for name in inspect.signature(module.forward).parameters if name not in ("args", "kwargs")]
        example = f"--input '{names[0] if names else 'x'}=float32[batch,3,224,224]' --dim batch=1..8"
        raise UsageError(
            f"{source.text} needs the shapes of its inputs: forward({', '.join(names)})",
            hint=f"Add {example}",
        )
    specs = [TensorSpec(name, dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in examples.items()]
    shapes.check_dims(specs, source.dims)
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


def takes_names(module: torch.nn.Module, specs: Sequence[TensorSpec]) -> bool:
    """Whether the inputs are forward's keywords (True) or its positional arguments in order (False)."""
    parameters = inspect.signature(module.forward).parameters
    known = [spec.name for spec in specs if spec.name in parameters]
    if known and len(known) < len(specs):
        wrong = next(spec.name for spec in specs if spec.name not in parameters)
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if not takes_any or difflib.get_close_matches(wrong, parameters.keys() - set(known)):
            raise UsageError(f"--input {wrong}: forward has no such parameter", hint=did_you_mean(wrong, parameters))
    return bool(known)


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
        raise UsageError(f"--weights {path} does not fit the module: {error}", hint=_better(state, module)) from error


def _better(state: Mapping[str, Any], module: torch.nn.Module) -> str:
    """What to save where a file is no state dict of the module: it may hold one."""
    wanted = set(module.state_dict())
    for name, inner in state.items():
        if isinstance(inner, Mapping) and wanted & set(inner):
            return f"Its {name!r} seems to be the state dict: save that by itself"
    for prefix in {name.partition(".")[0] for name in state}:
        if wanted & {str(name).removeprefix(f"{prefix}.") for name in state}:
            return f"Its keys begin with '{prefix}.': save the module inside, such as net.{prefix}.state_dict()"
    return "Give the state dict of this module"


def source_files(before: set[str], source: Source) -> list[Path]:
    """Files that the model depends on: modules loaded from outside the installed packages, and its own files."""
    own = {Path(source.text)} if ":" not in source.text else set()
    named = {path for path in (source.weights, source.data) if path}
    return sorted({*own, *named, *user_code.modules(before).values()})


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the dtype's name in the shape language.

    Raises:
        UsageError: inputs of that dtype are not supported.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in shapes.DTYPES:
        raise UsageError(f"inputs of dtype {name} are not supported", hint="Cast inside the module")
    return name

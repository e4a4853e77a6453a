"""What is installed, what this machine has, and which targets it can build and run."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import host, plugins, shapes, target
from .errors import BuildFailed, Unavailable, UsageError
from .shapes import Dim
from .target import Precision, Target

if TYPE_CHECKING:
    from .backends import Request
    from .worker import Emit, Limits

PACKAGES = (
    "planc", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12", "openvino", "tensorrt-rtx-cu12", "tensorrt",
    "numpy", "typer", "rich",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Returns the installed version of each package that may touch a model; None where it is absent."""
    return {name: host.version(name) for name in PACKAGES}


def support(one: Target) -> dict[str, str | None]:
    """Returns, for each precision, why the target cannot be built here; None where it can."""
    reasons: dict[str, str | None] = {}
    for precision in Precision:
        told = {name: _why_not(target.find_target(name), precision) for name in one.candidates or (one.name,)}
        able = not all(told.values())
        reasons[str(precision)] = None if able else "; ".join(sorted({str(reason) for reason in told.values()}))
    return reasons


def examine(only: Target | None = None) -> dict[str, Any]:
    """Returns the facts of this machine and what each target, or one, can do on it."""
    return {
        "versions": versions(),
        "host": {
            "cpu": host.cpu_name(),
            "cores": host.cores(),
            "memory_gib": round(host.memory_bytes() / 2**30, 1),
            "cpu_flags": sorted(host.cpu_flags()),
            "gpus": host.gpus(),
        },
        "targets": {
            one.name: describe(one) for one in ([only] if only else map(target.find_target, target.target_names()))
        },
    }


def describe(one: Target) -> dict[str, Any]:
    """Returns a target's description, the precisions that can be built here, and whether artifacts run here."""
    reasons = support(one)
    unverifiable = [_unverifiable(target.find_target(name)) for name in one.candidates or (one.name,)]
    return {
        "description": one.description,
        "buildable": [name for name, reason in reasons.items() if reason is None],
        "why_not": {name: reason for name, reason in reasons.items() if reason is not None},
        "runnable": None in unverifiable,
        "why_not_run": None if None in unverifiable else "; ".join(sorted(map(str, set(unverifiable)))),
    }


def check(
    model: Path, name: str, dims: Sequence[Dim], *, limits: "Limits", on_event: "Emit | None" = None
) -> dict[str, Any]:
    """Asks a target which nodes of an ONNX file it refuses after planc's passes; nothing is written.

    Dimensions without sizes are 1, and so are the values of inputs that are sizes.

    Returns:
        `supported`, and `refused`: name, operator, reason and origin of each node.

    Raises:
        UsageError: the target has no parser that can be asked, or the file is no model.
        Unavailable: the parser is not installed.
        BuildFailed: the parser died.
    """
    from . import files, optimize, worker

    one = target.find_target(name)
    files.require_file(model)
    if one.candidates:
        raise UsageError(f"{name} stands for several targets", hint=f"Ask one: -t {', '.join(one.candidates)}")
    if not hasattr(plugins.load("backends", one.backend), "unsupported"):
        raise UsageError(f"{name} cannot be asked without building", hint=f"planc compile {model} -t {name} -o DIR")
    if reason := _why_not(one, Precision.FP32):
        raise Unavailable(f"{name} cannot be asked here: {reason}", hint="See planc doctor")
    with tempfile.TemporaryDirectory() as made:
        graph = Path(made) / "model.onnx"
        chosen = optimize.Recipe(family=one.family, keep_origin=True)
        try:
            skipped = optimize.optimize(model, graph, chosen, limits=limits, on_event=on_event).skipped
        except BuildFailed as error:  # operators of others, such as a plugin's: the parser may know them
            skipped, graph = {"all": error.what}, model
        place = Path(made)
        refused = worker.call(_refused, graph, place, one, tuple(dims), limits=limits, on_event=on_event)
    return {"target": name, "supported": not refused, "refused": refused, "passes_skipped": skipped}


def _refused(graph: Path, place: Path, one: Target, dims: tuple[Dim, ...], *, emit: "Emit") -> list[dict[str, str]]:
    emit("stage", "check")
    asked = replace(request(graph, one, dims), folder=place)
    return [vars(node) for node in plugins.load("backends", one.backend).unsupported(asked)]


def request(graph: Path, one: Target, dims: Sequence[Dim] = ()) -> "Request":
    """Returns what a backend is asked about an ONNX file.

    Raises:
        UsageError: an input is of a type that planc has no inputs of, or a dimension is none of the inputs'.
    """
    from . import storage
    from .backends import Request
    from .frontends._graph import input_specs

    inputs = tuple(replace(spec, low=1, high=1) for spec in input_specs(storage.load(graph)))
    known = {dim.name for dim in dims}
    names = {name: None for spec in inputs for name in spec.symbols if name not in known}
    sizes = (*dims, *(Dim(name, (1,), 1) for name in names))
    shapes.check_dims(inputs, sizes)
    options = plugins.load("backends", one.backend).Options()
    return Request(graph, Precision.FP32, options, graph.parent, one, inputs, sizes)


def _why_not(one: Target, precision: Precision) -> str | None:
    backend = plugins.load("backends", one.backend)
    reason: str | None = backend.why_not(one, precision, backend.Options())
    return reason


def _unverifiable(one: Target) -> str | None:
    reason: str | None = plugins.load("backends", one.backend).unverifiable(one)
    return reason

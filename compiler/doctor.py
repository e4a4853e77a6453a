"""What is installed, what this machine has, and which targets it can build and run."""

from typing import Any

from . import host, plugins, target
from .target import Precision, Target

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


def examine() -> dict[str, Any]:
    """Returns the facts of this machine and what each target can do on it."""
    return {
        "versions": versions(),
        "host": {
            "cpu": host.cpu_name(),
            "cores": host.cores(),
            "memory_gib": round(host.memory_bytes() / 2**30, 1),
            "cpu_flags": sorted(host.cpu_flags()),
            "gpus": host.gpus(),
        },
        "targets": {name: describe(target.find_target(name)) for name in target.target_names()},
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


def _why_not(one: Target, precision: Precision) -> str | None:
    reason: str | None = plugins.load("backends", one.backend).why_not(one, precision)
    return reason


def _unverifiable(one: Target) -> str | None:
    reason: str | None = plugins.load("backends", one.backend).unverifiable(one)
    return reason

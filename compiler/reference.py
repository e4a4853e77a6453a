"""Runs an ONNX graph as it is, unoptimised: what every lowered form of it is held against."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def runner(path: Path) -> "Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]":
    """Returns a function from inputs by name to outputs by name that runs the graph in ONNX Runtime on the CPU."""
    session = _session(str(path))
    names = [value.name for value in session.get_outputs()]

    def run(inputs: "Mapping[str, np.ndarray]") -> "dict[str, np.ndarray]":
        return dict(zip(names, session.run(None, dict(inputs)), strict=True))

    return run


def refusal(path: Path) -> Exception | None:
    """Returns why ONNX Runtime does not load the graph; None where it does. Its weights are not read."""
    from .storage import load_pointing

    settings = {"model_external_initializers_file_folder_path": str(path.parent), "disable_prepacking": "1"}
    try:
        _session(load_pointing(path), **settings)
    except Exception as error:
        return error
    return None


def _session(model: str | bytes, **entries: str) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # 1.31 writes files into the user's cache on import without it
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in entries.items():
        settings.add_session_config_entry(f"session.{key}", value)
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])

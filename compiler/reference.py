"""Runs an ONNX graph as it is, unoptimised: what every lowered form of it is held against."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def runner(path: Path) -> "Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]":
    """Returns a function from inputs by name to outputs by name that runs the graph in ONNX Runtime on the CPU."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # 1.31 writes files into the user's cache on import without it
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]

    def run(inputs: "Mapping[str, np.ndarray]") -> "dict[str, np.ndarray]":
        return dict(zip(names, session.run(None, dict(inputs)), strict=True))

    return run

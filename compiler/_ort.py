"""ONNX Runtime as planc uses it: without telemetry, quiet, and called by position."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact import Runner


def runtime() -> Any:
    """Imports ONNX Runtime."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # 1.31 writes files into the user's cache on import without it
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def runner(session: Any) -> "Runner":
    """Returns a function from the list of a session's inputs to the list of its outputs."""
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))

"""ONNX Runtime as planc uses it: without telemetry, quiet, and called by position."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from .artifact import Runner
    from .backends import Layer

CPU = "CPUExecutionProvider"
_CONVERSIONS = {"Cast", "DequantizeLinear", "QuantizeLinear", "ReorderInput", "ReorderOutput", "Transpose"}
_ADDED = re.compile(r"(_nchwc|_token_\d+|_(de)?quantized|_(De)?[qQ]uantizeLinear)+$")
"""What its optimizers add to the names of nodes and values."""
INTEGER_PRODUCTS = {
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QAttention", "QGemm",
    "QLinearConv", "QLinearMatMul",
}  # fmt: skip
FLOAT_PRODUCTS = {"Attention", "Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"}
"""Convolutions and matrix products by what their kernels compute in."""
_DTYPES = {"float": "float32", "double": "float64"}
_WARM_UP = 3


def runtime() -> Any:
    """Imports ONNX Runtime."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # 1.31 writes files into the user's cache on import without it
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def open_cpu(model: str | os.PathLike[str], settings: Any) -> Any:
    """Opens a session on the CPU.

    Raises:
        BuildFailed: ONNX Runtime cannot load the model.
    """
    from .errors import BuildFailed

    try:
        return runtime().InferenceSession(os.fspath(model), settings, providers=[CPU])
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime cannot load {model}: {error}") from error


def plain_name(name: str) -> str:
    """Returns the name of a node or value without what optimizers of ONNX Runtime added."""
    return _ADDED.sub("", name)


def runner(session: Any) -> "Runner":
    """Returns a function from the list of a session's inputs to the list of its outputs."""
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def profile(
    settings: Any,
    open_session: Callable[[], Any],
    arrays: "Sequence[np.ndarray]",
    runs: int,
) -> "list[Layer]":
    """Runs a session under its own profiler and returns its layers.

    Args:
        settings: of the session; profiling is switched on in them.
        open_session: opens it.
        arrays: inputs, in order.
        runs: how often it runs.
    """
    import json
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="planc-profile-") as folder:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "ort")
        session = open_session()
        run = runner(session)
        for _ in range(_WARM_UP + runs):
            run(arrays)
        events = json.loads(Path(session.end_profiling()).read_text())
    return layers(events)


def layers(events: "Sequence[Mapping[str, Any]]") -> "list[Layer]":
    """Returns the layers of a profile of ONNX Runtime, with the medians of their times."""
    import statistics

    from .backends import Layer

    seen: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            seen.setdefault((event["name"], event["args"].get("node_index", "")), []).append(event)
    found = []
    for (name, _), some in seen.items():
        facts, name = some[-1]["args"], name.removesuffix("_kernel_time")
        types = [kind for one in facts.get("input_type_shape", ()) for kind in one]
        kind = facts["op_name"]
        whole = kind in INTEGER_PRODUCTS or types[:1] in (["int8"], ["uint8"])
        found.append(
            Layer(
                names=tuple(dict.fromkeys((plain_name(name), name))),
                op=kind,
                kernel="",
                provider=facts.get("provider", ""),
                precision="int8" if whole else _DTYPES.get("".join(types[:1]), "".join(types[:1])),
                ms=statistics.median(event["dur"] for event in some[-max(1, len(some) - _WARM_UP) :]) / 1e3,
                product=kind in INTEGER_PRODUCTS | FLOAT_PRODUCTS,
                conversion=kind in _CONVERSIONS,
            )
        )
    return found

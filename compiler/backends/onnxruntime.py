"""ONNX Runtime on the CPU: the graph is optimized once, at build time, and loads with optimization off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from .._ort import CPU, FLOAT_PRODUCTS, INTEGER_PRODUCTS, open_cpu, runner, runtime
from .._ort import profile as profile_session
from ..artifact import Runner
from ..errors import BuildFailed
from ..target import Precision, Target
from . import Built, Layer, Request

if TYPE_CHECKING:
    import numpy as np
    import onnx

LOWERED = frozenset({Precision.INT8})
TRIALS = True
RUNS = True
LOCAL = True
STEADY = False
ORIGINS = False
PAYLOAD = "model.onnx"
_SAFE = 64
"""Weights up to it fit, two by two, into 16 bits: 2 * 255 * 64 < 2^15."""
_BLOCKED_LAYOUT = "com.microsoft.nchwc"
_SLOWER = ("SkipLayerNormFusion", "BiasGeluFusion")
"""Fusions whose CPU kernels (1.31) are slower than the operators one by one: MiniLM takes 5 to 12% longer with them."""


@dataclass(frozen=True)
class Options:
    """Options of onnxruntime-cpu.

    Attributes:
        threads: threads of one operator; 0 takes all cores of the machine that runs it.
        portable: leaves out the blocked layouts, which are faster but run only on CPUs of the same vector width.
    """

    threads: int = 0
    portable: bool = False


def why_not(_target: Target, precision: Precision, _options: Options) -> str | None:
    """Returns why this backend cannot do the precision here; None where it can."""
    if precision not in (Precision.FP32, Precision.INT8):
        asked = precision.upper()
        return f"onnxruntime-cpu runs FP32 and INT8, not {asked}: its CPU kernels cast half precision to float32"
    return None if host.version("onnxruntime") else "onnxruntime is not installed: pip install onnxruntime"


def unverifiable(_target: Target) -> str | None:
    """Returns why a payload cannot be executed here: the CPU that builds it runs it."""
    return None


def fingerprint() -> dict[str, str]:
    """Versions of the tools that touch the payload."""
    return {"onnxruntime": host.version("onnxruntime") or ""}


def build(request: Request) -> Built:
    """Lets ONNX Runtime optimize the graph for this CPU and writes the result.

    Raises:
        BuildFailed: ONNX Runtime refuses the graph.
    """
    from .. import protos
    from ..graph import precision_counts

    folder, precision, options = request.folder, request.precision, request.options
    ort = runtime()
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.optimized_model_filepath = str(folder / PAYLOAD)
    settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{PAYLOAD}.data")
    settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    if precision is Precision.INT8 and not host.has_vnni() and _has_wide_weights(request.model):
        settings.add_session_config_entry("session.x64quantprecision", "1")
    left_out = [*_SLOWER, *(["NchwcTransformer"] if options.portable else [])]
    try:
        ort.InferenceSession(str(request.model), settings, providers=[CPU], disabled_optimizers=left_out)
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime refuses the graph: {error}") from error
    graph, _ = protos.load_light(folder / PAYLOAD)
    effective = precision_counts(graph)
    if low := {"float16", "bfloat16"} & set(effective["nodes"]):
        raise BuildFailed(
            f"the model computes in {', '.join(sorted(low))} although {precision.upper()} was asked for",
            hint="Cast the model to float32, or build it with -t openvino-cpu",
        )
    effective["products"] = _products(graph)
    if precision is Precision.INT8 and not effective["products"]["int8"]:
        raise BuildFailed(
            f"ONNX Runtime computes no product in INT8, and {effective['products']['float']} in float",
            hint="Q/DQ laid out for another runtime do that: give the float model, with --calibration DATA",
        )
    blocked = any(node.domain == _BLOCKED_LAYOUT for node in protos.nodes(graph))
    return Built(
        session={"graph_optimization_level": "disable_all", "intra_op_num_threads": options.threads},
        effective_precision=effective,
        requires={"vector_width": host.vector_width()} if blocked else {},
    )


def _products(graph: "onnx.ModelProto") -> dict[str, int]:
    """Counts matrix products and convolutions by what their kernels compute in."""
    from .. import protos

    kinds = [node.op_type for node in protos.nodes(graph)]
    whole = sum(kind in INTEGER_PRODUCTS for kind in kinds)
    return {"int8": whole, "float": sum(kind in FLOAT_PRODUCTS for kind in kinds)}


def _has_wide_weights(model: Path) -> bool:
    """Whether sums of products may saturate: training leaves weights of 8 bits, where planc itself uses 7.

    Made uint8, as session.x64quantprecision does, they do not; it fails on weights that several layers share.
    """
    from .. import storage

    found = []
    for node in storage.load(model).graph:
        weight = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        tensor = weight.const_value if weight is not None else None
        if weight is not None and tensor is not None and tensor.dtype.name == "INT8":
            if len(node.outputs[0].uses()) > 1 or len(weight.uses()) > 1:
                return False
            found.append(tensor.numpy())
    return any(max(int(array.max(initial=0)), -int(array.min(initial=0))) > _SAFE for array in found)


def load(folder: Path, session: Mapping[str, Any]) -> Runner:
    """Loads the payload as it was verified.

    Raises:
        BuildFailed: ONNX Runtime cannot load it.
    """
    return runner(open_cpu(folder / PAYLOAD, _settings(session)))


def provider(_session: Mapping[str, Any]) -> str:
    """Returns who runs all layers."""
    return CPU


def profile(folder: Path, session: Mapping[str, Any], arrays: "Sequence[np.ndarray]", runs: int) -> list[Layer]:
    """Returns the times of the layers.

    Raises:
        BuildFailed: ONNX Runtime cannot load the payload.
    """
    settings = _settings(session)
    return profile_session(settings, lambda: open_cpu(folder / PAYLOAD, settings), arrays, runs)


def _settings(session: Mapping[str, Any]) -> Any:
    ort = runtime()
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = session["intra_op_num_threads"]
    return settings

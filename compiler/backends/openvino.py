"""OpenVINO IR on the CPU plugin. The execution precision is pinned: on a CPU with AMX it runs bf16 unasked.

Beside the IR lies the graph as the plugin had transformed it, without weights, which loads in a fraction of the time.
Where OpenVINO says that this is not for its version or this CPU, the IR is compiled.
"""

import gzip
import statistics
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from ..artifact import Runner
from ..errors import BuildFailed, UsageError, did_you_mean
from ..target import Precision, Target
from . import Built, Layer, Request

if TYPE_CHECKING:
    import numpy as np

LOWERED = frozenset({Precision.INT8})  # 16 bits are its own business
TRIALS = True
RUNS = True
LOCAL = True
STEADY = False
ORIGINS = False
PAYLOAD = "model.xml"
_WEIGHTS = "model.bin"
_COMPILED = "model.blob.gz"
_DEVICE = "CPU"
_EXECUTION = {Precision.FP32: "f32", Precision.FP16: "f32", Precision.BF16: "bf16", Precision.INT8: "f32"}
_CHOICES = {"hint": ("latency", "throughput"), "around": ("", "fp32", "bf16")}
_LOW = {"f16", "bf16"}
_INT8 = {"i8", "u8"}
_MOVES = {
    "Broadcast", "Concatenation", "Const", "Convert", "Gather", "Input", "Output", "Reorder", "Reshape", "ShapeOf",
    "Split", "StridedSlice", "Tile", "Transpose",
}  # fmt: skip
"""Kinds of layers that compute nothing: they also carry f16 weights to where they are unpacked."""
_PRODUCTS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq"}
_ADDED = "/WithoutBiases"
_CONVERSIONS = {"Convert", "FakeQuantize", "Reorder", "Transpose"}
_WARM_UP = 3


@dataclass(frozen=True)
class Options:
    """Options of openvino-cpu.

    Attributes:
        threads: threads of one inference; 0 takes all cores of the machine that runs it.
        hint: "latency" or "throughput": what the plugin arranges its streams for.
        around: INT8: what the rest computes in, "fp32" or "bf16"; empty for fp32.
        precompiled: whether the transformed graph is kept beside the IR, for a quick start on CPUs of this kind.
    """

    threads: int = 0
    hint: str = "latency"
    around: str = ""
    precompiled: bool = True

    def __post_init__(self) -> None:
        """Refuses what is no choice.

        Raises:
            UsageError: an option has another value.
        """
        for name, known in _CHOICES.items():
            if (given := getattr(self, name)) not in known:
                raise UsageError(f"-O {name}={given}: unknown {name}", hint=did_you_mean(given, known))


def why_not(_target: Target, precision: Precision, options: Options) -> str | None:
    """Returns why this backend cannot do the precision here; None where it can.

    Raises:
        UsageError: `around` is given for another precision than INT8.
    """
    if options.around and precision is not Precision.INT8:
        raise UsageError(f"-O around={options.around} goes with -p int8, not with {precision}", hint="Leave it out")
    if not host.version("openvino"):
        return "openvino is not installed: pip install 'planc[openvino]'"
    if Precision.BF16 in (precision, options.around) and not host.has_bf16():
        return f"this CPU ({host.cpu_name()}) has no amx_bf16 or avx512_bf16: OpenVINO would silently run f32"
    return None


def unverifiable(_target: Target) -> str | None:
    """Returns why a payload cannot be executed here: the CPU that builds it runs it."""
    return None


def fingerprint() -> dict[str, str]:
    """Versions of the tools that touch the payload."""
    return {"openvino": host.version("openvino") or ""}


def build(request: Request) -> Built:
    """Converts the graph to IR; fp16 stores the weights as f16 and runs f32, int8 takes Q/DQ as they are.

    Raises:
        BuildFailed: OpenVINO refuses the graph, or does not run it in the requested precision.
    """
    folder, precision, options = request.folder, request.precision, request.options
    ov = _runtime()
    try:
        graph = ov.Core().read_model(str(request.model))
        _simplify(graph)
        ov.save_model(graph, str(folder / PAYLOAD), compress_to_fp16=precision is Precision.FP16)
    except Exception as error:
        raise BuildFailed(f"OpenVINO refuses the graph: {error}") from error
    floating = Precision(options.around or precision)
    session = {
        "inference_precision_hint": _EXECUTION[floating],
        "performance_hint": options.hint.upper(),
        "inference_num_threads": options.threads,
    }
    if options.precompiled:
        blob = _compile_ir(folder, session, CACHE_MODE="OPTIMIZE_SIZE").export_model().getvalue()
        (folder / _COMPILED).write_bytes(gzip.compress(blob, mtime=0))
    effective = _effective(folder, session)
    _prove(precision, floating, effective)
    requires = {"cpu_flag": "bf16"} if floating is Precision.BF16 else {}
    return Built(session=session, effective_precision=effective, requires=requires)


def load(folder: Path, session: Mapping[str, Any]) -> Runner:
    """Loads the payload with the settings that it was verified with; threads may run it at once.

    Raises:
        BuildFailed: OpenVINO cannot load it.
    """
    compiled = _compile(folder, session)
    idle = [compiled.create_infer_request()]  # one is for one call at a time

    def run(arrays: "Sequence[np.ndarray]") -> "Sequence[np.ndarray]":
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            results = request.infer(dict(enumerate(arrays)), share_inputs=True, share_outputs=False)
            return list(results.values())
        finally:
            idle.append(request)

    return run


def provider(_session: Mapping[str, Any]) -> str:
    """Returns who runs all layers."""
    return _DEVICE


def profile(folder: Path, session: Mapping[str, Any], arrays: "Sequence[np.ndarray]", runs: int) -> list[Layer]:
    """Returns the times of the layers that were executed.

    Raises:
        BuildFailed: OpenVINO cannot load the payload.
    """
    compiled = _compile_ir(folder, session, PERF_COUNT="YES")
    request = compiled.create_infer_request()
    times: dict[str, list[float]] = {}
    facts: dict[str, tuple[str, str]] = {}
    for number in range(_WARM_UP + runs):
        request.infer(dict(enumerate(arrays)), share_inputs=True)
        for one in request.profiling_info:
            if number >= _WARM_UP and one.status.name == "EXECUTED":
                times.setdefault(one.node_name, []).append(one.real_time.total_seconds() * 1e3)
                facts[one.node_name] = one.node_type, one.exec_type
    inside = {
        node.get_friendly_name(): tuple(str(node.get_rt_info()["originalLayersNames"].value).split(","))
        for node in compiled.get_runtime_model().get_ops()
    }
    found = []
    for name, some in times.items():
        op, kernel = facts[name]
        kind = kernel.rpartition("_")[2].lower()
        found.append(
            Layer(
                names=tuple(dict.fromkeys((name.removesuffix(_ADDED), *filter(None, inside.get(name, ()))))),
                op=op,
                kernel=kernel,
                provider=_DEVICE,
                precision={"i8": "int8", "u8": "int8", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(
                    kind, kind
                ),
                ms=statistics.median(some),
                product=op in _PRODUCTS,
                conversion=op in _CONVERSIONS,
            )
        )
    return found


def _simplify(graph: Any) -> None:
    """Folds what every start would fold anew, with the common part of `convert_model`.

    The rest of that, "smart reshape", leaves half of the quantized products of a transformer in floating point.
    """
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(graph, cf=True, smart_reshape=False)


def _runtime() -> Any:
    """OpenVINO without its telemetry: on import it writes into the user's home and reports over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _compile(folder: Path, session: Mapping[str, Any]) -> Any:
    """The model ready to run, from what was compiled before where that is for this OpenVINO and this CPU."""
    if (path := folder / _COMPILED).exists():
        settings = {**_settings(session), "CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": str(folder / _WEIGHTS)}
        with suppress(RuntimeError, OSError, EOFError, zlib.error):  # of another version, for another CPU, or damaged
            return _runtime().Core().import_model(gzip.decompress(path.read_bytes()), _DEVICE, settings)
    return _compile_ir(folder, session)


def _compile_ir(folder: Path, session: Mapping[str, Any], **more: str) -> Any:
    try:
        return _runtime().Core().compile_model(str(folder / PAYLOAD), _DEVICE, {**_settings(session), **more})
    except Exception as error:
        raise BuildFailed(f"OpenVINO cannot load {folder / PAYLOAD}: {error}") from error


def _settings(session: Mapping[str, Any]) -> dict[str, Any]:
    settings = {
        "INFERENCE_PRECISION_HINT": session["inference_precision_hint"],
        "PERFORMANCE_HINT": session["performance_hint"],
    }
    if session["inference_num_threads"]:
        settings["INFERENCE_NUM_THREADS"] = session["inference_num_threads"]
    return settings


def _effective(folder: Path, session: Mapping[str, Any]) -> dict[str, Any]:
    """Counts executed layers that compute by precision, from the compiled model, and stored weights by element type.

    `products` are the convolutions and matrix products among the layers; those that the plugin made part of a larger
    layer, as in attention, are of that.
    """
    ov = _runtime()
    compiled = _compile(folder, session)
    layers: Counter[str] = Counter()
    products = Counter({"int8": 0, "float": 0})
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        kind, primitive = str(facts["layerType"].value), str(facts["primitiveType"].value)
        if kind not in _MOVES:
            # "brgconv_avx2_f32" ends in the activations' type; "runtimePrecision" may be that of packed weights
            element = primitive.rpartition("_")[2].lower()
            layers[element] += 1
            if kind in _PRODUCTS:
                products["int8" if element in _INT8 else "float"] += 1
    weights: Counter[str] = Counter()
    for node in ov.Core().read_model(str(folder / PAYLOAD)).get_ops():
        if node.get_type_name() == "Constant":
            weights[node.get_element_type().get_type_name()] += node.get_byte_size()
    return {
        "layers": dict(sorted(layers.items())),
        "products": dict(products),
        "weights_bytes": dict(sorted(weights.items())),
    }


def _prove(precision: Precision, floating: Precision, effective: Mapping[str, Any]) -> None:
    """Fails where the requested precision had no effect, or a lower one was used unasked.

    Args:
        precision: that was asked for.
        floating: the same, or that of what stays around INT8.
        effective: what `_effective` counted.
    """
    layers, weights = effective["layers"], effective["weights_bytes"]
    if floating is not Precision.BF16 and (low := _LOW & set(layers)):
        raise BuildFailed(f"OpenVINO runs layers in {', '.join(sorted(low))} although it was not asked to: {layers}")
    if precision is Precision.INT8 and not layers.get("i8"):
        raise BuildFailed(f"OpenVINO runs no layer in INT8: {layers}")
    if floating is Precision.BF16 and not layers.get("bf16"):
        raise BuildFailed(f"OpenVINO runs no layer in BF16: {layers}")
    if precision is Precision.FP16 and not weights.get("f16") and weights.get("f32", 0) > 1 << 10:
        raise BuildFailed(f"OpenVINO stores no weight in f16: {weights}")

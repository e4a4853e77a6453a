"""Lowers a graph: Q/DQ from the ranges of the calibration table, as the kernels of a target want them, or casts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import host, plugins
from .errors import BuildFailed, UsageError
from .recipe import Job, backend_options
from .shapes import Dim
from .target import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..calibration.table import RangeTable
    from ..passes import InsertQdq
    from .effect import Shapes

_SCHEMED = ("onnxruntime", "openvino", "tensorrt")
"""Backends and families with a scheme; any other gets that of the first."""


@dataclass(frozen=True)
class Lowering:
    """How a graph is lowered.

    Attributes:
        precision: what to.
        scheme: key of `passes.SCHEMES`.
        keep: names, PyTorch module paths or globs of nodes that stay in floating point.
        smoothing: share of the outliers of activations that weights take, 0 for none.
        weight_bits: 8, or 7 for x86 without VNNI.
        sizes: of the symbolic dimensions at the point "opt".
        dynamic: whether activations are quantized by the range that they have when they come.
        around: INT8: what the rest of the graph computes in.
        wide: by precision of 16 bits, operators that the backend has in float32 only.
        keep_origin: whether nodes keep the path of the PyTorch module that they came from.
    """

    scheme: str
    precision: Precision = Precision.INT8
    keep: tuple[str, ...] = ()
    smoothing: float = 0.0
    weight_bits: int = 8
    sizes: Mapping[str, int] = field(default_factory=dict)
    dynamic: bool = False
    around: Precision = Precision.FP32
    wide: Mapping[Precision, tuple[str, ...]] = field(default_factory=dict)
    keep_origin: bool = False


@dataclass(frozen=True)
class Layer:
    """What became of one product, or of a node that stays in float32.

    Attributes:
        name: of the node.
        origin: path of the PyTorch module that it came from; empty where unknown.
        op: its operator.
        macs: multiplications at the point "opt"; None where shapes are not known.
        decision: "int8", "fp16", "bf16" or "float".
        reason: why it is "float"; empty where it is not.
        tensor: INT8: the activation that it reads.
        method: how the activation's range was chosen; empty where it has none.
        low: least number that its input can hold.
        high: greatest one.
        scale: of its input.
        sqnr_db: expected signal-to-quantization-noise ratio of its input; None where unknown.
        saturated: share of its input's elements outside of the range; None where unknown.
    """

    name: str
    origin: str
    op: str
    macs: int | None
    decision: str
    reason: str
    tensor: str = ""
    method: str = ""
    low: float = 0.0
    high: float = 0.0
    scale: float = 0.0
    sqnr_db: float | None = None
    saturated: float | None = None


@dataclass(frozen=True)
class Lowered:
    """What lowering gave.

    Attributes:
        effect: products by precision, see `effect.count`.
        layers: one row per product.
        smoothed: names of the activations whose channels were scaled.
    """

    effect: dict[str, Any]
    layers: list[dict[str, Any]]
    smoothed: list[str]

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The rows of what stays in float32."""
        return [row for row in self.layers if row["decision"] == "float"]


def lowering(job: Job, dims: Sequence[Dim]) -> Lowering:
    """Returns how a job's graph is lowered; x86 without VNNI gets weights of 7 bits."""
    named = (job.target.backend, job.target.family)
    scheme = next((name for name in named if name in _SCHEMED), _SCHEMED[0])
    narrow = scheme != "tensorrt" and not host.has_vnni()
    quantization = job.quantization
    sizes = {dim.name: dim.opt for dim in dims}
    backend = plugins.load("backends", job.target.backend)
    return Lowering(
        scheme=scheme,
        precision=job.precision,
        keep=quantization.keep,
        smoothing=quantization.smoothing,
        weight_bits=7 if narrow else 8,
        sizes=sizes,
        dynamic=quantization.dynamic,
        around=backend.around(job.target, backend_options(job)) if hasattr(backend, "around") else Precision.FP32,
        wide=getattr(backend, "WIDE", {}),
        keep_origin=backend.ORIGINS,
    )


def has_own(graph: Path) -> bool:
    """Whether an ONNX file has Q/DQ of its own, as quantization-aware training leaves them."""
    from . import protos

    return any(node.op_type == "DequantizeLinear" for node in protos.nodes(protos.load_light(graph)[0]))


def lower(graph: Path, out: Path, how: Lowering, table: "RangeTable | None") -> Lowered:
    """Reads the ONNX file `graph`, lowers it and writes `out`.

    Args:
        graph: in float32.
        out: the ONNX file.
        how: to what.
        table: ranges; None where the graph brings Q/DQ of its own, for dynamic INT8 and for 16 bits.

    Raises:
        UsageError: `keep` names no node of the graph.
        BuildFailed: nothing could be lowered.
    """
    from ..passes import RemoveUnused, StripMetadata, check, signature
    from . import effect, storage

    model = storage.load(graph)
    wanted = signature(model)
    require_known(model, how)
    lowering = _to_half if how.precision is not Precision.INT8 else _to_dynamic if how.dynamic else _to_int8
    layers, smoothed = lowering(model, how, table)
    if how.precision is Precision.INT8:
        layers += _quantize_embeddings(model, how)
        RemoveUnused()(model)  # the weights in floating point
        if how.around is not Precision.FP32:
            _to_half(model, replace(how, precision=how.around, keep=()), table)
    check(model, wanted)
    counts = effect.count(model, how.sizes)
    if _NAMES[how.precision] not in counts:
        reasons = list(dict.fromkeys(layer.reason for layer in layers if layer.reason))
        raise BuildFailed(
            f"{how.precision.upper()} had no effect: "
            + ("; ".join(reasons[:3]) or f"the graph has no matrix product{'' if how.dynamic else ' or convolution'}"),
            hint="planc quantize --explain shows each layer" if layers else "Build it with -p fp32",
        )
    StripMetadata(keep_origin=how.keep_origin)(model)
    storage.save(model, out)
    return Lowered(counts, [asdict(layer) for layer in layers], smoothed)


def _to_int8(model: "ir.Model", how: Lowering, table: "RangeTable | None") -> tuple[list[Layer], list[str]]:
    """Inserts Q/DQ; returns a row per product and the activations that were smoothed."""
    from ..calibration.table import RangeTable
    from ..passes import CenterActivations, SeparateZeroPoints, is_kept, layer_name

    known = table or RangeTable(method="", samples=0, source="", source_digest="", model_digest="")
    smoothed = _smooth(model, how, known)
    inserting = _inserting(how, known, smoothed)
    layers = list(_layers(model, inserting, how, known, smoothed))
    inserting(model)
    CenterActivations(centers=tuple(smoothed.centers.items()))(model)
    own = [
        replace(layer, decision="int8", reason="", method=OWN) if layer.reason == _OWN else layer for layer in layers
    ]
    if how.scheme == "onnxruntime" and any(one.method == OWN for one in own):
        SeparateZeroPoints()(model)
    for node in model.graph:
        if is_kept(node, how.keep) and any(one.name == layer_name(node) and one.method == OWN for one in own):
            raise UsageError(
                f"--exclude: {layer_name(node)} has Q/DQ of its own, from training", hint="Take them out of the model"
            )
    return own, list(smoothed.ranges)


def _to_dynamic(model: "ir.Model", how: Lowering, _table: "RangeTable | None") -> tuple[list[Layer], list[str]]:
    """Quantizes weights, and activations when they are there; returns a row per product."""
    from ..passes import QuantizeDynamic
    from . import effect

    quantizing = QuantizeDynamic(keep=how.keep, weight_bits=how.weight_bits)
    shapes = effect.shapes_at(model, how.sizes)
    layers = [_without_range(node, reason, shapes) for node, reason in quantizing.products(model)]
    quantizing(model)
    return layers, []


def _to_half(model: "ir.Model", how: Lowering, table: "RangeTable | None") -> tuple[list[Layer], list[str]]:
    """Inserts casts; returns a row per node that stays in float32, and per product."""
    from ..passes import ORIGIN, ConvertPrecision, UpgradeOpset, layer_name
    from . import effect

    if how.precision is Precision.BF16 and model.opset_imports.get("", 1) < _BF16_OPSET:
        UpgradeOpset(least=_BF16_OPSET)(model)
    converting = ConvertPrecision(
        dtype=_NAMES[how.precision],
        keep=how.keep,
        wide=how.wide.get(how.precision, ()),
        ranges=tuple((name, one.min, one.max) for name, one in table.tensors.items() if not one.non_finite)
        if table
        else (),
    )
    kept = dict(converting.kept(model))
    shapes = effect.shapes_at(model, how.sizes)
    layers = [
        Layer(
            name=layer_name(node),
            origin=node.metadata_props.get(ORIGIN, ""),
            op=node.op_type,
            macs=effect.macs(node, shapes),
            decision="float" if node in kept else str(how.precision),
            reason=kept.get(node, ""),
        )
        for node in model.graph
        if node in kept or node.op_type in effect.PRODUCTS
    ]
    converting(model)
    return layers, []


_NAMES = {Precision.INT8: "int8", Precision.FP16: "float16", Precision.BF16: "bfloat16"}
_BF16_OPSET = 22  # Conv and pools take bfloat16 from here on
OWN = "trained"
"""Method of a layer that came with Q/DQ."""
_OWN = "it has Q/DQ of its own"


def require_known(model: "ir.Model", how: Lowering) -> None:
    """Checks that each name or glob to keep is that of a node or module that would be lowered.

    Raises:
        UsageError: one is not.
    """
    from ..passes import ORIGIN, is_kept, layer_name
    from .errors import did_you_mean

    nodes = _lowerable(model, how) if how.keep else []
    for one in how.keep:
        if not any(is_kept(node, (one,)) for node in nodes):
            names = [name for node in nodes for name in (layer_name(node), node.metadata_props.get(ORIGIN)) if name]
            raise UsageError(f"--exclude {one}: no layer has that name", hint=did_you_mean(one, names))


def _lowerable(model: "ir.Model", how: Lowering) -> "list[ir.Node]":
    """INT8 is decided by product and embedding, 16 bits by node."""
    from ..passes import ConvertPrecision
    from .effect import PRODUCTS

    if how.precision is not Precision.INT8:
        return ConvertPrecision().candidates(model)
    return [node for node in model.graph if node.op_type in (*PRODUCTS, "Gather")]


@dataclass
class _Smoothed:
    """What became of activations whose channels were scaled.

    Attributes:
        ranges: by name.
        centers: middle of each channel of those that are centered, once they are quantized, by name.
    """

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    centers: dict[str, tuple[float, ...]] = field(default_factory=dict)


def _smooth(model: "ir.Model", how: Lowering, table: "RangeTable") -> _Smoothed:
    """Scales channels where that helps; where integers are symmetric, some will be moved about zero as well."""
    from ..passes import SCHEMES, SmoothActivations, smoothed_name, worth_centering

    made = _Smoothed()
    if not how.smoothing or not table.channels:
        return made
    channels = {name: (np.array(one.low), np.array(one.high)) for name, one in table.channels.items()}
    extremes = tuple((name, tuple(np.maximum(-low, high).tolist())) for name, (low, high) in channels.items())
    smoothing = SmoothActivations(extremes=extremes, strength=how.smoothing, keep=how.keep)
    scales = smoothing.scales(model)
    smoothing(model)
    names = {value.name for node in model.graph for value in node.outputs}
    for name, scale in scales.items():
        low, high = (one / scale for one in channels[name])
        inserted = smoothed_name(name)
        known = inserted if inserted in names else name
        made.ranges[known] = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
        if SCHEMES[how.scheme].symmetric and worth_centering(low, high, table.tensors[name].count // low.size):
            radius = float((high - low).max()) / 2
            made.ranges[known] = -radius, radius
            made.centers[known] = tuple(((low + high) / 2).tolist())
    return made


def _without_range(node: "ir.Node", reason: str, shapes: "Shapes") -> Layer:
    from ..passes import ORIGIN, layer_name
    from . import effect

    return Layer(
        name=layer_name(node),
        origin=node.metadata_props.get(ORIGIN, ""),
        op=node.op_type,
        macs=effect.macs(node, shapes),
        decision="float" if reason else "int8",
        reason=reason,
        tensor=(node.inputs[0].name or "") if node.inputs[0] is not None else "",
    )


def _quantize_embeddings(model: "ir.Model", how: Lowering) -> list[Layer]:
    """Quantizes the tables of the runtimes that take them; an embedding is a layer without multiplications."""
    from ..passes import SCHEMES, QuantizeEmbeddings

    if not SCHEMES[how.scheme].embeddings:
        return []
    quantizing = QuantizeEmbeddings(keep=how.keep)
    layers = [_without_range(node, reason, {}) for node, reason in quantizing.lookups(model)]
    quantizing(model)
    return layers


def _inserting(how: Lowering, table: "RangeTable", smoothed: _Smoothed) -> "InsertQdq":
    from ..passes import SCHEMES, InsertQdq

    symmetric = SCHEMES[how.scheme].symmetric
    ranges: dict[str, tuple[float, float]] = {}
    for name, one in table.tensors.items():
        ranges[name] = (-one.symmetric, one.symmetric) if symmetric else one.affine
    ranges.update(smoothed.ranges)
    return InsertQdq(
        family=how.scheme,
        ranges=tuple((name, low, high) for name, (low, high) in ranges.items()),
        keep=how.keep,
        weight_bits=how.weight_bits,
    )


def _layers(
    model: "ir.Model",
    inserting: "InsertQdq",
    how: Lowering,
    table: "RangeTable",
    smoothed: _Smoothed,
) -> Iterator[Layer]:
    from ..passes import ORIGIN, SCHEMES, layer_name
    from . import effect

    found, shapes = inserting.regions(model), effect.shapes_at(model, how.sizes)
    ranges = {name: (low, high) for name, low, high in inserting.ranges}
    symmetric = SCHEMES[how.scheme].symmetric
    for node in model.graph:
        if node not in found.refused and not (node in found.nodes and node.op_type in effect.PRODUCTS):
            continue
        reason = found.refused.get(node, "")
        value = node.inputs[0]
        source = found.source.get(value, value) if value is not None else None
        name = (source.name or "") if source is not None else ""
        low, high = ranges.get(name, (0.0, 0.0))
        moved = "smoothed and centered minmax" if name in smoothed.centers else "smoothed minmax"
        facts = table.tensors.get(name) if name not in smoothed.ranges else None
        choice = None if facts is None else (facts.symmetric_choice if symmetric else facts.affine_choice)
        yield Layer(
            name=layer_name(node),
            origin=node.metadata_props.get(ORIGIN, ""),
            op=node.op_type,
            tensor=name,
            method=moved if name in smoothed.ranges else (choice.method if choice else ""),
            low=low,
            high=high,
            scale=max(-low, high) / 127 if symmetric else (high - low) / 255,
            sqnr_db=choice.sqnr_db if choice else None,
            saturated=choice.saturated if choice else None,
            macs=effect.macs(node, shapes),
            decision="float" if reason else "int8",
            reason=reason,
        )

"""Graph passes. `PRESETS` is the only list: target family -> ordered passes."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ._base import ORIGIN, Pass
from ._check import BrokenGraph, check, signature
from ._regions import is_kept, layer_name
from ._schemes import MOVES, SCHEMES
from ._stored import external_tensors
from ._walk import all_graphs, all_nodes, all_tensors, all_values, subgraphs
from .center_activations import CenterActivations, worth_centering
from .convert_precision import ConvertPrecision
from .delay_batch_norm import DelayBatchNorm
from .fold_constants import FoldConstants
from .fold_quantized_weights import FoldQuantizedWeights
from .fold_shapes import FoldShapes
from .fuse_attention import FuseAttention
from .fuse_conv_bn import FuseConvBn
from .fuse_conv_scale import FuseConvScale
from .fuse_gelu import FuseGelu
from .fuse_hard_swish import FuseHardSwish
from .fuse_layer_norm import FuseLayerNorm
from .fuse_pad import FusePad
from .fuse_rms_norm import FuseRmsNorm
from .fuse_rotary import FuseRotary
from .fuse_scale_conv import FuseScaleConv
from .group_queries import GroupQueries
from .infer_shapes import InferShapes
from .inline_functions import InlineFunctions
from .inline_if import InlineIf
from .insert_qdq import InsertQdq, observed
from .lift_constants import LiftConstants
from .merge_chains import MergeChains
from .merge_duplicates import MergeDuplicates
from .merge_matmuls import MergeMatmuls
from .push_transposes import PushTransposes
from .quantize_dynamic import QuantizeDynamic
from .quantize_embeddings import QuantizeEmbeddings
from .remove_noops import RemoveNoops
from .remove_unused import RemoveUnused
from .separate_zero_points import SeparateZeroPoints
from .simplify_attention import SimplifyAttention
from .smooth_activations import SmoothActivations, channelled, smoothed_name
from .strip_metadata import StripMetadata
from .turn_convolutions import TurnConvolutions
from .upgrade_opset import UpgradeOpset

__all__ = [
    "EXTRA",
    "MOVES",
    "ORIGIN",
    "PRESETS",
    "SCHEMES",
    "BrokenGraph",
    "CenterActivations",
    "ConvertPrecision",
    "InferShapes",
    "InsertQdq",
    "Pass",
    "QuantizeDynamic",
    "QuantizeEmbeddings",
    "RemoveUnused",
    "SeparateZeroPoints",
    "SmoothActivations",
    "StripMetadata",
    "UpgradeOpset",
    "all_graphs",
    "all_nodes",
    "all_tensors",
    "all_values",
    "channelled",
    "check",
    "external_tensors",
    "is_kept",
    "layer_name",
    "names",
    "observed",
    "parse",
    "signature",
    "smoothed_name",
    "subgraphs",
    "worth_centering",
]

_ORDER: tuple[Pass, ...] = (
    InlineFunctions(),
    UpgradeOpset(),
    LiftConstants(),
    InferShapes(),
    FoldConstants(),
    InlineIf(),
    InferShapes(),
    FoldShapes(),
    RemoveUnused(),  # what computed the shapes
    InferShapes(),  # now that more is known
    FoldShapes(),
    RemoveNoops(),
    SimplifyAttention(),
    RemoveUnused(),  # what is dead uses the middle of chains, too
    GroupQueries(),
    MergeChains(),
    PushTransposes(),
    RemoveNoops(),
    FusePad(),
    TurnConvolutions(),
    PushTransposes(),
    FuseConvScale(),
    FuseConvBn(),
    FuseConvScale(),  # what was behind a BatchNormalization
    DelayBatchNorm(),
    FuseGelu(),
    FuseHardSwish(),
    FuseLayerNorm(),
    FuseRmsNorm(),
    FuseScaleConv(),  # what is no part of a function
    MergeMatmuls(),
    LiftConstants(),
    FoldQuantizedWeights(),
    MergeDuplicates(),
    RemoveUnused(),
    StripMetadata(),
)
PRESETS: dict[str, tuple[Pass, ...]] = {
    "onnx": _ORDER,
    "onnxruntime": _ORDER,
    "openvino": _ORDER,
    "tensorrt": tuple(one for one in _ORDER if not isinstance(one, (DelayBatchNorm, TurnConvolutions))),
}
"""A family gets a list of its own where one that is better for it was measured.

TensorRT-RTX computes a BatchNormalization with the convolution before it: behind the pool it is a kernel of its own,
and CREPE's INT8 plan has 1.41 of the size of the FP32 one, not 1.1. Its kernels know no rows and columns.

ONNX Runtime fuses what has only operators of its own (QuickGelu) when it loads a graph; `compiler.backends.onnxruntime`
switches off those of its fusions that measure slower on a CPU (SkipLayerNormalization).
"""

EXTRA: tuple[Pass, ...] = (
    CenterActivations(),
    ConvertPrecision(),
    FuseAttention(),
    FuseRotary(),
    InsertQdq(),
    QuantizeDynamic(),
    QuantizeEmbeddings(),
    SeparateZeroPoints(),
    SmoothActivations(),
)
"""Passes of no preset, for --pass; their docstrings say why."""


def names() -> dict[str, type[Pass]]:
    """Returns all passes by name, sorted."""
    found = {cls().name: cls for cls in _kinds(Pass)}  # type: ignore[type-abstract]
    return dict(sorted(found.items()))


def _kinds(cls: type[Pass]) -> Iterator[type[Pass]]:
    for one in cls.__subclasses__():
        yield from _kinds(one) if inspect.isabstract(one) else (one,)


def parse(text: str) -> Pass:
    """Returns the pass that `fold-constants` or `fold-constants{max-output-bytes=1024}` names.

    Raises:
        ValueError: there is no such pass or option, or its value is no number.
    """
    match = re.fullmatch(r"([a-z-]+)(?:\{(.*)\})?", text.strip())
    known = names()
    if match is None or match[1] not in known:
        raise ValueError(f"unknown pass {text!r}; known: {', '.join(known)}")
    types = {one.name: one.type for one in fields(known[match[1]])}
    options: dict[str, Any] = {}
    for pair in filter(None, (match[2] or "").split(",")):
        name, _, value = (part.strip() for part in pair.partition("="))
        kind = types.get(name.replace("-", "_"))
        if kind is None:
            raise ValueError(f"{match[1]} has no option {name!r}")
        if kind is bool and value in ("true", "false"):
            options[name.replace("-", "_")] = value == "true"
        elif kind is str:
            options[name.replace("-", "_")] = value
        elif kind is int and value.isdecimal() and value.isascii():
            options[name.replace("-", "_")] = int(value)
        else:
            raise ValueError(f"{match[1]}: {name}={value} is not of type {getattr(kind, '__name__', kind)}")
    return known[match[1]](**options)

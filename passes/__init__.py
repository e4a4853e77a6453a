"""Graph passes. `PRESETS` is the only list: target family -> ordered passes."""

import onnx_ir as ir

from ._base import Pass
from ._walk import all_graphs, all_nodes, all_tensors, all_values
from .fold_constants import FoldConstants
from .fold_shapes import FoldShapes
from .fuse_conv_bn import FuseConvBn
from .fuse_gelu import FuseGelu
from .fuse_pad import FusePad
from .infer_shapes import InferShapes
from .inline_functions import InlineFunctions
from .lift_constants import LiftConstants
from .merge_chains import MergeChains
from .merge_duplicates import MergeDuplicates
from .merge_matmuls import MergeMatMuls
from .remove_noops import RemoveNoops
from .remove_unused import RemoveUnused
from .strip_metadata import StripMetadata
from .upgrade_opset import UpgradeOpset

__all__ = [
    "ORIGIN",
    "PRESETS",
    "StripMetadata",
    "all_graphs",
    "all_nodes",
    "all_tensors",
    "all_values",
    "run",
]

ORIGIN = "planc.origin"
"""Key of a node's metadata: path of the PyTorch module that it came from, such as `layers.3.attention`."""

PRESETS: dict[str, tuple[Pass, ...]] = {
    "onnx": (
        InlineFunctions(),
        UpgradeOpset(),
        LiftConstants(),
        InferShapes(),
        FoldConstants(),
        InferShapes(),
        FoldShapes(),
        RemoveNoops(),
        MergeChains(),
        RemoveNoops(),
        FusePad(),
        FuseConvBn(),
        FuseGelu(),
        MergeMatMuls(),
        LiftConstants(),
        MergeDuplicates(),
        RemoveUnused(),
        StripMetadata(),
    ),
}


def run(model: ir.Model, family: str) -> list[str]:
    """Runs the preset of `family` in place; returns the names of the passes that changed something.

    Raises:
        LookupError: there is no preset of that name.
        onnx_ir.passes.PassError: a pass failed; it names the pass.
    """
    changed = []
    for pass_ in PRESETS[family]:
        try:
            if pass_(model).modified:
                changed.append(pass_.name)
        except Exception as error:
            raise ir.passes.PassError(f"{pass_.name}: {_root_cause(error)}") from error
    return changed


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"

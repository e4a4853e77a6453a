"""Raises an old opset to one that the fusions and every backend speak."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._walk import all_nodes

OLDEST = 9
"""Older operators mean other things, such as the batches of Scan: such a model stays as it is."""
_CHANGED = {"Hardmax": 13, "Resize": 11, "Upsample": 10}
"""Operators that the converter takes for what they mean since that opset: such a model stays as it is."""


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Upgrades the default domain: opset 9 -> opset 20.

    Attributes:
        least: models at this opset or above are left alone.
    """

    least: int = 20

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Converts in place; the converter of the ONNX project does the steps below 18."""
        from onnxscript.version_converter import ConvertVersionPass

        have = model.opset_imports.get("", self.least)
        changed = any(node.domain == "" and have < _CHANGED.get(node.op_type, 0) for node in all_nodes(model))
        if have >= self.least or have < OLDEST or changed:
            return ir.passes.PassResult(model, modified=False)
        ConvertVersionPass(self.least, fallback=True)(model)
        return ir.passes.PassResult(model, modified=model.opset_imports.get("") != have)

"""Removes what no output needs."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common


@dataclass(frozen=True)
class RemoveUnused(ir.passes.InPlacePass):
    """Removes nodes, initializers, functions and opset imports that no output needs."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        return "remove-unused"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Removes in place."""
        steps = (common.RemoveUnusedNodesPass(), common.RemoveUnusedFunctionsPass(), common.RemoveUnusedOpsetsPass())
        return ir.passes.PassResult(model, modified=any([step(model).modified for step in steps]))

"""Removes what no output needs."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from ._base import Pass


@dataclass(frozen=True)
class RemoveUnused(Pass):
    """Removes nodes, initializers, functions and opset imports that no output needs."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Removes in place."""
        modified = common.RemoveUnusedNodesPass()(model).modified
        modified |= common.RemoveUnusedFunctionsPass()(model).modified  # type: ignore[no-untyped-call]
        modified |= common.RemoveUnusedOpsetsPass()(model).modified
        return ir.passes.PassResult(model, modified=modified)

"""Replaces every call of a model-local function by the function's body."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from ._base import Pass


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Inlines model-local functions: y = f(x) -> the nodes of f."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inlines all functions of `model`."""
        if not model.functions:
            return ir.passes.PassResult(model, modified=False)
        return common.InlinePass()(model)

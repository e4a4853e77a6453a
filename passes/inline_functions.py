"""Replaces every call of a model-local function by the function's body."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common


@dataclass(frozen=True)
class InlineFunctions(ir.passes.InPlacePass):
    """Inlines model-local functions: y = f(x) -> the nodes of f."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        return "inline-functions"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inlines all functions of `model`."""
        if not model.functions:
            return ir.passes.PassResult(model, modified=False)
        return common.InlinePass()(model)

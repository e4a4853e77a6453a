"""Makes every constant an initializer of the main graph, so that later passes look in one place."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from ._base import Pass


@dataclass(frozen=True)
class LiftConstants(Pass):
    """Lifts constants: y = Constant() -> initializer y; initializers of subgraphs move to the main graph."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lifts in place."""
        modified = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).modified
        modified |= common.LiftSubgraphInitializersToMainGraphPass()(model).modified
        return ir.passes.PassResult(model, modified=modified)

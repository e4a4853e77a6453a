"""Evaluates what depends on constants only."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Folds constants: Add(2, 3) -> 5; shape arithmetic goes through symbolic dimensions.

    Attributes:
        max_input_bytes: nodes with a larger constant input are left alone.
        max_output_bytes: results that are larger are not kept, so that no Tile or Expand bloats the file.
    """

    max_input_bytes: int = 1 << 13
    max_output_bytes: int = 1 << 18

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds in place with onnxscript's folder."""
        from onnxscript.optimizer import fold_constants_ir

        result = fold_constants_ir(
            model, input_size_limit=self.max_input_bytes, output_size_limit=self.max_output_bytes
        )
        return ir.passes.PassResult(model, modified=bool(result.modified))

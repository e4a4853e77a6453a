"""Folds a BatchNormalization, or an affine Mul and Add, into the weights of the Conv or Gemm before it."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._constants import without_defaults
from ._walk import all_nodes


@dataclass(frozen=True)
class FuseConvBn(Pass):
    """Fuses batch normalization: BatchNormalization(Conv(x, w)) -> Conv(x, w', b')."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Applies onnxscript's rules in place."""
        from onnxscript.rewriter import RewritePass
        from onnxscript.rewriter.rules import common as rules

        pass_ = RewritePass(
            [
                rules.fuse_batchnorm_into_conv_rule,
                rules.fuse_batchnorm_into_conv_transpose_rule,
                rules.fuse_batchnorm_into_gemm_rule,
            ]
        )
        found = [node for node in all_nodes(model) if node.op_type == "BatchNormalization"]
        if not found or any(_trains(node) for node in found):
            return ir.passes.PassResult(model, modified=False)
        with without_defaults(model):
            return ir.passes.PassResult(model, modified=bool(pass_(model).modified))


def _trains(node: ir.Node) -> bool:
    """Whether a BatchNormalization uses the statistics of its own input, which onnxscript's rules do not look at."""
    return bool(node.attributes.get_int("training_mode", 0))

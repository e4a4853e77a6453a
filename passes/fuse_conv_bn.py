"""Folds a BatchNormalization, or an affine Mul and Add, into the weights of the Conv or Gemm before it."""

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class FuseConvBn(ir.passes.InPlacePass):
    """Fuses batch normalization: BatchNormalization(Conv(x, w)) -> Conv(x, w', b')."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        return "fuse-conv-bn"

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
        return ir.passes.PassResult(model, modified=bool(pass_(model).modified))

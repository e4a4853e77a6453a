"""Moves a padding with zeros into the convolution after it."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass


@dataclass(frozen=True)
class FusePad(Pass):
    """Fuses padding: Conv(Pad(x, p)) -> Conv(x, pads=p)."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Applies onnxscript's rules in place."""
        from onnxscript.rewriter import RewritePass
        from onnxscript.rewriter.rules import common as rules

        pass_ = RewritePass(
            [
                rules.normalize_pad_format_conv_rule,
                rules.fuse_pad_into_conv_rule,
                rules.fuse_pad_into_conv_integer_rule,
            ]
        )
        return ir.passes.PassResult(model, modified=bool(pass_(model).modified))

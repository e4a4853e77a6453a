"""Moves a padding with zeros into the convolution after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ._base import Pass
from ._constants import without_defaults
from ._fusion import near_rules
from ._match import producer
from ._walk import all_nodes


@dataclass(frozen=True)
class FusePad(Pass):
    """Fuses padding: Conv(Pad(x, p)) -> Conv(x, pads=p)."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Applies onnxscript's rules in place."""
        if not any(node.op_type == "Pad" for node in all_nodes(model)):
            return ir.passes.PassResult(model, modified=False)
        from onnxscript.rewriter import RewritePass

        with without_defaults(model):
            return ir.passes.PassResult(model, modified=bool(RewritePass(_rules())(model).modified))

    def near_misses(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields each Conv whose input a Pad computes, and what onnxscript's rules say of it."""
        padded = [node for node in all_nodes(model) if node.op_type == "Conv" and producer(node.inputs[0], "Pad")]
        with without_defaults(model):
            missed = near_rules(_rules(), model, padded) if padded else []
        yield from missed


def _rules() -> list[Any]:
    """Those of onnxscript, without that for ConvInteger, which pads with its zero point."""
    from onnxscript.rewriter.pattern import MatchResult
    from onnxscript.rewriter.rules import common as rules
    from onnxscript.rewriter.rules.common._fuse_pad_into_conv import NormalizePadFormatConv

    class SpellOutPads(NormalizePadFormatConv):  # type: ignore[misc]
        """Its sums are those of a dense kernel."""

        def check(self, context: Any, conv: ir.Value, **rest: Any) -> Any:
            node = conv.producer()
            assert node is not None
            if any(step != 1 for step in node.attributes.get_ints("dilations", ())):
                return MatchResult().fail("the kernel is dilated")
            return super().check(context, conv, **rest)

    return [SpellOutPads.rule(), rules.fuse_pad_into_conv_rule]

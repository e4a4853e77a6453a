"""Merges neighbouring operators of one kind into one."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._constants import without_defaults
from ._walk import all_nodes

_CHAINED = ("Cast", "Reshape", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class MergeChains(Pass):
    """Merges chains: Transpose(Transpose(x)) -> Transpose(x); the same for Reshape, Unsqueeze and Cast."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Applies onnxscript's rules in place."""
        if not any(map(_is_chained, all_nodes(model))):
            return ir.passes.PassResult(model, modified=False)
        from onnxscript.rewriter import RewritePass
        from onnxscript.rewriter.rules import common as rules

        pass_ = RewritePass(
            [
                rules.cast_cast_rule,
                rules.reshape_reshape_rule,
                rules.squeeze_reshape_1d_rule,
                rules.transpose_transpose_rule,
                rules.unsqueeze_unsqueeze_rule,
            ]
        )
        with without_defaults(model):
            return ir.passes.PassResult(model, modified=bool(pass_(model).modified))


def _is_chained(node: ir.Node) -> bool:
    """Whether a rule could begin here: the library takes 0.2 s to load."""
    if node.op_type not in _CHAINED or not node.inputs or node.inputs[0] is None:
        return False
    before = node.inputs[0].producer()
    return before is not None and (
        before.op_type == node.op_type or (before.op_type, node.op_type) == ("Squeeze", "Reshape")
    )

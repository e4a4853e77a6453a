"""Folds a BatchNormalization, or an affine Mul and Add, into the weights of the Conv or Gemm before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ._base import Pass
from ._constants import without_defaults
from ._fusion import near_rules
from ._walk import all_nodes


@dataclass(frozen=True)
class FuseConvBn(Pass):
    """Fuses batch normalization: BatchNormalization(Conv(x, w)) -> Conv(x, w', b')."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Applies onnxscript's rules in place."""
        found = _found(model)
        if not found or any(map(_trains, found)):
            return ir.passes.PassResult(model, modified=False)
        from onnxscript.rewriter import RewritePass

        with without_defaults(model):
            return ir.passes.PassResult(model, modified=bool(RewritePass(_rules())(model).modified))

    def near_misses(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields each BatchNormalization that is left, and what onnxscript's rules say of it."""
        found = _found(model)
        if any(map(_trains, found)):
            yield from ((node, "a BatchNormalization of the graph is in training mode") for node in found)
            return
        with without_defaults(model):
            missed = near_rules(_rules(), model, found)
        yield from missed


def _found(model: ir.Model) -> list[ir.Node]:
    return [node for node in all_nodes(model) if node.domain == "" and node.op_type == "BatchNormalization"]


def _rules() -> list[Any]:
    from onnxscript.rewriter.rules import common as rules

    return [
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
    ]


def _trains(node: ir.Node) -> bool:
    """Whether a BatchNormalization uses the statistics of its own input, which onnxscript's rules do not look at."""
    return bool(node.attributes.get_int("training_mode", 0))

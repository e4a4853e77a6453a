"""Infers dtypes and shapes of all values, through symbolic dimensions."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from ._base import Pass
from ._constants import without_defaults
from ._walk import all_nodes


@dataclass(frozen=True)
class InferShapes(Pass):
    """Infers shapes with the ONNX project's own inference, with data propagation; weights are not read."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Completes the values in place; that alone does not count as a modification."""
        unknown = [
            value for node in all_nodes(model) if _branches(node) for value in node.outputs if value.type is None
        ]
        with without_defaults(model):
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
        for value in unknown:  # it takes sequences that leave an If or a Loop for tensors
            value.type = value.shape = None
        return ir.passes.PassResult(model, modified=False)


def _branches(node: ir.Node) -> bool:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in graphs for attribute in node.attributes.values())

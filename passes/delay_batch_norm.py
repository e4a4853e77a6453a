"""Moves a BatchNormalization behind the MaxPool after it."""

from dataclasses import dataclass

import onnx_ir as ir

from ._batch_norm import is_norm, vectors
from ._match import require, user
from ._peephole import Peephole


@dataclass(frozen=True)
class DelayBatchNorm(Peephole[ir.Node]):
    """Delays batch normalization: MaxPool(BatchNormalization(x)) -> BatchNormalization(MaxPool(x)).

    It has fewer values to work on there, and what is before it meets the pool. No channel may be scaled by a negative
    number: a greatest value stays the greatest one, and the result is the same to the last bit.
    """

    def match(self, node: ir.Node, /) -> ir.Node | None:
        """Returns the MaxPool behind a BatchNormalization."""
        if not is_norm(node) or not any(use.node.op_type == "MaxPool" for use in node.outputs[0].uses()):
            return None
        pool = user(node.outputs[0], "MaxPool")
        (scale,) = vectors(node, 1)
        require(bool((scale > 0).all()), "a channel is not scaled by a positive number")
        return pool

    def change(self, _home: ir.Graph, node: ir.Node, found: ir.Node, /) -> None:
        """Lets the two change places."""
        given, between, result = node.inputs[0], node.outputs[0], found.outputs[0]
        graph = node.graph
        assert given is not None and graph is not None
        found.replace_input_with(0, given)
        graph.remove(node)
        graph.insert_after(found, node)
        between.name, result.name = result.name, f"{result.name}_before"
        between.type, between.shape = result.type, result.shape
        result.replace_all_uses_with(between, replace_graph_outputs=True)
        node.replace_input_with(0, result)

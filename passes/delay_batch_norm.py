"""Moves a BatchNormalization behind the MaxPool after it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._base import Miss, Pass
from ._constants import constant
from ._match import require, user
from ._walk import all_graphs, all_nodes

_MOST_BYTES = 1 << 24  # of a vector of channels


@dataclass(frozen=True)
class DelayBatchNorm(Pass):
    """Delays batch normalization: MaxPool(BatchNormalization(x)) -> BatchNormalization(MaxPool(x)).

    It has fewer values to work on there, and what is before it meets the pool. No channel may be scaled by a negative
    number: a greatest value stays the greatest one, and the result is the same to the last bit.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Moves in place."""
        modified = False
        for graph in all_graphs(model):
            for node in graph:
                try:
                    if _is_norm(node):
                        _move(graph, node, _pool(node))
                        modified = True
                except Miss:
                    continue
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields each BatchNormalization before a MaxPool, and what is in the way."""
        for node in filter(_is_norm, all_nodes(model)):
            if any(use.node.op_type == "MaxPool" for use in node.outputs[0].uses()):
                try:
                    _pool(node)
                except Miss as miss:
                    yield node, str(miss)


def _is_norm(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "BatchNormalization"


def _pool(norm: ir.Node) -> ir.Node:
    """Returns the MaxPool behind it.

    Raises:
        Miss: it has none, or one that would see other values.
    """
    pool = user(norm.outputs[0], "MaxPool")
    others = any(value.uses() or value.is_graph_output() for value in norm.outputs[1:])
    require(not others and norm.attributes.get_int("training_mode", 0) == 0, "it is in training mode")
    scale = constant(norm.inputs[1], most_bytes=_MOST_BYTES)
    if scale is None:
        raise Miss("the scale is not constant")
    require(bool((np.asarray(scale, np.float64) > 0).all()), "a channel is not scaled by a positive number")
    return pool


def _move(graph: ir.Graph | ir.Function, norm: ir.Node, pool: ir.Node) -> None:
    given, result = norm.inputs[0], pool.outputs[0]
    between = norm.outputs[0]
    assert given is not None
    pool.replace_input_with(0, given)
    graph.remove(norm)
    graph.insert_after(pool, norm)
    between.name, result.name = result.name, f"{result.name}_before"
    between.type, between.shape = result.type, result.shape
    result.replace_all_uses_with(between, replace_graph_outputs=True)
    norm.replace_input_with(0, result)

"""Computes the projections of one input together, as attention has them."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._constants import new_constant, new_lazy
from ._match import only_use
from ._stored import JoinedTensor
from ._walk import all_graphs


@dataclass(frozen=True)
class MergeMatmuls(Pass):
    """Merges products of one input: MatMul(x, q), MatMul(x, k), MatMul(x, v) -> Split(MatMul(x, [q k v])).

    Biases that follow every product are merged too. Weights that something else uses are left alone: merging would
    copy them.

    Attributes:
        least: number of products that makes a merge worth it.
    """

    least: int = 3

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merges in place."""
        modified = False
        for graph in all_graphs(model):
            groups: dict[tuple[object, ...], list[ir.Node]] = defaultdict(list)
            for node in graph:
                if node.domain == "" and node.op_type == "MatMul" and _is_projection(node):
                    bias = _bias(node)
                    left, right = node.inputs
                    assert right is not None and right.shape is not None
                    groups[left, right.shape[0], right.dtype, bias is not None].append(node)
            for nodes in groups.values():
                if len(nodes) >= self.least:
                    _merge(model, nodes)
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


def _is_projection(node: ir.Node) -> bool:
    left, right = node.inputs
    if left is None or right is None or right.const_value is None or right.is_graph_input() or not only_use(right):
        return False
    return len(right.const_value.shape) == 2 and not node.outputs[0].is_graph_output()


def _bias(node: ir.Node) -> ir.Node | None:
    """The Add of a constant vector that is the only user of the product."""
    output = node.outputs[0]
    if not only_use(output):
        return None
    add = next(iter(output.uses())).node
    if add.graph is not node.graph or add.domain != "" or add.op_type != "Add" or add.outputs[0].is_graph_output():
        return None
    other = next((value for value in add.inputs if value is not output), None)
    if other is None or other.const_value is None or other.is_graph_input() or node.inputs[1] is None:
        return None
    width = node.inputs[1].shape[1] if node.inputs[1].shape is not None else None
    return add if tuple(other.const_value.shape) == (width,) else None


def _merge(model: ir.Model, nodes: list[ir.Node]) -> None:
    first = nodes[0]
    graph = first.graph
    assert graph is not None
    adds = [_bias(node) for node in nodes]
    weights: list[ir.TensorProtocol] = [node.inputs[1].const_value for node in nodes]  # type: ignore[union-attr, misc]
    widths = np.array([tensor.shape[1] for tensor in weights], dtype=np.int64)
    weight = new_lazy(model.graph, JoinedTensor(weights, f"{first.outputs[0].name}_weights"))
    chain = [ir.node("MatMul", [first.inputs[0], weight])]
    if all(adds):
        vectors = [
            next(value for value in add.inputs if value is not node.outputs[0]).const_value.numpy()  # type: ignore[union-attr]
            for node, add in zip(nodes, adds, strict=True)
            if add is not None
        ]
        bias = new_constant(model.graph, f"{first.outputs[0].name}_biases", np.concatenate(vectors))
        chain.append(ir.node("Add", [chain[0].outputs[0], bias]))
    sizes = new_constant(model.graph, f"{first.outputs[0].name}_widths", widths)
    split = ir.node("Split", [chain[-1].outputs[0], sizes], attributes={"axis": -1}, num_outputs=len(nodes))
    for step in chain:
        _state(step.outputs[0], first.outputs[0], int(widths.sum()))
    last = [add or node for node, add in zip(nodes, adds, strict=True)]
    for step in (*chain, split):
        step.metadata_props.update(first.metadata_props)
        graph.insert_before(first, step)
    for old, output in zip(last, split.outputs, strict=True):
        output.name, output.type, output.shape = old.outputs[0].name, old.outputs[0].type, old.outputs[0].shape
        old.outputs[0].replace_all_uses_with(output)
    for node, add in zip(nodes, adds, strict=True):
        graph.remove([one for one in (add, node) if one is not None], safe=True)


def _state(value: ir.Value, like: ir.Value, width: int) -> None:
    """Gives a new value the type of `like`, and its shape but for the width."""
    value.type = like.type
    if like.shape is not None:
        value.shape = ir.Shape([*list(like.shape)[:-1], width])

"""Removes what no output needs."""

from dataclasses import dataclass
from functools import cache

import onnx_ir as ir
import onnx_ir.passes.common as common

from ._base import Pass
from ._walk import all_graphs, subgraphs


@dataclass(frozen=True)
class RemoveUnused(Pass):
    """Removes nodes, optional outputs, initializers, functions and opset imports that no output needs."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Removes in place."""
        modified = _remove_nodes(model.graph)
        for function in model.functions.values():
            modified |= _remove_nodes(function)
        for graph in all_graphs(model):
            for node in graph:
                modified |= _trim(node, model.opset_imports.get("", 0))
        modified |= _remove_initializers(model.graph)
        modified |= common.RemoveUnusedFunctionsPass()(model).modified  # type: ignore[no-untyped-call]
        modified |= common.RemoveUnusedOpsetsPass()(model).modified
        return ir.passes.PassResult(model, modified=modified)


def _remove_nodes(graph: ir.Graph | ir.Function) -> bool:
    """Removes all dead nodes at once: each removal by itself looks at every output of the graph."""
    dead: dict[ir.Node, None] = {}
    modified = False
    for node in reversed(graph):
        if all(not value.is_graph_output() and all(use.node in dead for use in value.uses()) for value in node.outputs):
            dead[node] = None
            for subgraph in subgraphs(node):
                _detach(subgraph)
        else:
            for subgraph in subgraphs(node):
                modified |= _remove_nodes(subgraph)
    if dead:
        graph.remove(dead, safe=True)
    return modified or bool(dead)


def _detach(graph: ir.Graph) -> None:
    """Lets go of all that a dead node's subgraph uses from outside."""
    graph.outputs.clear()
    for node in graph:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
        for subgraph in subgraphs(node):
            _detach(subgraph)


def _trim(node: ir.Node, opset: int) -> bool:
    """Drops the inputs at the end that are not given, and the optional outputs that nothing uses."""
    before = len(node.inputs), len(node.outputs)
    if node.inputs and node.inputs[-1] is None:
        given = max((index + 1 for index, value in enumerate(node.inputs) if value is not None), default=0)
        node.resize_inputs(max(given, min(_least_inputs(node.domain, node.op_type, opset), len(node.inputs))))
    if len(node.outputs) > 1 and node.domain == "" and not _is_training(node):
        for value, optional in zip(node.outputs, _optional_outputs(node.op_type, opset), strict=False):
            if optional and not value.uses() and not value.is_graph_output():
                value.name = ""
        if not node.outputs[-1].name:
            node.resize_outputs(max(index + 1 for index, value in enumerate(node.outputs) if value.name or index == 0))
    return before != (len(node.inputs), len(node.outputs))


def _is_training(node: ir.Node) -> bool:
    """Whether the number of outputs, or an attribute, makes a BatchNormalization learn: all of them stay then."""
    return node.op_type == "BatchNormalization" and node.attributes.get_int("training_mode", 1) != 0


@cache
def _optional_outputs(op_type: str, opset: int) -> tuple[bool, ...]:
    import onnx

    option = onnx.defs.OpSchema.FormalParameterOption
    try:
        schema = onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return ()
    kinds = [output.option for output in schema.outputs]
    return () if option.Variadic in kinds else tuple(kind is option.Optional for kind in kinds)


@cache
def _least_inputs(domain: str, op_type: str, opset: int) -> int:
    """How many inputs must be there, though empty: a Loop without a condition has two."""
    import onnx

    try:
        return int(onnx.defs.get_schema(op_type, opset, domain).min_input)
    except onnx.defs.SchemaError:
        return 0


def _remove_initializers(graph: ir.Graph) -> bool:
    unused = [
        name
        for name, value in graph.initializers.items()
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input()
    ]
    for name in unused:
        del graph.initializers[name]
    return bool(unused)

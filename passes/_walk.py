"""Walks over everything in a model: main graph, subgraphs and functions."""

from collections.abc import Iterator

import onnx_ir as ir


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yields every node, those in subgraphs and functions too."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def all_graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """Yields the main graph, its subgraphs and the functions."""
    yield model.graph
    yield from model.graph.subgraphs()
    for function in model.functions.values():
        yield function
        yield from function.subgraphs()


def all_values(model: ir.Model) -> Iterator[ir.Value]:
    """Yields every value once: inputs, initializers and the outputs of nodes."""
    for graph in all_graphs(model):
        yield from graph.inputs
        if isinstance(graph, ir.Graph):
            yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in all_nodes(model):
        yield from node.outputs


def all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yields every constant tensor: initializers and tensor attributes."""
    for graph in all_graphs(model):
        if isinstance(graph, ir.Graph):
            yield from (value.const_value for value in graph.initializers.values() if value.const_value is not None)
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type is ir.AttributeType.TENSOR:
                yield attribute.as_tensor()
            elif attribute.type is ir.AttributeType.TENSORS:
                yield from attribute.as_tensors()

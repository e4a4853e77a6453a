"""Walks over everything in a model: main graph, subgraphs and functions."""

from collections.abc import Iterator, Sequence

import onnx_ir as ir


def all_graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """Yields the main graph, the functions, and the subgraphs of each after it."""
    pending: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in pending:  # it grows
        yield graph
        for node in graph:
            pending.extend(subgraphs(node))


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yields every node, those in subgraphs and functions too; a subgraph's nodes come after its whole outer graph."""
    pending: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in pending:
        for node in graph:
            yield node
            pending.extend(subgraphs(node))


def subgraphs(node: ir.Node) -> Sequence[ir.Graph]:
    """Returns the graphs in a node's attributes: the branches of an If, the body of a Loop."""
    if not (attributes := node.attributes.data):  # as most, of each of which each pass asks
        return ()
    found: list[ir.Graph] = []
    for attribute in attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            found.append(attribute.value)
        elif attribute.type is ir.AttributeType.GRAPHS:
            found.extend(attribute.value)
    return found


def all_values(model: ir.Model) -> Iterator[ir.Value]:
    """Yields every value once: inputs, initializers and the outputs of nodes."""
    for graph in all_graphs(model):
        yield from graph.inputs
        if isinstance(graph, ir.Graph):
            yield from (value for value in graph.initializers.values() if not value.is_graph_input())
        for node in graph:
            yield from node.outputs


def all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yields every constant tensor: initializers and tensor attributes."""
    for graph in all_graphs(model):
        if isinstance(graph, ir.Graph):
            yield from (value.const_value for value in graph.initializers.values() if value.const_value is not None)
        for node in graph:
            for attribute in node.attributes.data.values():
                if attribute.type is ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.value
                elif attribute.type is ir.AttributeType.TENSORS and not attribute.is_ref():
                    yield from attribute.value

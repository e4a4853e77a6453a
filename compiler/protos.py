"""Walks over ONNX protobuf messages, for what is asked of a file before, or without, making a graph of it."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def nodes(proto: "onnx.ModelProto") -> "Iterator[onnx.NodeProto]":
    """Yields every node, those of functions and subgraphs too; a subgraph's come after its outer graph's."""
    yield from nodes_in(chain(proto.graph.node, *(function.node for function in proto.functions)))


def nodes_in(nodes: "Iterable[onnx.NodeProto]") -> "Iterator[onnx.NodeProto]":
    """Yields the nodes, and those in their subgraphs."""
    pending = list(nodes)
    for node in pending:  # it grows
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                pending.extend(attribute.g.node)
            for graph in attribute.graphs:
                pending.extend(graph.node)


def graphs(proto: "onnx.ModelProto") -> "Iterator[onnx.GraphProto]":
    """Yields the main graph and all subgraphs."""
    yield proto.graph
    yield from (graph for _, graph in bodies(proto))


def bodies(proto: "onnx.ModelProto") -> "Iterator[tuple[onnx.NodeProto, onnx.GraphProto]]":
    """Yields all subgraphs, each with the node that has it."""
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield node, attribute.g
            for graph in attribute.graphs:
                yield node, graph


def tensors(proto: "onnx.ModelProto") -> "Iterator[onnx.TensorProto]":
    """Yields every tensor in the file, those in subgraphs, functions and sparse tensors too."""
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for sparse in attribute.sparse_tensors:
                yield from (sparse.values, sparse.indices)
    for graph in graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)

"""ONNX files as protobuf messages: what is asked of one before, or without, making a graph of it."""

import mmap
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from . import wire

if TYPE_CHECKING:
    import onnx


def load_light(path: Path) -> "tuple[onnx.ModelProto, dict[str, wire.Span]]":
    """Reads an ONNX file without its large weights.

    Returns:
        The model, where those weights have their dtype and dims but no bytes, and where in the file the bytes lie,
        by the name of the initializer.

    Raises:
        google.protobuf.message.DecodeError: the file is no protobuf message, or is cut short.
        OSError: it cannot be read.
    """
    import onnx

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            light, spans = wire.without_weights(data)
        except (ValueError, IndexError):  # unusual, or damaged: the library says which
            light, spans = data[:], {}
    return onnx.ModelProto.FromString(light), spans


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


def data_files(path: Path) -> set[Path]:
    """Returns the files beside an ONNX file in which its external data lie."""
    places = (entry for tensor in tensors(load_light(path)[0]) for entry in tensor.external_data)
    return {path.parent / entry.value for entry in places if entry.key == "location"}


def dtype_name(value: "onnx.ValueInfoProto") -> str:
    """Returns the name that ONNX gives the dtype of an input or output, such as FLOAT."""
    import onnx

    return str(onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type))

"""Infers dtypes and shapes of all values, through symbolic dimensions."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from ._base import Pass
from ._constants import without_defaults
from ._shapes import MADE_UP, has_made_up_name
from ._walk import all_nodes, all_tensors, all_values

if TYPE_CHECKING:
    from onnx import GraphProto, TypeProto

_LONG = 1 << 20
_FEW = 64
_SMALL_BYTES = 1024
_NAME = re.compile(r"[^\W\d]\w*")
_TO_THE_END = (2**31 - 1, 2**63 - 1)
"""What exporters write for the end of a Slice."""


@dataclass(frozen=True)
class InferShapes(Pass):
    """Infers shapes with the ONNX project's own inference, with data propagation; weights are not read.

    Data propagation costs 144 bytes for each element of every vector, so that one Tile could take all memory: it is
    left out where a vector is long or an operand is a large number.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Completes the values in place; that alone does not count as a modification."""
        sizes = (str(size) for value in model.graph.inputs for size in value.shape or () if not isinstance(size, int))
        own = frozenset(size for size in sizes if not size.startswith(MADE_UP))
        if all(_is_known(value, own) for node in all_nodes(model) for value in node.outputs):
            return ir.passes.PassResult(model, modified=False)
        _drop_uncertain_shapes(model)
        from onnx.checker import ValidationError
        from onnx.shape_inference import InferenceError, infer_shapes

        with without_defaults(model), _without_weights(model):
            before = ir.to_proto(model).SerializeToString()
        with suppress(InferenceError, ValidationError):  # then nothing is known
            _take(model.graph, infer_shapes(before, data_prop=not _has_long_vectors(model)).graph)
        return ir.passes.PassResult(model, modified=False)


def _drop_uncertain_shapes(model: ir.Model) -> None:
    """Lets sizes that an earlier run could not name be found again: by now constants may tell what they are."""
    for node in all_nodes(model):
        for value in node.outputs:
            if has_made_up_name(value):
                value.shape = None


@contextmanager
def _without_weights(model: ir.Model) -> Iterator[None]:
    """Takes the bytes of large initializers away for the time of the block; dtype and shape stay."""
    large = {
        value: value.const_value
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > _SMALL_BYTES
    }
    for value, tensor in large.items():
        shape = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.ExternalTensor("", 0, tensor.nbytes, tensor.dtype, shape=shape, name=value.name or "")
    try:
        yield
    finally:
        for value, tensor in large.items():
            value.const_value = tensor


def _take(graph: ir.Graph, proto: "GraphProto") -> None:
    """Gives the values of a graph, and of its subgraphs, the dtypes and shapes that were found."""
    found = {value.name: value.type for value in (*proto.value_info, *proto.output)}
    for node, same in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            if value.name and (kind := found.get(value.name)) is not None:
                _describe(value, kind)
        for attribute in same.attribute if node.attributes else ():
            if attribute.HasField("g"):
                _take(node.attributes[attribute.name].as_graph(), attribute.g)
            for inner, its in zip(_graphs(node.attributes[attribute.name]), attribute.graphs, strict=True):
                _take(inner, its)


def _graphs(attribute: ir.Attr) -> Sequence[ir.Graph]:
    return attribute.as_graphs() if attribute.type is ir.AttributeType.GRAPHS else ()


def _describe(value: ir.Value, kind: "TypeProto") -> None:
    if not kind.HasField("tensor_type"):
        value.type = value.type or ir.serde.deserialize_type_proto_for_type(kind)
        return
    if kind.tensor_type.elem_type and value.dtype != kind.tensor_type.elem_type:
        value.type = ir.TensorType(ir.DataType(kind.tensor_type.elem_type))
    if kind.tensor_type.HasField("shape"):
        dims = kind.tensor_type.shape.dim
        value.shape = ir.Shape([one.dim_value if one.HasField("dim_value") else one.dim_param or None for one in dims])


def _is_known(value: ir.Value, own: frozenset[str]) -> bool:
    """Whether dtype and all sizes are known, be it by symbols of the inputs: there is nothing left to infer."""
    if value.type is None or value.shape is None:
        return False
    return all(isinstance(size, int) or _is_of(str(size), own) for size in value.shape)


def _is_of(size: str, own: frozenset[str]) -> bool:
    """Whether a size is one of the symbols, or an expression in them."""
    names = set(_NAME.findall(size))
    return size in own or (bool(names) and names <= own)


def _has_long_vectors(model: ir.Model) -> bool:
    for value in all_values(model):
        if (
            value.shape is not None
            and len(value.shape) == 1
            and isinstance(size := value.shape[0], int)
            and size > _LONG
        ):
            return True
    small = (tensor for tensor in all_tensors(model) if tensor.dtype is ir.DataType.INT64 and tensor.size <= _FEW)
    numbers = (int(number) for tensor in small for number in tensor.numpy().reshape(-1))
    return any(number > _LONG and number not in _TO_THE_END for number in numbers)

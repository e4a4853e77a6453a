"""Infers dtypes and shapes of all values, through symbolic dimensions."""

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from ._base import Pass
from ._constants import without_defaults
from ._walk import all_nodes, all_tensors, all_values

_LONG = 1 << 20
_FEW = 64
_SEQUENCES = (
    "Optional", "OptionalGetElement", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SplitToSequence",
)  # fmt: skip
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
        if all(_is_static(value) for node in all_nodes(model) for value in node.outputs):
            return ir.passes.PassResult(model, modified=False)
        unknown = _maybe_sequences(model)
        with without_defaults(model):
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=not _has_long_vectors(model))(
                model
            )
        for value in unknown:  # it takes them for tensors
            value.type = value.shape = None
        return ir.passes.PassResult(model, modified=False)


def _is_static(value: ir.Value) -> bool:
    """Whether dtype and all sizes are known: there is nothing left to infer."""
    return value.type is not None and value.shape is not None and all(isinstance(size, int) for size in value.shape)


def _maybe_sequences(model: ir.Model) -> set[ir.Value]:
    """Values without a type that may be sequences or optionals: what leaves an If or a Loop may be one, too."""
    found: set[ir.Value] = set()
    for node in all_nodes(model):
        copies = node.op_type == "Identity" and node.inputs[0] in found
        if copies or node.op_type in _SEQUENCES or _branches(node):
            found.update(value for value in node.outputs if value.type is None)
    return found


def _branches(node: ir.Node) -> bool:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in graphs for attribute in node.attributes.values())


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

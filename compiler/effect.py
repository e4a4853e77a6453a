"""What a lowered graph really computes in which precision: counted from the graph, not from what was asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ..passes import MOVES, InferShapes, all_nodes

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ON_INTEGERS = {"ConvInteger": (0, 1), "MatMulInteger": (0, 1), "QLinearConv": (0, 3), "QLinearMatMul": (0, 3)}
"""Products that take integers -> which of their inputs are multiplied."""

Shapes = Mapping[ir.Value, Sequence[int]]


@dataclass
class Share:
    """Products of one precision.

    Attributes:
        nodes: their number.
        macs: multiplications at the point "opt", those in subgraphs and of unknown shapes apart.
        weights_bytes: bytes of their stored weights.
    """

    nodes: int = 0
    macs: int = 0
    weights_bytes: int = 0


def count(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Counts matrix products and convolutions of the main graph by the precision that they compute in.

    Args:
        model: with Q/DQ or casts in the graph.
        sizes: of the symbolic dimensions.

    Returns:
        For each precision ("int8", "float16", "float32", ...) a Share as a dict, with `macs_share`: None where the
        shapes of a product are not known.
    """
    shares: dict[str, Share] = {}
    shapes, unknown = shapes_at(model, sizes), False
    seen: set[ir.Value] = set()
    for node in model.graph:
        if node.domain != "" or node.op_type not in (*PRODUCTS, *_ON_INTEGERS):
            continue
        share = shares.setdefault(precision(node), Share())
        share.nodes += 1
        found = macs(node, shapes)
        share.macs += found or 0
        unknown |= found is None
        weight = _weight(node)
        if weight is not None and weight not in seen:  # layers may share one
            seen.add(weight)
            share.weights_bytes += weight.const_value.nbytes if weight.const_value is not None else 0
    total = sum(share.macs for share in shares.values())
    return {
        name: {**asdict(share), "macs_share": round(share.macs / total, 4) if total and not unknown else None}
        for name, share in sorted(shares.items())
    }


def shapes_at(model: ir.Model, sizes: Mapping[str, int]) -> Shapes:
    """Returns the shapes that the values of a graph have where its symbolic dimensions have these sizes.

    What the graph does not say, or says in symbols that its inputs do not have, is inferred; what cannot be is missing.
    """
    shapes = _known(model.graph, sizes)
    if all(value in shapes for node in model.graph for value in _measured(node)):
        return shapes
    there = model.clone()
    for value in (*there.graph.inputs, *(value for node in all_nodes(there) for value in node.outputs)):
        shape = _resolved(value, sizes)
        value.shape = None if shape is None else ir.Shape(shape)
    InferShapes()(there)
    found = _known(there.graph, sizes)
    return shapes | {
        mine: found[its]
        for node, same in zip(model.graph, there.graph, strict=True)
        for mine, its in zip(node.outputs, same.outputs, strict=True)
        if its in found
    }


def macs(node: ir.Node, shapes: Shapes) -> int | None:
    """Returns how often a node multiplies and adds: 0 where it is no product, None where its shapes are not known."""
    known = [shapes.get(value) for value in _measured(node)]
    if not known:
        return 0
    left, right, output = known
    if left is None or right is None or output is None:
        return None
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
        return math.prod(output) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1
    return math.prod(output) * left[-2 if transposed else -1]


def _measured(node: ir.Node) -> list[ir.Value]:
    """The two operands of a product and what it gives; nothing of other nodes."""
    if node.domain != "" or node.op_type not in (*PRODUCTS, *_ON_INTEGERS):
        return []
    return [value for value in (*_operands(node), node.outputs[0]) if value is not None]


def precision(node: ir.Node) -> str:
    """Returns what a product computes in: int8 where both operands come out of Q/DQ."""
    if node.op_type in _ON_INTEGERS or all(map(_is_integer, node.inputs[:2])):
        return "int8"
    dtype = node.outputs[0].dtype or (node.inputs[0].dtype if node.inputs[0] is not None else None)
    return {"float": "float32", "double": "float64"}.get(name := dtype.name.lower(), name) if dtype else "unknown"


def _operands(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    left, right = _ON_INTEGERS.get(node.op_type, (0, 1))
    return node.inputs[left], node.inputs[right]


def _is_integer(value: ir.Value | None) -> bool:
    """Whether a value comes out of the DequantizeLinear of 8 bits, or out of what moves its elements."""
    maker = _dequantizer(value)
    whole = maker.inputs[0] if maker is not None else None
    return whole is not None and whole.dtype in (None, ir.DataType.INT8, ir.DataType.UINT8)


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    while value is not None and (maker := value.producer()) is not None and maker.domain == "":
        if maker.op_type == "DequantizeLinear":
            return maker
        if maker.op_type not in MOVES:
            return None
        value = maker.inputs[0]
    return None


def _weight(node: ir.Node) -> ir.Value | None:
    """The second operand as it is stored."""
    value = _operands(node)[1]
    maker = _dequantizer(value)
    return maker.inputs[0] if maker is not None else value


def _known(graph: ir.Graph, sizes: Mapping[str, int]) -> dict[ir.Value, list[int]]:
    values = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
    return {value: shape for value in values if (shape := _resolved(value, sizes)) is not None}


def _resolved(value: ir.Value, sizes: Mapping[str, int]) -> list[int] | None:
    """The shape where each symbol has its size; None where one has none."""
    if value.shape is None:
        return None
    shape = [size if isinstance(size, int) else sizes.get(str(size.value)) for size in value.shape]
    return None if None in shape else [size for size in shape if size is not None]

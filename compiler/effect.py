"""What a lowered graph really computes in which precision: counted from the graph, not from what was asked for."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ..passes import MOVES

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ON_INTEGERS = {"ConvInteger": (0, 1), "MatMulInteger": (0, 1), "QLinearConv": (0, 3), "QLinearMatMul": (0, 3)}
"""Products that take integers -> which of their inputs are multiplied."""


@dataclass
class Share:
    """Products of one precision.

    Attributes:
        nodes: their number.
        macs: multiplications at the point "opt", those in subgraphs apart.
        weights_bytes: bytes of their stored weights.
    """

    nodes: int = 0
    macs: int = 0
    weights_bytes: int = 0


def count(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Counts matrix products and convolutions of the main graph by the precision that they compute in.

    Args:
        model: with Q/DQ or casts in the graph.
        sizes: of the symbolic dimensions; another one counts as 1.

    Returns:
        For each precision ("int8", "float16", "float32", ...) a Share as a dict, with `macs_share`.
    """
    shares: dict[str, Share] = {}
    seen: set[ir.Value] = set()
    for node in model.graph:
        if node.domain != "" or node.op_type not in (*PRODUCTS, *_ON_INTEGERS):
            continue
        share = shares.setdefault(_precision(node), Share())
        share.nodes += 1
        share.macs += macs(node, sizes)
        weight = _weight(node)
        if weight is not None and weight not in seen:  # layers may share one
            seen.add(weight)
            share.weights_bytes += weight.const_value.nbytes if weight.const_value is not None else 0
    total = sum(share.macs for share in shares.values())
    return {
        name: {**asdict(share), "macs_share": round(share.macs / total, 4) if total else None}
        for name, share in sorted(shares.items())
    }


def macs(node: ir.Node, sizes: Mapping[str, int]) -> int:
    """Returns how often a product multiplies and adds; 0 where its shapes are not known."""
    if node.op_type not in (*PRODUCTS, *_ON_INTEGERS):
        return 0
    left, right = _operands(node)
    output = _shape(node.outputs[0], sizes)
    if left is None or right is None or output is None:
        return 0
    inner, weight = _shape(left, sizes), _shape(right, sizes)
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv") and weight:
        return math.prod(output) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose" and weight and inner:
        return math.prod(inner) * math.prod(weight[1:])
    if inner and ("MatMul" in node.op_type or node.op_type == "Gemm"):
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1
        return math.prod(output) * inner[-2 if transposed else -1]
    return 0


def _precision(node: ir.Node) -> str:
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


def _shape(value: ir.Value, sizes: Mapping[str, int]) -> list[int] | None:
    if value.shape is None:
        return None
    return [size if isinstance(size, int) else sizes.get(str(size.value), 1) for size in value.shape]

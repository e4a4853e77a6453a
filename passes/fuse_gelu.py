"""Recognizes GELU as exporters spell it out, by its erf and by its tanh form."""

import math
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ._base import Miss
from ._constants import scalar
from ._fusion import Fused, Fusion, single
from ._match import beside, inner, maker, near, orders, producer, require, text, user, with_scalar


@dataclass(frozen=True)
class FuseGelu(Fusion):
    """Fuses GELU: x * 0.5 * (1 + erf(x / sqrt 2)) -> Gelu(x); with tanh -> Gelu(x, approximate="tanh").

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; the operator is of opset 20.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"Erf", "Tanh"})
    opset: ClassVar[int] = 20

    def match(self, anchor: ir.Node, _opset: int, /) -> Fused:
        """Goes up from the curve to x, then down through the products, whatever their order."""
        tanh = anchor.op_type == "Tanh"
        x = _base_of_tanh(anchor) if tanh else _scaled(anchor.inputs[0], 1 / math.sqrt(2))
        gate = user(anchor.outputs[0], "Add")
        require(with_scalar(gate, 1.0), f"{text(beside(gate, anchor.outputs[0]))} is added to the curve, not 1")
        return single(_end(gate.outputs[0], x), "Gelu", [x], attributes={"approximate": "tanh"} if tanh else {})


def _end(gate: ir.Value, x: ir.Value) -> ir.Node:
    """Returns the Mul that ends 0.5 * x * gate, in any order of the three."""
    product = user(gate, "Mul")
    other = beside(product, gate)
    if other is x:
        last = user(product.outputs[0], "Mul")
        require(with_scalar(last, 0.5), f"{text(beside(last, product.outputs[0]))} scales the product, not 0.5")
        return last
    if with_scalar(product, 0.5) is gate:
        last = user(product.outputs[0], "Mul")
        require(beside(last, product.outputs[0]) is x, f"the gate multiplies another value than {text(x)}")
        return last
    half = with_scalar(producer(other, "Mul"), 0.5)
    require(half is x, f"the gate multiplies {text(other)}: neither x = {text(x)} nor 0.5 nor 0.5 * x")
    return product


def _scaled(value: ir.Value | None, factor: float) -> ir.Value:
    """Returns x for x * factor, or x / (1 / factor)."""
    node = maker(value, "Mul", "Div")
    if node.op_type == "Mul":
        found = with_scalar(node, factor)
    else:
        top, bottom = node.inputs
        number = scalar(bottom)
        dtype = bottom.dtype if bottom is not None else None
        found = top if number is not None and near(number, 1 / factor, dtype) else None
    if found is None:
        raise Miss(f"{text(value)} is not x * {factor:.6g}: {node.op_type} of {' and '.join(map(text, node.inputs))}")
    return found


def _base_of_tanh(tanh: ir.Node) -> ir.Value:
    """Returns x for tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))."""
    total = maker(_scaled(tanh.inputs[0], math.sqrt(2 / math.pi)), "Add")
    for x, cubic in orders(total):
        scaled = with_scalar(inner(cubic, "Mul"), 0.044715)
        if x is not None and scaled is not None and _is_cube(scaled, x):
            return x
    raise Miss(f"{text(total.outputs[0])} is not x + 0.044715 * x ** 3")


def _is_cube(value: ir.Value, base: ir.Value) -> bool:
    if (power := inner(value, "Pow")) is not None:
        return power.inputs[0] is base and scalar(power.inputs[1]) == 3
    product = inner(value, "Mul")
    for one, square in orders(product) if product is not None else ():
        inside = inner(square, "Mul")
        if one is base and inside is not None and all(factor is base for factor in inside.inputs):
            return True
    return False

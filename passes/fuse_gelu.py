"""Recognizes GELU as exporters spell it out, by its erf and by its tanh form."""

import math
from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._constants import scalar
from ._match import inner, near, orders, producer, replace, with_scalar
from ._walk import all_graphs

OPSET = 20


@dataclass(frozen=True)
class FuseGelu(Pass):
    """Fuses GELU: x * 0.5 * (1 + erf(x / sqrt 2)) -> Gelu(x); with tanh -> Gelu(x, approximate="tanh").

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; the operator is of opset 20.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses in place."""
        modified = False
        if model.opset_imports.get("", 0) < OPSET:
            return ir.passes.PassResult(model, modified=False)
        for graph in all_graphs(model):
            for node in graph:
                if node.domain == "" and node.op_type == "Mul" and (found := _gelu(node)) is not None:
                    value, approximate = found
                    attributes = {"approximate": "tanh"} if approximate else {}
                    replace(node, ir.node("Gelu", [value], attributes=attributes))
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


def _gelu(last: ir.Node) -> tuple[ir.Value, bool] | None:
    """Returns x and whether it is the tanh form, for the Mul that ends 0.5 * x * gate in any order of products."""
    product = inner(with_scalar(last, 0.5), "Mul")
    for value, gate in orders(product) if product is not None else ():
        if (form := _gate(gate, value)) is not None:
            return value, form  # type: ignore[return-value]
    for value, other in orders(last):
        half_gate = with_scalar(inner(other, "Mul"), 0.5)
        if half_gate is not None and (form := _gate(half_gate, value)) is not None:
            return value, form  # type: ignore[return-value]
        whole = with_scalar(producer(value, "Mul"), 0.5)
        if whole is not None and (form := _gate(other, whole)) is not None:
            return whole, form
    return None


def _gate(gate: ir.Value | None, value: ir.Value | None) -> bool | None:
    """For gate = 1 + erf(x / sqrt 2): False; for gate = 1 + tanh(...): True; None for anything else."""
    curve = with_scalar(inner(gate, "Add"), 1.0)
    if (erf := inner(curve, "Erf")) is not None:
        return False if _scaled(erf.inputs[0], 1 / math.sqrt(2)) is value and value is not None else None
    if (tanh := inner(curve, "Tanh")) is not None:
        sum_ = inner(_scaled(tanh.inputs[0], math.sqrt(2 / math.pi)), "Add")
        for one, cubic in orders(sum_) if sum_ is not None else ():
            if one is value and value is not None and _is_cube(_scaled(cubic, 0.044715), value):
                return True
    return None


def _scaled(value: ir.Value | None, factor: float) -> ir.Value | None:
    """Returns x for x * factor, or x / (1 / factor)."""
    if (product := inner(value, "Mul")) is not None:
        return with_scalar(product, factor)
    quotient = inner(value, "Div")
    if quotient is None:
        return None
    divisor = scalar(quotient.inputs[1])
    return quotient.inputs[0] if divisor is not None and near(divisor, 1 / factor, _dtype(quotient.inputs[1])) else None


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    return value.dtype if value is not None else None


def _is_cube(value: ir.Value | None, base: ir.Value) -> bool:
    if (power := inner(value, "Pow")) is not None:
        return power.inputs[0] is base and scalar(power.inputs[1]) == 3
    product = inner(value, "Mul")
    for one, square in orders(product) if product is not None else ():
        inside = inner(square, "Mul")
        if one is base and inside is not None and all(factor is base for factor in inside.inputs):
            return True
    return False

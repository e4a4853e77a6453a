"""Recognizes hard swish as exporters spell it out."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ._base import Miss
from ._constants import scalar
from ._fusion import Fused, Fusion, single
from ._match import beside, maker, near, require, text, user, with_scalar

_SIXTH = 1 / 6


@dataclass(frozen=True)
class FuseHardSwish(Fusion):
    """Fuses hard swish: x * Clip(x + 3, 0, 6) / 6, or x * HardSigmoid(x, 1/6, 1/2) -> HardSwish(x).

    In float32 only: ONNX Runtime has no other kernel. Time on one thread, ONNX Runtime 1.31 and OpenVINO 2026.4:
    0.61 and 0.99 of the form with Clip, 0.99 and 0.89 of that with HardSigmoid.

    Source: Howard et al. 2019, arXiv:1905.02244; the operator is of opset 14.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"Clip", "HardSigmoid"})
    opset: ClassVar[int] = 14

    def match(self, anchor: ir.Node, _opset: int, /) -> Fused:
        """Goes up from the gate to x, then down through the product."""
        x = _gated(anchor) if anchor.op_type == "HardSigmoid" else _clipped(anchor)
        require(x.dtype is ir.DataType.FLOAT, f"{text(x)} is not float32")
        gate = anchor.outputs[0]
        if anchor.op_type == "Clip" and (sixth := _sixth(gate)) is not None:
            gate = sixth.outputs[0]
        last = user(gate, "Mul")
        require(beside(last, gate) is x, f"the gate multiplies {text(beside(last, gate))}, not {text(x)}")
        if gate is anchor.outputs[0] and anchor.op_type == "Clip":
            sixth = _sixth(last.outputs[0])
            require(sixth, f"{text(last.outputs[0])} is not divided by 6")
            assert sixth is not None
            last = sixth
        return single(last, "HardSwish", [x])


def _gated(gate: ir.Node) -> ir.Value:
    """Returns x for HardSigmoid(x, 1/6, 1/2)."""
    alpha, beta = gate.attributes.get_float("alpha", 0.2), gate.attributes.get_float("beta", 0.5)
    x = gate.inputs[0]
    require(near(alpha, _SIXTH, None) and beta == 0.5, f"the slope is {alpha:g} and the middle {beta:g}")
    assert x is not None
    return x


def _clipped(clip: ir.Node) -> ir.Value:
    """Returns x for Clip(x + 3, 0, 6)."""
    least, most = [scalar(value) for value in [*clip.inputs, None, None][1:3]]
    require((least, most) == (0, 6), f"the bounds are {least} and {most}")
    x = with_scalar(maker(clip.inputs[0], "Add"), 3)
    if x is None:
        raise Miss(f"{text(clip.inputs[0])} is not x + 3")
    return x


def _sixth(value: ir.Value) -> ir.Node | None:
    """Returns the node that divides the value by six, if that is all that is done with it."""
    try:
        node = user(value, "Div", "Mul")
    except Miss:
        return None
    if node.op_type == "Mul":
        return node if with_scalar(node, _SIXTH) is value else None
    return node if node.inputs[0] is value and scalar(node.inputs[1]) == 6 else None

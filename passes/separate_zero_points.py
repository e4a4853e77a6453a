"""Gives each integer weight a zero point of its own."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._constants import constant, new_constant
from ._regions import is_weight


@dataclass(frozen=True)
class SeparateZeroPoints(Pass):
    """Copies: DQ(w1, s1, z), DQ(w2, s2, z) -> DQ(w1, s1, z), DQ(w2, s2, z1).

    In no preset: only ONNX Runtime wants it, where it shifts weights of 8 bits and their zero points to uint8 for x86
    without VNNI: it fails on a zero point that two weights share.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Copies in place."""
        taken: set[ir.Value] = set()
        modified = False
        for node in model.graph:
            zero = node.inputs[2] if node.op_type == "DequantizeLinear" and len(node.inputs) > 2 else None
            array = constant(zero)
            if zero is None or array is None or not is_weight(node.inputs[0]):
                continue
            if zero in taken:
                zero = new_constant(model.graph, zero.name or "zero_point", array)
                node.replace_input_with(2, zero)
                modified = True
            taken.add(zero)
        return ir.passes.PassResult(model, modified=modified)

"""Folds products with and sums of constants into the weights of the operator before them."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._affine import LINEAR, SCALES, Linear, fold, linear, operands, scale_and_shift
from ._constants import constant
from ._peephole import Peephole


@dataclass(frozen=True)
class FuseConvScale(Peephole[tuple[Linear, np.ndarray | None, np.ndarray | None]]):
    """Fuses scales and biases: Add(Mul(Conv(x, w), s), b) -> Conv(x, w * s, b), with one number per channel.

    The same for ConvTranspose and Gemm. A MatMul takes a scale and keeps its Add: as one Gemm, chains of both took 0.93
    to 1.23 of the time in ONNX Runtime 1.31, which makes Gemms by itself, and 0.94 to 1.02 in OpenVINO 2026.4 (2
    threads, 1 to 64 rows, 256 and 1024 columns).
    """

    def match(self, node: ir.Node, /) -> tuple[Linear, np.ndarray | None, np.ndarray | None] | None:
        """Returns the operator before a Mul, Div, Add or Sub, and the scale and shift that it stands for."""
        for value, other in operands(node):
            array = constant(other)
            if array is None:
                continue
            found = linear(value, node, (*LINEAR, "MatMul") if node.op_type in SCALES else LINEAR)
            if found is not None:
                return (found, *scale_and_shift(node, found.vector(array, _least_rank(found))))
        return None

    def change(
        self, home: ir.Graph, node: ir.Node, found: tuple[Linear, np.ndarray | None, np.ndarray | None], /
    ) -> None:
        """Folds it into the operator."""
        fold(home, node, *found)


def _least_rank(found: Linear) -> int:
    """The rank of the output, or the least that it has."""
    shape = found.node.outputs[0].shape
    if shape is not None:
        return len(shape)
    if found.node.op_type in ("Gemm", "MatMul"):
        return 2 if found.node.op_type == "Gemm" else 1
    assert found.weight.const_value is not None
    return len(found.weight.const_value.shape)

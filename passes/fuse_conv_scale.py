"""Folds products with and sums of constants into the weights of the operator before them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._affine import LINEAR, Linear, fold, linear
from ._base import Miss, Pass
from ._constants import constant
from ._walk import all_graphs, all_nodes

_COMMUTATIVE = ("Add", "Mul")
_OTHER = ("Div", "Sub")


@dataclass(frozen=True)
class FuseConvScale(Pass):
    """Fuses scales and biases: Add(Mul(Conv(x, w), s), b) -> Conv(x, w * s, b), with one number per channel.

    The same for ConvTranspose and Gemm. A MatMul takes a scale and keeps its Add: as one Gemm, chains of both took 0.93
    to 1.23 of the time in ONNX Runtime 1.31, which makes Gemms by itself, and 0.94 to 1.02 in OpenVINO 2026.4 (2
    threads, 1 to 64 rows, 256 and 1024 columns).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses in place."""
        modified = False
        for graph in all_graphs(model):
            for node in graph:
                try:
                    match = _match(node)
                    if match is not None:
                        fold(model.graph, node, *match)
                        modified = True
                except Miss:
                    continue
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields each product or sum after a Conv or Gemm, and what is in the way."""
        for node in all_nodes(model):
            try:
                _match(node)
            except Miss as reason:
                yield node, str(reason)


def _match(node: ir.Node) -> tuple[Linear, np.ndarray | None, np.ndarray | None] | None:
    """Returns the operator before a Mul, Div, Add or Sub, and the scale and shift that it stands for."""
    if node.domain != "" or node.op_type not in (*_COMMUTATIVE, *_OTHER):
        return None
    left, right = node.inputs
    for value, other in ((left, right), (right, left)) if node.op_type in _COMMUTATIVE else ((left, right),):
        array = constant(other)
        if array is None:
            continue
        found = linear(value, node, (*LINEAR, "MatMul") if node.op_type in ("Mul", "Div") else LINEAR)
        if found is not None:
            return (found, *_scale_and_shift(node, found.vector(array, _least_rank(found))))
    return None


def _least_rank(found: Linear) -> int:
    """The rank of the output, or the least that it has."""
    shape = found.node.outputs[0].shape
    if shape is not None:
        return len(shape)
    if found.node.op_type in ("Gemm", "MatMul"):
        return 2 if found.node.op_type == "Gemm" else 1
    assert found.weight.const_value is not None
    return len(found.weight.const_value.shape)


def _scale_and_shift(node: ir.Node, vector: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    if node.op_type == "Mul":
        return vector, None
    if node.op_type == "Div":
        if not vector.all():
            raise Miss("it divides by zero")
        return 1 / vector, None
    return None, -vector if node.op_type == "Sub" else vector

"""Folds a BatchNormalization into the weights of the Conv, ConvTranspose or Gemm before it."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._affine import LINEAR, Linear, fold, linear, require_copyable
from ._base import Miss
from ._batch_norm import is_norm, vectors
from ._match import require
from ._peephole import Peephole


@dataclass(frozen=True)
class FuseConvBn(Peephole[tuple[Linear, np.ndarray, np.ndarray]]):
    """Fuses batch normalization: BatchNormalization(Conv(x, w)) -> Conv(x, w', b').

    The new weights are computed when they are written, one at a time.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    def match(self, node: ir.Node, /) -> tuple[Linear, np.ndarray, np.ndarray] | None:
        """Returns the operator before a BatchNormalization, and the scale and shift of its channels."""
        if not is_norm(node):
            return None
        scale, shift, mean, variance = vectors(node)
        found = linear(node.inputs[0], node)
        if found is None:
            raise Miss(f"no {', '.join(LINEAR)} computes its input")
        require_copyable(found.weight)
        require(scale.size == found.channels, f"the {found.node.op_type} does not have {scale.size} channels")
        factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        require(bool(np.isfinite(factor).all()), "a channel is scaled by no finite number")
        return found, factor, shift - mean * factor

    def change(self, home: ir.Graph, node: ir.Node, found: tuple[Linear, np.ndarray, np.ndarray], /) -> None:
        """Folds it into the operator."""
        fold(home, node, *found)

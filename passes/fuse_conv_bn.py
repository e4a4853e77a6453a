"""Folds a BatchNormalization into the weights of the Conv, ConvTranspose or Gemm before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._affine import LINEAR, Linear, fold, linear, require_copyable
from ._base import Miss, Pass
from ._constants import constant
from ._match import require
from ._walk import all_graphs, all_nodes

_MOST_BYTES = 1 << 24  # of a vector of channels


@dataclass(frozen=True)
class FuseConvBn(Pass):
    """Fuses batch normalization: BatchNormalization(Conv(x, w)) -> Conv(x, w', b').

    The new weights are computed when they are written, one at a time.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses in place."""
        modified = False
        for graph in all_graphs(model):
            for node in graph:
                if not _is_norm(node):
                    continue
                try:
                    fold(model.graph, node, *_match(node))
                    modified = True
                except Miss:
                    continue
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields each BatchNormalization that is left, and why."""
        for node in filter(_is_norm, all_nodes(model)):
            try:
                _match(node)
            except Miss as miss:
                yield node, str(miss)


def _is_norm(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "BatchNormalization"


def _match(norm: ir.Node) -> tuple[Linear, np.ndarray, np.ndarray]:
    """Returns the node before, and the scale and shift of its channels.

    Raises:
        Miss: they are not what can be fused.
    """
    others = any(value.uses() or value.is_graph_output() for value in norm.outputs[1:])
    require(not others and norm.attributes.get_int("training_mode", 0) == 0, "it is in training mode")
    found = linear(norm.inputs[0], norm)
    if found is None:
        raise Miss(f"no {', '.join(LINEAR)} computes its input")
    require_copyable(found.weight)
    arrays = [constant(value, most_bytes=_MOST_BYTES) for value in norm.inputs[1:5]]
    vectors = [np.asarray(array, np.float64) for array in arrays if array is not None]
    require(len(vectors) == 4, "scale, shift, mean or variance is not constant")
    require(vectors[0].size == found.channels, f"the {found.node.op_type} does not have {vectors[0].size} channels")
    scale, shift, mean, variance = vectors
    factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    require(bool(np.isfinite(factor).all()), "a channel is scaled by no finite number")
    return found, factor, shift - mean * factor

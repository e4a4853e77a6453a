"""Folds a BatchNormalization into the weights of the Conv, ConvTranspose or Gemm before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ._affine import fold, normalization
from ._base import Miss, Pass
from ._walk import all_graphs, all_nodes


@dataclass(frozen=True)
class FuseConvBn(Pass):
    """Fuses batch normalization: BatchNormalization(Conv(x, w)) -> Conv(x, w', b')."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses in place."""
        modified = False
        for graph in all_graphs(model):
            for node in graph:
                try:
                    match = normalization(node)
                    if match is not None:
                        fold(model.graph, node, *match)
                        modified = True
                except Miss:
                    continue
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields each BatchNormalization after a Conv or Gemm, and what is in the way."""
        for node in all_nodes(model):
            try:
                normalization(node)
            except Miss as reason:
                yield node, str(reason)

"""Quantizes matrix products by the range that their activation has when it comes: no calibration data is needed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from ._base import Miss, Pass
from ._dynamic import Writer, operand_of
from ._embeddings import rank
from ._match import producer, require, text
from ._regions import require_quantizable
from ._schemes import SCHEMES

_PRODUCTS = ("Gemm", "MatMul")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_SCHEME = replace(SCHEMES["onnxruntime"], both_computed="", integer_bias=False)


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Quantizes to INT8: MatMul(x, w) -> Cast(MatMulInteger(DynamicQuantizeLinear(x), w8)) * (x_scale * w_scale).

    ONNX Runtime makes DynamicQuantizeMatMul of it, or MatMulIntegerToFloat where several products share an activation,
    with the bias that is added to it. A Gemm's bias becomes an Add. What comes out of an activation function is first
    divided by the greatest magnitude of each of its rows, and the product multiplied by it: a token with outliers would
    take the precision of all others. An embedding whose table a product shares (MatMul(x, Transpose(table))) picks from
    the product's integers.

    In no preset: what it gives is not what the model computes; `--dynamic` of planc runs it.

    Attributes:
        keep: names, PyTorch module paths or globs of nodes that stay in floating point.
        weight_bits: 8, or 7 for x86 without VNNI, where products of 8 bits saturate.
        rows: whether rows are scaled behind activation functions.
    """

    keep: tuple[str, ...] = ()
    weight_bits: int = 8
    rows: bool = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantizes in place."""
        chosen = [node for node, reason in self.products(model) if not reason]
        writer = Writer(model, bits=self.weight_bits, rows=self.rows, keep=self.keep)
        for node in chosen:
            writer.write(node)
        turned = dict.fromkeys(producer(node.inputs[1], "Transpose") for node in chosen)
        model.graph.remove(chosen, safe=True)
        unused = [
            node
            for node in turned
            if node is not None and not node.outputs[0].uses() and not node.outputs[0].is_graph_output()
        ]
        model.graph.remove(unused, safe=True)
        writer.share()
        return ir.passes.PassResult(model, modified=bool(chosen))

    def products(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields the products of the main graph, and why they stay in floating point: "" where they do not."""
        opset = model.opset_imports.get("", 1)
        for node in model.graph:
            if node.domain == "" and node.op_type in _CONVOLUTIONS:
                yield node, "convolutions take calibration data"
            if node.domain == "" and node.op_type in _PRODUCTS:
                try:
                    require_quantizable(node, _SCHEME, self.keep, opset)
                    weight, _ = operand_of(node)
                    require(weight is not None, f"its right side {text(node.inputs[1])} is no constant")
                    assert weight is not None
                    require(rank(weight) == 2, f"its weight {text(weight)} is no matrix")
                except Miss as miss:
                    yield node, str(miss)
                else:
                    yield node, ""

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields the products that stay in floating point, and why."""
        yield from ((node, reason) for node, reason in self.products(model) if reason)

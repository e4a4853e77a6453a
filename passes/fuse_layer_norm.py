"""Recognizes layer normalization as exporters before opset 17 and hand-written modules spell it out."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ._base import Miss
from ._fusion import Fused, Fusion, single
from ._match import orders, producer, require, text
from ._norm import Norm


@dataclass(frozen=True)
class FuseLayerNorm(Fusion):
    """Fuses layer normalization: (x - mean(x)) / sqrt(var(x) + eps) * scale + bias -> LayerNormalization(x).

    Both means, x's and that of the squares, are over the last axes. The scale may stand before or after the division,
    and it and the bias may be absent. Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450; the operator is of opset 17.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"Sqrt"})
    opset: ClassVar[int] = 17

    def match(self, anchor: ir.Node, _opset: int, /) -> Fused:
        """Goes up from the square root to x, then down through division, scale and bias."""
        norm = Norm()
        variance, epsilon = norm.root(anchor)
        x = _uncentered(norm, norm.square(norm.mean(variance)))
        last, top = norm.divided(anchor.outputs[0])
        centered, scale = _unscaled(norm, top, x)
        require(_uncentered(norm, centered) is x, f"{text(top)} is not {text(x)} without its mean")
        if scale is None:
            last, scale = norm.affine(last, "Mul")
        last, bias = norm.affine(last, "Add")
        norm.close(last)
        inputs = [x, scale if scale is not None else norm.ones(x), *([bias] if bias is not None else [])]
        return single(last, "LayerNormalization", inputs, attributes={"axis": -len(norm.sizes), "epsilon": epsilon})


def _uncentered(norm: Norm, value: ir.Value | None) -> ir.Value:
    """Returns x for x - mean(x)."""
    difference = norm.take(value, "Sub")
    x, mean = difference.inputs
    if x is None or norm.mean(mean) is not x:
        raise Miss(f"{text(mean)} is not the mean of {text(x)}")
    return x


def _unscaled(norm: Norm, top: ir.Value | None, x: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """Returns y and the scale for y * scale, where y is a difference from x; the value itself elsewhere."""
    product = producer(top, "Mul")
    for value, other in orders(product) if product is not None else ():
        difference = producer(value, "Sub")
        if difference is not None and difference.inputs[0] is x and (scale := norm.parameter(other)) is not None:
            norm.take(top, "Mul")
            return value, scale
    return top, None

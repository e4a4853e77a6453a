"""Recognizes root mean square normalization, which torch spells in a way that ONNX Runtime does not recognize."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ._fusion import Fused, Fusion, single
from ._match import expect, require, text
from ._norm import Norm

_STANDARD = 23


@dataclass(frozen=True)
class FuseRmsNorm(Fusion):
    """Fuses RMS normalization: x * Reciprocal(Sqrt(mean(x ** 2) + eps)) * scale -> RMSNormalization(x, scale).

    The operator is of opset 23. Before, only the reciprocal goes: x / Sqrt(mean(x ** 2) + eps) * scale, the spelling
    that ONNX Runtime fuses when it loads the graph. Time on one thread at that, ONNX Runtime 1.31 and OpenVINO 2026.4:
    0.25 and 0.95. A cast between norm and scale, as in Llama at float16, stays.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"Sqrt"})

    def match(self, anchor: ir.Node, opset: int, /) -> Fused:
        """Goes up from the square root to x, then down through division and scale."""
        norm = Norm()
        mean, epsilon = norm.root(anchor)
        x = norm.square(norm.mean(mean))
        root = anchor.outputs[0]
        last, top = norm.divided(root)
        require(top is x, f"{text(top)} is divided, not {text(x)}")
        if opset >= _STANDARD:
            last, scale = norm.affine(last, "Mul")
            norm.close(last)
            inputs = [x, scale if scale is not None else norm.ones(x)]
            return single(last, "RMSNormalization", inputs, attributes={"axis": -len(norm.sizes), "epsilon": epsilon})
        norm.close(last)
        expect(last, "Mul")
        return single(last, "Div", [x, root])

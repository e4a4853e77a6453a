"""How each family of targets wants its INT8 graph laid out: design, section 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

MOVES = frozenset({
    "DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip
"""Give out elements of their input as they are: input and output share a scale."""

_NO_FASTER = "which the target does no faster in INT8"


@dataclass(frozen=True)
class Scheme:
    """Where Q/DQ stand, and of which type, so that the kernels of a family of targets run in INT8.

    Attributes:
        activations: UINT8 with any zero point, or INT8 with zero point 0.
        products: operators that INT8 is for; the others only join them.
        joined: operators that run in INT8 where all their inputs are there in INT8 and their output is wanted so.
        moves: operators that only move elements.
        both_computed: why a MatMul that multiplies two activations stays in floating point; empty where it does not.
        signed: operators that want their input symmetric about zero, where the others take any zero point.
        pads_with_zero_point: whether an AveragePool that counts its padding pads with the zero point, as it should.
        absorbed: activations that the kernel of what comes before them computes on its way.
        outputs: products whose kernel gives out INT8 only: without a Q behind it, it does not run in INT8.
        pairs_behind_moves: whether a moved tensor gets a Q/DQ pair again.
        integer_bias: whether a bias is int32 with the scale of the product, or stays as it is.
        embeddings: whether tables of integers may be looked up.
    """

    activations: ir.DataType
    products: frozenset[str]
    joined: frozenset[str]
    moves: frozenset[str] = MOVES
    both_computed: str = ""
    signed: frozenset[str] = frozenset()
    pads_with_zero_point: bool = True
    absorbed: frozenset[str] = frozenset({"Clip", "Relu"})
    outputs: frozenset[str] = frozenset()
    pairs_behind_moves: bool = False
    integer_bias: bool = False
    embeddings: bool = True

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is 0."""
        return self.activations is ir.DataType.INT8


SCHEMES: Mapping[str, Scheme] = MappingProxyType({
    "onnxruntime": Scheme(
        activations=ir.DataType.UINT8,
        products=frozenset({"Conv", "Gemm", "MatMul"}),
        joined=frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool"}),
        outputs=frozenset({"Add", "AveragePool", "Concat", "Conv", "GlobalAveragePool"}),
        both_computed=_NO_FASTER,  # 0.99 to 1.02 of the time of an attention block on AVX2, at a loss of 1 to 11 dB
        pairs_behind_moves=True,
        integer_bias=True,
    ),
    "openvino": Scheme(
        activations=ir.DataType.UINT8,
        products=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
        joined=frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "ReduceMean"}),
        moves=MOVES | {"Pad"},
        both_computed=_NO_FASTER,  # it runs in FP32 unless both zero points are 0, and is no faster then
        signed=frozenset({"ConvTranspose"}),
        pads_with_zero_point=False,  # it pads with the integer 0
    ),
    "tensorrt": Scheme(
        activations=ir.DataType.INT8,
        products=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
        joined=frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool"}),
        both_computed="as in attention, where one scale for all lengths loses what Softmax gives",
        embeddings=False,
    ),
})  # fmt: skip
"""Family of the target -> scheme."""

"""Lowers float32 to float16 or bfloat16."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._casts import apply
from ._halves import HALVES
from ._precision import Plan, float_nodes, plan
from .infer_shapes import InferShapes


@dataclass(frozen=True)
class ConvertPrecision(Pass):
    """Converts to 16 bits: Conv(x, w) -> Cast(Conv(Cast(x, to=float16), float16(w)), to=float32).

    What stays float32, with Casts around it, and `kept` says why:
      - nodes that the schemas of the model's opset do not define for the type, functions, and what crosses the border
        of a subgraph or lies in a sequence;
      - nodes of a name in `keep`, or of an operator in `wide`;
      - nodes with a calibrated range within a factor of 2 of 65504, or all below 2^-14, where numbers lose bits;
      - nodes with a constant that does not fit: beyond 65504, or scaled so small that it loses more than rounding. Each
        number counts of a scalar, a divisor or the scale of a Q/DQ, elsewhere the constant as a whole. Numbers below
        -1e9 stand for minus infinity, and become half of the lowest number in masks;
      - where no range says that the results fit into float16: squares and other powers, exponentials, and sums, with
        the arithmetic that follows up to a root, a logarithm or a quotient, as in norms written by hand;
      - positions, and what is computed of integers only;
      - what the model casts up from 16 bits on purpose. A Cast from other types gets what its users want;
      - cheap nodes between those.

    Softmax and LayerNormalization are converted: they accumulate in float32 within (`stash_type`). A constant that
    both kinds of nodes use is stored twice where it is small, since compilers want operands to be constants, else
    once in float32 with a Cast: 4 bytes a number instead of 6, and exact. Weights are converted when they are written.

    In no preset: it is run for a precision of fp16 or bf16, for targets that take the precision from the graph.

    Attributes:
        dtype: "float16" or "bfloat16".
        keep: names, PyTorch module paths or globs of nodes that stay float32, such as `/head/*`.
        wide: operators that the target computes in float32 only.
        ranges: name of a value, and its lowest and highest number.
        io: whether inputs and outputs of the model become 16 bits wide, too.
    """

    dtype: str = "float16"
    keep: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    ranges: tuple[tuple[str, float, float], ...] = ()
    io: bool = False

    def __post_init__(self) -> None:
        """Checks the type."""
        if self.dtype not in HALVES:
            raise ValueError(f"convert-precision: dtype={self.dtype} is none of {', '.join(HALVES)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Converts in place."""
        return ir.passes.PassResult(model, modified=apply(model, self._plan(model)))

    def kept(self, model: ir.Model, /) -> list[tuple[ir.Node, str]]:
        """Returns the nodes that stay float32, or have stayed, and why."""
        return list(self._plan(model).kept.items())

    def candidates(self, model: ir.Model, /) -> list[ir.Node]:
        """Returns the nodes that `keep` may name: those that have to do with float32."""
        InferShapes()(model)
        return list(float_nodes(model))

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields the nodes that stay float32, and why."""
        yield from self.kept(model)

    def _plan(self, model: ir.Model) -> Plan:
        InferShapes()(model)
        ranges = {name: (low, high) for name, low, high in self.ranges}
        return plan(model, HALVES[self.dtype], keep=self.keep, wide=self.wide, ranges=ranges, io=self.io)

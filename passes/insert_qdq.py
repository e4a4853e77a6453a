"""Lays Q/DQ out for the kernels of a family of targets, from calibrated ranges."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._pairs import PairWriter, measured
from ._regions import Regions, absorbed, operands, regions
from ._schemes import SCHEMES, Scheme


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Quantizes to INT8: Conv(x, w, b) -> DQ(Q(Conv(DQ(Q(x)), DQ(w8), DQ(b32)))), as the family's kernels want it.

    An embedding whose table a product shares, as in MatMul(x, Transpose(table)), picks from the product's integers.

    In no preset: it needs calibrated ranges; `planc quantize` and `planc compile -p int8` run it with theirs.

    Attributes:
        family: key of SCHEMES.
        ranges: name of a tensor, least and greatest value; a product whose tensors are not among them stays as it is.
        keep: names, PyTorch module paths or globs of nodes that stay in floating point.
        weight_bits: 8, or 7 for x86 without VNNI, where products of 8 bits saturate.
        per_channel: whether each output channel of a weight has a scale of its own.
    """

    family: str = "onnxruntime"
    ranges: tuple[tuple[str, float, float], ...] = ()
    keep: tuple[str, ...] = ()
    weight_bits: int = 8
    per_channel: bool = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inserts in place."""
        if not self.ranges:
            return ir.passes.PassResult(model, modified=False)
        found = self.regions(model)
        writer = PairWriter(
            model.graph,
            found,
            scheme=SCHEMES[self.family],
            ranges={name: (low, high) for name, low, high in self.ranges},
            weight_bits=self.weight_bits,
            per_channel=self.per_channel,
            keep=self.keep,
        )
        writer.write()
        return ir.passes.PassResult(model, modified=bool(found.nodes))

    def regions(self, model: ir.Model) -> Regions:
        """Returns what is quantized, and why the rest is not; changes nothing."""
        scheme, opset = SCHEMES[self.family], model.opset_imports.get("", 1)
        known = {name for name, _, _ in self.ranges}
        without: dict[ir.Node, str] = {}
        while True:
            found = regions(model.graph, scheme, self.keep, opset, without)
            lacking = {node: name for node in found.nodes if (name := _lacking(node, found, scheme, known))}
            if not known or not lacking:
                return found
            without |= {node: f"the calibration table has no range for {name!r}" for node, name in lacking.items()}

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields the products that stay in floating point, and why."""
        yield from self.regions(model).refused.items()


def observed(model: ir.Model) -> list[str]:
    """Returns the names of the tensors whose ranges the schemes of all families need, in order."""
    names: dict[str, None] = {}
    opset = model.opset_imports.get("", 1)
    for scheme in SCHEMES.values():
        found = regions(model.graph, scheme, (), opset)
        names |= {value.name: None for value in found.values if value not in found.source and value.name}
    return list(names)


def _lacking(node: ir.Node, found: Regions, scheme: Scheme, known: set[str]) -> str:
    """Returns the name of a tensor that has no range, yet the node would need one; empty where there is none."""
    values = operands(node)
    if node.op_type in scheme.outputs:
        values.append(absorbed(node.outputs[0], scheme))
    names = (measured(found.source.get(value, value), scheme, known).name or "" for value in values)
    return next((name for name in names if name not in known), "")

"""Stores embeddings in 8 bits, with a scale for each row."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._constants import new_constant, new_lazy
from ._embeddings import is_lookup, look_up
from ._integers import lazy, weight_scale, with_room_for_bias
from ._regions import is_kept, is_weight

_BITS = 8


@dataclass(frozen=True)
class QuantizeEmbeddings(Pass):
    """Quantizes a table: Gather(table, ids) -> Cast(Gather(table8, ids)) * Gather(scales, ids).

    The work of an inference stays proportional to the number of ids. A table that something else than a Gather of rows
    uses is left alone: there would be two copies of it.

    In no preset: what it gives is not what the model computes; `-p int8` of planc runs it.

    Attributes:
        keep: names, PyTorch module paths or globs of nodes that stay in floating point.
        least_bytes: smaller tables are left alone.
    """

    keep: tuple[str, ...] = ()
    least_bytes: int = 1 << 20

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantizes in place."""
        tables: dict[ir.Value, list[ir.Node]] = {}
        for node, reason in self.lookups(model):
            table = node.inputs[0]
            if not reason and table is not None:
                tables.setdefault(table, []).append(node)
        for table, nodes in tables.items():
            _quantize(model.graph, table, nodes)
        return ir.passes.PassResult(model, modified=bool(tables))

    def lookups(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields what picks rows of a large table, and why the table stays in floating point: "" where it does not."""
        for node in model.graph:
            if not is_lookup(node, model.graph):
                continue
            table = node.inputs[0]
            if table is None or not is_weight(table) or table.const_value is None:
                continue
            if table.const_value.nbytes >= self.least_bytes and table.const_value.shape[1] != 1:
                yield node, self._why_not(model.graph, table)

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields the lookups that stay in floating point, and why."""
        yield from ((node, reason) for node, reason in self.lookups(model) if reason)

    def _why_not(self, graph: ir.Graph, table: ir.Value) -> str:
        users = [use.node for use in table.uses()]
        other = next((user for user in users if not is_lookup(user, graph) or user.inputs[0] is not table), None)
        if table.is_graph_output():
            return "its table is an output of the graph"
        if other is not None:
            return f"{other.op_type} {other.name!r} needs its table in floating point"
        return "kept in floating point by name" if any(is_kept(user, self.keep) for user in users) else ""


def _quantize(graph: ir.Graph, table: ir.Value, nodes: list[ir.Node]) -> None:
    tensor = table.const_value
    assert tensor is not None
    scale = with_room_for_bias(weight_scale(tensor, 0, _BITS), None, np.float32(1))
    whole = new_lazy(graph, lazy(tensor, scale, 0, _BITS, f"{table.name}_quantized"))
    scales = new_constant(graph, f"{table.name}_scale", scale[:, np.newaxis])
    for node in nodes:
        look_up(node, whole, scales)

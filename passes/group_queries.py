"""Multiplies the queries that share keys together, in the place of repeating the keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._constants import constant, free_constant
from ._fusion import Fused, Fusion
from ._match import maker, producer, require, source, text
from ._shapes import Size, sizes_of

_RANK = 4
_TURN = (0, 1, 3, 2)


@dataclass(frozen=True)
class GroupQueries(Fusion):
    """Groups queries: MatMul(q, repeat(k)) -> Reshape(MatMul(Reshape(q), k)); so the weights and the values.

    q is [batch, groups * n, queries, width] and k [batch, groups, keys, width]; grouped-query attention repeats k
    n times along its heads, Reshape(Expand(Unsqueeze(k))), and multiplies with the transposed. The n * queries rows of
    a group become one matrix, so that keys and values are neither copied nor read n times. A batch of 0 no longer runs
    where the number of queries is dynamic: ONNX Runtime cannot solve the -1.

    Time on one thread against the graph without this pass, ONNX Runtime 1.31 and OpenVINO 2026.4, Llama of 6 layers
    with 8 heads in 2 groups: one token behind 64, 255 and 1023 others 1.01 and 0.91, 1.01 and 0.86, 0.94 and 0.59; 64
    and 256 tokens 0.98 and 0.99, 0.98 and 1.00.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"MatMul"})

    def match(self, anchor: ir.Node, _opset: int, /) -> Fused:
        """Looks for the repetition upwards from the product."""
        left, right = anchor.inputs
        turn = producer(right, "Transpose")
        if turn is not None:
            turn = maker(right, "Transpose")
            require(tuple(turn.attributes.get_ints("perm", ())) == _TURN, "the keys are transposed otherwise")
            right = turn.inputs[0]
        few, groups, heads = _repeated(right)
        sizes = _sizes(left)
        require(len(sizes) == _RANK and sizes[1] == heads, f"{text(left)} is not of rank 4 with {heads} heads")
        queries = sizes[2] if isinstance(sizes[2], int) else None
        rows = queries * heads // groups if queries is not None else -1
        together = _reshape(left, "together", [0, groups, rows, 0])
        nodes, keys = [together], few
        if turn is not None:
            nodes.append(ir.node("Transpose", [few], attributes={"perm": _TURN}))
            keys = nodes[-1].outputs[0]
        product = ir.node("MatMul", [together.outputs[0], keys])
        apart = _reshape(product.outputs[0], "apart", [0, heads, -1 if queries is None else queries, 0])
        return Fused([*nodes, product, apart], {anchor.outputs[0]: apart.outputs[0]}, anchor)

    def near_misses(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields the products with something that is expanded; any other MatMul is none."""
        for node, reason in super().near_misses(model):
            right = node.inputs[1]
            turn = producer(right, "Transpose")
            reshape = producer(turn.inputs[0] if turn is not None else right, "Reshape")
            if reshape is not None and producer(reshape.inputs[0], "Expand") is not None:
                yield node, reason


def _repeated(value: ir.Value | None) -> tuple[ir.Value, int, int]:
    """Returns k, its heads, and those of `value`, which is Reshape(Expand(Unsqueeze(k)))."""
    reshape = maker(value, "Reshape")
    expand = maker(reshape.inputs[0], "Expand")
    unsqueeze = source(expand.inputs[0], "Unsqueeze")
    few, axes = unsqueeze.inputs[0], constant(unsqueeze.inputs[1])
    require(axes is not None and axes.tolist() in ([2], [-3]), "what is repeated are not heads")
    before, between, after = _sizes(few), _sizes(expand.outputs[0]), _sizes(reshape.outputs[0])
    if few is None or len(before) != _RANK or len(between) != _RANK + 1 or len(after) != _RANK:
        raise Miss(f"{text(few)} becomes {text(value)}")
    groups, times = before[1], between[2]
    if not isinstance(groups, int) or not isinstance(times, int) or not groups * times:
        raise Miss(f"it is not known how often the heads of {text(few)} are repeated")
    require(between == [*before[:2], times, *before[2:]], f"{text(few)} becomes {text(expand.outputs[0])}")
    require(after == [before[0], groups * times, *before[2:]], f"{text(few)} becomes {text(value)}")
    return few, groups, groups * times


def _sizes(value: ir.Value | None) -> list[Size]:
    sizes = sizes_of(value) if value is not None else None
    if sizes is None:
        raise Miss(f"the rank of {text(value)} is not known")
    return sizes


def _reshape(value: ir.Value | None, name: str, sizes: list[int]) -> ir.Node:
    return ir.node("Reshape", [value, free_constant(name, np.array(sizes, np.int64))])

"""Recognizes the rotary position embedding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._constants import constant, free_constant
from ._fusion import Fused, Fusion
from ._match import expect, orders, producer, require, source, text
from ._shapes import Size, sizes_of

_RANK = 4
_TO_THE_END = 2**31 - 1


@dataclass(frozen=True)
class FuseRotary(Fusion):
    """Fuses: x * Cos(a, a) + Concat(-x[half:], x[:half]) * Sin(a, a) -> RotaryEmbedding(x, Cos(a), Sin(a)).

    As transformers' rotate_half and both exporters of torch write it, on x of [batch, heads, positions, width] with
    angles a of [batch or 1, positions, width / 2].

    In no preset: the operator is of opset 23, and no faster on a CPU. Llama of 6 layers takes, on one thread, 0.96 to
    1.01 of the time in ONNX Runtime 1.31 and 0.97 to 1.06 in OpenVINO 2026.4. RotaryEmbedding of ONNX Runtime itself
    takes 0.95 to 1.01, which is within what runs differ by; one Split for two Slices, with the sign in the sines, 0.99
    to 1.09. To have it, on a graph that planc has optimized: --pass upgrade-opset{least=23} --pass infer-shapes
    --pass fold-shapes --pass fuse-rotary --pass fold-shapes --pass merge-duplicates --pass remove-unused.

    Source: Su et al. 2021, arXiv:2104.09864.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"Add"})
    opset: ClassVar[int] = 23

    def match(self, anchor: ir.Node, _opset: int, /) -> Fused:
        """Looks for the rotated half in one of the two products that are added."""
        turned = _turned(anchor)
        if turned is None:
            raise Miss("no product of a rotated half is added")
        rest, concat, sine = turned
        x = _rotated(concat)
        beside = [other for one, other in orders(expect(rest.producer(), "Mul")) if one is x]
        require(beside, f"{text(rest)} is not {text(x)} times the cosines")
        cosine = beside[0]
        angles = _angles(cosine, "Cos")
        require(_angles(sine, "Sin") is angles, f"{text(sine)} is not of the angles of {text(cosine)}")
        sizes, known = _sizes(x), _sizes(angles)
        require(known[1:] == [sizes[2], _half(sizes)], f"the angles {text(angles)} do not fit {text(x)}")
        require(known[0] in (1, sizes[0]), f"the angles {text(angles)} have another batch than {text(x)}")
        nodes = [] if known[0] == sizes[0] else _repeat(angles, x)
        angles = nodes[-1].outputs[0] if nodes else angles
        cos, sin = (ir.node(name, [angles]) for name in ("Cos", "Sin"))
        rotary = ir.node("RotaryEmbedding", [x, cos.outputs[0], sin.outputs[0]])
        return Fused([*nodes, cos, sin, rotary], {anchor.outputs[0]: rotary.outputs[0]}, anchor)

    def near_misses(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields sums with a rotated half; any other Add is none."""
        for node, reason in super().near_misses(model):
            if _turned(node) is not None:
                yield node, reason


def _turned(anchor: ir.Node) -> tuple[ir.Value, ir.Node, ir.Value | None] | None:
    """Returns the other summand, the Concat of a negated and another value, and what that is multiplied with."""
    for rest, product in orders(anchor):
        multiplied = producer(product, "Mul")
        for half, sine in orders(multiplied) if multiplied is not None else ():
            concat = producer(half, "Concat")
            if (
                rest is not None
                and concat is not None
                and len(concat.inputs) == 2
                and producer(concat.inputs[0], "Neg")
            ):
                return rest, concat, sine
    return None


def _rotated(concat: ir.Node) -> ir.Value:
    """Returns x of Concat(Neg(x[half:]), x[:half]) over its last axis."""
    upper, lower = (source(value, "Slice") for value in (source(concat.inputs[0], "Neg").inputs[0], concat.inputs[1]))
    x = upper.inputs[0]
    require(x is not None and lower.inputs[0] is x, "the two halves are not of one value")
    sizes = _sizes(x)
    require(len(sizes) == _RANK, f"{text(x)} has not four dimensions")
    half = _half(sizes)
    require(concat.attributes.get_int("axis", 0) in (-1, 3), "the halves are joined over another axis")
    require(_bounds(lower) == (0, half), f"{text(lower.outputs[0])} is not the lower half")
    require(_bounds(upper) == (half, sizes[3]), f"{text(upper.outputs[0])} is not the upper half")
    assert x is not None
    return x


def _bounds(node: ir.Node) -> tuple[int, int]:
    """Returns from where to where a Slice takes the last of four axes."""
    numbers = [constant(value) for value in node.inputs[1:]]
    if len(numbers) < 3 or any(one is None or one.size != 1 for one in numbers):
        raise Miss(f"the bounds of {text(node.outputs[0])} are not constants of one axis")
    start, end, axis, *step = (int(one.reshape(-1)[0]) for one in numbers if one is not None)
    require(axis in (-1, 3) and step in ([], [1]), f"{text(node.outputs[0])} is of another axis, or has steps")
    width = _sizes(node.inputs[0])[3]
    return start, int(width) if end >= _TO_THE_END else end


def _angles(value: ir.Value | None, op_type: str) -> ir.Value:
    """Returns a of Unsqueeze(Cos(Concat(a, a))), which has one head."""
    unsqueeze = source(value, "Unsqueeze")
    axes = constant(unsqueeze.inputs[1])
    require(axes is not None and axes.tolist() in ([1], [-3]), f"{text(value)} does not have the heads in axis 1")
    concat = source(source(unsqueeze.inputs[0], op_type).inputs[0], "Concat")
    angles, *others = concat.inputs
    require(others == [angles] and concat.attributes.get_int("axis", 0) in (-1, 2), "the angles are not twice the same")
    sizes = _sizes(angles)
    require(len(sizes) == _RANK - 1, f"{text(angles)} has not three dimensions")
    assert angles is not None
    return angles


def _repeat(angles: ir.Value, x: ir.Value) -> list[ir.Node]:
    """The operator takes no angles of one batch for all."""
    batch = ir.node("Shape", [x], attributes={"start": 0, "end": 1})
    ones = free_constant("ones", np.array([1, 1], np.int64))
    sizes = ir.node("Concat", [batch.outputs[0], ones], attributes={"axis": 0})
    for value, count in ((batch.outputs[0], 1), (sizes.outputs[0], 3)):
        value.type, value.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([count])
    return [batch, sizes, ir.node("Expand", [angles, sizes.outputs[0]])]


def _half(sizes: list[Size]) -> int:
    width = sizes[3]
    if not isinstance(width, int) or width % 2:
        raise Miss("the width is not an even number")
    return width // 2


def _sizes(value: ir.Value | None) -> list[Size]:
    sizes = sizes_of(value) if value is not None else None
    if sizes is None:
        raise Miss(f"the rank of {text(value)} is not known")
    return sizes

"""Folds products with and sums of constants into the convolution behind them."""

from dataclasses import dataclass

import onnx_ir as ir

from ._affine import SCALES, Linear, Step, convolution, fold_before, narrowed, operands, scale_and_shift
from ._base import Miss
from ._constants import constant, new_constant
from ._match import only_use, require
from ._peephole import Peephole


@dataclass(frozen=True)
class FuseScaleConv(Peephole[tuple[Linear, Step, Step | None]]):
    """Fuses scales and shifts of an input: Conv(Add(Mul(x, s), b), w) -> Conv(x, w * s, bias), one number per channel.

    Zeros that the convolution pads with are not shifted: there Add(Mul(x, s), b) becomes Add(x, b / s), and only the
    scale is folded. PP-OCR has both before each of its convolutions, and many a model normalizes its images so.
    """

    def match(self, node: ir.Node, /) -> tuple[Linear, Step, Step | None] | None:
        """Returns what is folded: the step before a convolution, or the scale before a shift that must stay."""
        if node.domain != "" or node.op_type != "Conv" or (last := _step_node(node.inputs[0], node)) is None:
            return None
        found = convolution(node)
        first = _step(last, found)
        if first.scale is not None or not _pads(node):
            return found, first, None
        before = _step_node(first.value, node)
        if before is None or before.op_type not in SCALES:
            raise Miss("it pads with zeros, which are not shifted")
        second = _step(before, found)
        assert second.scale is not None
        require(second.scale.all(), "a channel is scaled by zero")
        return found, first, second

    def change(self, home: ir.Graph, node: ir.Node, found: tuple[Linear, Step, Step | None], /) -> None:
        """Folds the step before the convolution, or the one before that."""
        conv, first, second = found
        graph = node.graph
        assert graph is not None
        if second is None:
            fold_before(home, conv, first.scale, first.shift)
            node.replace_input_with(0, first.value)
            graph.remove(first.node, safe=True)
            return
        shifted = _shifted(home, conv, first, second)
        fold_before(home, conv, second.scale, None)
        graph.insert_before(first.node, shifted)
        node.replace_input_with(0, shifted.outputs[0])
        graph.remove([first.node, second.node], safe=True)


def _shifted(home: ir.Graph, conv: Linear, first: Step, second: Step) -> ir.Node:
    """The Add(x, b / s) that is left of Add(Mul(x, s), b)."""
    assert first.shift is not None and second.scale is not None and conv.weight.shape is not None
    shift = narrowed(first.shift / second.scale, conv.weight, "the shift is too great beside the scale")
    whole = shift.reshape(-1, *[1] * (len(conv.weight.shape) - 2)) if (shift != shift[:1]).any() else shift[:1]
    old = first.node.outputs[0]
    made = ir.node("Add", [second.value, new_constant(home, f"{old.name}_shift", whole)], name=first.node.name)
    result = made.outputs[0]
    result.name, result.type, result.shape = old.name, old.type, old.shape
    made.metadata_props.update(first.node.metadata_props)
    return made


def _step_node(value: ir.Value | None, conv: ir.Node) -> ir.Node | None:
    """The node that computes `value`, where it scales or shifts by a constant."""
    node = value.producer() if value is not None else None
    if node is None or node.graph is not conv.graph:
        return None
    return node if any(constant(other) is not None for _, other in operands(node)) else None


def _step(node: ir.Node, found: Linear) -> Step:
    """What a node does to each channel.

    Raises:
        Miss: it is not the same for all values of a channel, or something else needs its result.
    """
    require(only_use(node.outputs[0]), f"something else needs the result of the {node.op_type}")
    value, array = next((value, array) for value, other in operands(node) if (array := constant(other)) is not None)
    weight = found.weight.const_value
    assert value is not None and weight is not None
    vector = found.vector(array, len(weight.shape))
    if array.size > 1 or array.ndim > 1:
        sizes = value.shape
        whole = sizes is not None and len(sizes) == len(weight.shape) and sizes[1] == found.channels
        require(whole, "the constant may be what makes its result so large")
    return Step(node, value, *scale_and_shift(node, vector))


def _pads(conv: ir.Node) -> bool:
    given = conv.attributes.get_string("auto_pad", "NOTSET")
    return given not in ("NOTSET", "VALID") or (given == "NOTSET" and any(conv.attributes.get_ints("pads", ())))

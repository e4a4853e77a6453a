"""Folds products with and sums of constants into the convolution behind them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._affine import Linear, Step, convolution, fold_before
from ._base import Miss, Pass
from ._constants import constant, new_constant
from ._match import only_use, require
from ._walk import all_graphs, all_nodes

_COMMUTATIVE = ("Add", "Mul")
_OTHER = ("Div", "Sub")
_SCALES = ("Div", "Mul")


@dataclass(frozen=True)
class FuseScaleConv(Pass):
    """Fuses scales and shifts of an input: Conv(Add(Mul(x, s), b), w) -> Conv(x, w * s, bias), one number per channel.

    Zeros that the convolution pads with are not shifted: there Add(Mul(x, s), b) becomes Add(x, b / s), and only the
    scale is folded. PP-OCR has both before each of its convolutions, and many a model normalizes its images so.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses in place."""
        modified = False
        for graph in all_graphs(model):
            for node in graph:
                try:
                    while _is_conv(node) and _fuse(model.graph, graph, node):
                        modified = True
                except Miss:
                    continue
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields each convolution behind a product or sum with a constant, and what is in the way."""
        for node in filter(_is_conv, all_nodes(model)):
            try:
                _match(node)
            except Miss as reason:
                yield node, str(reason)


def _is_conv(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "Conv"


def _fuse(home: ir.Graph, graph: ir.Graph | ir.Function, conv: ir.Node) -> bool:
    """Folds the step before a convolution, or the one before that."""
    match = _match(conv)
    if match is None:
        return False
    found, first, second = match
    if second is None:
        fold_before(home, found, first.scale, first.shift)
        conv.replace_input_with(0, first.value)
        graph.remove(first.node, safe=True)
        return True
    assert first.shift is not None and second.scale is not None
    dtype = found.weight.const_value
    assert dtype is not None
    with np.errstate(over="ignore", invalid="ignore"):
        shift = (first.shift / second.scale).astype(dtype.dtype.numpy())
    require(np.isfinite(shift.astype(np.float64)).all(), "the shift is too great beside the scale")
    fold_before(home, found, second.scale, None)
    whole = shift.reshape(-1, *[1] * (len(dtype.shape) - 2)) if (shift != shift[:1]).any() else shift[:1]
    moved = ir.node("Add", [second.value, new_constant(home, f"{first.node.outputs[0].name}_shift", whole)])
    moved.name, result, old = first.node.name, moved.outputs[0], first.node.outputs[0]
    result.name, result.type, result.shape = old.name, old.type, old.shape
    moved.metadata_props.update(first.node.metadata_props)
    graph.insert_before(first.node, moved)
    conv.replace_input_with(0, result)
    graph.remove([first.node, second.node], safe=True)
    return True


def _match(conv: ir.Node) -> tuple[Linear, Step, Step | None] | None:
    """Returns what is folded: the step before a convolution, or the scale before a shift that must stay.

    Raises:
        Miss: there is one that cannot be folded.
    """
    if (node := _step_node(conv.inputs[0], conv)) is None:
        return None
    found = convolution(conv)
    first = _step(node, found)
    if first.scale is not None or not _pads(conv):
        return found, first, None
    before = _step_node(first.value, conv)
    if before is None or before.op_type not in _SCALES:
        raise Miss("it pads with zeros, which are not shifted")
    second = _step(before, found)
    assert second.scale is not None
    require(second.scale.all(), "a channel is scaled by zero")
    return found, first, second


def _step_node(value: ir.Value | None, conv: ir.Node) -> ir.Node | None:
    """The node that computes `value`, where it scales or shifts by a constant."""
    node = value.producer() if value is not None else None
    if (
        node is None
        or node.domain != ""
        or node.op_type not in (*_COMMUTATIVE, *_OTHER)
        or node.graph is not conv.graph
    ):
        return None
    operands = node.inputs if node.op_type in _COMMUTATIVE else node.inputs[1:]
    return node if any(constant(operand) is not None for operand in operands) else None


def _step(node: ir.Node, found: Linear) -> Step:
    """What a node does to each channel.

    Raises:
        Miss: it is not the same for all values of a channel, or something else needs its result.
    """
    require(only_use(node.outputs[0]), f"something else needs the result of the {node.op_type}")
    left, right = node.inputs
    value, other = (left, right) if constant(right) is not None else (right, left)
    array, weight = constant(other), found.weight.const_value
    assert array is not None and value is not None and weight is not None
    vector = found.vector(array, len(weight.shape))
    if array.size > 1 or array.ndim > 1:
        sizes = value.shape
        whole = sizes is not None and len(sizes) == len(weight.shape) and sizes[1] == found.channels
        require(whole, "the constant may be what makes its result so large")
    if node.op_type in _SCALES:
        require(node.op_type == "Mul" or vector.all(), "it divides by zero")
        return Step(node, value, vector if node.op_type == "Mul" else 1 / vector, None)
    return Step(node, value, None, -vector if node.op_type == "Sub" else vector)


def _pads(conv: ir.Node) -> bool:
    given = conv.attributes.get_string("auto_pad", "NOTSET")
    return given not in ("NOTSET", "VALID") or (given == "NOTSET" and any(conv.attributes.get_ints("pads", ())))

"""Removes nodes whose output is one of their inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._constants import constant
from ._match import producer
from ._walk import all_graphs

_FAR = 1 << 30


@dataclass(frozen=True)
class RemoveNoops(Pass):
    """Removes no-ops: Add(x, 0) -> x, Dropout(x) -> x, Reshape(x) to its own shape -> x, and others below."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Removes in place; graph outputs keep their names."""
        modified = False
        for graph in all_graphs(model):
            for node in graph:
                if node.domain == "" and (rule := _RULES.get(node.op_type)) and (kept := rule(node)) is not None:
                    modified |= _bypass(graph, node, kept)
        return ir.passes.PassResult(model, modified=modified)


def _bypass(graph: ir.Graph | ir.Function, node: ir.Node, kept: ir.Value) -> bool:
    """Gives the users of the node's output its input instead, and removes the node.

    A graph output must keep its name: the input takes it over, where it is computed in this very graph and is no
    output itself. Elsewhere the node stays.
    """
    output = node.outputs[0]
    if output.is_graph_output():
        maker = kept.producer()
        if maker is None or maker.graph is not graph or kept.is_graph_output():
            return False
        kept.name, output.name = output.name, kept.name
    if kept.type is None:
        kept.type = output.type
    if output.shape is not None and kept.shape is None:
        kept.shape = output.shape
    output.replace_all_uses_with(kept, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


def _first(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if node.inputs else None


def _dropout(node: ir.Node) -> ir.Value | None:
    training = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.array(False)
    mask_used = any(bool(output.uses()) or output.is_graph_output() for output in node.outputs[1:])
    return _first(node) if training is not None and not training.any() and not mask_used else None


def _cast(node: ir.Node) -> ir.Value | None:
    value = _first(node)
    return value if value is not None and value.dtype == node.attributes["to"].as_int() else None


def _same_shape(node: ir.Node) -> ir.Value | None:
    """For operators that only change the shape: sizes are equal, one symbolic apart (the element count fixes it)."""
    value, output = _first(node), node.outputs[0]
    if value is None or value.shape is None or output.shape is None or len(value.shape) != len(output.shape):
        return None
    pairs = [(have, want) for have, want in zip(value.shape, output.shape, strict=True) if have != want]
    symbolic = sum(not isinstance(size, int) for size in value.shape)
    if pairs or symbolic > 1 or any(size == 0 for size in value.shape) or any(size is None for size in value.shape):
        return None
    return value


def _undoes(op_type: str) -> Callable[[ir.Node], ir.Value | None]:
    """For Squeeze and Unsqueeze: one undoes the other where both name the same axes."""

    def rule(node: ir.Node) -> ir.Value | None:
        before, axes = producer(_first(node), op_type), _axes(node)
        if before is None or axes is None or axes != _axes(before):
            return _same_shape(node)
        return _first(before)

    return rule


def _axes(node: ir.Node) -> list[int] | None:
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else sorted(int(axis) for axis in array.reshape(-1))


def _expand(node: ir.Node) -> ir.Value | None:
    value, shape = _first(node), constant(node.inputs[1])
    if value is None or value.shape is None or shape is None or shape.size > len(value.shape):
        return None
    tail = list(value.shape)[len(value.shape) - shape.size :]
    return value if all(want in (1, have) for want, have in zip(shape.tolist(), tail, strict=True)) else None


def _transpose(node: ir.Node) -> ir.Value | None:
    perm = node.attributes.get("perm")
    return _first(node) if perm is not None and list(perm.as_ints()) == list(range(len(perm.as_ints()))) else None


def _neutral(number: float, *, right_only: bool = False) -> Callable[[ir.Node], ir.Value | None]:
    """For x op c where c is `number` everywhere and does not broadcast x to a larger shape."""

    def rule(node: ir.Node) -> ir.Value | None:
        left, right = node.inputs
        pairs = [(left, right)] if right_only else [(left, right), (right, left)]
        for kept, other in pairs:
            array = constant(other)
            if kept is None or array is None or not array.size or not _absorbs(kept, array.shape):
                continue
            if array.dtype.kind in "fiu" and (array == number).all():
                return kept
        return None

    return rule


def _absorbs(value: ir.Value, shape: tuple[int, ...]) -> bool:
    """Whether broadcasting with `shape` surely gives the value's own shape."""
    if not shape:
        return True
    if value.shape is None or len(shape) > len(value.shape):
        return False
    tail = list(value.shape)[len(value.shape) - len(shape) :]
    return all(size == 1 or size == have for size, have in zip(shape, tail, strict=True))


def _only_input(node: ir.Node) -> ir.Value | None:
    return _first(node) if len(node.inputs) == 1 else None


def _slice(node: ir.Node) -> ir.Value | None:
    if len(node.inputs) < 3:
        return None
    value = _first(node)
    bounds = [constant(one) for one in node.inputs[1:]]
    given = [one is not None for one in node.inputs[1:]]
    if value is None or [one is not None for one in bounds] != given:
        return None  # one that is computed, or a default that the caller may replace
    starts, ends, axes, steps = [*bounds, None, None][:4]
    if starts is None or ends is None or starts.any() or (steps is not None and (steps != 1).any()):
        return None
    axes_list = axes.tolist() if axes is not None else list(range(starts.size))
    for axis, end in zip(axes_list, ends.tolist(), strict=True):
        size = value.shape[axis] if value.shape is not None and -len(value.shape) <= axis < len(value.shape) else None
        if end < _FAR and not (isinstance(size, int) and end >= size):
            return None
    return value


def _pad(node: ir.Node) -> ir.Value | None:
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return _first(node) if pads is not None and not pads.any() else None


def _tile(node: ir.Node) -> ir.Value | None:
    repeats = constant(node.inputs[1])
    return _first(node) if repeats is not None and (repeats == 1).all() else None


def _clip(node: ir.Node) -> ir.Value | None:
    return _first(node) if not any(node.inputs[1:]) and not node.attributes else None


_RULES: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    "Add": _neutral(0),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _only_input,
    "Div": _neutral(1, right_only=True),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _same_shape,
    "Identity": _first,
    "Max": _only_input,
    "Mean": _only_input,
    "Min": _only_input,
    "Mul": _neutral(1),
    "Pad": _pad,
    "Pow": _neutral(1, right_only=True),
    "Reshape": _same_shape,
    "Slice": _slice,
    "Squeeze": _undoes("Unsqueeze"),
    "Sub": _neutral(0, right_only=True),
    "Sum": _only_input,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _undoes("Squeeze"),
}

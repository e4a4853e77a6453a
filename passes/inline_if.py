"""Replaces an If whose condition is known by the nodes of the branch that runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._constants import constant
from .infer_shapes import InferShapes

_STEPS = 8  # of a condition that are followed: those of exporters are Shape, Gather, Equal, Cast


@dataclass(frozen=True)
class InlineIf(Pass):
    """Inlines known branches: If(1 == 1, then: Squeeze(x), else: x) -> Squeeze(x).

    TorchScript exports `if x.size(1) == 1` and a `squeeze` of an axis of unknown size this way. What is inlined may
    tell the sizes that the next condition needs, so that the shapes are inferred and the pass looks again.

    Attributes:
        most_rounds: how often it looks again.
    """

    most_rounds: int = 4

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inlines in place, in the main graph and its subgraphs."""
        modified = False
        for _ in range(self.most_rounds):
            found = [node for node in model.graph.all_nodes() if node.domain == "" and node.op_type == "If"]
            if not sum([_inline(model.graph, node) for node in found]):
                break
            InferShapes()(model)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _inline(home: ir.Graph, node: ir.Node) -> bool:
    """Puts the nodes of the branch before the If, and removes the If; initializers go to the main graph `home`."""
    condition, graph = _known(node.inputs[0]), node.graph
    if condition is None or condition.size != 1 or graph is None:
        return False
    taken, dropped = ("then_branch", "else_branch") if condition.all() else ("else_branch", "then_branch")
    branch = node.attributes[taken].as_graph()
    results, nodes = list(branch.outputs), list(branch)
    branch.outputs.clear()
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    for value in list(branch.initializers.values()):
        _move(home, branch, value)
    for result, output in zip(results, node.outputs, strict=True):
        _hand_over(graph, node, result, output, own=result.producer() in nodes)
    _forget(node.attributes[dropped].as_graph())
    graph.remove(node, safe=True)
    return True


def _move(home: ir.Graph, branch: ir.Graph, value: ir.Value) -> None:
    name = value.name or "constant"
    del branch.initializers[name]
    count = 0
    while value.name in home.initializers:
        count += 1
        value.name = f"{name}_{count}"
    home.register_initializer(value)


def _hand_over(graph: ir.Graph | ir.Function, node: ir.Node, result: ir.Value, output: ir.Value, *, own: bool) -> None:
    """Gives the users of an output of the If the branch's value instead.

    A graph output needs a value of its own: one from outside the branch, or one that is an output already, is copied.
    """
    if output.is_graph_output() and (not own or result.is_graph_output()):
        copy = ir.node("Identity", [result])
        graph.insert_before(node, copy)
        result = copy.outputs[0]
        own = True
    if own:
        result.name = output.name
        result.type = result.type or output.type
        result.shape = result.shape if result.shape is not None else output.shape
    output.replace_all_uses_with(result, replace_graph_outputs=True)


def _forget(branch: ir.Graph) -> None:
    """Drops a branch's uses of values from outside."""
    for node in branch.all_nodes():
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _known(value: ir.Value | None, steps: int = _STEPS) -> np.ndarray | None:
    """Returns a small value that depends on constants and known sizes only; None for any other."""
    array = constant(value, most_bytes=64)
    node = value.producer() if value is not None else None
    if array is not None or node is None or node.domain != "" or not steps:
        return array
    if node.op_type in ("Shape", "Size"):
        return _sizes(node)
    if node.op_type == "Gather" and (size := _size(node)) is not None:
        return size
    rule = _RULES.get(node.op_type)
    operands = [_known(operand, steps - 1) for operand in node.inputs] if rule is not None else [None]
    return rule(node, *operands) if rule is not None and all(one is not None for one in operands) else None


def _sizes(node: ir.Node) -> np.ndarray | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    sizes = np.array(shape, dtype=np.int64)
    if node.op_type == "Size":
        return np.asarray(sizes.prod())
    return sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)]


def _size(gather: ir.Node) -> np.ndarray | None:
    """One size of a value whose other sizes may not be known."""
    value, index = gather.inputs[0], constant(gather.inputs[1], most_bytes=8)
    shape = value.producer() if value is not None else None
    if shape is None or shape.op_type != "Shape" or shape.domain != "" or shape.attributes or index is None:
        return None
    of = shape.inputs[0].shape if shape.inputs[0] is not None else None
    if of is None or index.size != 1 or not -len(of) <= int(index.reshape(-1)[0]) < len(of):
        return None
    size = of[int(index.reshape(-1)[0])]
    return np.full(index.shape, size, dtype=np.int64) if isinstance(size, int) else None


def _cast(node: ir.Node, array: Any) -> np.ndarray | None:
    to = ir.DataType(node.attributes["to"].as_int())
    plain = array.dtype.kind in "bi" and to in (ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64)
    return array.astype(to.numpy()) if plain else None


def _same(_node: ir.Node, array: Any, *_axes: Any) -> np.ndarray | None:
    """For one element only: a condition of shape (1) is one, too."""
    return array if array.size == 1 else None


_RULES: dict[str, Callable[..., np.ndarray | None]] = {
    "And": lambda _, one, other: one & other,
    "Cast": _cast,
    "Equal": lambda _, one, other: one == other,
    "Greater": lambda _, one, other: one > other,
    "GreaterOrEqual": lambda _, one, other: one >= other,
    "Identity": _same,
    "Less": lambda _, one, other: one < other,
    "LessOrEqual": lambda _, one, other: one <= other,
    "Not": lambda _, array: ~array,
    "Or": lambda _, one, other: one | other,
    "Squeeze": _same,
    "Unsqueeze": _same,
}

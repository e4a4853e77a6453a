"""What is done to each channel of an activation: within the normalization that computes it, or by a node behind it."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ._constants import new_constant
from ._regions import is_weight


def is_row(value: ir.Value | None, channels: int) -> bool:
    """Whether the value is a float32 constant of one number per channel."""
    if value is None or not is_weight(value) or value.const_value is None or value.dtype is not ir.DataType.FLOAT:
        return False
    return value.const_value.shape.numpy() == (channels,)


def normalization(value: ir.Value, users: Sequence[ir.Node], channels: int, *op_types: str) -> ir.Node | None:
    """Returns the normalization of the last axis that computes the value for `users` only, of constant parameters."""
    norm = value.producer()
    if norm is None or norm.op_type not in op_types or norm.domain != "" or value.is_graph_output():
        return None
    last = (-1, len(value.shape) - 1 if value.shape is not None else -1)
    if len(value.uses()) != len(users) or norm.attributes.get_int("axis", -1) not in last:
        return None
    return norm if all(is_row(one, channels) for one in norm.inputs[1:] if one is not None) else None


def change_parameter(
    graph: ir.Graph, node: ir.Node, index: int, change: Callable[[np.ndarray], np.ndarray], suffix: str
) -> None:
    """Gives a node its own, changed copy of a constant; the old one goes where nothing else uses it."""
    old = node.inputs[index]
    assert old is not None and old.const_value is not None
    fresh = new_constant(graph, f"{old.name}_{suffix}", change(old.const_value.numpy()).astype(np.float32))
    node.replace_input_with(index, fresh)
    drop(graph, old)


def drop(graph: ir.Graph, constant: ir.Value) -> None:
    """Removes an initializer that nothing uses any more."""
    if not constant.uses() and not constant.is_graph_output():
        graph.initializers.pop(constant.name or "", None)


def insert(
    graph: ir.Graph,
    op_type: str,
    value: ir.Value,
    numbers: np.ndarray,
    users: Sequence[ir.Node],
    names: tuple[str, str],
) -> None:
    """Puts a node of the value and one number per channel in front of what reads it as its first input.

    Args:
        graph: of the nodes.
        op_type: such as "Mul".
        value: what is changed.
        numbers: of its channels.
        users: read the result instead.
        names: suffixes, of the numbers and of the result.
    """
    operand = new_constant(graph, f"{value.name}_{names[0]}", numbers.astype(np.float32))
    made = ir.node(op_type, [value, operand], name=f"{value.name}_{names[0]}_{op_type}")
    made.metadata_props.update(users[0].metadata_props)
    output = made.outputs[0]
    output.name, output.type, output.shape = f"{value.name}_{names[1]}", value.type, value.shape
    for node in users:
        node.replace_input_with(0, output)
    first = min(users, key=list(graph).index) if len(users) > 1 else users[0]
    graph.insert_before(first, made)

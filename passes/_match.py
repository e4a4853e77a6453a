"""Matching small trees of operators upwards from their last node."""

from collections.abc import Iterable

import onnx_ir as ir

from ._constants import scalar

_NEAR = 1e-5
_NEAR_HALF = 4e-3


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Returns the node of the default domain that computes `value`, if it is an `op_type` with one output."""
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or node.op_type != op_type or len(node.outputs) != 1:
        return None
    return node


def only_use(value: ir.Value | None) -> bool:
    """Whether exactly one node uses the value and the graph does not give it out: it may vanish in a fusion."""
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()


def inner(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Returns the node that computes `value`, if it is an `op_type` and nothing else needs the value."""
    return producer(value, op_type) if only_use(value) else None


def with_scalar(node: ir.Node | None, number: float) -> ir.Value | None:
    """For a commutative node of two inputs: the one beside a scalar constant near `number`; None where none is."""
    if node is None or len(node.inputs) != 2:
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        found = scalar(other)
        if found is not None and other is not None and near(found, number, other.dtype):
            return one
    return None


def near(found: float, number: float, dtype: ir.DataType | None) -> bool:
    """Whether a constant is `number`, up to the rounding of its dtype and of what exporters print."""
    coarse = dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return abs(found - number) <= (_NEAR_HALF if coarse else _NEAR) * abs(number)


def orders(node: ir.Node) -> Iterable[tuple[ir.Value | None, ir.Value | None]]:
    """The two inputs of a commutative node, both ways round."""
    left, right = node.inputs
    return ((left, right), (right, left))


def replace(last: ir.Node, new: ir.Node) -> None:
    """Puts `new` in the place of `last`: its output gets the name, type and users of the old one."""
    graph = last.graph
    assert graph is not None
    old, output = last.outputs[0], new.outputs[0]
    output.name, output.type, output.shape = old.name, old.type, old.shape
    new.metadata_props.update(last.metadata_props)
    graph.insert_before(last, new)
    old.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(last, safe=True)

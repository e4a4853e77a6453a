"""Matching small trees of operators upwards from their last node."""

from collections.abc import Iterable

import onnx_ir as ir

from ._base import Miss
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


def user(value: ir.Value, *op_types: str) -> ir.Node:
    """Returns the one node that uses `value`, in the graph that computes it.

    Raises:
        Miss: something else needs the value too, or the node is none of `op_types` of the default domain.
    """
    if value.is_graph_output():
        raise Miss(f"{text(value)} is an output of the graph")
    uses = value.uses()
    if len(uses) != 1:
        names = ", ".join(sorted(f"{use.node.op_type} {use.node.name!r}" for use in uses)[:3])
        raise Miss(f"{text(value)} has {len(uses)} uses{f': {names}' if names else ''}")
    node = next(iter(uses)).node
    maker = value.producer()
    if maker is not None and node.graph is not maker.graph:
        raise Miss(f"{text(value)} is used in a subgraph")
    return expect(node, *op_types)


def expect(node: ir.Node | None, *op_types: str) -> ir.Node:
    """Returns the node, if it is one of `op_types` of the default domain with one output.

    Raises:
        Miss: it is another one.
    """
    if node is None:
        raise Miss(f"an input or a constant stands where {' or '.join(op_types)} is looked for")
    if node.domain != "" or node.op_type not in op_types or len(node.outputs) != 1:
        raise Miss(f"{node.op_type} {node.name!r} stands where {' or '.join(op_types)} is looked for")
    return node


def source(value: ir.Value | None, *op_types: str) -> ir.Node:
    """Returns the node that computes `value`, whoever needs it.

    Raises:
        Miss: it is none of `op_types`.
    """
    return expect(value.producer() if value is not None else None, *op_types)


def maker(value: ir.Value | None, *op_types: str) -> ir.Node:
    """Returns the node that computes `value`; nothing else needs the value.

    Raises:
        Miss: something else needs it, or the node is none of `op_types`.
    """
    node = source(value, *op_types)
    require(only_use(value), f"{text(value)} is needed outside of the pattern")
    return node


def beside(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """Returns the other input of a node of two inputs."""
    left, right = node.inputs
    return right if left is value else left


def require(condition: object, reason: str) -> None:
    """Raises Miss with the reason unless the condition holds."""
    if not condition:
        raise Miss(reason)


def text(value: ir.Value | None) -> str:
    """Returns a value's name with its dtype and shape, as reasons name it."""
    if value is None:
        return "an absent input"
    number = scalar(value)
    if number is not None:
        return f"{value.name!r} = {number:g}"
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown"
    return f"{value.name!r} ({dtype}{value.shape if value.shape is not None else ' of unknown shape'})"

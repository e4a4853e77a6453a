"""Parts of a normalization as exporters spell it out: means over the last axes, roots, scales."""

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._constants import constant, free_constant, scalar
from ._match import beside, orders, require, source, text, user

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""Wider ones would lose digits: the fused operators compute the statistics in float32."""


class Norm:
    """What is gathered while a pattern is followed: its nodes, and the sizes of the axes that are normalized."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.sizes: list[int] = []

    def take(self, value: ir.Value | None, *op_types: str) -> ir.Node:
        """Adds the node that computes the value to the pattern; raises Miss unless it is one of `op_types`."""
        return self.note(source(value, *op_types))

    def note(self, node: ir.Node) -> ir.Node:
        """Adds a node to the pattern."""
        self.nodes.append(node)
        return node

    def close(self, last: ir.Node) -> None:
        """Raises Miss where something outside of the pattern needs a value from its inside."""
        inside = {*self.nodes, last}
        for node in self.nodes:
            value = node.outputs[0]
            if node is not last and (value.is_graph_output() or any(use.node not in inside for use in value.uses())):
                raise Miss(f"{text(value)} is needed outside of the pattern")

    def mean(self, value: ir.Value | None) -> ir.Value:
        """Returns y for ReduceMean(y) over its last axes that keeps them as ones; notes their sizes."""
        node = self.take(value, "ReduceMean")
        found, axes = node.inputs[0], _axes(node)
        require(found is not None and found.shape is not None, f"the rank of {text(found)} is not known")
        assert found is not None and found.shape is not None
        require(found.dtype in _FLOATS, f"{text(found)} is neither float32 nor float16")
        require(node.attributes.get_int("keepdims", 1) == 1, f"{text(value)} drops the axes of the mean")
        rank = len(found.shape)
        wanted = sorted(axis % rank for axis in axes or () if -rank <= axis < rank)
        require(
            axes and wanted == list(range(rank - len(axes), rank)), f"the mean {text(value)} is over the axes {axes}"
        )
        sizes = [found.shape[axis] for axis in wanted]
        numbers = [size for size in sizes if isinstance(size, int)]
        require(len(numbers) == len(sizes), f"the last sizes of {text(found)} are not numbers")
        require(self.sizes in ([], numbers), f"the means are over the sizes {self.sizes} and {numbers}")
        self.sizes = numbers
        return found

    def square(self, value: ir.Value | None) -> ir.Value:
        """Returns y for y * y, or y ** 2."""
        node = self.take(value, "Mul", "Pow")
        base, other = node.inputs
        squared = scalar(other) == 2 if node.op_type == "Pow" else base is other
        require(squared and base is not None, f"{text(value)} is no square")
        assert base is not None
        return base

    def root(self, anchor: ir.Node) -> tuple[ir.Value, float]:
        """Returns y and epsilon for Sqrt(y + epsilon)."""
        total = self.take(self.note(anchor).inputs[0], "Add")
        for value, other in orders(total):
            number = scalar(other)
            if value is not None and number is not None and scalar(value) is None:
                return value, number
        raise Miss(f"no constant epsilon in Add of {' and '.join(map(text, total.inputs))}")

    def divided(self, root: ir.Value) -> tuple[ir.Node, ir.Value | None]:
        """Returns the node that divides by the root and what it divides, for y / root and y * (1 / root)."""
        node = self.note(user(root, "Div", "Reciprocal"))
        top = node.inputs[0]
        if node.op_type == "Div" and node.inputs[1] is root and scalar(top) != 1:
            return node, top
        require(node.op_type == "Reciprocal" or node.inputs[1] is root, f"{text(root)} is divided, not the divisor")
        product = self.note(user(node.outputs[0], "Mul"))
        return product, beside(product, node.outputs[0])

    def parameter(self, value: ir.Value | None) -> ir.Value | None:
        """Returns a scale or bias whose shape is that of the normalized axes; None for any other value.

        A constant with ones before that shape is made anew without them.
        """
        if value is None or value.shape is None:
            return None
        if list(value.shape) == self.sizes:
            return value
        array = constant(value)
        if array is None or list(array.shape) != [1] * (array.ndim - len(self.sizes)) + self.sizes:
            return None
        return free_constant(f"{value.name}_flat", array.reshape(self.sizes))

    def affine(self, last: ir.Node, op_type: str) -> tuple[ir.Node, ir.Value | None]:
        """Returns the Mul or Add of a parameter that follows `last` and the parameter; `last` and None elsewhere."""
        value = last.outputs[0]
        try:
            node = user(value, op_type)
        except Miss:
            return last, None
        found = self.parameter(beside(node, value))
        if found is None or len(found.shape or ()) > len(value.shape or ()):
            return last, None
        self.nodes.append(node)
        return node, found

    def ones(self, like: ir.Value) -> ir.Value:
        """Returns a scale that changes nothing, of the dtype of `like`."""
        assert like.dtype is not None
        return free_constant(f"{like.name}_ones", np.ones(self.sizes, like.dtype.numpy()))


def _axes(node: ir.Node) -> list[int] | None:
    """The axes of a reduction, an input since opset 18; None where they are not constant or not there."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return [int(axis) for axis in array.reshape(-1)] if array is not None else None

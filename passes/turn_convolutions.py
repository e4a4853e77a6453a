"""Turns convolutions along a column into convolutions along a row."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Miss
from ._layouts import Change, Perm, rewrite, spatial
from ._peephole import Peephole

_TURN: Perm = (0, 1, 3, 2)


@dataclass(frozen=True)
class TurnConvolutions(Peephole[Change]):
    """Turns 1-D convolutions of a width of 1: Conv(x[n,c,length,1]) -> Transpose(Conv(Transpose(x)[n,c,1,length])).

    Kernels of CPUs compute several neighbours of a row at once, and copy them at once: a column gives them one.
    PushTransposes takes out what then stands between two convolutions, so that a chain has one at each end.
    """

    def match(self, node: ir.Node, /) -> Change | None:
        """Returns how a convolution along a column changes when it is turned."""
        if not _is_column(node):
            return None
        found = spatial(node, _TURN, [_TURN, *[None] * (len(node.inputs) - 1)])
        if found is None:
            raise Miss("its weight is no constant, or is a large one")
        return found

    def change(self, home: ir.Graph, node: ir.Node, found: Change, /) -> None:
        """Puts a Transpose before and behind the convolution."""
        rewrite(home, node, found, _TURN)
        given, made, graph = node.inputs[0], node.outputs[0], node.graph
        assert given is not None and graph is not None
        before = ir.node("Transpose", [given], attributes={"perm": _TURN})
        turned = before.outputs[0]
        turned.type, turned.shape = given.type, _shape(given)
        node.replace_input_with(0, turned)
        graph.insert_before(node, before)

        after = ir.node("Transpose", [made], attributes={"perm": _TURN})
        result = after.outputs[0]
        made.replace_all_uses_with(result, replace_graph_outputs=True)
        after.replace_input_with(0, made)
        result.type, result.shape, result.name = made.type, made.shape, made.name
        made.shape, made.name = _shape(made), f"{made.name}_turned"
        graph.insert_after(node, after)
        for one in (before, after):
            one.metadata_props.update(node.metadata_props)


def _is_column(node: ir.Node) -> bool:
    """Whether it is a convolution of a column by a column."""
    if node.domain != "" or node.op_type != "Conv" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    sizes, kernel = node.inputs[0].shape, node.inputs[1].shape
    if sizes is None or kernel is None or len(sizes) != 4 or len(kernel) != 4:
        return False
    padded = any(node.attributes.get_ints("pads", (0, 0, 0, 0))[1::2])
    return sizes[3] == 1 and kernel[3] == 1 and kernel[2] != 1 and not padded


def _shape(value: ir.Value) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape([value.shape[axis] for axis in _TURN])

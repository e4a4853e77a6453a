"""Moves Transposes behind the operators that do not need them, where they meet others and cancel."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._islands import Island, is_identity, islands, outside, perm_of
from ._layouts import Perm, inverse, rewrite
from ._walk import all_graphs

_LEAST_OPSET = 13  # before it, Softmax flattens what is behind its axis


@dataclass(frozen=True)
class PushTransposes(Pass):
    """Pushes Transposes: Transpose(Relu(Transpose(x))) -> Relu(x), through all that works element by element or axis.

    Exports from TensorFlow have one before and one behind every convolution. Operators between Transposes form
    islands; one whose Transposes become fewer is changed as a whole, any other stays. Q and DQ are not passed.

    Attributes:
        most_rounds: how often it looks again: an island may end where another one begins.
    """

    most_rounds: int = 8

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Pushes in place."""
        modified = False
        for graph in all_graphs(model) if model.opset_imports.get("", 0) >= _LEAST_OPSET else ():
            for _ in range(self.most_rounds if isinstance(graph, ir.Graph) else 0):
                if not _push(model.graph, graph):
                    break
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _push(home: ir.Graph, graph: ir.Graph | ir.Function) -> bool:
    touched: set[ir.Node] = set()
    for island in islands(graph):
        edges = {*island.sources, *island.sinks}
        if not edges & touched and island.gain() > 0:  # what another one changed is stale
            _change(home, graph, island)
            touched |= edges
    return bool(touched)


def _change(home: ir.Graph, graph: ir.Graph | ir.Function, island: Island) -> None:
    """Moves the Transposes before an island to where its values leave it."""
    merged = {sink: island.merged(sink) for sink in island.sinks}
    before = {source.outputs[0]: source.inputs[0] for source in island.sources}
    perms: dict[ir.Value, Perm | None] = {source.outputs[0]: perm_of(source) for source in island.sources}
    for node, one in island.nodes.items():
        perm = next(found for value in node.inputs if value is not None and (found := perms.get(value)) is not None)
        rewrite(home, node, one, perm)
        for index, value in enumerate(node.inputs):
            if value is not None and value in before:
                node.replace_input_with(index, before[value])
        if one.perm is not None:
            for value in node.outputs:
                perms[value] = one.perm
                _settle(graph, value, one.perm, island)
    for sink, perm in merged.items():
        _merge(graph, sink, perm)
    for source in island.sources:
        if not source.outputs[0].uses() and not source.outputs[0].is_graph_output():
            graph.remove(source, safe=True)


def _settle(graph: ir.Graph | ir.Function, value: ir.Value, perm: Perm, island: Island) -> None:
    """Notes that a value is not transposed any more, and puts a Transpose between it and what needs it so."""
    users, output, node = outside(value, island), value.is_graph_output(), value.producer()
    assert node is not None
    sizes = value.shape
    if sizes is not None:
        value.shape = ir.Shape([sizes[axis] for axis in inverse(perm)])
    if not users and not output:
        return
    transpose = ir.node("Transpose", [value], attributes={"perm": list(perm)})
    new = transpose.outputs[0]
    new.type, new.shape = value.type, sizes
    transpose.metadata_props.update(node.metadata_props)
    graph.insert_after(node, transpose)
    for user, index in users:
        user.replace_input_with(index, new)
    if output:
        name, value.name = value.name, f"{value.name}_turned"
        new.name = name
        for index, one in enumerate(graph.outputs):
            if one is value:
                graph.outputs[index] = new


def _merge(graph: ir.Graph | ir.Function, sink: ir.Node, perm: Perm) -> None:
    """Makes a Transpose behind the island do its work, or goes where there is none; an output keeps its node."""
    output, value = sink.outputs[0], sink.inputs[0]
    assert value is not None
    if not is_identity(perm) or output.is_graph_output():
        sink.attributes["perm"] = ir.AttrInt64s("perm", list(perm))
        return
    output.replace_all_uses_with(value)
    graph.remove(sink, safe=True)

"""Moves Transposes behind the operators that do not need them, where they meet others and cancel."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._constants import new_constant
from ._layouts import Change, Perm, back, change, compose, inverse
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


@dataclass
class _Island:
    """Operators that can do without the Transposes before them.

    Attributes:
        sources: those Transposes.
        nodes: the operators in order, and how they change.
        sinks: the Transposes behind them.
    """

    sources: dict[ir.Node, None] = field(default_factory=dict)
    nodes: dict[ir.Node, Change] = field(default_factory=dict)
    sinks: dict[ir.Node, None] = field(default_factory=dict)

    def gain(self) -> int:
        """By how many Transposes the graph shrinks."""
        gone = sum(not _leftover(node.outputs[0], self) for node in self.sources)
        gone += sum(_is_identity(self.merged(node)) for node in self.sinks)
        return gone - sum(
            _leftover(value, self) for node, one in self.nodes.items() if one.perm for value in node.outputs
        )

    def merged(self, sink: ir.Node) -> Perm:
        """The permutation of a Transpose behind the island, once it does the island's too."""
        value, own = sink.inputs[0], perm_of(sink)
        assert value is not None and own is not None
        producer = value.producer()
        assert producer is not None
        return compose(self.nodes[producer].perm or tuple(range(len(own))), own)


def perm_of(node: ir.Node) -> Perm | None:
    """The permutation of a Transpose; None for any other operator, and where the rank is not known."""
    if node.domain != "" or node.op_type != "Transpose" or node.inputs[0] is None:
        return None
    if "perm" in node.attributes:
        return tuple(node.attributes["perm"].as_ints())
    shape = node.inputs[0].shape
    return None if shape is None else tuple(range(len(shape)))[::-1]


def _push(home: ir.Graph, graph: ir.Graph | ir.Function) -> bool:
    touched: set[ir.Node] = set()
    for island in _islands(graph):
        edges = {*island.sources, *island.sinks}
        if island.gain() > 0 and not edges & touched:
            _change(home, graph, island)
            touched |= edges
    return bool(touched)


def _islands(graph: ir.Graph | ir.Function) -> Iterator[_Island]:
    """Yields the islands of a graph; each is found in one walk over it and one back."""
    perms: dict[ir.Value, Perm] = {}
    changes: dict[ir.Node, Change] = {}
    for node in graph:
        own = perm_of(node)
        if own is not None and not _is_identity(own):
            perms[node.outputs[0]] = own
        if own is not None:
            continue
        given = [perms.get(value) if value is not None else None for value in node.inputs]
        found = change(node, given) if any(given) else None
        if found is not None:
            changes[node] = found
            perms.update((value, found.perm) for value in node.outputs if found.perm is not None)
    for node in reversed(list(changes)):
        if not _pays(node, changes, perms):
            del changes[node]
    yield from _joined(graph, changes, perms)


def _pays(node: ir.Node, changes: dict[ir.Node, Change], perms: dict[ir.Value, Perm]) -> bool:
    """Whether it helps that Transposes pass a node: they become fewer there, or meet others behind it."""
    if changes[node].perm is None or len({value for value in node.inputs if value in perms}) > 1:
        return True
    users = {use.node for value in node.outputs for use in value.uses()}
    return any(user in changes or (user.graph is node.graph and perm_of(user) is not None) for user in users)


def _joined(
    graph: ir.Graph | ir.Function, changes: dict[ir.Node, Change], perms: dict[ir.Value, Perm]
) -> Iterator[_Island]:
    """Joins what is connected by a value that is transposed."""
    parent: dict[ir.Node, ir.Node] = {}

    def root(node: ir.Node) -> ir.Node:
        while parent.setdefault(node, node) is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    before = {node: [v.producer() for v in node.inputs if v is not None and v in perms] for node in changes}
    for node, producers in before.items():
        for producer in producers:
            assert producer is not None
            parent[root(producer)] = root(node)
    islands: dict[ir.Node, _Island] = defaultdict(_Island)
    for node, found in changes.items():
        island = islands[root(node)]
        island.nodes[node] = found
        island.sources.update((one, None) for one in before[node] if one is not None and one not in changes)
        users = [use.node for value in node.outputs if found.perm is not None for use in value.uses()]
        island.sinks.update((user, None) for user in users if user.graph is graph and perm_of(user) is not None)
    yield from islands.values()


def _outside(value: ir.Value, island: _Island) -> list[tuple[ir.Node, int]]:
    """Uses of a value by what needs it transposed."""
    return [
        (use.node, use.idx) for use in value.uses() if use.node not in island.nodes and use.node not in island.sinks
    ]


def _leftover(value: ir.Value, island: _Island) -> bool:
    """Whether a Transpose must stay or be put behind a value."""
    return value.is_graph_output() or bool(_outside(value, island))


def _change(home: ir.Graph, graph: ir.Graph | ir.Function, island: _Island) -> None:
    """Moves the Transposes before an island to where its values leave it."""
    merged = {sink: island.merged(sink) for sink in island.sinks}
    before = {source.outputs[0]: source.inputs[0] for source in island.sources}
    perms: dict[ir.Value, Perm | None] = {source.outputs[0]: perm_of(source) for source in island.sources}
    for node, one in island.nodes.items():
        perm = next(found for value in node.inputs if value is not None and (found := perms.get(value)) is not None)
        _rewrite(home, node, one, perm)
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


def _rewrite(home: ir.Graph, node: ir.Node, one: Change, perm: Perm) -> None:
    """Gives a node the constants and attributes that it needs without the Transposes before it."""
    for index in one.constants:
        value = node.inputs[index]
        assert value is not None and value.const_value is not None
        array = np.ascontiguousarray(back(value.const_value.numpy(), perm))
        node.replace_input_with(index, new_constant(home, f"{value.name}_turned", array))
    for index, array in one.operands.items():
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, new_constant(home, f"{node.outputs[0].name}_operand", array))
    for name, content in one.attributes.items():
        node.attributes[name] = (
            ir.AttrInt64(name, content) if isinstance(content, int) else ir.AttrInt64s(name, content)
        )


def _settle(graph: ir.Graph | ir.Function, value: ir.Value, perm: Perm, island: _Island) -> None:
    """Notes that a value is not transposed any more, and puts a Transpose between it and what needs it so."""
    outside, output, node = _outside(value, island), value.is_graph_output(), value.producer()
    assert node is not None
    sizes = value.shape
    if sizes is not None:
        value.shape = ir.Shape([sizes[axis] for axis in inverse(perm)])
    if not outside and not output:
        return
    transpose = ir.node("Transpose", [value], attributes={"perm": list(perm)})
    new = transpose.outputs[0]
    new.type, new.shape = value.type, sizes
    transpose.metadata_props.update(node.metadata_props)
    graph.insert_after(node, transpose)
    for user, index in outside:
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
    if not _is_identity(perm) or output.is_graph_output():
        sink.attributes["perm"] = ir.AttrInt64s("perm", list(perm))
        return
    output.replace_all_uses_with(value)
    graph.remove(sink, safe=True)


def _is_identity(perm: Perm) -> bool:
    return perm == tuple(range(len(perm)))

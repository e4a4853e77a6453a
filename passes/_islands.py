"""Islands: operators between Transposes that can do without them."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from ._layouts import Change, Perm, change, compose


@dataclass
class Island:
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
        """By how many Transposes the graph shrinks; 0 where one of them is on both sides."""
        if self.sources.keys() & self.sinks.keys():
            return 0
        gone = sum(not leftover(node.outputs[0], self) for node in self.sources)
        gone += sum(is_identity(self.merged(node)) for node in self.sinks)
        return gone - sum(
            leftover(value, self) for node, one in self.nodes.items() if one.perm for value in node.outputs
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


def islands(graph: ir.Graph | ir.Function) -> Iterator[Island]:
    """Yields the islands of a graph; each is found in one walk over it and one back."""
    perms: dict[ir.Value, Perm] = {}
    changes: dict[ir.Node, Change] = {}
    for node in graph:
        own = perm_of(node)
        if own is not None and not is_identity(own):
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
) -> Iterator[Island]:
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
    joined: dict[ir.Node, Island] = defaultdict(Island)
    for node, found in changes.items():
        island = joined[root(node)]
        island.nodes[node] = found
        island.sources.update((one, None) for one in before[node] if one is not None and one not in changes)
        users = [use.node for value in node.outputs if found.perm is not None for use in value.uses()]
        island.sinks.update((user, None) for user in users if user.graph is graph and perm_of(user) is not None)
    yield from joined.values()


def outside(value: ir.Value, island: Island) -> list[tuple[ir.Node, int]]:
    """Uses of a value by what needs it transposed."""
    return [
        (use.node, use.idx) for use in value.uses() if use.node not in island.nodes and use.node not in island.sinks
    ]


def leftover(value: ir.Value, island: Island) -> bool:
    """Whether a Transpose must stay or be put behind a value."""
    return value.is_graph_output() or bool(outside(value, island))


def is_identity(perm: Perm) -> bool:
    """Whether a Transpose does nothing."""
    return perm == tuple(range(len(perm)))

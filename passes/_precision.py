"""Which nodes of a graph become 16 bits wide, and why the others do not."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from ._base import Miss
from ._fragile import HEAVY, Fragile
from ._halves import Constants, Half, constant_tensor
from ._regions import is_kept
from ._slots import GENERATORS, Slots, slots_of, touches_float
from ._walk import subgraphs

_BETWEEN = "all around it stays float32, too"
_MANY = 1 << 14  # elements of a constant that is worth two Casts


@dataclass
class Plan:
    """What becomes of the nodes that have to do with float32.

    Attributes:
        half: the type that replaces it.
        io: whether the model's inputs and outputs are replaced, too.
        graph: the main graph.
        slots: nodes that change.
        free: nodes and positions that take what comes.
        kept: nodes that stay, and why.
        generators: nodes that may change, if all users of their result do.
        fills: nodes that stay and positions of constants that stand for minus infinity in the masks that they make.
    """

    half: Half
    io: bool
    graph: ir.Graph
    slots: dict[ir.Node, Slots] = field(default_factory=dict)
    free: set[tuple[ir.Node, int]] = field(default_factory=set)
    kept: dict[ir.Node, str] = field(default_factory=dict)
    generators: set[ir.Node] = field(default_factory=set)
    fills: list[tuple[ir.Node, int]] = field(default_factory=list)

    def wants_half(self, node: ir.Node, index: int) -> bool:
        """Whether a node takes 16 bits at that input."""
        return node in self.slots and index in self.slots[node].inputs

    def gives_half(self, value: ir.Value) -> bool:
        """Whether a value that was float32 becomes 16 bits wide where it is computed."""
        node = value.producer()
        if node is not None:
            return node in self.slots and value.index() in self.slots[node].outputs
        return self.io and value.is_graph_input() and value.graph is self.graph

    def out_half(self, graph: ir.Graph | ir.Function | None) -> bool:
        """Whether the float32 outputs of a graph become 16 bits wide."""
        return self.io and graph is self.graph


def plan(
    model: ir.Model,
    half: Half,
    *,
    keep: Sequence[str],
    wide: Sequence[str],
    ranges: dict[str, tuple[float, float]],
    io: bool,
) -> Plan:
    """Decides for each node outside of functions; changes nothing.

    Args:
        model: the graph, whose types are known.
        half: the type.
        keep: names, PyTorch module paths or globs of nodes that stay.
        wide: operators that stay.
        ranges: lowest and highest number by name of value.
        io: whether inputs and outputs of the model shall be 16 bits wide.
    """
    made = Plan(half, io, model.graph)
    fragile = Fragile(Constants(half), ranges)
    for node in float_nodes(model):
        reason = _decide(made, fragile, node, model.opset_imports.get(node.domain, 0), tuple(keep), wide)
        fragile.follow(node, reason)
        made.fills += fragile.fills(node) if reason is not None else []
    _withdraw(made)
    return made


def float_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yields the nodes that have to do with float32, those of subgraphs too; the types of their values are known."""
    for graph in body_graphs(model):
        for node in graph:
            if touches_float(node) and not (node.domain == "" and node.op_type == "Constant"):
                yield node


def body_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yields the main graph and its subgraphs, each after the one around it; functions are left alone."""
    pending = [model.graph]
    for graph in pending:  # it grows
        yield graph
        for node in graph:
            pending.extend(subgraphs(node))


def _decide(
    made: Plan, fragile: Fragile, node: ir.Node, opset: int, keep: tuple[str, ...], wide: Sequence[str]
) -> str | None:
    """Puts a node into the plan; returns why it stays."""
    try:
        slots = slots_of(node, opset, made.half)
        made.free.update((node, index) for index in slots.free)
        if not slots.inputs and not slots.outputs:
            return None
        if is_kept(node, keep):
            raise Miss("its name is among those to keep")
        if node.domain == "" and node.op_type in GENERATORS:
            _decide_generator(made, fragile, node, slots)
            return None
        if node.domain == "" and node.op_type in wide:
            raise Miss(f"the target has {node.op_type} in float32 only")
        fragile.require_strong(node, slots)
    except Miss as miss:
        made.kept[node] = str(miss)
        return str(miss)
    made.slots[node] = slots
    return None


def _decide_generator(made: Plan, fragile: Fragile, node: ir.Node, slots: Slots) -> None:
    if not slots.outputs:
        return
    tensor = node.attributes.get("value") if node.op_type == "ConstantOfShape" else None
    if tensor is not None:
        value = ir.Value(name="value", const_value=tensor.as_tensor())
        ir.Graph([], [], nodes=[], initializers=[value])
        fragile.constants.require_fit(value, strict=True, masks=True, bounds=True)
    made.slots[node] = slots
    made.generators.add(node)


def _withdraw(made: Plan) -> None:
    """Takes back what would only add Casts; each node is taken back once at most."""
    _withdraw_single(made)
    for nodes in _components(made):
        if not any(map(_is_heavy, nodes)) and any(map(partial(_meets_kept, made), nodes)):
            _take_back(made, nodes)
    _withdraw_single(made)


def _withdraw_single(made: Plan) -> None:
    """Takes back generators that not all users want in 16 bits, and comparisons of what is float32."""
    pending = deque(made.slots)
    while pending:
        node = pending.popleft()
        if node in made.slots and _pointless(made, node):
            pending.extend(_neighbours(node))
            _take_back(made, [node])


def _take_back(made: Plan, nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        del made.slots[node]
        if node not in made.generators:
            made.kept[node] = _BETWEEN


def _neighbours(node: ir.Node) -> list[ir.Node]:
    """Nodes that compute what a node takes, and those that take what it gives."""
    makers = [maker for value in node.inputs if value is not None and (maker := value.producer()) is not None]
    return makers + [use.node for value in node.outputs for use in value.uses()]


def _pointless(made: Plan, node: ir.Node) -> bool:
    slots = made.slots[node]
    if node in made.generators:
        wants = [want for index in slots.outputs for want in _wants(made, node.outputs[index])]
        return not wants or not all(wants)
    return not slots.outputs and not any(made.gives_half(value) for value in _sources(slots, node))


def _sources(slots: Slots, node: ir.Node) -> list[ir.Value]:
    values = [value for index in slots.inputs if (value := node.inputs[index]) is not None]
    return [value for value in values if constant_tensor(value) is None]


def _components(made: Plan) -> Iterator[list[ir.Node]]:
    """Yields the nodes that change, in groups that are connected by values of 16 bits."""
    seen: set[ir.Node] = set()
    for first in list(made.slots):
        if first in seen or first in made.generators:
            continue
        seen.add(first)
        group = [first]
        for node in group:  # it grows
            new = [one for one in _joined(made, node) if one not in seen]
            seen.update(new)
            group.extend(dict.fromkeys(new))
        yield group


def _joined(made: Plan, node: ir.Node) -> Iterator[ir.Node]:
    for index in made.slots[node].inputs:
        value = node.inputs[index]
        maker = value.producer() if value is not None else None
        if value is not None and maker is not None and maker not in made.generators and made.gives_half(value):
            yield maker
    for index in made.slots[node].outputs:
        yield from (use.node for use in node.outputs[index].uses() if made.wants_half(use.node, use.idx))


def _is_heavy(node: ir.Node) -> bool:
    """Whether 16 bits are worth two Casts at a node: it multiplies matrices, or reads many numbers."""
    sizes = [tensor.size for value in node.inputs if (tensor := constant_tensor(value)) is not None]
    return node.op_type in HEAVY or max(sizes, default=0) > _MANY


def _meets_kept(made: Plan, node: ir.Node) -> bool:
    return any(one in made.kept for one in _neighbours(node))


def _wants(made: Plan, value: ir.Value) -> Iterator[bool]:
    """Yields for each use of a value that needs a certain type whether it is 16 bits."""
    for use in value.uses():
        if (use.node, use.idx) not in made.free:
            yield made.wants_half(use.node, use.idx)
    if value.is_graph_output():
        yield made.out_half(value.graph)

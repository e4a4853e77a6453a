"""What the fusions share: a pattern is looked for from the node that marks it, and says why it does not match."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import onnx_ir as ir

from ._base import Miss, Pass
from ._walk import all_graphs


@dataclass(frozen=True)
class Fused:
    """What takes the place of a pattern.

    Attributes:
        nodes: new nodes, in order; constants among their inputs need not be in the graph yet.
        outputs: values of the pattern -> new values that take their name, type and users.
        at: node of the pattern before which the new ones stand; their inputs are known there.
    """

    nodes: Sequence[ir.Node]
    outputs: Mapping[ir.Value, ir.Value]
    at: ir.Node


@dataclass(frozen=True)
class Fusion(Pass):
    """A pass that replaces a pattern of nodes; linear in the size of the graph.

    Attributes:
        anchors: operators that mark the pattern, such as Erf for GELU: `match` begins at each.
        opset: the standard's version that has the new operator.
    """

    anchors: ClassVar[frozenset[str]] = frozenset()
    opset: ClassVar[int] = 1

    @abstractmethod
    def match(self, anchor: ir.Node, opset: int, /) -> Fused:
        """Returns what replaces the pattern around `anchor`, in a graph of that opset; changes nothing.

        Raises:
            Miss: no pattern of this pass is there; the reason names what is there instead.
        """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses in place."""
        modified, gone = False, dict[ir.Node, None]()
        for graph, anchor in self._found(model):
            opset = _opset(model, graph)
            if anchor in gone or opset < self.opset:
                continue
            try:
                fused = self.match(anchor, opset)
            except Miss:
                continue
            gone.update(dict.fromkeys(_put(model, graph, fused)))
            modified = True
        for graph, nodes in groupby(gone, key=lambda node: node.graph):
            assert graph is not None
            graph.remove(list(nodes))  # together: each call walks over all outputs of the graph
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields each anchor that is left, and why no pattern matches there."""
        for graph, anchor in self._found(model):
            if (opset := _opset(model, graph)) < self.opset:
                yield anchor, f"the graph is of opset {opset}, the fused operator of {self.opset}"
                continue
            try:
                fused = self.match(anchor, opset)
            except Miss as miss:
                yield anchor, str(miss)
            else:
                for node in fused.nodes:
                    _detach(node)

    def _found(self, model: ir.Model) -> Iterator[tuple[ir.Graph | ir.Function, ir.Node]]:
        for graph in all_graphs(model):
            nodes = [node for node in graph if node.domain == "" and node.op_type in self.anchors]
            yield from ((graph, node) for node in nodes)


def single(last: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], /, **rest: Any) -> Fused:
    """Returns one node in the place of all that leads to `last`, which has one output; `rest` is as of `ir.node`."""
    new = ir.node(op_type, inputs, **rest)
    return Fused((new,), {last.outputs[0]: new.outputs[0]}, last)


def near_rules(rules: Sequence[Any], model: ir.Model, roots: Iterable[ir.Node]) -> list[tuple[ir.Node, str]]:
    """Returns each root that none of onnxscript's rules matches, and how far the best of them got."""
    missed = []
    for root in roots:
        tracer = _Tracer()
        if not any(rule.match(model, root.graph, root, tracer=tracer) for rule in rules):
            missed.append((root, tracer.reason))
    return missed


class _Tracer:
    """Keeps the reason of the attempt that matched most nodes; onnxscript calls `log` once for each attempt."""

    def __init__(self) -> None:
        self.reason, self._most = "no rule begins there", -1

    def log(self, _rule: object, _graph: object, _node: object, result: Any, _status: object) -> None:
        if result.reason and len(result.nodes) > self._most:
            self.reason, self._most = " ".join(result.reason.split()), len(result.nodes)


def _opset(model: ir.Model, graph: ir.Graph | ir.Function) -> int:
    home = graph if isinstance(graph, ir.Function) else model
    return home.opset_imports.get("", 0)


def _put(model: ir.Model, graph: ir.Graph | ir.Function, fused: Fused) -> list[ir.Node]:
    """Puts the new nodes into the graph; returns those that nothing needs any more, without their inputs."""
    home = graph if isinstance(graph, ir.Function) else model
    for new in fused.nodes:
        new.metadata_props.update(fused.at.metadata_props)
        if new.domain:
            home.opset_imports.setdefault(new.domain, 1)
        for value in new.inputs:
            if value is not None and value.producer() is None and value.const_value is not None:
                _register(model.graph, value)
        graph.insert_before(fused.at, new)
    for old, output in fused.outputs.items():
        output.name, output.type, output.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(output, replace_graph_outputs=True)
    return _unused([node for old in fused.outputs if (node := old.producer()) is not None])


def _register(home: ir.Graph, value: ir.Value) -> None:
    """Makes an initializer of a constant that a match has made."""
    if value.is_initializer() or value.is_graph_input():
        return
    name, count = value.name or "constant", 0
    while (value.name or "") in home.initializers or not value.name:
        count += 1
        value.name = f"{name}_{count}"
    home.register_initializer(value)


def _unused(pending: list[ir.Node]) -> list[ir.Node]:
    found = []
    while pending:
        node = pending.pop()
        if any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        found.append(node)
        pending += [maker for value in node.inputs if value is not None and (maker := value.producer()) is not None]
        _detach(node)
    return found


def _detach(node: ir.Node) -> None:
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)

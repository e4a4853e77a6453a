"""What a graph must satisfy after every pass; linear in its size, and no weight is read."""

import onnx_ir as ir

from ._walk import subgraphs


class BrokenGraph(Exception):
    """A pass left a graph that is not valid; the message says where."""


def signature(model: ir.Model) -> list[tuple[str | None, object, object]]:
    """Names and dtypes of the inputs and outputs, and the shapes of the inputs: what no pass may change."""
    inputs = [(value.name, value.dtype, str(value.shape)) for value in model.graph.inputs]
    return [*inputs, *((value.name, value.dtype, None) for value in model.graph.outputs)]


def check(model: ir.Model, wanted: list[tuple[str | None, object, object]]) -> None:
    """Checks order, names and signature.

    Args:
        model: the graph after a pass.
        wanted: the `signature` before it.

    Raises:
        BrokenGraph: a value is used before it is computed or is computed twice, or the signature changed.
    """
    if signature(model) != wanted:
        raise BrokenGraph("the graph's inputs or outputs changed")
    for function in model.functions.values():
        _check_graph(function, set())
    _check_graph(model.graph, set())


def _check_graph(graph: ir.Graph | ir.Function, outer: set[ir.Value]) -> None:
    seen = outer | set(graph.inputs)
    if isinstance(graph, ir.Graph):
        seen |= set(graph.initializers.values())
    names: set[str] = set()
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in seen:
                raise BrokenGraph(f"{value.name!r} is used by {node.op_type} {node.name!r} before it is computed")
        for subgraph in subgraphs(node):
            _check_graph(subgraph, seen)
        for value in node.outputs:
            if value.name and value.name in names:
                raise BrokenGraph(f"{value.name!r} is computed twice")
            names.add(value.name or "")
            seen.add(value)
    for value in graph.outputs:
        if value not in seen:
            raise BrokenGraph(f"the output {value.name!r} is not computed")

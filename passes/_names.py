"""Names of values: no two in one graph, and none in a subgraph that hides one from outside."""

from collections import ChainMap
from itertools import chain

import onnx_ir as ir

from ._walk import all_values, subgraphs


def make_unique(model: ir.Model) -> None:
    """Renames values whose name another one has; inputs and outputs of the model keep theirs.

    Values know each other by reference, files by name: what a pass adds or moves into another graph may take a name
    that a subgraph uses for something else.
    """
    names = [value.name for value in all_values(model) if value.name]
    taken = set(names)
    if len(taken) == len(names):  # as nearly always: what follows takes four times as long
        return
    outputs = {value.name: value for value in model.graph.outputs if value.name}
    _visit(model.graph, ChainMap(outputs), taken)


def _visit(graph: ir.Graph, known: ChainMap[str, ir.Value], taken: set[str]) -> None:
    own = chain(graph.inputs, list(graph.initializers.values()), *(node.outputs for node in graph))
    for value in own:
        if value.name and known.setdefault(value.name, value) is not value:
            value.name = _free(value.name, taken)
            known[value.name] = value
    for node in graph:
        for subgraph in subgraphs(node):
            _visit(subgraph, known.new_child(), taken)


def _free(name: str, taken: set[str]) -> str:
    count = 1
    while f"{name}_{count}" in taken:
        count += 1
    taken.add(f"{name}_{count}")
    return f"{name}_{count}"

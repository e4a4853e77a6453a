"""What the passes share that look at one node after the other, each with what is around it."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import onnx_ir as ir

from ._base import Miss, Pass
from ._walk import all_graphs, all_nodes

Found = TypeVar("Found")


@dataclass(frozen=True)
class Peephole(Pass, Generic[Found]):
    """A pass that changes the graph around one node at a time (peephole optimization, McKeeman 1965)."""

    @abstractmethod
    def match(self, node: ir.Node, /) -> Found | None:
        """Returns what `change` needs to know; None where no pattern of this pass begins. Changes nothing.

        Raises:
            Miss: a pattern begins, and this is what is in the way.
        """

    @abstractmethod
    def change(self, home: ir.Graph, node: ir.Node, found: Found, /) -> None:
        """Changes the graph around a node, which may vanish or be matched again afterwards.

        Args:
            home: the main graph, which gets new constants.
            node: the node.
            found: what `match` returned for it.

        Raises:
            Miss: it cannot be done after all. Nothing is changed.
        """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Changes in place."""
        modified = False
        for graph in all_graphs(model):
            for node in graph:
                try:
                    while node.graph is not None and (found := self.match(node)) is not None:
                        self.change(model.graph, node, found)
                        modified = True
                except Miss:
                    continue
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields each node where a pattern begins, and what is in the way."""
        for node in all_nodes(model):
            try:
                self.match(node)
            except Miss as miss:
                yield node, str(miss)

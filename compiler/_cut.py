"""Cuts some nodes out of a graph: what they read from the others becomes an input with a recorded value."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx_ir as ir

from ..passes import subgraphs
from .golden import Golden
from .shapes import DTYPES

if TYPE_CHECKING:
    Load = Callable[[ir.Model], Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]]

T = TypeVar("T")


@dataclass(frozen=True)
class Recording:
    """A graph with the values that it computed once.

    Attributes:
        model: the graph.
        label: of the sizes at which it ran.
        arrays: what is known of its values.
        readers: nodes of the main graph that read a value, in a subgraph too.
    """

    model: ir.Model
    label: str
    arrays: Mapping[ir.Value, np.ndarray]
    readers: Mapping[ir.Value, Sequence[ir.Node]]


@dataclass(frozen=True)
class Piece:
    """A part of a graph that runs by itself.

    Attributes:
        model: the nodes as a graph of their own.
        golden: its inputs and what it must compute.
    """

    model: ir.Model
    golden: Golden


def record(model: ir.Model, golden: Golden, load: "Load") -> Recording:
    """Runs a graph on the inputs of `golden` and keeps what every node of its main graph computes.

    Args:
        model: the graph; it is not changed.
        golden: its inputs.
        load: makes a graph runnable.
    """
    told = model.clone()
    pairs = [
        (value, copy)
        for node, twin in zip(model.graph, told.graph, strict=True)
        for value, copy in zip(node.outputs, twin.outputs, strict=True)
        if value.name and _is_array(value)
    ]
    told.graph.outputs.extend(copy for _, copy in pairs if not copy.is_graph_output())
    results = load(told)(golden.inputs)
    found = {value: results[copy.name or ""] for value, copy in pairs}
    arrays = {value: one for value, one in found.items() if isinstance(one, np.ndarray) and str(one.dtype) in DTYPES}
    for value in model.graph.inputs:
        if value.name in golden.inputs:
            arrays[value] = golden.inputs[value.name or ""]
        elif value.const_value is not None:
            arrays[value] = value.const_value.numpy()
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        for value in dict.fromkeys(_reads(node)):
            readers.setdefault(value, []).append(node)
    return Recording(model, golden.label, arrays, readers)


def cut(recording: Recording, nodes: Sequence[ir.Node]) -> Piece | None:
    """Returns some nodes of the main graph, in its order, as a graph; None where an input has no recorded value."""
    inside, graph = set(nodes), recording.model.graph
    made = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in _reads(node) if value not in made)
    stored = [value for value in read if value.is_initializer() and not value.is_graph_input()]
    inputs = [value for value in read if value not in set(stored)]
    outputs = [
        value
        for node in nodes
        for value in node.outputs
        if value in recording.arrays
        and (value.is_graph_output() or not set(recording.readers.get(value, ())) <= inside or not value.uses())
    ]
    if not outputs or not all(value in recording.arrays for value in inputs):
        return None
    view = ir.GraphView(
        inputs, outputs, nodes=nodes, initializers=stored, opset_imports=graph.opset_imports, name=graph.name
    )
    piece = view.clone()
    for values, copies in ((inputs, piece.inputs), (outputs, piece.outputs)):
        for value, copy in zip(values, copies, strict=True):
            _declare(copy, recording.arrays[value])
    functions = [function.clone() for function in recording.model.functions.values()]
    golden = Golden(
        recording.label,
        {value.name or "": recording.arrays[value] for value in inputs},
        {value.name or "": recording.arrays[value] for value in outputs},
    )
    return Piece(ir.Model(piece, ir_version=recording.model.ir_version, functions=functions), golden)


def smallest(items: Sequence[T], fails: Callable[[Sequence[T]], bool], *, tries: int) -> Sequence[T]:
    """Returns few of the items, in order, for which `fails` still holds, as it does for all of them.

    The end is cut off first, then the beginning, each by halves; then blocks in between, down to single items.

    Args:
        items: for which `fails` holds.
        fails: need not be monotone: where it is not, the result may be larger than the least.
        tries: the most calls of `fails`.
    """
    left = _Budget(tries)
    last = _bisect(len(items), lambda count: left.spend() and fails(items[:count]))
    items = items[:last]
    kept = _bisect(len(items), lambda count: left.spend() and fails(items[len(items) - count :]))
    items = items[len(items) - kept :]
    block = max(len(items) // 2, 1)
    while True:
        before = len(items)
        for start in reversed(range(0, len(items), block)):
            fewer = [*items[:start], *items[start + block :]]
            if fewer and left.spend() and fails(fewer):
                items = fewer
        if block == 1 and len(items) == before:
            return items
        block = max(min(block, len(items)) // 2, 1)


class _Budget:
    """A number of tries that runs out."""

    def __init__(self, tries: int) -> None:
        self.tries = tries

    def spend(self) -> bool:
        self.tries -= 1
        return self.tries >= 0


def _bisect(count: int, fails: Callable[[int], bool]) -> int:
    """Returns a number from 1 to `count` that fails, while the one below does not, as far as it was tried."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle, high)
    return high


def _is_array(value: ir.Value) -> bool:
    """Whether NumPy and ONNX Runtime both hold such a value; a dtype that nobody inferred is a tensor's."""
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return False
    name = value.dtype.name.lower() if value.dtype is not None else "float"
    return {"float": "float32", "double": "float64"}.get(name, name) in DTYPES


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Values of the node's own graph that it or its subgraphs read."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        inner = (value for one in graph for value in _reads(one))
        yield from (value for value in (*inner, *graph.outputs) if value.graph is not graph)


def _declare(value: ir.Value, array: np.ndarray) -> None:
    """States dtype and rank, which a file must, as they were; sizes stay as the graph knows them."""
    value.dtype = ir.DataType.from_numpy(array.dtype)
    if value.shape is None or len(value.shape) != array.ndim:
        value.shape = ir.Shape([None] * array.ndim)

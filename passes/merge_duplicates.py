"""Keeps one of several equal initializers and of several equal computations."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._stored import JoinedTensor, TurnedTensor, stored_bytes
from ._walk import all_graphs

_SAMPLE = 2048  # bytes
_CHUNK = 1 << 20
_MOST_ELEMENTS = 64  # of a tensor attribute that is compared
_RANDOM = (
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
)  # fmt: skip


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Merges duplicates: equal initializers become one, common subexpressions are computed once."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merges in place."""
        modified = _merge_initializers(model.graph)
        for graph in all_graphs(model):
            modified |= _merge_nodes(graph)
        return ir.passes.PassResult(model, modified=modified)


def _merge_initializers(graph: ir.Graph) -> bool:
    """Compares only tensors of equal dtype, shape and first and last bytes: most weights are never read."""
    modified = False
    groups: dict[tuple[object, ...], list[ir.Value]] = defaultdict(list)
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output() or tensor.dtype is ir.DataType.STRING:
            continue
        if isinstance(tensor, ir.LazyTensor) and not isinstance(tensor, (JoinedTensor, TurnedTensor)):
            continue  # it is computed when it is written
        size = tensor.nbytes
        ends = stored_bytes(tensor, 0, _SAMPLE), stored_bytes(tensor, max(size - _SAMPLE, 0), size)
        sample = (tensor.dtype, tuple(tensor.shape), *ends)
        for other in groups[sample]:
            if size <= _SAMPLE or _equal(tensor, other.const_value):
                value.replace_all_uses_with(other)
                del graph.initializers[value.name]  # type: ignore[arg-type]
                modified = True
                break
        else:
            groups[sample].append(value)
    return modified


def _equal(one: ir.TensorProtocol, other: ir.TensorProtocol | None) -> bool:
    """Compares bytes: NaN equals NaN, and 0 differs from -0."""
    assert other is not None
    places = range(0, one.nbytes, _CHUNK)
    return all(stored_bytes(one, at, at + _CHUNK) == stored_bytes(other, at, at + _CHUNK) for at in places)


def _merge_nodes(graph: ir.Graph | ir.Function) -> bool:
    """Merges nodes of equal operator, inputs and attributes within one graph; operators of other domains stay.

    Where both nodes give out a graph output, the later one becomes an Identity, so that both names live.
    """
    first: dict[object, ir.Node] = {}
    merged: list[ir.Node] = []
    copies = False
    for node in graph:
        key = _key(node)
        if key is None or (found := first.setdefault(key, node)) is node:
            continue
        if any(old.is_graph_output() and new.is_graph_output() for old, new in _pairs(node, found)):
            copies |= len(node.outputs) == 1 and _become_copy(node, found.outputs[0])
            continue
        for old, new in _pairs(node, found):
            if old.is_graph_output():
                old.name, new.name = new.name, old.name
                new.type, new.shape = new.type or old.type, new.shape if new.shape is not None else old.shape
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        merged.append(node)
    if merged:
        graph.remove(merged, safe=True)  # at once: each removal by itself looks at every output of the graph
    return copies or bool(merged)


def _pairs(node: ir.Node, other: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    return zip(node.outputs, other.outputs, strict=True)


def _become_copy(node: ir.Node, source: ir.Value) -> bool:
    """Makes the node an Identity of `source`; what uses its output uses `source`."""
    node.op_type = "Identity"
    node.attributes.clear()
    node.resize_inputs(1)
    node.replace_input_with(0, source)
    for use in list(node.outputs[0].uses()):
        use.node.replace_input_with(use.idx, source)
    return True


def _key(node: ir.Node) -> object:
    """What two nodes that compute the same have in common; None for a node that is like no other."""
    if (
        node.domain != ""
        or node.op_type in _RANDOM
        or (node.op_type == "Identity" and node.outputs[0].is_graph_output())
    ):
        return None
    attributes = {name: _content(attribute) for name, attribute in node.attributes.items()}
    if None in attributes.values():
        return None
    named = tuple(bool(value.name) for value in node.outputs)
    return node.op_type, tuple(map(id, node.inputs)), named, tuple(sorted(attributes.items()))


def _content(attribute: ir.Attr) -> tuple[str, ...] | None:
    """An attribute as text that tells 0 from -0; None for graphs, large tensors and what else is not compared."""
    if attribute.is_ref():
        return None
    kind = attribute.type
    if kind is ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        if tensor.dtype is ir.DataType.STRING or tensor.size > _MOST_ELEMENTS:
            return None
        return kind.name, tensor.dtype.name, str(tensor.shape), tensor.tobytes().hex()
    if kind in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING):
        return kind.name, repr(attribute.value)
    if kind in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return kind.name, repr(list(attribute.value))
    return None

"""Evaluates what depends on constants only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import onnx_ir as ir

from ._base import Pass
from ._constants import constant, new_constant, without_defaults
from ._match import only_use
from ._stored import TurnedTensor
from ._walk import all_nodes

if TYPE_CHECKING:
    from onnxscript.optimizer._constant_folding import Replacement

_KEPT = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_RANDOM = ("Bernoulli", "Dropout")
"""Random, or random in training; the library knows the others."""
_SIMPLIFIED = ("CastLike", "ConcatFromSequence", "If", "SequenceAt", "SequenceConstruct", "Size", "SplitToSequence")
"""Operators that the library also simplifies with inputs that are not constant, and no other pass does."""
_READ_LATER_BYTES = 1 << 16
_BOUNDED_BY_INPUT = ("Compress", "NonZero", "Unique", "NonMaxSuppression")


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Folds constants: Add(2, 3) -> 5. The size of a result is known before it is evaluated.

    Q/DQ stay as they are: they are instructions to a compiler, not arithmetic.

    Attributes:
        max_input_elements: nodes with a larger constant input are left alone, layout changes of weights apart.
        max_output_bytes: results that are larger are not computed, so that no Tile or Expand bloats the file.
    """

    max_input_elements: int = 1 << 13
    max_output_bytes: int = 1 << 20

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds in place with onnxscript's folder."""
        if not any(map(_may_fold, all_nodes(model))):
            return ir.passes.PassResult(model, modified=False)
        from onnxscript.optimizer._constant_folding import FoldConstantsPass, Replacement  # folded models do without it

        class Folder(FoldConstantsPass):  # type: ignore[misc]  # it has no types
            def _do_inference(self, node: ir.Node) -> None:
                """Infers what the size limits need; infer-shapes knows of all others, and runs again."""
                if _may_fold(node):
                    super()._do_inference(node)

            def process_node(self, node: ir.Node, is_function: bool) -> "Replacement | None":
                turned = _turned(node) if isinstance(node.graph, ir.Graph) else None
                if turned is None:
                    return cast("Replacement | None", super().process_node(node, is_function))
                node.graph.register_initializer(turned)  # type: ignore[union-attr]
                return Replacement([turned], [])

        folder = Folder(
            shape_inference=True,
            input_size_limit=self.max_input_elements,
            output_size_limit=self.max_output_bytes,
            should_fold=self._should_fold,
        )
        with without_defaults(model):
            modified = bool(folder(model).modified)
        for node in all_nodes(model):
            if node.domain == "" and node.op_type == "Range":
                modified |= _make_scalars(model.graph, node)
        return ir.passes.PassResult(model, modified=modified)

    def _should_fold(self, node: ir.Node) -> bool | None:
        """Returns False for no, True for yes whatever the folder thinks, None to leave it to its own rules."""
        _forget_sources(node)
        if node.op_type in (*_KEPT, *_RANDOM):
            return False
        if node.op_type in _BOUNDED_BY_INPUT:
            return None
        for output in node.outputs:
            size = _bytes(output)
            if size is None or size > max(self.max_output_bytes, _input_bytes(node)):
                return False
        return True if node.op_type == "ConstantOfShape" else None


def _turned(node: ir.Node) -> ir.Value | None:
    """Returns the result of a Transpose of a large weight that lies in a file and that nothing else uses."""
    weight = node.inputs[0] if node.domain == "" and node.op_type == "Transpose" else None
    if weight is None or not only_use(weight) or weight.is_graph_input() or node.outputs[0].is_graph_output():
        return None
    tensor = weight.const_value
    if not isinstance(tensor, ir.ExternalTensor) or tensor.nbytes < _READ_LATER_BYTES or tensor.dtype.bitwidth < 8:
        return None
    rank = len(tensor.shape)
    order = node.attributes.get_ints("perm", range(rank)[::-1])
    if sorted(order) != list(range(rank)):
        return None
    turned = TurnedTensor(tensor, order, node.outputs[0].name)
    return ir.Value(name=turned.name, type=ir.TensorType(turned.dtype), shape=turned.shape, const_value=turned)


def _may_fold(node: ir.Node) -> bool:
    """Whether the folder could do something at this node: it is slow where there is nothing to do."""
    if node.op_type in _SIMPLIFIED:
        return True
    if node.op_type == "Concat":  # of nothing with something
        return any(value is not None and value.shape is not None and 0 in value.shape for value in node.inputs)
    return all(value is None or value.const_value is not None for value in node.inputs)


def _make_scalars(graph: ir.Graph, node: ir.Node) -> bool:
    """Makes one-element vectors scalars: Range takes both while their shape is unknown, folded it must be scalars."""
    modified = False
    for index, value in enumerate(node.inputs):
        array = constant(value, most_bytes=16)
        if value is not None and array is not None and array.shape == (1,):
            node.replace_input_with(index, new_constant(graph, f"{value.name}_scalar", array.reshape(())))
            modified = True
    return modified


def _forget_sources(node: ir.Node) -> None:
    """Drops the folder's list of all that a constant was made from: copied at each fold, it is quadratic in a chain."""
    from onnxscript.optimizer._constant_folding import FOLDED_FROM_KEY

    for value in node.inputs:
        if value is not None:
            value.meta.pop(FOLDED_FROM_KEY, None)


def _bytes(value: ir.Value) -> int | None:
    """Bytes that the value will take; None where a size or the dtype is not known."""
    if value.dtype is None or value.shape is None:
        return None
    elements = 1
    for size in value.shape:
        if not isinstance(size, int):
            return None
        elements *= size
    return int(elements * value.dtype.itemsize)


def _input_bytes(node: ir.Node) -> int:
    """Bytes of the constants that only this node uses: folding it makes them vanish."""
    return sum(
        value.const_value.nbytes
        for value in node.inputs
        if value is not None and value.const_value is not None and len(value.uses()) == 1
    )

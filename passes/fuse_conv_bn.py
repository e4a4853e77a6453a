"""Folds a BatchNormalization into the weights of the Conv, ConvTranspose or Gemm before it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from ._base import Miss, Pass
from ._constants import constant, new_constant, own_view
from ._match import maker, only_use, require, text
from ._walk import all_graphs, all_nodes

_BEFORE = ("Conv", "ConvTranspose", "Gemm")
_MOST_BYTES = 1 << 24  # of a vector of channels
_Layout = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class FuseConvBn(Pass):
    """Fuses batch normalization: BatchNormalization(Conv(x, w)) -> Conv(x, w', b').

    The new weights are computed when they are written, one at a time.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses in place."""
        modified = False
        for graph in all_graphs(model):
            for node in graph:
                if node.domain == "" and node.op_type == "BatchNormalization":
                    modified |= _fuse(model.graph, node)
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields each BatchNormalization that is left, and why."""
        for node in all_nodes(model):
            if node.domain == "" and node.op_type == "BatchNormalization":
                try:
                    _matched(node)
                except Miss as miss:
                    yield node, str(miss)


def _matched(norm: ir.Node) -> tuple[ir.Node, ir.Value, np.ndarray, list[np.ndarray], _Layout]:
    """Returns the node before, its weights, its bias, the four vectors of the norm and the layout of its weights.

    Raises:
        Miss: they are not what can be fused.
    """
    before = maker(norm.inputs[0], *_BEFORE)
    require(before.graph is norm.graph, f"{before.op_type} {before.name!r} is outside of the subgraph")
    require(not _trains(norm), "it is in training mode")
    weights, bias = before.inputs[1], _bias(before)
    numbers = [constant(value, most_bytes=_MOST_BYTES) for value in norm.inputs[1:5]]
    require(all(one is not None for one in numbers), "scale, shift, mean or variance is not constant")
    require(bias is not None, f"the bias of {before.op_type} {before.name!r} is not a constant vector")
    require(_is_own(weights), f"the weights {text(weights)} are not a constant of this {before.op_type} only")
    assert weights is not None
    assert weights.const_value is not None
    assert bias is not None
    vectors = [np.asarray(one, np.float64) for one in numbers]
    axes = _layout(before, weights.const_value.shape.numpy(), vectors[0].size)
    if axes is None:
        raise Miss(f"the weights {text(weights)} do not have {vectors[0].size} channels")
    return before, weights, bias, vectors, axes


def _fuse(graph: ir.Graph, norm: ir.Node) -> bool:
    try:
        before, weights, bias, (scale, shift, mean, variance), axes = _matched(norm)
    except Miss:
        return False
    factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    assert weights.const_value is not None
    old = weights.const_value
    dtype = old.dtype.numpy()
    weights.const_value = ir.LazyTensor(
        partial(_scaled, old, factor.reshape(axes[1]), axes[0]),
        old.dtype,
        ir.Shape(old.shape.numpy()),
        name=weights.name,
    )
    fresh = new_constant(graph, f"{weights.name}_bias", ((bias - mean) * factor + shift).astype(dtype))
    before.resize_inputs(3)
    before.replace_input_with(2, fresh)
    before.attributes.pop("beta", None)
    _take_place(before, norm)
    return True


def _trains(norm: ir.Node) -> bool:
    """Whether it uses the statistics of its own input, or gives them out."""
    others = any(value.uses() or value.is_graph_output() for value in norm.outputs[1:])
    return others or norm.attributes.get_int("training_mode", 0) != 0


def _is_own(weights: ir.Value | None) -> bool:
    """Whether it is a constant that nothing else uses: what is shared would have to be copied."""
    return (
        only_use(weights)
        and weights is not None
        and weights.const_value is not None
        and weights.is_initializer()
        and not weights.is_graph_input()
        and weights.const_value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    )


def _bias(node: ir.Node) -> np.ndarray | None:
    """Returns the vector that the node adds to its channels; None where it is not one that can be known."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(1)
    array = constant(value, most_bytes=_MOST_BYTES)
    if array is None or array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
        return None
    factor = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    return np.asarray(array, np.float64).reshape(-1) * factor


def _layout(node: ir.Node, shape: Sequence[int], channels: int) -> _Layout | None:
    """Returns the shape in which weights and factors of the channels are multiplied, and that of the factors."""
    if node.op_type == "ConvTranspose":  # (in, out / groups, ...), each group with outputs of its own
        groups = node.attributes.get_int("group", 1)
        if len(shape) < 2 or groups < 1 or shape[0] % groups or shape[1] * groups != channels:
            return None
        inside = (groups, shape[0] // groups, *shape[1:])
        return inside, (groups, 1, shape[1], *[1] * (len(shape) - 2))
    axis = 1 if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0) else 0
    if len(shape) <= axis or shape[axis] != channels:
        return None
    return shape, tuple(channels if one == axis else 1 for one in range(len(shape)))


def _scaled(weights: ir.TensorProtocol, factor: np.ndarray, shape: Sequence[int]) -> ir.TensorProtocol:
    array = own_view(weights).numpy()
    exact = np.float64 if array.dtype == np.float64 else np.float32
    scaled = array.reshape(shape).astype(exact, copy=False) * factor.astype(exact)
    return ir.Tensor(scaled.astype(array.dtype, copy=False).reshape(array.shape), name=weights.name)


def _take_place(node: ir.Node, last: ir.Node) -> None:
    """Gives the output of `node` to the users of `last`, under its name, and removes `last`."""
    old, output = last.outputs[0], node.outputs[0]
    output.name, output.type, output.shape = old.name, old.type, old.shape
    old.name = None
    old.replace_all_uses_with(output, replace_graph_outputs=True)
    assert last.graph is not None
    last.graph.remove(last, safe=True)

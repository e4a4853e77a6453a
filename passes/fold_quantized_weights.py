"""Stores the integers of a weight that a graph quantizes itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._constants import constant
from ._stored import own_view
from ._walk import all_graphs

_LIMITS: Mapping[ir.DataType, tuple[int, int]] = MappingProxyType({
    ir.DataType.INT8: (-128, 127),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.UINT16: (0, 65535),
})  # fmt: skip


@dataclass(frozen=True)
class FoldQuantizedWeights(Pass):
    """Folds: QuantizeLinear(weight, scale, zero_point) -> the integers, a quarter of the bytes.

    What quantization-aware training exports quantizes its float weights in the graph. They are read and quantized when
    the graph is written. torch's dynamo exporter puts a Clip of the integers behind: QuantizeLinear -> Clip.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds in place."""
        nodes = [node for graph in all_graphs(model) for node in graph if node.op_type == "QuantizeLinear"]
        modified = False
        for node in nodes:
            tensor = _integers(node)
            if tensor is None or node.graph is None:
                continue
            old, last = node.inputs[0], _clip_of(node) or node
            output = last.outputs[0]
            value = ir.Value(name=output.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()))
            value.const_value = tensor
            output.replace_all_uses_with(value)
            node.graph.remove(dict.fromkeys((node, last)), safe=True)
            model.graph.register_initializer(value)
            if old is not None and not old.uses() and not old.is_graph_output():
                model.graph.initializers.pop(old.name or "", None)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _clip_of(node: ir.Node) -> ir.Node | None:
    """Returns what narrows the integers that a node gives out, to bounds that are constants."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    clip = uses[0].node
    if clip.domain != "" or clip.op_type != "Clip" or clip.graph is not node.graph or uses[0].idx != 0:
        return None
    known = all(value is None or constant(value) is not None for value in clip.inputs[1:])
    return clip if known and not clip.outputs[0].is_graph_output() else None


def _limits(dtype: ir.DataType, clip: ir.Node | None) -> tuple[int, int]:
    """The least and the greatest integer."""
    low, high = _LIMITS[dtype]
    if clip is not None:
        least, most = (constant(value) for value in [*clip.inputs, None, None][1:3])
        low = low if least is None else max(low, int(least))
        high = high if most is None else min(high, int(most))
    return low, high


def _integers(node: ir.Node) -> ir.TensorProtocol | None:
    """Returns what a QuantizeLinear of constants gives out; None where it is another one."""
    value, scale_value, zero_value = [*node.inputs, None][:3]
    if node.domain != "" or value is None or value.const_value is None or value.is_graph_input():
        return None
    if not value.is_initializer() or value.const_value.dtype is not ir.DataType.FLOAT:
        return None
    scale, zero = constant(scale_value), constant(zero_value)
    if scale is None or (zero_value is not None and zero is None) or node.outputs[0].is_graph_output():
        return None
    if node.attributes.get_int("block_size", 0) != 0:
        return None
    dtype = ir.DataType(node.attributes.get_int("output_dtype", 0)) or ir.DataType.UINT8
    dtype = zero_value.const_value.dtype if zero_value is not None and zero_value.const_value is not None else dtype
    shape = value.const_value.shape.numpy()
    axis = node.attributes.get_int("axis", 1)
    if dtype not in _LIMITS or scale.dtype != np.float32 or (scale.size != 1 and not -len(shape) <= axis < len(shape)):
        return None
    sizes = [1] * len(shape)
    if scale.size != 1:
        sizes[axis] = scale.size
    offset = np.zeros_like(scale) if zero is None else zero
    clip = _clip_of(node)
    name, limits = (clip or node).outputs[0].name, _limits(dtype, clip)
    make = partial(_quantize, value.const_value, scale.reshape(sizes), offset.reshape(sizes), dtype, limits, name)
    return ir.LazyTensor(make, dtype, ir.Shape(shape), name=name)


def _quantize(
    source: ir.TensorProtocol,
    scale: np.ndarray,
    zero: np.ndarray,
    dtype: ir.DataType,
    limits: tuple[int, int],
    name: str | None,
) -> ir.TensorProtocol:
    rounded = np.rint(own_view(source).numpy() / scale) + zero.astype(np.float32)
    return ir.Tensor(np.clip(rounded, *limits).astype(dtype.numpy()), name=name)

"""Centers the channels of what is quantized about zero, for targets whose integers are symmetric."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._channels import change_parameter, drop, insert, is_row, normalization
from ._constants import new_constant
from ._match import only_use, text

_BLOCK = 512
_WORTH = 0.75
"""Channels are moved about zero where that shrinks the range of their tensor to less than this share."""
_LEAST_ROWS = 1024
"""Fewer values of each channel say too little of where it lies: other data would saturate."""


@dataclass(frozen=True)
class CenterActivations(Pass):
    """Moves channels about zero: MatMul(DQ(Q(x)), DQ(w)) + b -> MatMul(DQ(Q(x - c)), DQ(w)) + (b + c * DQ(w)).

    Symmetric integers waste every second value on what lies on one side of zero, as the output of GELU does. The
    correction is of the weights as they are dequantized, so that it is exact. c goes into the LayerNormalization that
    computes x where nothing else uses its result, else it is a Sub.

    In no preset: it needs calibrated extremes, and scales that fit what is centered; `planc quantize` and `planc
    compile -p int8` run it behind `insert-qdq` for TensorRT.

    Source: Wei et al. 2023, Outlier Suppression+, arXiv:2304.09145, "channel-wise shifting".

    Attributes:
        centers: name of a tensor that is quantized, and the middle of each of its channels, on the last axis.
    """

    centers: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Centers in place.

        Raises:
            ValueError: something else than such products uses what is quantized.
        """
        values = {value.name: value for node in model.graph for value in node.outputs}
        values |= {value.name: value for value in model.graph.inputs}
        found = [
            (quantize, np.array(numbers, np.float32))
            for name, numbers in self.centers
            if name in values
            for quantize in _quantizers(values[name])
        ]
        for quantize, center in found:
            for node in _products(quantize, center.size):
                _correct(model.graph, node, center)
            _take_off(model.graph, quantize, center)
        return ir.passes.PassResult(model, modified=bool(found))


def worth_centering(low: np.ndarray, high: np.ndarray, rows: int) -> bool:
    """Whether a tensor is quantized more finely with its channels about zero.

    Args:
        low: least value of each channel.
        high: greatest value of each.
        rows: values of each channel that were seen.
    """
    radius, reach = float((high - low).max()) / 2, max(-float(low.min()), float(high.max()))
    return rows >= _LEAST_ROWS and 0 < radius < _WORTH * reach


def _quantizers(value: ir.Value) -> Iterator[ir.Node]:
    for use in value.uses():
        if use.node.op_type == "QuantizeLinear" and use.node.domain == "" and use.idx == 0:
            yield use.node


def _products(quantize: ir.Node, channels: int) -> list[ir.Node]:
    """Returns the products that multiply what is quantized by integers: nothing else may use it."""
    whole = quantize.outputs[0]
    result = next(iter(whole.uses())).node.outputs[0] if only_use(whole) else whole
    users = list(dict.fromkeys(use.node for use in result.uses()))
    if result.is_graph_output() or not all(_is_product(node, result, channels) for node in users):
        raise ValueError(f"{text(quantize.inputs[0])} is quantized for more than products of a matrix")
    return users


def _is_product(node: ir.Node, left: ir.Value, channels: int) -> bool:
    """Whether a product multiplies `left` by a matrix of so many rows of dequantized integers."""
    if node.domain != "" or node.op_type not in ("Gemm", "MatMul") or node.inputs[0] is not left:
        return False
    maker = node.inputs[1].producer() if node.inputs[1] is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or node.inputs[1] is left:
        return False
    whole = maker.inputs[0]
    constants = all(one is None or one.const_value is not None for one in maker.inputs)
    if not constants or whole is None or whole.const_value is None or node.attributes.get_int("transA", 0) == 1:
        return False
    shape = whole.const_value.shape.numpy()
    return len(shape) == 2 and shape[1 if _is_turned(node) else 0] == channels


def _is_turned(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1


def _product(center: np.ndarray, node: ir.Node) -> np.ndarray:
    """Returns float32[columns], the center times the dequantized weight, of whose rows a few are floats at once."""
    right = node.inputs[1]
    assert right is not None
    maker = right.producer()
    assert maker is not None
    whole, scale = (value.const_value for value in maker.inputs[:2] if value is not None)
    assert whole is not None and scale is not None
    array = whole.numpy().T if _is_turned(node) else whole.numpy()
    total = np.zeros(array.shape[1])
    for start in range(0, center.size, _BLOCK):
        total += center[start : start + _BLOCK].astype(np.float64) @ array[start : start + _BLOCK].astype(np.float64)
    result: np.ndarray = (total * scale.numpy()).astype(np.float32)
    return result


def _correct(graph: ir.Graph, node: ir.Node, center: np.ndarray) -> None:
    """Adds what was taken off to the bias of a product."""
    more = _product(center, node)
    user, index = _bias(node, more.size)
    if user is None:
        _add(graph, node, more)
        return
    old = user.inputs[index] if index < len(user.inputs) else None
    array = more if old is None or old.const_value is None else old.const_value.numpy() + more
    fresh = new_constant(graph, f"{node.outputs[0].name}_centered_bias", array)
    if index == len(user.inputs):
        user.resize_inputs(index + 1)
    user.replace_input_with(index, fresh)
    if old is not None:
        drop(graph, old)


def _bias(node: ir.Node, columns: int) -> tuple[ir.Node | None, int]:
    """Returns where a constant of one number per column is added, or may be; (None, 0) where that is nowhere."""
    if node.op_type == "Gemm":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return (node, 2) if bias is None or is_row(bias, columns) else (None, 0)
    output = node.outputs[0]
    if only_use(output):
        (use,) = output.uses()
        other = use.node.inputs[1 - use.idx] if use.node.op_type == "Add" and use.node.domain == "" else None
        if other is not None and is_row(other, columns):
            return use.node, 1 - use.idx
    return None, 0


def _add(graph: ir.Graph, node: ir.Node, more: np.ndarray) -> None:
    """Puts an Add behind a product that has no bias; the product's output keeps its name for what comes behind it."""
    output = node.outputs[0]
    bias = new_constant(graph, f"{output.name}_centered_bias", more)
    added = ir.node("Add", [output, bias], name=f"{node.name or output.name}_centered_Add")
    added.metadata_props.update(node.metadata_props)
    result = added.outputs[0]
    result.type, result.shape = output.type, output.shape
    result.name, output.name = output.name, f"{output.name}_product"
    for use in list(output.uses()):
        if use.node is not added:
            use.node.replace_input_with(use.idx, result)
    for index, one in enumerate(graph.outputs):
        if one is output:
            graph.outputs[index] = result
    graph.insert_after(node, added)


def _take_off(graph: ir.Graph, quantize: ir.Node, center: np.ndarray) -> None:
    """Takes the center off what is quantized: of the bias of the normalization that computes it, or by a Sub."""
    value = quantize.inputs[0]
    assert value is not None
    norm = normalization(value, [quantize], center.size, "LayerNormalization")
    if norm is not None and len(norm.inputs) > 2 and norm.inputs[2] is not None:
        change_parameter(graph, norm, 2, lambda bias: bias - center, "centered")
        value.name = f"{value.name}_centered"
    else:
        insert(graph, "Sub", value, center, [quantize], ("center", "centered"))

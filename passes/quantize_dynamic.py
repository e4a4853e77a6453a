"""Quantizes matrix products by the range that their activation has when it comes: no calibration data is needed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._base import ORIGIN, Miss, Pass
from ._constants import free_constant
from ._integers import lazy, weight_scale, with_room_for_bias
from ._match import require, text
from ._regions import is_weight, layer_name, require_quantizable
from ._schemes import SCHEMES

_PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Quantizes to INT8: MatMul(x, w) -> Cast(MatMulInteger(DynamicQuantizeLinear(x), w8)) * (x_scale * w_scale).

    ONNX Runtime makes DynamicQuantizeMatMul of it, or MatMulIntegerToFloat where several products share an activation,
    with the bias that is added to it. A Gemm's bias becomes an Add.

    In no preset: what it gives is not what the model computes; `--dynamic` of planc runs it.

    Attributes:
        keep: names, PyTorch module paths or globs of nodes that stay in floating point.
        weight_bits: 8, or 7 for x86 without VNNI, where products of 8 bits saturate.
    """

    keep: tuple[str, ...] = ()
    weight_bits: int = 8

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantizes in place."""
        chosen = [node for node, reason in self.products(model) if not reason]
        writer = _Writer(model.graph, self.weight_bits)
        for node in chosen:
            writer.write(node)
        model.graph.remove(chosen, safe=True)
        return ir.passes.PassResult(model, modified=bool(chosen))

    def products(self, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
        """Yields the matrix products of the main graph, and why they stay in floating point: "" where they do not."""
        opset = model.opset_imports.get("", 1)
        for node in model.graph:
            if node.domain == "" and node.op_type in _PRODUCTS:
                try:
                    require_quantizable(node, SCHEMES["onnxruntime"], self.keep, opset)
                    weight = node.inputs[1]
                    require(is_weight(weight), f"its right side {text(weight)} is no constant")
                    assert weight is not None
                    assert weight.shape is not None
                    require(len(weight.shape) == 2, f"its weight {text(weight)} is no matrix")
                except Miss as miss:
                    yield node, str(miss)
                else:
                    yield node, ""

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields the products that stay in floating point, and why."""
        yield from ((node, reason) for node, reason in self.products(model) if reason)


class _Writer:
    """Puts integer products into a graph; an activation is quantized once, and so is a weight."""

    def __init__(self, graph: ir.Graph, bits: int) -> None:
        self.graph = graph
        self.bits = bits
        self.activations: dict[ir.Value, ir.Node] = {}
        self.weights: dict[tuple[ir.Value, bool], tuple[ir.Value, ir.Value, ir.Value]] = {}

    def write(self, node: ir.Node) -> None:
        """Replaces all uses of a product's output."""
        left, right, bias = [*node.inputs, None][:3]
        assert left is not None
        assert right is not None
        output = node.outputs[0]
        name = output.name or layer_name(node)
        whole, scale, zero = self._activation(node, left).outputs
        weight, weight_scales, weight_zero = self._weight(node, right)
        product = ir.node("MatMulInteger", [whole, weight, zero, weight_zero], name=f"{name}_MatMulInteger")
        cast = ir.node("Cast", [product.outputs[0]], attributes={"to": ir.DataType.FLOAT}, name=f"{name}_Cast")
        scales = ir.node("Mul", [scale, weight_scales], name=f"{name}_scales")
        last = ir.node("Mul", [cast.outputs[0], scales.outputs[0]], name=f"{name}_Mul")
        made = [product, cast, scales, last]
        if bias is not None:
            last = ir.node("Add", [last.outputs[0], bias], name=f"{name}_Add")
            made.append(last)
        for one in made:
            _describe(one, node, ir.DataType.INT32 if one is product else ir.DataType.FLOAT, output.shape)
        scales.outputs[0].shape = weight_scales.shape
        self.graph.insert_before(node, made)
        self._swap(output, last.outputs[0])

    def _swap(self, old: ir.Value, new: ir.Value) -> None:
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = None, name

    def _activation(self, node: ir.Node, value: ir.Value) -> ir.Node:
        if value not in self.activations:
            made = ir.node("DynamicQuantizeLinear", [value], num_outputs=3, name=f"{value.name}_DynamicQuantizeLinear")
            _describe(made, node, ir.DataType.FLOAT, ir.Shape([]))
            whole, scale, zero = made.outputs
            whole.name, scale.name, zero.name = (f"{value.name}_{one}" for one in ("quantized", "scale", "zero_point"))
            whole.type, zero.type = ir.TensorType(ir.DataType.UINT8), ir.TensorType(ir.DataType.UINT8)
            whole.shape = value.shape
            self.graph.insert_before(node, made)
            self.activations[value] = made
        return self.activations[value]

    def _weight(self, node: ir.Node, value: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Integers [inner, channels], scales [channels] and zero points [channels] of a weight."""
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        if (value, transposed) not in self.weights:
            tensor, axis = value.const_value, 0 if transposed else 1
            assert tensor is not None
            scale = with_room_for_bias(weight_scale(tensor, axis, self.bits), None, np.float32(1.0))
            whole = lazy(tensor, scale, axis, self.bits, f"{value.name}_quantized", transposed=transposed)
            made = ir.Value(
                name=whole.name, type=ir.TensorType(whole.dtype), shape=ir.Shape(whole.shape.numpy()), const_value=whole
            )
            scales = free_constant(f"{value.name}_scale", scale)
            zeros = free_constant(f"{value.name}_zero_point", np.zeros(scale.shape, np.int8))
            self.weights[value, transposed] = tuple(self._register(one) for one in (made, scales, zeros))  # type: ignore[assignment]
        return self.weights[value, transposed]

    def _register(self, value: ir.Value) -> ir.Value:
        name, count = value.name, 0
        while value.name in self.graph.initializers:
            count += 1
            value.name = f"{name}_{count}"
        self.graph.register_initializer(value)
        return value


def _describe(made: ir.Node, node: ir.Node, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    """Gives a new node the origin of the one that it is for, and its outputs name, type and shape."""
    if origin := node.metadata_props.get(ORIGIN):
        made.metadata_props[ORIGIN] = origin
    for output in made.outputs:
        output.name, output.type, output.shape = f"{made.name}_output", ir.TensorType(dtype), shape

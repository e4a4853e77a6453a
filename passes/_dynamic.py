"""Integer products whose activations are quantized when they come, as ONNX Runtime fuses them."""

import numpy as np
import onnx_ir as ir

from ._base import ORIGIN
from ._constants import new_constant, new_lazy
from ._embeddings import look_up, lookups
from ._integers import lazy, weight_scale, with_room_for_bias
from ._regions import layer_name, weight_of

_SPREAD = frozenset({"Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "Mul", "Relu", "Swish"})
_LEAST_ROW = 1e-30
_LAST = (("last_axis", -1), ("row_start", 0), ("row_stop", 1))


class Writer:
    """Puts integer products into a graph; an activation is quantized once, and so is a weight.

    Args:
        model: the one that is changed.
        bits: of weights.
        rows: whether rows are scaled behind activation functions.
        keep: names of embeddings that stay in floating point.
    """

    def __init__(self, model: ir.Model, *, bits: int, rows: bool, keep: tuple[str, ...]) -> None:
        self.graph = model.graph
        self.opset = model.opset_imports.get("", 1)
        self.bits = bits
        self.rows = rows
        self.keep = keep
        self.activations: dict[ir.Value, tuple[ir.Node, ir.Value | None]] = {}
        self.constants: dict[object, ir.Value] = {}
        self.weights: dict[tuple[ir.Value, bool], tuple[ir.Value, ir.Value, ir.Value]] = {}

    def write(self, node: ir.Node) -> None:
        """Replaces all uses of a product's output."""
        left, _, bias = [*node.inputs, None][:3]
        assert left is not None
        output = node.outputs[0]
        name = output.name or layer_name(node)
        quantized, rows = self._activation(node, left)
        whole, scale, zero = quantized.outputs
        weight, weight_scales, weight_zero = self._weight(node)
        product = ir.node("MatMulInteger", [whole, weight, zero, weight_zero], name=f"{name}_MatMulInteger")
        cast = ir.node("Cast", [product.outputs[0]], attributes={"to": ir.DataType.FLOAT}, name=f"{name}_Cast")
        scales = ir.node("Mul", [scale, weight_scales], name=f"{name}_scales")
        last = ir.node("Mul", [cast.outputs[0], scales.outputs[0]], name=f"{name}_Mul")
        made = [product, cast, scales, last]
        if rows is not None:
            last = ir.node("Mul", [last.outputs[0], rows], name=f"{name}_rows")
            made.append(last)
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

    def _activation(self, node: ir.Node, value: ir.Value) -> tuple[ir.Node, ir.Value | None]:
        """What quantizes an activation, and what its rows were divided by."""
        if value not in self.activations:
            source, rows = self._scaled(node, value)
            made = ir.node("DynamicQuantizeLinear", [source], num_outputs=3, name=f"{value.name}_DynamicQuantizeLinear")
            _describe(made, node, ir.DataType.FLOAT, ir.Shape([]))
            whole, scale, zero = made.outputs
            whole.name, scale.name, zero.name = (f"{value.name}_{one}" for one in ("quantized", "scale", "zero_point"))
            whole.type, zero.type = ir.TensorType(ir.DataType.UINT8), ir.TensorType(ir.DataType.UINT8)
            whole.shape = value.shape
            self.graph.insert_before(node, made)
            self.activations[value] = made, rows
        return self.activations[value]

    def _scaled(self, node: ir.Node, value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
        """The activation with its rows divided by their greatest magnitudes, and these."""
        maker = value.producer()
        if not self.rows or maker is None or maker.domain != "" or maker.op_type not in _SPREAD:
            return value, None
        magnitude = ir.node("Abs", [value], name=f"{value.name}_Abs")
        last, start, stop = (self._constant(name, np.array([number])) for name, number in _LAST)
        if self.opset >= 18:
            most = ir.node("ReduceMax", [magnitude.outputs[0], last], name=f"{value.name}_ReduceMax")
        else:
            most = ir.node("ReduceMax", magnitude.outputs, attributes={"axes": [-1]}, name=f"{value.name}_ReduceMax")
        # of no rows at all, ONNX Runtime's ReduceMax gives out the shape that it got
        first = ir.node("Slice", [most.outputs[0], start, stop, last], name=f"{value.name}_Slice")
        least = self._constant("least_row", np.array(_LEAST_ROW, np.float32))
        rows = ir.node("Max", [first.outputs[0], least], name=f"{value.name}_Max")
        result = ir.node("Div", [value, rows.outputs[0]], name=f"{value.name}_Div")
        narrow = None if value.shape is None else ir.Shape([*list(value.shape)[:-1], 1])
        made = [magnitude, most, first, rows, result]
        for one in made:
            _describe(one, node, ir.DataType.FLOAT, value.shape if one in (magnitude, result) else narrow)
        self.graph.insert_before(node, made)
        return result.outputs[0], rows.outputs[0]

    def _weight(self, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Integers [inner, channels], scales [channels] and zero points [channels] of a weight."""
        value, transposed = operand_of(node)
        assert value is not None
        if (value, transposed) not in self.weights:
            tensor, axis, bits = value.const_value, 0 if transposed else 1, self.bits
            assert tensor is not None
            scale = with_room_for_bias(weight_scale(tensor, axis, bits), None, np.float32(1))
            whole = lazy(tensor, scale, axis, bits, f"{value.name}_quantized", transposed=transposed)
            scales = self._constant(f"{value.name}_scale", scale)
            zeros = self._constant(f"{value.name}_zero_point", np.zeros(scale.shape, np.int8))
            self.weights[value, transposed] = new_lazy(self.graph, whole), scales, zeros
        return self.weights[value, transposed]

    def share(self) -> None:
        """Lets the embeddings whose table a projection shares pick from its integers: rows are its channels."""
        for (table, transposed), (whole, scales, _) in self.weights.items():
            for node in lookups(table, self.graph, self.keep) if transposed else ():
                look_up(node, whole, scales, columns=True)

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = new_constant(self.graph, name, array)
        return self.constants[key]


def operand_of(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """Returns the constant matrix that a product multiplies by, or None, and whether by its transpose."""
    weight, turned = weight_of(node)
    return weight, turned or (node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1)


def _describe(made: ir.Node, node: ir.Node, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    """Gives a new node the origin of the one that it is for, and its outputs name, type and shape."""
    if origin := node.metadata_props.get(ORIGIN):
        made.metadata_props[ORIGIN] = origin
    for output in made.outputs:
        output.name, output.type, output.shape = f"{made.name}_output", ir.TensorType(dtype), shape

"""Puts Q/DQ pairs and integer weights into a graph."""

from collections.abc import Container, Mapping
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from ._base import ORIGIN
from ._constants import free_constant
from ._embeddings import look_up, lookups
from ._integers import Grid, grid, integers, lazy, weight_scale, with_room_for_bias
from ._regions import Regions, bias_of, bounds, is_plain, weight_of
from ._schemes import Scheme

T = TypeVar("T")
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
"""Axis of a weight that has the output channels."""


def measured(value: ir.Value, scheme: Scheme, known: Container[str]) -> ir.Value:
    """Returns the tensor whose range holds for the value: itself, or what it was moved from by operators that stay."""
    first = value
    while value.name not in known and (maker := value.producer()) is not None:
        source = maker.inputs[0] if maker.domain == "" and maker.op_type in scheme.moves else None
        if source is None or not is_plain(maker):
            return first
        value = source
    return value


class PairWriter:
    """Puts the pairs into a graph; equal scales, zero points and weights are one initializer each."""

    def __init__(
        self,
        graph: ir.Graph,
        found: Regions,
        *,
        scheme: Scheme,
        ranges: Mapping[str, tuple[float, float]],
        weight_bits: int,
        per_channel: bool,
        keep: tuple[str, ...],
    ) -> None:
        self.graph = graph
        self.found = found
        self.scheme = scheme
        self.ranges = ranges
        self.weight_bits = weight_bits
        self.per_channel = per_channel
        self.keep = keep
        self.activations: dict[ir.Value, Grid] = {}
        self.scales: dict[tuple[ir.Value, int | None], np.ndarray] = {}
        self.names = {node.name for node in graph.all_nodes()}
        self.constants: dict[object, ir.Value] = {}
        self.weights: dict[tuple[ir.Value, int | None, bool], ir.Value] = {}

    def write(self) -> None:
        """Quantizes activations, then weights and biases."""
        for value, everywhere in self.found.values.items():
            self._put_pair(value, everywhere)
        nodes = [
            node for node in self.found.nodes if node.op_type in self.scheme.products and weight_of(node)[0] is not None
        ]
        for node in nodes:
            self._measure(node)
        places = [(node, 1) for node in nodes] + [place for node in nodes if (place := bias_of(node)) is not None]
        old = dict.fromkeys(_found(node.inputs[index]) for node, index in places)
        old |= dict.fromkeys(map(_weight_of, nodes))
        for node in nodes:
            self._put_weight(node)
        if self.scheme.embeddings:
            self._share()
        for value in old:
            if not value.uses() and not value.is_graph_output() and value.name is not None:
                self.graph.initializers.pop(value.name, None)

    def _put_pair(self, value: ir.Value, everywhere: bool) -> None:
        source = self.found.source.get(value, value)
        given = measured(source, self.scheme, self.ranges)
        if given.name is None or given.name not in self.ranges:
            return
        low, high = self.ranges[given.name]
        signed = source in self.found.signed and low < 0
        dtype = ir.DataType.INT8 if signed else self.scheme.activations
        found = grid(low, high, dtype, bounds(value.producer()))
        scale = self._constant(f"{source.name}_scale", found.scale)
        zero = self._constant(f"{source.name}_zero_point", found.zero_point)
        quantize = ir.node("QuantizeLinear", [value, scale, zero], name=self._name(f"{value.name}_QuantizeLinear"))
        whole = quantize.outputs[0]
        dequantize = ir.node(
            "DequantizeLinear", [whole, scale, zero], name=self._name(f"{value.name}_DequantizeLinear")
        )
        result = dequantize.outputs[0]
        whole.name, result.name = f"{value.name}_quantized", f"{value.name}_dequantized"
        whole.type, result.type = ir.TensorType(dtype), value.type
        whole.shape, result.shape = (None if value.shape is None else value.shape.copy() for _ in range(2))
        self.activations[result] = found
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(next(iter(self.graph)), [quantize, dequantize])
        else:
            _inherit_origin(producer, quantize, dequantize)
            self.graph.insert_after(producer, [quantize, dequantize])
        if everywhere and value.is_graph_output():
            self._swap_output(value, result)
        for use in list(value.uses()):
            if use.node is not quantize and (everywhere or use.node in self.found.nodes):
                use.node.replace_input_with(use.idx, result)

    def _swap_output(self, value: ir.Value, result: ir.Value) -> None:
        """The graph gives out the pair's output, under the name that its users know."""
        value.name, result.name = f"{value.name}_float", value.name
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = result

    def _measure(self, node: ir.Node) -> None:
        """Products that share a weight share its scale: it is as large as each of them needs."""
        weight, axis = _weight_of(node), self._axis(node)
        if (weight, axis) not in self.scales:
            self.scales[weight, axis] = weight_scale(_tensor(weight), axis, self.weight_bits)
        bias, step = self._integer_bias(node), self._step(node)
        self.scales[weight, axis] = with_room_for_bias(self.scales[weight, axis], bias, step)

    def _put_weight(self, node: ir.Node) -> None:
        (weight, turned), axis = weight_of(node), self._axis(node)
        assert weight is not None
        place, bias = bias_of(node), self._integer_bias(node)
        scale = self.scales[weight, axis]
        right = _found(node.inputs[1])
        node.replace_input_with(1, self._weight(node, weight, scale, axis, turned=turned))
        if turned and not right.uses() and not right.is_graph_output():
            self.graph.remove(_found(right.producer()), safe=True)
        if bias is not None and place is not None:
            user, index = place
            old = _found(user.inputs[index])
            total = (scale * self._step(node)).astype(np.float32)
            user.replace_input_with(index, self._bias(node, old, bias, total))

    def _step(self, node: ir.Node) -> np.float32:
        """The scale of a product's input."""
        value = _found(node.inputs[0])
        while value not in self.activations:  # it was moved
            value = _found(_found(value.producer()).inputs[0])
        return np.float32(self.activations[value].scale)

    def _integer_bias(self, node: ir.Node) -> np.ndarray | None:
        """Returns the bias as float32[channels]; None where there is none, or where it stays in floating point."""
        place = bias_of(node)
        if place is None or not self.scheme.integer_bias:
            return None
        user, index = place
        sizes = _tensor(_weight_of(node)).shape.numpy()
        bias = _tensor(_found(user.inputs[index])).numpy()
        return np.broadcast_to(bias.reshape(-1), (sizes[self._output_axis(node)],))

    def _axis(self, node: ir.Node) -> int | None:
        if not self.per_channel:
            return None
        if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
            return None  # each group has channels of its own
        rank = len(_tensor(_weight_of(node)).shape)
        if node.op_type == "MatMul" and rank > 2:
            return None  # ONNX Runtime's MatMulIntegerToFloat fails on a scale per column of each matrix
        return self._output_axis(node) % rank

    def _output_axis(self, node: ir.Node) -> int:
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        return 0 if transposed or weight_of(node)[1] else _OUTPUT_AXIS[node.op_type]

    def _weight(
        self, node: ir.Node, weight: ir.Value, scale: np.ndarray, axis: int | None, *, turned: bool
    ) -> ir.Value:
        """A weight that several products share is dequantized once."""
        key = (weight, axis, turned)
        if key not in self.weights:
            tensor = lazy(_tensor(weight), scale, axis, self.weight_bits, f"{weight.name}_quantized", transposed=turned)
            self.weights[key] = self._dequantize(node, tensor, scale, 1 if turned and axis == 0 else axis, weight)
        return self.weights[key]

    def _share(self) -> None:
        """Embeddings whose table a product has pick from its integers: one copy of it stays."""
        for (table, axis, turned), result in self.weights.items():
            whole, scales = _found(result.producer()).inputs[:2]
            if axis != 0 or whole is None or scales is None:  # the scales are not those of the rows
                continue
            for node in lookups(table, self.graph, self.keep):
                rows = scales if turned else self._constant(f"{table.name}_rows", self.scales[table, 0][:, np.newaxis])
                look_up(node, whole, rows, columns=turned)

    def _bias(self, node: ir.Node, bias: ir.Value, numbers: np.ndarray, scale: np.ndarray) -> ir.Value:
        axis = 0 if scale.ndim else None
        array = integers(numbers, scale, axis, np.dtype(np.int32), 32)
        return self._dequantize(node, ir.tensor(array, name=f"{bias.name}_quantized"), scale, axis, bias)

    def _dequantize(
        self, node: ir.Node, tensor: ir.TensorProtocol, scale: np.ndarray, axis: int | None, old: ir.Value
    ) -> ir.Value:
        sizes = ir.Shape(tensor.shape.numpy())
        whole = self._register(
            ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=sizes, const_value=tensor)
        )
        scales = self._constant(f"{old.name}_scale", scale)
        zero = self._constant(f"{old.name}_zero_point", np.zeros(scale.shape, tensor.dtype.numpy()))
        attributes = {} if axis is None else {"axis": axis}
        name = self._name(f"{old.name}_DequantizeLinear")
        made = ir.node("DequantizeLinear", [whole, scales, zero], attributes=attributes, name=name)
        _inherit_origin(node, made)
        result = made.outputs[0]
        result.name, result.type, result.shape = f"{old.name}_dequantized", old.type, sizes.copy()
        self.graph.insert_before(node, made)
        return result

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = self._register(free_constant(name, array))
        return self.constants[key]

    def _name(self, wanted: str) -> str:
        """Names of nodes are unique: ONNX Runtime refuses a graph that has one twice."""
        name, count = wanted, 0
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def _register(self, value: ir.Value) -> ir.Value:
        name, count = value.name, 0
        while value.name in self.graph.initializers:
            count += 1
            value.name = f"{name}_{count}"
        self.graph.register_initializer(value)
        return value


def _found(thing: T | None) -> T:
    assert thing is not None
    return thing


def _weight_of(node: ir.Node) -> ir.Value:
    return _found(weight_of(node)[0])


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    return _found(value.const_value)


def _inherit_origin(node: ir.Node, *made: ir.Node) -> None:
    if origin := node.metadata_props.get(ORIGIN):
        for one in made:
            one.metadata_props[ORIGIN] = origin

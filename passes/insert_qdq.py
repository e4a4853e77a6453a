"""Lays Q/DQ out for the kernels of a family of targets, from calibrated ranges."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from ._base import ORIGIN, Pass
from ._constants import free_constant
from ._integers import Grid, grid, integers, lazy, weight_scale, with_room_for_bias
from ._regions import Regions, absorbed, bias_of, bounds, is_plain, is_weight, operands, regions
from ._schemes import SCHEMES, Scheme

T = TypeVar("T")
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
"""Axis of a weight that has the output channels."""


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Quantizes to INT8: Conv(x, w, b) -> DQ(Q(Conv(DQ(Q(x)), DQ(w8), DQ(b32)))), as the family's kernels want it.

    In no preset: it needs calibrated ranges; `planc quantize` and `planc compile -p int8` run it with theirs.

    Attributes:
        family: key of SCHEMES.
        ranges: name of a tensor, least and greatest value; a product whose tensors are not among them stays as it is.
        keep: names, PyTorch module paths or globs of nodes that stay in floating point.
        weight_bits: 8, or 7 for x86 without VNNI, where products of 8 bits saturate.
        per_channel: whether each output channel of a weight has a scale of its own.
    """

    family: str = "onnxruntime"
    ranges: tuple[tuple[str, float, float], ...] = ()
    keep: tuple[str, ...] = ()
    weight_bits: int = 8
    per_channel: bool = True

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inserts in place."""
        if not self.ranges:
            return ir.passes.PassResult(model, modified=False)
        found = self.regions(model)
        writer = _Writer(model.graph, self, {name: (low, high) for name, low, high in self.ranges}, found)
        writer.write()
        return ir.passes.PassResult(model, modified=bool(found.nodes))

    def regions(self, model: ir.Model) -> Regions:
        """Returns what is quantized, and why the rest is not; changes nothing."""
        scheme, opset = SCHEMES[self.family], model.opset_imports.get("", 1)
        known = {name for name, _, _ in self.ranges}
        without: dict[ir.Node, str] = {}
        while True:
            found = regions(model.graph, scheme, self.keep, opset, without)
            lacking = {node: name for node in found.nodes if (name := _lacking(node, found, scheme, known))}
            if not known or not lacking:
                return found
            without |= {node: f"the calibration table has no range for {name!r}" for node, name in lacking.items()}

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields the products that stay in floating point, and why."""
        yield from self.regions(model).refused.items()


def observed(model: ir.Model) -> list[str]:
    """Returns the names of the tensors whose ranges the schemes of all families need, in order."""
    names: dict[str, None] = {}
    opset = model.opset_imports.get("", 1)
    for scheme in SCHEMES.values():
        found = regions(model.graph, scheme, (), opset)
        names |= {value.name: None for value in found.values if value not in found.source and value.name}
    return list(names)


def _lacking(node: ir.Node, found: Regions, scheme: Scheme, known: set[str]) -> str:
    """Returns the name of a tensor that has no range, yet the node would need one; empty where there is none."""
    values = operands(node)
    if node.op_type in scheme.outputs:
        values.append(absorbed(node.outputs[0], scheme))
    names = (_measured(found.source.get(value, value), scheme, known).name or "" for value in values)
    return next((name for name in names if name not in known), "")


def _measured(value: ir.Value, scheme: Scheme, known: Container[str]) -> ir.Value:
    """Returns the tensor whose range holds for the value: itself, or what it was moved from by operators that stay."""
    first = value
    while value.name not in known and (maker := value.producer()) is not None:
        source = maker.inputs[0] if maker.domain == "" and maker.op_type in scheme.moves else None
        if source is None or not is_plain(maker):
            return first
        value = source
    return value


class _Writer:
    """Puts the pairs into a graph; equal scales, zero points and weights are one initializer each."""

    def __init__(
        self, graph: ir.Graph, options: InsertQdq, ranges: Mapping[str, tuple[float, float]], found: Regions
    ) -> None:
        self.graph = graph
        self.options = options
        self.scheme = SCHEMES[options.family]
        self.ranges = ranges
        self.found = found
        self.activations: dict[ir.Value, Grid] = {}
        self.scales: dict[tuple[ir.Value, int | None], np.ndarray] = {}
        self.names = {node.name for node in graph.all_nodes()}
        self.constants: dict[object, ir.Value] = {}
        self.weights: dict[tuple[ir.Value, int | None], ir.Value] = {}

    def write(self) -> None:
        """Quantizes activations, then weights and biases."""
        for value, everywhere in self.found.values.items():
            self._put_pair(value, everywhere)
        nodes = [
            node for node in self.found.nodes if node.op_type in self.scheme.products and is_weight(node.inputs[1])
        ]
        for node in nodes:
            self._measure(node)
        places = [(node, 1) for node in nodes] + [place for node in nodes if (place := bias_of(node)) is not None]
        old = dict.fromkeys(_found(node.inputs[index]) for node, index in places)
        for node in nodes:
            self._put_weight(node)
        for value in old:
            if not value.uses() and not value.is_graph_output() and value.name is not None:
                self.graph.initializers.pop(value.name, None)

    def _put_pair(self, value: ir.Value, everywhere: bool) -> None:
        source = self.found.source.get(value, value)
        measured = _measured(source, self.scheme, self.ranges)
        if measured.name is None or measured.name not in self.ranges:
            return
        low, high = self.ranges[measured.name]
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
            self.scales[weight, axis] = weight_scale(_tensor(weight), axis, self.options.weight_bits)
        bias, step = self._integer_bias(node), self._step(node)
        self.scales[weight, axis] = with_room_for_bias(self.scales[weight, axis], bias, step)

    def _put_weight(self, node: ir.Node) -> None:
        weight, axis = _weight_of(node), self._axis(node)
        place, bias = bias_of(node), self._integer_bias(node)
        scale = self.scales[weight, axis]
        node.replace_input_with(1, self._weight(node, weight, scale, axis))
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
        if not self.options.per_channel:
            return None
        if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
            return None  # each group has channels of its own
        rank = len(_tensor(_weight_of(node)).shape)
        if node.op_type == "MatMul" and rank > 2:
            return None  # ONNX Runtime's MatMulIntegerToFloat fails on a scale per column of each matrix
        return self._output_axis(node) % rank

    def _output_axis(self, node: ir.Node) -> int:
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        return 0 if transposed else _OUTPUT_AXIS[node.op_type]

    def _weight(self, node: ir.Node, weight: ir.Value, scale: np.ndarray, axis: int | None) -> ir.Value:
        """A weight that several products share is dequantized once."""
        key = (weight, axis)
        if key not in self.weights:
            tensor = lazy(_tensor(weight), scale, axis, self.options.weight_bits, f"{weight.name}_quantized")
            self.weights[key] = self._dequantize(node, tensor, scale, axis, weight)
        return self.weights[key]

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
    return _found(node.inputs[1])


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    return _found(value.const_value)


def _inherit_origin(node: ir.Node, *made: ir.Node) -> None:
    if origin := node.metadata_props.get(ORIGIN):
        for one in made:
            one.metadata_props[ORIGIN] = origin

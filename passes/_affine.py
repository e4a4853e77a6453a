"""Folding a scale and a shift per channel into the weights and the bias of the operator before them, or behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._constants import constant, new_constant
from ._match import inner, only_use, require, text
from ._stored import own_view

LINEAR = ("Conv", "ConvTranspose", "Gemm")
SCALES = ("Div", "Mul")
_COMMUTATIVE = ("Add", "Mul")
_OTHER = ("Div", "Sub")
_FLOATS = (ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16)
_SMALL = 1 << 14
"""Bytes of a weight that may be copied where something else uses it, too."""
_HALF_EPSILON = 2.0**-10
_GREATEST = 1e15
"""Scales beyond it may take weights out of the range of float32."""


@dataclass(frozen=True)
class Linear:
    """A Conv, ConvTranspose, Gemm or MatMul whose weight and bias are constants.

    Attributes:
        node: the operator.
        weight: its second operand.
        bias: its third one; None where it has none.
        axis: of the output, which has the channels.
        channels: their number.
        pair: QuantizeLinear and DequantizeLinear between the weight and the operator; None where it has none.
    """

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    axis: int
    channels: int
    pair: tuple[ir.Node, ir.Node] | None = None

    def vector(self, array: np.ndarray, rank: int) -> np.ndarray:
        """Returns an operand that is broadcast to the output as one number per channel.

        Args:
            array: a constant beside the output, such as one of shape (), (channels, 1, 1) or (1, channels, 1, 1).
            rank: of the output, or the least that it may have.

        Raises:
            Miss: it differs within a channel, or makes the result larger.
        """
        if array.ndim > rank:
            raise Miss("the constant has more dimensions than the product")
        shape = (1,) * (rank - array.ndim) + array.shape
        axis = self.axis % rank
        if shape[axis] not in (1, self.channels) or any(size != 1 for size in shape[:axis] + shape[axis + 1 :]):
            raise Miss("the constant is not one number per channel")
        if not np.isfinite(array.astype(np.float64)).all():
            raise Miss("the constant is not finite")
        return np.broadcast_to(array.reshape(-1).astype(np.float64), (self.channels,))


@dataclass(frozen=True)
class Step:
    """x * scale or x + shift.

    Attributes:
        node: the operator.
        value: x.
        scale: of shape [channels], where it scales.
        shift: the same, where it shifts.
    """

    node: ir.Node
    value: ir.Value
    scale: np.ndarray | None
    shift: np.ndarray | None


def operands(node: ir.Node) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """Returns what a Mul, Div, Add or Sub works on, and by what; none for other operators."""
    if node.domain != "" or node.op_type not in (*_COMMUTATIVE, *_OTHER):
        return []
    left, right = node.inputs
    return [(left, right), (right, left)] if node.op_type in _COMMUTATIVE else [(left, right)]


def scale_and_shift(node: ir.Node, vector: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the scale or the shift that a Mul, Div, Add or Sub by `vector` stands for; None for the other one.

    Raises:
        Miss: it divides by zero.
    """
    if node.op_type == "Mul":
        return vector, None
    if node.op_type == "Div":
        require(vector.all(), "it divides by zero")
        return 1 / vector, None
    return None, -vector if node.op_type == "Sub" else vector


def linear(value: ir.Value | None, user: ir.Node, op_types: tuple[str, ...] = LINEAR) -> Linear | None:
    """Returns the operator that computes an operand of `user`; None where it is none of `op_types`.

    Raises:
        Miss: something else needs its output, or its weight or bias is no constant.
    """
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or node.op_type not in op_types or node.graph is not user.graph:
        return None
    if not only_use(value):
        raise Miss(f"something else needs {text(value)} of the {node.op_type}")
    given, pair = _behind_pair(node)
    weight, bias = _constants(node, given)
    shape = _shape(weight)
    if len(shape) < 2 or (len(shape) > 2 and node.op_type in ("Gemm", "MatMul")):
        raise Miss("the weight is no matrix")
    if node.op_type == "Conv":
        return Linear(node, weight, bias, 1, shape[0], pair)
    if node.op_type == "ConvTranspose":
        return Linear(node, weight, bias, 1, shape[1] * node.attributes.get_int("group", 1))
    return Linear(node, weight, bias, -1, shape[0 if _transposed(node) else 1])


def _constants(node: ir.Node, weight: ir.Value | None) -> tuple[ir.Value, ir.Value | None]:
    """Returns the weight of an operator and its bias, which is None where it has none.

    Raises:
        Miss: one of them is no constant of a floating-point type.
    """
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    for operand in (weight, bias) if bias is not None else (weight,):
        if operand is None or not operand.is_initializer() or operand.is_graph_input() or operand.const_value is None:
            raise Miss(f"the operand {text(operand)} of the {node.op_type} is no constant")
        if operand.const_value.dtype not in _FLOATS:
            raise Miss("the weight is not of a floating-point type")
    assert weight is not None
    return weight, bias


def _behind_pair(node: ir.Node) -> tuple[ir.Value | None, tuple[ir.Node, ir.Node] | None]:
    """Returns the weight of an operator, and the pair that quantizes it as quantization-aware training exports it."""
    weight = node.inputs[1]
    dequantize = inner(weight, "DequantizeLinear") if node.op_type == "Conv" else None
    quantize = inner(dequantize.inputs[0], "QuantizeLinear") if dequantize is not None else None
    if dequantize is None or quantize is None or len(quantize.inputs) != 3:
        return weight, None
    for one in (quantize, dequantize):
        scale, zero = (constant(value) for value in [*one.inputs, None][1:3])
        by_channel = scale is not None and (scale.size == 1 or one.attributes.get_int("axis", 1) == 0)
        if (
            not by_channel
            or zero is None
            or zero.dtype != np.int8
            or zero.any()
            or one.inputs[1] is not quantize.inputs[1]
        ):
            return weight, None
    return quantize.inputs[0], (quantize, dequantize)


def fold(home: ir.Graph, last: ir.Node, found: Linear, scale: np.ndarray | None, shift: np.ndarray | None) -> None:
    """Puts the operator with the scale and shift folded in in the place of `last`, and removes both old nodes.

    Args:
        home: the main graph, which gets what is new.
        last: the node that scales or shifts.
        found: the operator before it.
        scale: of shape [channels]; None for 1.
        shift: the same; None for 0.

    Raises:
        Miss: a weight that others use is too large to copy, or its type cannot hold the result. Nothing is changed.
    """
    node = found.node
    if found.pair is not None and scale is not None and not scale.all():
        raise Miss("a channel of a quantized weight is scaled by zero")
    weight, bias = _weight(found, scale), _bias(found, scale, shift)
    attributes = dict(node.attributes)
    if bias is not None:
        attributes.pop("beta", None)  # it is in the bias now
    operands = [node.inputs[0], _updated(home, found.weight, weight, f"{last.outputs[0].name}_weight")]
    made: list[ir.Node] = []
    if found.pair is not None:
        made = _scaled_pair(home, operands[1], found, scale)
        operands[1] = made[-1].outputs[0] if made else node.inputs[1]
    if bias is not None and found.bias is not None:
        tensor = ir.tensor(bias, name=found.bias.name)
        operands.append(_updated(home, found.bias, tensor, f"{last.outputs[0].name}_bias"))
    elif bias is not None:
        operands.append(new_constant(home, f"{found.weight.name}_bias", bias))
    new = ir.Node("", node.op_type, operands, tuple(attributes.values()), num_outputs=1, name=node.name)
    graph = node.graph
    assert graph is not None
    _put(new, last)
    new.metadata_props.update(node.metadata_props)  # layers are named after what computes, not after its scale
    graph.remove(node, safe=True)
    if made and found.pair is not None:
        graph.insert_before(new, made)
        graph.remove(found.pair[::-1], safe=True)


def convolution(node: ir.Node) -> Linear:
    """Returns a Conv whose input may be scaled and shifted; `axis` and `channels` are those of its input.

    Raises:
        Miss: its weight or bias is no constant, or may not change.
    """
    weight, bias = _constants(node, node.inputs[1])
    shape = _shape(weight)
    require(len(shape) > 2, "the weight is no kernel")
    require_copyable(weight)
    return Linear(node, weight, bias, 1, shape[1] * node.attributes.get_int("group", 1))


def fold_before(home: ir.Graph, found: Linear, scale: np.ndarray | None, shift: np.ndarray | None) -> None:
    """Makes a Conv compute on x what it computed on x * scale + shift, by its weight and its bias.

    Args:
        home: the main graph, which gets what is new.
        found: the convolution, without padding where there is a shift.
        scale: of shape [channels] of its input; None for 1.
        shift: the same; None for 0.

    Raises:
        Miss: the type of the weight cannot hold the result. Nothing is changed.
    """
    node, shape, name = found.node, _shape(found.weight), found.node.outputs[0].name
    group = node.attributes.get_int("group", 1)
    grouped, per_input = (group, -1, *shape[1:]), (group, 1, shape[1], *[1] * (len(shape) - 2))
    weight = None if scale is None else _lazily_scaled(found.weight, grouped, scale.reshape(per_input))
    if shift is not None:
        assert found.weight.const_value is not None
        old = own_view(found.weight.const_value).numpy()
        wide = old.astype(np.float64).reshape(grouped) * shift.reshape(per_input)
        added = wide.sum(axis=tuple(range(2, wide.ndim))).reshape(-1)
        whole = added if found.bias is None else added + _array(found.bias).astype(np.float64)
        bias = narrowed(whole, found.weight, "the new bias is not finite")
        node.resize_inputs(3)
        node.replace_input_with(2, new_constant(home, f"{name}_bias", bias))
    node.replace_input_with(1, _updated(home, found.weight, weight, f"{name}_weight"))


def _scaled_pair(home: ir.Graph, weight: ir.Value | None, found: Linear, scale: np.ndarray | None) -> list[ir.Node]:
    """The pair again, whose steps are scaled as the weight is: the integers stay, or change their sign."""
    assert found.pair is not None
    old, zero = (constant(value) for value in found.pair[0].inputs[1:3])
    if scale is None or old is None or zero is None:
        return []
    steps = (np.broadcast_to(old.reshape(-1), scale.shape) * abs(scale)).astype(np.float32)
    by = new_constant(home, f"{found.weight.name}_scale", steps)
    origin = new_constant(home, f"{found.weight.name}_zero_point", np.zeros(steps.shape, np.int8))
    made: list[ir.Node] = []
    value = weight
    for one in found.pair:
        name = one.outputs[0].name
        made.append(ir.node(one.op_type, [value, by, origin], attributes={"axis": 0}, name=one.name))
        value = made[-1].outputs[0]
        value.name, value.type, value.shape = name, one.outputs[0].type, one.outputs[0].shape
    return made


def require_copyable(weight: ir.Value) -> None:
    """Checks that a weight may change: nothing else uses it, or a copy of it is small.

    Raises:
        Miss: it may not.
    """
    assert weight.const_value is not None
    small = weight.const_value.nbytes <= _SMALL
    require(_own(weight) or small, f"something else uses the weight {text(weight)}, which is too large to copy")


def _put(new: ir.Node, last: ir.Node) -> None:
    """Puts `new` in the place of `last`: its output gets the name, type and users of the old one."""
    graph = last.graph
    assert graph is not None
    old, output = last.outputs[0], new.outputs[0]
    output.name, output.type, output.shape = old.name, old.type, old.shape
    new.metadata_props.update(last.metadata_props)
    graph.insert_before(last, new)
    old.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(last, safe=True)


def _transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _shape(value: ir.Value) -> Sequence[int]:
    assert value.const_value is not None
    return value.const_value.shape.numpy()


def narrowed(array: np.ndarray, weight: ir.Value, reason: str) -> np.ndarray:
    """Returns float64 numbers in the type of a weight.

    Raises:
        Miss: with the reason, where one is not finite there.
    """
    assert weight.const_value is not None
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(weight.const_value.dtype.numpy())
    require(np.isfinite(result.astype(np.float64)).all(), reason)
    return result


def _weight(found: Linear, scale: np.ndarray | None) -> ir.TensorProtocol | None:
    """The scaled weight; None where it stays."""
    if scale is None:
        return None
    require_copyable(found.weight)
    return _lazily_scaled(found.weight, *_layout(found, _shape(found.weight), scale))


def _lazily_scaled(weight: ir.Value, shape: Sequence[int], scale: np.ndarray) -> ir.TensorProtocol:
    """The weight times a scale, computed when it is written. What float16 cannot hold is seen at once.

    Args:
        weight: a constant.
        shape: in which it is multiplied.
        scale: is broadcast to it.
    """
    old = weight.const_value
    assert old is not None
    require(abs(scale).max(initial=0) <= _GREATEST, "the constant is too great")
    make = partial(_scaled, old, shape, scale)
    if old.dtype is ir.DataType.FLOAT16:
        return make()
    return ir.LazyTensor(make, old.dtype, ir.Shape(old.shape.numpy()), name=weight.name)


def _layout(found: Linear, shape: Sequence[int], scale: np.ndarray) -> tuple[Sequence[int], np.ndarray]:
    """The shape in which the weight is multiplied, and the scale in one that is broadcast to it."""
    if found.node.op_type == "ConvTranspose":  # (in, out / group, ...): each group has channels of its own
        group = found.node.attributes.get_int("group", 1)
        if shape[0] % group:
            raise Miss("the channels do not make groups")
        return (group, -1, *shape[1:]), scale.reshape(group, 1, -1, *[1] * (len(shape) - 2))
    first = found.node.op_type == "Conv" or _transposed(found.node)
    return shape, scale.reshape(-1, *[1] * (len(shape) - 1)) if first else scale


def _scaled(old: ir.TensorProtocol, shape: Sequence[int], scale: np.ndarray) -> ir.TensorProtocol:
    array = own_view(old).numpy()
    wide = np.float64 if array.dtype == np.float64 else np.float32
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact: np.ndarray = array.reshape(shape).astype(wide, copy=False) * scale.astype(wide)
        result: np.ndarray = exact.astype(array.dtype, copy=False)
    if array.dtype == np.float16 and not (abs(result.astype(wide) - exact) <= _HALF_EPSILON * abs(exact)).all():
        raise Miss("float16 cannot hold the scaled weight")
    return ir.Tensor(result.reshape(array.shape), dtype=old.dtype, name=old.name)


def _bias(found: Linear, scale: np.ndarray | None, shift: np.ndarray | None) -> np.ndarray | None:
    """The scaled and shifted bias, times the beta of a Gemm; None where there is none."""
    if found.bias is None and shift is None:
        return None
    if found.node.op_type == "MatMul":
        raise Miss("a MatMul has no bias")
    old = np.zeros(found.channels) if found.bias is None else _array(found.bias).astype(np.float64)
    if old.ndim > 1 and any(size != 1 for size in old.shape[:-1]):
        raise Miss("the bias of the Gemm is not one number per channel")
    beta = found.node.attributes.get_float("beta", 1.0)
    result = old * beta * (1 if scale is None else scale) + (0 if shift is None else shift)
    return narrowed(result, found.weight, "the new bias is not finite")


def _own(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _updated(home: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol | None, name: str) -> ir.Value:
    """The value with another tensor where nothing else uses it, else a new one."""
    if tensor is None:
        return value
    if not _own(value):
        return new_constant(home, name, tensor.numpy())
    value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())
    return value

"""Folding y * scale + shift, per channel, into the weights and the bias of the operator that computes y."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._constants import new_constant, own_view
from ._match import only_use, require, text

LINEAR = ("Conv", "ConvTranspose", "Gemm")
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
    """

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    axis: int
    channels: int

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
    weight = node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    for operand in (weight, bias) if bias is not None else (weight,):
        if operand is None or not operand.is_initializer() or operand.is_graph_input() or operand.const_value is None:
            raise Miss(f"the operand {text(operand)} of the {node.op_type} is no constant")
        if operand.const_value.dtype not in _FLOATS:
            raise Miss("the weight is not of a floating-point type")
    assert weight is not None and weight.const_value is not None
    shape = weight.const_value.shape.numpy()
    if len(shape) < 2 or (len(shape) > 2 and node.op_type in ("Gemm", "MatMul")):
        raise Miss("the weight is no matrix")
    if node.op_type == "Conv":
        return Linear(node, weight, bias, 1, shape[0])
    if node.op_type == "ConvTranspose":
        return Linear(node, weight, bias, 1, shape[1] * node.attributes.get_int("group", 1))
    return Linear(node, weight, bias, -1, shape[0 if _transposed(node) else 1])


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
    weight, bias = _weight(found, scale), _bias(found, scale, shift)
    attributes = dict(node.attributes)
    if bias is not None:
        attributes.pop("beta", None)  # it is in the bias now
    operands = [node.inputs[0], _updated(home, found.weight, weight, f"{last.outputs[0].name}_weight")]
    if bias is not None and found.bias is not None:
        tensor = ir.tensor(bias, name=found.bias.name)
        operands.append(_updated(home, found.bias, tensor, f"{last.outputs[0].name}_bias"))
    elif bias is not None:
        operands.append(new_constant(home, f"{found.weight.name}_bias", bias))
    new = ir.Node("", node.op_type, operands, tuple(attributes.values()), num_outputs=1)
    graph = node.graph
    assert graph is not None
    _put(new, last)
    graph.remove(node, safe=True)


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


def _dtype(value: ir.Value) -> np.dtype:
    assert value.const_value is not None
    return value.const_value.dtype.numpy()


def _weight(found: Linear, scale: np.ndarray | None) -> ir.TensorProtocol | None:
    """The scaled weight, computed when it is written; None where it stays. What float16 cannot hold is seen at once."""
    if scale is None:
        return None
    old = found.weight.const_value
    assert old is not None
    require_copyable(found.weight)
    if abs(scale).max(initial=0) > _GREATEST:
        raise Miss("the constant is too great")
    make = partial(_scaled, old, *_layout(found, old.shape.numpy(), scale))
    if old.dtype is ir.DataType.FLOAT16:
        return make()
    return ir.LazyTensor(make, old.dtype, ir.Shape(old.shape.numpy()), name=found.weight.name)


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
    with np.errstate(over="ignore"):
        array = result.astype(_dtype(found.weight))
    if not np.isfinite(array.astype(np.float64)).all():
        raise Miss("the new bias is not finite")
    return array


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

"""Folding y * scale + shift, per channel, into the weights and the bias of the operator that computes y."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._constants import constant, new_constant
from ._match import only_use, replace

LINEAR = ("Conv", "ConvTranspose", "Gemm")
_FLOATS = (ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16)
_SMALL = 1 << 14
"""Bytes of a weight that may be copied where something else uses it, too."""
_HALF_EPSILON = 2.0**-10


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
        raise Miss(f"something else needs the output of the {node.op_type}")
    weight = node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    for operand in (weight, bias) if bias is not None else (weight,):
        if operand is None or not operand.is_initializer() or operand.is_graph_input() or operand.const_value is None:
            raise Miss(f"an operand of the {node.op_type} is no constant")
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


def normalization(node: ir.Node) -> tuple[Linear, np.ndarray, np.ndarray] | None:
    """Returns the operator before a BatchNormalization, and the scale and shift that it stands for.

    Raises:
        Miss: it cannot be folded.
    """
    if node.domain != "" or node.op_type != "BatchNormalization":
        return None
    found = linear(node.inputs[0], node)
    if found is None:
        return None
    if len(node.outputs) > 1 or bool(node.attributes.get_int("training_mode", 0)):
        raise Miss("the BatchNormalization is one for training")
    arrays = [constant(value) for value in node.inputs[1:5]]
    scale, shift, mean, var = (array.astype(np.float64) if array is not None else None for array in arrays)
    if scale is None or shift is None or mean is None or var is None:
        raise Miss("an operand of the BatchNormalization is no constant")
    if scale.shape != (found.channels,):
        raise Miss("the BatchNormalization has other channels")
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
    return found, factor, shift - mean * factor


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
        operands.append(_updated(home, found.bias, bias, f"{last.outputs[0].name}_bias"))
    elif bias is not None:
        operands.append(new_constant(home, f"{found.weight.name}_bias", bias))
    new = ir.Node("", node.op_type, operands, tuple(attributes.values()), num_outputs=1)
    graph = node.graph
    assert graph is not None
    replace(last, new)
    graph.remove(node, safe=True)


def _transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _weight(found: Linear, scale: np.ndarray | None) -> np.ndarray | None:
    """The scaled weight; None where it stays."""
    if scale is None:
        return None
    tensor = found.weight.const_value
    assert tensor is not None
    if not _own(found.weight) and tensor.nbytes > _SMALL:
        raise Miss("something else uses the weight, which is too large to copy")
    array = tensor.numpy()
    if found.node.op_type == "ConvTranspose":  # (in, out / group, ...): each group has channels of its own
        group = found.node.attributes.get_int("group", 1)
        if array.shape[0] % group:
            raise Miss("the channels do not make groups")
        columns = scale.reshape(group, 1, -1, *[1] * (array.ndim - 2))
        grouped = array.reshape(group, -1, *array.shape[1:])
        return _times(grouped, columns).reshape(array.shape)
    first = found.node.op_type == "Conv" or _transposed(found.node)
    return _times(array, scale.reshape(-1, *[1] * (array.ndim - 1)) if first else scale)


def _times(array: np.ndarray, scale: np.ndarray) -> np.ndarray:
    wide = np.float64 if array.dtype == np.float64 else np.float32
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact: np.ndarray = array.astype(wide) * scale.astype(wide)
        result: np.ndarray = exact.astype(array.dtype)
    if not np.isfinite(result.astype(wide)).all():
        raise Miss("the scaled weight is not finite")
    if array.dtype == np.float16 and (abs(result.astype(wide) - exact) > _HALF_EPSILON * abs(exact)).any():
        raise Miss("float16 cannot hold the scaled weight")
    return result


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
        array = result.astype(_array(found.weight).dtype)
    if not np.isfinite(array.astype(np.float64)).all():
        raise Miss("the new bias is not finite")
    return array


def _own(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _updated(home: ir.Graph, value: ir.Value, array: np.ndarray | None, name: str) -> ir.Value:
    """The value with another array where nothing else uses it, else a new one."""
    if array is None:
        return value
    if not _own(value):
        return new_constant(home, name, array)
    tensor = ir.tensor(array, name=value.name)
    value.const_value, value.shape, value.type = tensor, ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    return value

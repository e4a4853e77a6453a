"""How an operator changes when the Transposes before it move behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ._constants import constant, new_constant

Perm = tuple[int, ...]
"""Axis i of a transposed value is axis perm[i] of the original."""
_LARGEST = 1 << 24  # bytes of a constant that is transposed

_UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_BROADCAST = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
_REDUCE = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

_SPATIAL = (
    "AveragePool", "BatchNormalization", "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "MaxPool",
)  # fmt: skip
"""Not Conv: how its kernel lies is decided by what is fast, see turn_convolutions.py."""


@dataclass(frozen=True)
class Change:
    """What makes an operator compute on values that are not transposed.

    Attributes:
        perm: of its outputs, which the operator behind it must undo; None where they are as before.
        constants: indices of operands that are transposed the other way.
        operands: what operands of axes or paddings become, by index.
        attributes: what attributes become.
    """

    perm: Perm | None
    constants: tuple[int, ...] = ()
    operands: dict[int, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, int | list[int]] = field(default_factory=dict)


def change(node: ir.Node, perms: Sequence[Perm | None]) -> Change | None:
    """Returns how `node` changes where its operands lose their Transposes; None where it must have them.

    Args:
        node: an operator.
        perms: for each operand, how it is transposed; None where it is not.
    """
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    given = {perm for perm in perms if perm is not None}
    if rule is None or len(given) != 1:
        return None
    return rule(node, given.pop(), perms)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(int(axis) for axis in np.argsort(perm))


def compose(first: Perm, second: Perm) -> Perm:
    """One permutation for two Transposes, one after the other."""
    return tuple(first[axis] for axis in second)


def back(array: np.ndarray, perm: Perm) -> np.ndarray:
    """Undoes `perm` on a constant that is broadcast to a value of as many dimensions."""
    return array.reshape((1,) * (len(perm) - array.ndim) + array.shape).transpose(inverse(perm))


def rewrite(home: ir.Graph, node: ir.Node, one: Change, perm: Perm) -> None:
    """Gives a node the constants and attributes that it needs without the Transposes before it."""
    for index in one.constants:
        value = node.inputs[index]
        assert value is not None and value.const_value is not None
        array = np.ascontiguousarray(back(value.const_value.numpy(), perm))
        node.replace_input_with(index, new_constant(home, f"{value.name}_turned", array))
    for index, array in one.operands.items():
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, new_constant(home, f"{node.outputs[0].name}_operand", array))
    for name, content in one.attributes.items():
        node.attributes[name] = (
            ir.AttrInt64(name, content) if isinstance(content, int) else ir.AttrInt64s(name, content)
        )


def _data_only(perms: Sequence[Perm | None]) -> bool:
    """Whether the first operand alone is transposed."""
    return perms[0] is not None and not any(perms[1:])


def _unary(_node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    return Change(perm) if _data_only(perms) else None


def _broadcast(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    turned = []
    for index, (value, own) in enumerate(zip(node.inputs, perms, strict=True)):
        if own is not None or (value is not None and value.shape is not None and len(value.shape) == 0):
            continue
        array = constant(value, most_bytes=_LARGEST)
        if array is None or array.ndim > len(perm):
            return None
        if array.size != 1:
            turned.append(index)
    return Change(perm, tuple(turned))


def _concat(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    others = [index for index, own in enumerate(perms) if own is None]
    arrays = [constant(node.inputs[index], most_bytes=_LARGEST) for index in others]
    if any(array is None or array.ndim != len(perm) for array in arrays):
        return None
    return Change(perm, tuple(others), attributes={"axis": perm[node.attributes["axis"].as_int()]})


def _along(default: int) -> Callable[[ir.Node, Perm, Sequence[Perm | None]], Change | None]:
    """For operators that work along their `axis` and keep it."""

    def rule(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
        axis = node.attributes.get_int("axis", default)
        return Change(perm, attributes={"axis": perm[axis]}) if _data_only(perms) else None

    return rule


def _reduce(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    axes = _axes(node)
    if axes is None or not axes or not _data_only(perms):
        return None
    left = perm if node.attributes.get_int("keepdims", 1) else _without(perm, axes)
    return _with_axes(node, left, sorted(perm[axis] for axis in axes))


def _arg(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    axis = node.attributes.get_int("axis", 0)
    left = perm if node.attributes.get_int("keepdims", 1) else _without(perm, [axis])
    return Change(left, attributes={"axis": perm[axis]}) if _data_only(perms) else None


def _squeeze(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    axes = _axes(node)
    if not axes or not _data_only(perms):
        return None
    return _with_axes(node, _without(perm, axes), sorted(perm[axis] for axis in axes))


def _slice(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    if len(node.inputs) < 3 or not _data_only(perms):
        return None
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes, starts = constant(given), node.inputs[1]
    if given is None and starts is not None and starts.shape is not None and isinstance(starts.shape[0], int):
        axes = np.arange(starts.shape[0])
    if axes is None or starts is None or starts.dtype is None:
        return None
    moved = np.array([perm[axis] for axis in axes], starts.dtype.numpy())  # all operands are of one type
    return Change(perm, operands={3: moved})


def _pad(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    if len(node.inputs) < 2 or not _data_only(perms):
        return None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = constant(node.inputs[3])
        return None if axes is None else Change(perm, operands={3: np.array([perm[axis] for axis in axes], np.int64)})
    pads = constant(node.inputs[1])
    if pads is None:
        return None
    turned = pads.reshape(2, -1)[:, inverse(perm)].reshape(-1)
    return Change(perm, operands={1: turned})


def spatial(node: ir.Node, perm: Perm, perms: Sequence[Perm | None]) -> Change | None:
    """For convolutions, pools and normalization by channel: where only the axes behind the channels change places."""
    if perm[:2] != (0, 1) or len(perm) < 3 or not _data_only(perms) or len(node.outputs) != 1:
        return None
    order = [axis - 2 for axis in inverse(perm)[2:]]
    attributes: dict[str, int | list[int]] = {}
    for name in ("kernel_shape", "strides", "dilations", "pads"):
        if name in node.attributes:
            content = np.reshape(node.attributes[name].as_ints(), (-1, len(order)))
            attributes[name] = [int(number) for number in content[:, order].reshape(-1)]
    if node.op_type != "Conv":
        return Change(perm, attributes=attributes)
    weight = constant(node.inputs[1], most_bytes=_LARGEST)
    return None if weight is None or weight.ndim != len(perm) else Change(perm, (1,), attributes=attributes)


def _axes(node: ir.Node) -> list[int] | None:
    """The axes of a Reduce or Squeeze, an attribute once and an operand now; None where they are computed."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else [int(axis) for axis in array.reshape(-1)]


def _with_axes(node: ir.Node, perm: Perm | None, axes: list[int]) -> Change:
    if "axes" in node.attributes:
        return Change(perm, attributes={"axes": axes})
    return Change(perm, operands={1: np.array(axes, dtype=np.int64)})


def _without(perm: Perm, axes: Sequence[int]) -> Perm | None:
    """The permutation that is left without some axes of the result; None where it is none any more."""
    gone = {axis % len(perm) for axis in axes}
    left = [of for axis, of in enumerate(perm) if axis not in gone]
    result = tuple(sorted(left).index(of) for of in left)
    return None if result == tuple(range(len(result))) else result


_RULES: dict[str, Callable[[ir.Node, Perm, Sequence[Perm | None]], Change | None]] = {
    **dict.fromkeys(_BROADCAST, _broadcast),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(_SPATIAL, spatial),
    **dict.fromkeys(_UNARY, _unary),
    "ArgMax": _arg,
    "ArgMin": _arg,
    "Concat": _concat,
    "Hardmax": _along(-1),
    "LogSoftmax": _along(-1),
    "Pad": _pad,
    "Slice": _slice,
    "Softmax": _along(-1),
    "Split": _along(0),
    "Squeeze": _squeeze,
}

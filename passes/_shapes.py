"""Sizes of values, forward: what the general inference loses when it invents a new name for a size."""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ._constants import constant
from ._walk import all_nodes

Size = int | str
"""A known number, or the name of a symbolic dimension."""

MADE_UP = "unk__"
"""How onnx.shape_inference begins the names of sizes that it does not know."""
_MOST_TERMS = 4
_SAME_AS_FIRST = (
    "Cast", "Clip", "Erf", "Exp", "Gelu", "Identity", "IsNaN", "LayerNormalization", "LogSoftmax", "Neg", "Not",
    "Reciprocal", "Relu", "RMSNormalization", "Sigmoid", "Softmax", "Sqrt", "Tanh",
)  # fmt: skip
_BROADCAST = ("Add", "And", "Div", "Equal", "Less", "Mul", "Or", "Pow", "Sub", "Where")


def sizes_of(value: ir.Value) -> list[Size] | None:
    """Returns the sizes of a value; one without a name gets one of its own, which cancels with nothing."""
    if value.shape is None:
        return None
    return [_size(value, axis, size) for axis, size in enumerate(value.shape)]


def has_made_up_name(value: ir.Value) -> bool:
    """Whether the name of one of its sizes was made up."""
    return value.shape is not None and any(str(size).startswith(MADE_UP) for size in value.shape)


def forget_made_up_names(model: ir.Model) -> None:
    """Makes sizes of computed values unknown whose names were made up: those of the inputs are the user's."""
    own = {str(size) for value in model.graph.inputs for size in value.shape or ()}
    for node in all_nodes(model):
        for value in filter(has_made_up_name, node.outputs):
            assert value.shape is not None
            sizes = (None if str(size).startswith(MADE_UP) and str(size) not in own else size for size in value.shape)
            value.shape = ir.Shape(sizes)


def refine(node: ir.Node) -> None:
    """Computes the output's sizes from the inputs' where a rule is known, and keeps those that say more."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if node.op_type == "Split" and node.domain == "":
        _refine_split(node)
    if rule is None or any(value is None or value.shape is None for value in node.inputs):
        return
    sizes = rule(node, [sizes_of(value) or [] for value in node.inputs if value is not None])
    if sizes is not None:
        keep(node.outputs[0], sizes)


def keep(output: ir.Value, sizes: Sequence[Size]) -> None:
    """Gives `output` the sizes; a number that it has already stays."""
    if output.shape is None or len(output.shape) != len(sizes):
        output.shape = ir.Shape(sizes)
    else:
        pairs = zip(output.shape, sizes, strict=True)
        output.shape = ir.Shape([old if isinstance(old, int) else new for old, new in pairs])


def _size(value: ir.Value, axis: int, size: int | ir.SymbolicDim) -> Size:
    return size if isinstance(size, int) else size.value or f"{value.name}.{axis}"


def _first(_node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    return inputs[0]


def _transpose(node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(inputs[0]))[::-1]
    return [inputs[0][axis] for axis in perm]


def _broadcast(_node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    return broadcast(inputs)


def broadcast(inputs: Sequence[list[Size]]) -> list[Size] | None:
    """Returns the sizes of inputs that are broadcast together; None where names leave it open."""
    rank = max(len(sizes) for sizes in inputs)
    result: list[Size] = []
    ones: list[Size] = [1] * rank
    for column in zip(*(ones[len(sizes) :] + sizes for sizes in inputs), strict=True):
        different = {size for size in column if size != 1}
        numbers = [size for size in different if isinstance(size, int)]
        if len(different) > 1 and len(numbers) != 1:
            return None  # two names may be equal, or one of them may be 1
        result.append(numbers[0] if numbers else next(iter(different), 1))
    return result


def added(parts: Sequence[Size]) -> Size | None:
    """Returns the sum of sizes, which is always spelled the same: "(past+1)"; None where it is not worth a name."""
    names: list[str] = []
    total = 0
    for part in parts:
        if isinstance(part, int):
            total += part
        elif part.startswith(MADE_UP):
            return None
        elif part.startswith("(") and part.endswith(")"):
            *inner, last = part[1:-1].split("+")
            names += inner if last.isdecimal() else [*inner, last]
            total += int(last) if last.isdecimal() else 0
        else:
            names.append(part)
    if not names or total < 0:
        return None if names else total
    if len(names) > _MOST_TERMS:
        return None
    terms = [*sorted(names), *([str(total)] if total else [])]
    return f"({'+'.join(terms)})" if len(terms) > 1 else terms[0]


def _matmul(_node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    left, right = inputs
    if len(left) < 2 or len(right) < 2:
        return None
    batch = broadcast([left[:-2], right[:-2]])
    return None if batch is None else [*batch, left[-2], right[-1]]


def _concat(node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    axis = node.attributes["axis"].as_int() % max(len(inputs[0]), 1)
    if len({len(sizes) for sizes in inputs}) != 1:
        return None
    sizes = [_best(column) for column in zip(*inputs, strict=True)]
    total = added([one[axis] for one in inputs])
    sizes[axis] = own(node.outputs[0], axis) if total is None else total
    return sizes


def _gather(node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    data, indices = inputs
    axis = node.attributes.get_int("axis", 0) % max(len(data), 1)
    return [*data[:axis], *indices, *data[axis + 1 :]] if data else None


def _unsqueeze(node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return None
    rank = len(inputs[0]) + axes.size
    new = {int(axis) % rank for axis in axes.reshape(-1)}
    old = iter(inputs[0])
    return [1 if axis in new else next(old) for axis in range(rank)] if len(new) == axes.size else None


def _squeeze(node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or not inputs[0]:
        return None
    gone = {int(axis) % len(inputs[0]) for axis in axes.reshape(-1)}
    return [size for axis, size in enumerate(inputs[0]) if axis not in gone]


def _gemm(node: ir.Node, inputs: Sequence[list[Size]]) -> list[Size] | None:
    left, right = inputs[:2]
    if len(left) != 2 or len(right) != 2:
        return None
    return [left[node.attributes.get_int("transA", 0)], right[1 - node.attributes.get_int("transB", 0)]]


def _refine_split(node: ir.Node) -> None:
    whole = sizes_of(node.inputs[0]) if node.inputs[0] is not None else None
    axis = node.attributes.get_int("axis", 0)
    if not whole or not -len(whole) <= axis < len(whole):
        return
    for output in node.outputs:
        part = own(output, axis % len(whole))
        keep(output, [part if one == axis % len(whole) else size for one, size in enumerate(whole)])


def _best(equal: Sequence[Size]) -> Size:
    """Of sizes that are equal: a number, or else a name that the inference did not invent."""
    return min(equal, key=lambda size: (isinstance(size, str), str(size).startswith(MADE_UP)))


def own(output: ir.Value, axis: int) -> Size:
    """The size that the output has already, or a name of its own."""
    known = sizes_of(output)
    return known[axis] if known is not None and axis < len(known) else f"{output.name}.{axis}"


_RULES: dict[str, Callable[[ir.Node, Sequence[list[Size]]], list[Size] | None]] = {
    **dict.fromkeys(_SAME_AS_FIRST, _first),
    **dict.fromkeys(_BROADCAST, _broadcast),
    "Concat": _concat,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

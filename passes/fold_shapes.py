"""Folds shape arithmetic, through symbolic dimensions."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._constants import constant, new_constant
from ._shapes import Size, added, broadcast, keep, own, refine, sizes_of
from ._walk import all_graphs

_MOST_SIZES = 64
_FAR = 1 << 62  # beyond it int64 may wrap around, which a Python int does not


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Folds shape arithmetic: Reshape(x, Concat(Shape(x)[0], 12, -1)) -> Reshape(x, [-1, 12, 64]).

    Small integer vectors are followed forward as lists of numbers and names of dimensions. One that holds only
    numbers becomes a constant, and of those that hold the same names one serves all. The operand of a Reshape may hold
    one name, which becomes -1, and its own -1 is solved by cancelling names. What computed them becomes dead.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds in place."""
        modified = False
        for graph in all_graphs(model):
            known: dict[ir.Value, list[Size]] = {}
            first: dict[tuple[object, ...], ir.Value] = {}
            for node in graph:
                if node.domain == "":
                    refine(node)
                    modified |= _fold(model.graph, node, known) or _reuse(node, known, first)
        return ir.passes.PassResult(model, modified=modified)


def _fold(home: ir.Graph, node: ir.Node, known: dict[ir.Value, list[Size]]) -> bool:
    if node.op_type == "Reshape":
        return _fold_reshape(home, node, known)
    if node.op_type == "Expand":
        return _fold_expand(home, node, known)
    if node.op_type == "Where":
        return _fold_where(node, known)
    if node.op_type == "Range":
        _measure_range(node, known)
    rule, output = _RULES.get(node.op_type), node.outputs[0]
    if rule is None or output.dtype is not ir.DataType.INT64 or output.shape is None or len(output.shape) > 1:
        return False
    operands = [_sizes(value, known) for value in node.inputs]
    sizes = rule(node, operands)
    if sizes is None or len(sizes) > _MOST_SIZES:
        return False
    known[output] = sizes
    scalar = len(output.shape) == 0
    if not all(isinstance(size, int) for size in sizes) or output.is_graph_output() or not output.uses():
        return False
    if scalar and len(sizes) != 1:
        return False
    array = np.array(sizes[0] if scalar else sizes, dtype=np.int64)
    output.replace_all_uses_with(new_constant(home, f"{output.name}_folded", array))
    return True


def _reuse(node: ir.Node, known: dict[ir.Value, list[Size]], first: dict[tuple[object, ...], ir.Value]) -> bool:
    """Takes the first value of the graph that holds the same sizes."""
    output = node.outputs[0]
    sizes, rank = known.get(output), _rank(output)
    if sizes is None or rank is None or not output.uses() or all(isinstance(size, int) for size in sizes):
        return False
    before = first.setdefault((rank, *sizes), output)
    if before is output or output.is_graph_output():
        return False
    output.replace_all_uses_with(before)
    return True


def _fold_reshape(home: ir.Graph, node: ir.Node, known: dict[ir.Value, list[Size]]) -> bool:
    data, output = node.inputs[0], node.outputs[0]
    wanted = _sizes(node.inputs[1], known)
    if data is None or wanted is None:
        return _materialize(home, node)
    have = sizes_of(data)
    if 0 in wanted:
        if have is None or ("allowzero" in node.attributes and node.attributes["allowzero"].as_int()):
            return False
        wanted = [have[axis] if size == 0 and axis < len(have) else size for axis, size in enumerate(wanted)]
    solved = _solve(have, wanted)
    keep(output, [own(output, axis) if size == -1 else size for axis, size in enumerate(solved)])
    result = _sizes(data, known)
    if result is not None and len(solved) == 1:
        known[output] = result
    return _materialize(home, node)


def _fold_expand(home: ir.Graph, node: ir.Node, known: dict[ir.Value, list[Size]]) -> bool:
    sizes, operand = _sizes(node.inputs[1], known), node.inputs[1]
    have = sizes_of(node.inputs[0]) if node.inputs[0] is not None else None
    if sizes is not None and have is not None and -1 not in sizes and (both := broadcast([have, sizes])) is not None:
        keep(node.outputs[0], both)
    if sizes is None or constant(operand) is not None or not all(isinstance(size, int) for size in sizes):
        return False
    node.replace_input_with(1, new_constant(home, f"{node.outputs[0].name}_shape", np.array(sizes, dtype=np.int64)))
    return True


def _fold_where(node: ir.Node, known: dict[ir.Value, list[Size]]) -> bool:
    """Takes Where(Equal(s, -1), ones, s) for s, as torch writes the sizes of an Expand: no size is -1."""
    condition, other, output = node.inputs[0], node.inputs[2], node.outputs[0]
    test = condition.producer() if condition is not None else None
    sizes = _sizes(other, known)
    if other is None or sizes is None or test is None or (test.domain, test.op_type) != ("", "Equal"):
        return False
    pair = [_sizes(value, known) for value in test.inputs]
    if pair[0] != sizes or test.inputs[0] is not other or pair[1] is None or len(pair[1]) not in (1, len(sizes)):
        return False
    chosen = _sizes(node.inputs[1], known)
    if set(pair[1]) != {-1} or -1 in sizes or chosen is None or len(chosen) not in (1, len(sizes)):
        return False
    known[output] = sizes
    if output.is_graph_output() or not output.uses() or _rank(output) is None or _rank(output) != _rank(other):
        return False
    output.replace_all_uses_with(other)
    return True


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _measure_range(node: ir.Node, known: dict[ir.Value, list[Size]]) -> None:
    """Range(0, n, 1) has n elements, for a size n."""
    start, limit, step = (_sizes(value, known) for value in node.inputs)
    if start == [0] and step == [1] and limit is not None and len(limit) == 1 and isinstance(limit[0], str):
        keep(node.outputs[0], limit)


def _materialize(home: ir.Graph, node: ir.Node) -> bool:
    """Gives a Reshape a constant operand where at most one size of its result is not a number."""
    shape, operand = node.outputs[0].shape, constant(node.inputs[1])
    if shape is None:
        return False
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) > 1 or 0 in sizes:
        return False
    if operand is not None and (-1 not in operand or operand.tolist() == sizes):
        return False  # constant already; only a -1 whose size is known by now is worth writing out
    node.replace_input_with(1, new_constant(home, f"{node.outputs[0].name}_shape", np.array(sizes, dtype=np.int64)))
    node.attributes.pop("allowzero", None)
    return True


def _solve(have: Sequence[Size] | None, wanted: Sequence[Size]) -> list[Size]:
    """Solves the -1 of a Reshape where the names on both sides cancel."""
    if have is None or list(wanted).count(-1) != 1:
        return list(wanted)
    names = Counter(size for size in have if isinstance(size, str))
    names.subtract(size for size in wanted if isinstance(size, str))
    left = [name for name, count in names.items() if count]
    total = int(np.prod([size for size in have if isinstance(size, int)], dtype=np.int64))
    rest = int(np.prod([size for size in wanted if isinstance(size, int) and size != -1], dtype=np.int64))
    if rest <= 0 or total <= 0 or total % rest:
        return list(wanted)
    if not left:
        return [total // rest if size == -1 else size for size in wanted]
    if len(left) == 1 and names[left[0]] == 1 and total == rest:
        return [left[0] if size == -1 else size for size in wanted]
    return list(wanted)


def _sizes(value: ir.Value | None, known: dict[ir.Value, list[Size]]) -> list[Size] | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    array = constant(value, most_bytes=8 * _MOST_SIZES)
    if array is None or array.dtype != np.int64 or array.ndim > 1:
        return None
    return [int(number) for number in array.reshape(-1)]


Operands = Sequence[list[Size] | None]


def _shape(node: ir.Node, _operands: Operands) -> list[Size] | None:
    value = node.inputs[0]
    sizes = sizes_of(value) if value is not None else None
    if sizes is None:
        return None
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else len(sizes)
    return sizes[start:end]


def _gather(node: ir.Node, operands: Operands) -> list[Size] | None:
    sizes, index = operands[0], constant(node.inputs[1])
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if sizes is None or index is None or index.ndim > 1 or axis not in (0, -1):
        return None
    numbers = [int(number) for number in index.reshape(-1)]
    return [sizes[number] for number in numbers] if all(-len(sizes) <= n < len(sizes) for n in numbers) else None


def _concat(_node: ir.Node, operands: Operands) -> list[Size] | None:
    return None if any(one is None for one in operands) else [size for one in operands for size in one or ()]


def _slice(node: ir.Node, operands: Operands) -> list[Size] | None:
    sizes, bounds = operands[0], [constant(value) for value in node.inputs[1:]]
    if sizes is None or any(one is None or one.size != 1 for one in bounds) or len(bounds) < 2:
        return None
    numbers = [int(one.reshape(-1)[0]) for one in bounds if one is not None]
    step = numbers[3] if len(numbers) > 3 else 1
    return sizes[numbers[0] : numbers[1] : step] if step > 0 else None


def _same(_node: ir.Node, operands: Operands) -> list[Size] | None:
    return operands[0]


def _cast(node: ir.Node, operands: Operands) -> list[Size] | None:
    return operands[0] if node.attributes["to"].as_int() == ir.DataType.INT64 else None


def _arithmetic(action: Callable[[int, int], int]) -> Callable[[ir.Node, Operands], list[Size] | None]:
    """For numbers only: a name times or plus something would be a new name."""

    def rule(_node: ir.Node, operands: Operands) -> list[Size] | None:
        left, right = operands
        if not left or not right or (len(left) != len(right) and 1 not in (len(left), len(right))):
            return None
        count = max(len(left), len(right))
        results: list[Size] = []
        for one, other in zip(left * (count // len(left)), right * (count // len(right)), strict=True):
            if not isinstance(one, int) or not isinstance(other, int):
                return None
            results.append(action(one, other))
        return results if all(abs(int(result)) < _FAR for result in results) else None

    return rule


def _add(node: ir.Node, operands: Operands) -> list[Size] | None:
    """One sum may have names: that of past and new tokens."""
    left, right = operands
    if left and right and len(left) == len(right) == 1 and any(isinstance(size, str) for size in (*left, *right)):
        total = added([*left, *right])
        return None if total is None else [total]
    return _sum(node, operands)


def _divide(node: ir.Node, operands: Operands) -> list[Size] | None:
    """ONNX rounds towards zero, Python down."""
    if any(not isinstance(size, int) or size < 0 for one in operands for size in one or ()) or 0 in (
        operands[1] or [0]
    ):
        return None
    return _quotient(node, operands)


def _range(_node: ir.Node, operands: Operands) -> list[Size] | None:
    numbers = [size for one in operands for size in one or () if isinstance(size, int)]
    if len(numbers) != 3 or numbers[2] == 0:
        return None
    found = range(*numbers)
    return list(found) if 0 < len(found) <= _MOST_SIZES else None


_sum = _arithmetic(lambda one, other: one + other)
_quotient = _arithmetic(lambda one, other: one // other)
_RULES: dict[str, Callable[[ir.Node, Operands], list[Size] | None]] = {
    "Add": _add,
    "Cast": _cast,
    "Concat": _concat,
    "Div": _divide,
    "Gather": _gather,
    "Identity": _same,
    "Mul": _arithmetic(lambda one, other: one * other),
    "Range": _range,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _same,
    "Sub": _arithmetic(lambda one, other: one - other),
    "Unsqueeze": _same,
}

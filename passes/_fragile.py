"""Computations that 16 bits would spoil, and how far that reaches."""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._constants import scalar
from ._halves import FAR, Constants, Half, constant_tensor
from ._match import text
from ._slots import OURS, Slots

_SQUARES = ("LpNormalization", "LpPool", "ReduceL2", "ReduceSumSquare")
_EXPONENTIALS = ("Cosh", "Exp", "ReduceLogSumExp", "Sinh")
_SUMS = ("CumSum", "ReduceL1", "ReduceProd", "ReduceSum")
_POSITIONS = ("AffineGrid", "DFT", "GridSample", "MaxRoiPool", "MelWeightMatrix", "RoiAlign", "STFT")
_SCATTERS = ("ScatterElements", "ScatterND")
_MOVES = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape", "Slice",
    "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
})  # fmt: skip
_CARRIES = frozenset({
    "Abs", "Add", "Div", "Max", "Mean", "Min", "Mul", "Neg", "Pow", "ReduceMax", "ReduceMean", "ReduceSum", "Relu",
    "Sub", "Sum",
}) | _MOVES  # fmt: skip
_TAKES = _CARRIES | {"Log", "Reciprocal", "Sigmoid", "Softmax", "Sqrt", "Tanh"}
_COUNTS = _TAKES | {"Ceil", "Clip", "Cos", "Floor", "MatMul", "Mod", "Round", "Sin", "Where"}
_BOUNDED = ("Cos", "Sigmoid", "Sin", "Softmax", "Tanh")
HEAVY = frozenset({
    "Attention", "Conv", "ConvTranspose", "DeformConv", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN",
})  # fmt: skip
"""Operators that 16 bits are for: they are worth two Casts."""
_MASKED = frozenset({"Add", "Clip", "Max", "Min", "Mul", "Where"}) | _MOVES
_CLIPPED = ("Clip", "Max", "Min", "Pad", "Where")
_STRICT = {
    ("BatchNormalization", 4),
    ("DequantizeLinear", 1),
    ("Div", 1),
    ("Log", 0),
    ("Mod", 1),
    ("QuantizeLinear", 1),
    ("Reciprocal", 0),
}
_SMALL_PRODUCT = 512  # elements of a constant that positions are multiplied with
_LONG_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT32, ir.DataType.UINT64)
_MARGIN = 2
"""Unseen inputs may make values that are greater than those of the calibration."""


@dataclass
class Fragile:
    """Says of one node after the other, in their order, whether it must stay float32.

    Attributes:
        constants: those of the graph.
        ranges: lowest and highest calibrated number by name of value.
        wide: values that may be beyond the range of 16 bits.
        whole: values computed of whole numbers only: positions, sizes, masks.
        raised: values that are computed of 16 bits cast up.
    """

    constants: Constants
    ranges: dict[str, tuple[float, float]]
    wide: dict[ir.Value, str] = field(default_factory=dict)
    whole: set[ir.Value] = field(default_factory=set)
    raised: set[ir.Value] = field(default_factory=set)

    @property
    def half(self) -> Half:
        """The type that the nodes shall have."""
        return self.constants.half

    def require_strong(self, node: ir.Node, slots: Slots) -> None:
        """Checks that a node computes what it should with 16 bits.

        Raises:
            Miss: it may not; the reason says why.
        """
        values = [node.inputs[index] for index in slots.inputs] + [node.outputs[index] for index in slots.outputs]
        for value in values:
            self._require_in_range(value)
        for index in sorted(slots.inputs):
            self._require_fit(node, index)
        if not (slots.outputs and all(self._range(node.outputs[index]) for index in slots.outputs)):
            _require_no_growth(node, self.half)
        self._require_no_source(node)

    def _require_in_range(self, value: ir.Value | None) -> None:
        low, high = self._range(value) or (0.0, 0.0)
        most = max(abs(low), abs(high))
        if most * _MARGIN > self.half.greatest:
            raise Miss(f"{text(value)} was between {low:.4g} and {high:.4g}, too near the end of {self.half.text}")
        if 0 < most < self.half.least:
            raise Miss(f"{text(value)} was between {low:.4g} and {high:.4g}, too near 0 for {self.half.text}")

    def _range(self, value: ir.Value | None) -> tuple[float, float] | None:
        """The range of a value; that of what it was cast from where it has none."""
        while value is not None:
            if value.name in self.ranges:
                return self.ranges[value.name]
            node = value.producer()
            if node is None or node.op_type != "Cast" or node.domain != "":
                return None
            value = node.inputs[0]
        return None

    def _require_fit(self, node: ir.Node, index: int) -> None:
        value, op = node.inputs[index], node.op_type
        if value is not None:
            self.constants.require_fit(
                value, strict=(op, index) in _STRICT, masks=op in _MASKED, bounds=op in _CLIPPED and node.domain == ""
            )

    def _require_no_source(self, node: ir.Node) -> None:
        inputs = _computed(node)
        if node.op_type in _TAKES:
            for value in inputs:
                if value in self.wide:
                    raise Miss(f"it computes with {text(value)}, {self.wide[value]}")
        if inputs and all(value in self.whole for value in inputs) and _counts(node):
            raise Miss(f"it computes with whole numbers, which {self.half.text} does not tell apart")
        if inputs and all(value in self.raised for value in inputs):
            raise Miss("its inputs are cast up to float32 on purpose")

    def follow(self, node: ir.Node, reason: str | None) -> None:
        """Notes what a node's outputs are, once it is known why it stays; None for a node that does not."""
        inputs = _computed(node)
        first = node.inputs[0] if node.inputs else None
        if node.op_type in ("Cast", "CastLike") and first is not None:
            self._follow_cast(node, first)
        elif node.op_type == "Range" and node.domain == "":
            self.whole.update(node.outputs)
        elif inputs and all(value in self.whole for value in inputs) and _counts(node):
            self.whole.update(() if node.op_type in _BOUNDED else node.outputs)
        if inputs and all(value in self.raised for value in inputs):
            self.raised.update(node.outputs)
        if reason is None or node.domain != "":
            return
        if _growth(node, self.half) and not all(self._range(value) for value in node.outputs):
            self.wide.update(dict.fromkeys(node.outputs, f"which {node.op_type} {node.name!r} makes"))
        elif node.op_type in _CARRIES and inputs and all(value in self.wide for value in inputs):
            self.wide.update(dict.fromkeys(node.outputs, self.wide[inputs[0]]))

    def fills(self, node: ir.Node) -> list[tuple[ir.Node, int]]:
        """Returns the node with each scalar that stands for minus infinity, where it makes a mask of whole numbers."""
        if node.domain != "" or node.op_type not in ("Mul", "Where") or node.outputs[0].is_graph_output():
            return []
        if not self.whole.issuperset(node.outputs):
            return []
        numbers = [(index, scalar(value)) for index, value in enumerate(node.inputs) if _is_float(value)]
        return [(node, index) for index, number in numbers if number is not None and _below(number, self.half)]

    def _follow_cast(self, node: ir.Node, first: ir.Value) -> None:
        maker = first.producer()
        if first.dtype in _LONG_INTEGERS:
            if maker is not None and maker.op_type in ("ConvInteger", "MatMulInteger") and self.half.greatest < 1e9:
                self.wide[node.outputs[0]] = f"which {maker.op_type} {maker.name!r} makes"
            else:
                self.whole.update(node.outputs)
        narrow = first.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        if narrow and OURS not in node.metadata_props and node.outputs[0].dtype is ir.DataType.FLOAT:
            self.raised.update(node.outputs)


def _computed(node: ir.Node) -> list[ir.Value]:
    """Inputs of float32 that are no constants."""
    floats = [value for value in node.inputs if value is not None and value.dtype is ir.DataType.FLOAT]
    return [value for value in floats if constant_tensor(value) is None]


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is ir.DataType.FLOAT


def _below(number: float, half: Half) -> bool:
    return np.isfinite(number) and number <= FAR and number < -half.greatest


def _counts(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type not in _COUNTS:
        return False
    sizes = [tensor.size for value in node.inputs if (tensor := constant_tensor(value)) is not None]
    return node.op_type != "MatMul" or max(sizes, default=0) <= _SMALL_PRODUCT


def _require_no_growth(node: ir.Node, half: Half) -> None:
    reason = _growth(node, half) if node.domain == "" else None
    if reason is None and node.domain == "" and node.op_type in _POSITIONS:
        reason = f"positions and spectra need more bits than {half.text} has"
    if node.op_type == "MeanVarianceNormalization":
        reason = "it computes squares within"
    if node.op_type in _SCATTERS and node.attributes.get_string("reduction", "none") != "none":
        reason = f"what it scatters is reduced in {half.text}, which few runtimes do"
    if reason is not None:
        raise Miss(reason)


def _growth(node: ir.Node, half: Half) -> str | None:
    """Why results may be far greater than the inputs; None where they are not, or the type holds them."""
    if half.greatest > 1e9 or node.domain != "":
        return None
    inputs = list(node.inputs)
    if node.op_type in _SQUARES or (node.op_type == "Mul" and inputs[0] is inputs[1]):
        return f"squares of numbers above 255 are beyond {half.text}"
    if node.op_type == "Pow" and not _is_root(inputs[1]):
        return f"powers may be beyond {half.text}"
    if node.op_type in _EXPONENTIALS:
        return f"exponentials of numbers above 11 are beyond {half.text}"
    return f"sums over many numbers may be beyond {half.text}" if node.op_type in _SUMS else None


def _is_root(exponent: ir.Value | None) -> bool:
    tensor = constant_tensor(exponent)
    return tensor is not None and tensor.size == 1 and 0 <= float(np.reshape(tensor.numpy(), -1)[0]) <= 1

"""Takes the outliers among the channels of an activation into the weights that multiply it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from ._base import Pass
from ._channels import change_parameter, insert, normalization
from ._match import only_use
from ._regions import is_kept
from ._stored import own_view

_NORMS = ("LayerNormalization", "RMSNormalization")
_POOLED = ("Flatten", "GlobalAveragePool", "ReduceMean", "Reshape", "Squeeze")
_SMOOTHED = "smoothed"
_LEAST = 1e-5
_QUIET = 0.75
"""Share of the channels that are all scaled as the greatest of them."""


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Scales channels: MatMul(x, w) -> MatMul(x / s, s * w), s[j] = max|x[j]|^strength / max|w[j]|^(1 - strength).

    1 / s goes into the LayerNormalization before it where only such products use its result, else it is a Mul. The
    graph computes the same; per-tensor scales of activations lose less of it. Only a quarter of the channels, those
    with outliers, have an s of their own: one that is quiet in the calibration data would be scaled up so far that
    other data saturates (EfficientNet-Lite0 with crops of two photos: 10 dB at the output, 23 with it).

    In no preset: it needs calibrated extremes of the channels; `planc quantize` and `planc compile -p int8` run it.

    Source: Xiao et al. 2022, SmoothQuant, arXiv:2211.10438.

    Attributes:
        extremes: name of a tensor, and the greatest magnitude of each of its channels, on the last axis.
        strength: share of the outliers that the weights take, 0 to 1.
        keep: names, PyTorch module paths or globs of products that stay as they are.
    """

    extremes: tuple[tuple[str, tuple[float, ...]], ...] = ()
    strength: float = 0.7
    keep: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Scales in place."""
        groups = dict(self._groups(model))
        for value, (nodes, scale) in groups.items():
            for node in nodes:
                _scale_weight(node, scale)
            norm = normalization(value, nodes, scale.size, *_NORMS)
            if norm is None:
                insert(model.graph, "Mul", value, 1 / scale, nodes, ("smoothing", _SMOOTHED))
                continue
            for index in range(1, len(norm.inputs)):
                if norm.inputs[index] is not None:
                    change_parameter(model.graph, norm, index, partial(_divided, scale), _SMOOTHED)
        return ir.passes.PassResult(model, modified=bool(groups))

    def scales(self, model: ir.Model) -> dict[str, np.ndarray]:
        """Returns by which float32 vector of shape [channels] each activation will be divided; changes nothing."""
        return {value.name or "": scale for value, (_, scale) in self._groups(model)}

    def _groups(self, model: ir.Model) -> Iterator[tuple[ir.Value, tuple[list[ir.Node], np.ndarray]]]:
        known = dict(self.extremes)
        values = {value.name: value for node in model.graph for value in node.outputs}
        values |= {value.name: value for value in model.graph.inputs}
        for name, numbers in known.items():
            value = values.get(name)
            if value is None or value.dtype is not ir.DataType.FLOAT:
                continue
            if _is_absorbed(value):
                continue
            users = list(dict.fromkeys(use.node for use in value.uses()))
            nodes = [
                node
                for node in users
                if node.graph is model.graph and _takes(node, value, len(numbers)) and not is_kept(node, self.keep)
            ]
            if nodes:
                yield value, (nodes, self._scale(np.array(numbers), nodes))

    def _scale(self, extremes: np.ndarray, nodes: Sequence[ir.Node]) -> np.ndarray:
        weights = np.maximum.reduce([_rows(node) for node in nodes])
        with np.errstate(divide="ignore"):
            scale = extremes**self.strength / np.maximum(weights, _LEAST) ** (1 - self.strength)
        useful = (extremes > _LEAST) & (weights > _LEAST) & np.isfinite(scale)
        least = np.quantile(scale[useful], _QUIET) if useful.any() else 1.0
        return np.where(useful, np.maximum(scale, least), least).astype(np.float32)


def _is_absorbed(value: ir.Value) -> bool:
    """Whether the kernel of a product computes the value: a Mul between it and its Q would make it a float kernel.

    What is pooled of it counts, too: in front of a classifier the last block would run in floating point.
    """
    node = value.producer()
    while node is not None and node.op_type in _POOLED and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type not in ("Clip", "Relu"):
        return False
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    return before is not None and before.op_type in ("Add", "Conv", "Gemm", "MatMul")


def channelled(model: ir.Model) -> set[str]:
    """Returns the names of the activations whose channels' extremes the pass can use."""
    found = set()
    for node in model.graph:
        value = node.inputs[0] if node.op_type in ("MatMul", "Gemm") else None
        weight = node.inputs[1] if value is not None else None
        if value is not None and weight is not None and weight.const_value is not None and value.const_value is None:
            shape = weight.const_value.shape.numpy()
            if len(shape) == 2 and _takes(node, value, shape[_row_axis(node)]):
                found.add(value.name or "")
    return found


def smoothed_name(value: str) -> str:
    """Returns the name of the activation after a Mul."""
    return f"{value}_{_SMOOTHED}"


def _takes(node: ir.Node, value: ir.Value, channels: int) -> bool:
    """Whether the node is a product of the value's last axis and a float weight of its own."""
    if node.domain != "" or node.op_type not in ("MatMul", "Gemm") or node.inputs[0] is not value:
        return False
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or not only_use(weight) or weight.is_graph_input():
        return False
    shape = weight.const_value.shape.numpy()
    plain = not node.attributes.get_int("transA", 0)
    return plain and weight.dtype is ir.DataType.FLOAT and len(shape) == 2 and shape[_row_axis(node)] == channels


def _row_axis(node: ir.Node) -> int:
    return 1 if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1 else 0


def _rows(node: ir.Node) -> np.ndarray:
    """Returns the greatest magnitude of the weights that multiply each channel."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    array = own_view(weight.const_value).numpy()
    axis = 1 - _row_axis(node)
    greatest: np.ndarray = np.maximum(array.max(axis=axis), -array.min(axis=axis)).astype(np.float64)
    return greatest


def _scale_weight(node: ir.Node, scale: np.ndarray) -> None:
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    old, column = weight.const_value, scale if _row_axis(node) else scale[:, None]

    def make(source: ir.TensorProtocol, by: np.ndarray) -> ir.TensorProtocol:
        return ir.Tensor(own_view(source).numpy() * by, name=source.name)

    weight.const_value = ir.LazyTensor(
        partial(make, old, column), old.dtype, ir.Shape(old.shape.numpy()), name=weight.name
    )


def _divided(scale: np.ndarray, parameter: np.ndarray) -> np.ndarray:
    return np.asarray(parameter / scale)

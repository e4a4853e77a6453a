"""What the passes share that work on BatchNormalization."""

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._constants import constant
from ._match import require

_MOST_BYTES = 1 << 24  # of a vector of channels


def is_norm(node: ir.Node) -> bool:
    """Whether it is a BatchNormalization."""
    return node.domain == "" and node.op_type == "BatchNormalization"


def vectors(norm: ir.Node, count: int = 4) -> list[np.ndarray]:
    """Returns the first `count` of scale, shift, mean and variance, each float64 of shape [channels].

    Raises:
        Miss: one of them is computed, or the node is in training mode.
    """
    others = any(value.uses() or value.is_graph_output() for value in norm.outputs[1:])
    require(not others and norm.attributes.get_int("training_mode", 0) == 0, "it is in training mode")
    found = []
    for value, name in zip(norm.inputs[1 : 1 + count], ("scale", "shift", "mean", "variance"), strict=False):
        array = constant(value, most_bytes=_MOST_BYTES)
        if array is None:
            raise Miss(f"the {name} is not constant")
        found.append(np.asarray(array, np.float64))
    return found

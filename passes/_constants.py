"""Small constants, read as arrays; large ones are never touched."""

import numpy as np
import onnx_ir as ir


def constant(value: ir.Value | None, *, most_bytes: int = 1 << 20) -> np.ndarray | None:
    """Returns the array of a constant of at most `most_bytes`; None where `value` is none or is larger.

    A graph input with a default (an initializer of the same name) is no constant: the caller may replace it.
    """
    if value is None or value.is_graph_input() or value.const_value is None:
        return None
    tensor = value.const_value
    if tensor.dtype is ir.DataType.STRING or tensor.nbytes > most_bytes:
        return None
    return tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """Returns the number of a constant with one element; None for anything else."""
    array = constant(value, most_bytes=16)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def new_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Adds `array` to the graph as an initializer called `name`, or `name_1` and so on where that is taken."""
    free, count = name, 0
    while free in graph.initializers:
        count += 1
        free = f"{name}_{count}"
    tensor = ir.tensor(array, name=free)
    value = ir.Value(name=free, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value

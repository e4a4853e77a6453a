"""Small constants, read as arrays; large ones are never touched."""

from collections.abc import Iterator
from contextlib import contextmanager

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
    """Returns the number of a constant of shape () or (1): more dimensions would be those of the result too."""
    array = constant(value, most_bytes=16)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.ndim <= 1 else None


@contextmanager
def without_defaults(model: ir.Model) -> Iterator[None]:
    """Hides initializers that are graph inputs too: libraries take them for constants, yet the caller may replace them.

    Their order in the graph is kept.
    """
    initializers = model.graph.initializers
    order = list(initializers.values())
    hidden = {value: value.const_value for value in order if value.is_graph_input()}
    for value in hidden:
        del initializers[value.name]  # type: ignore[arg-type]
        value.const_value = None
    try:
        yield
    finally:
        for value, tensor in hidden.items():
            value.const_value = tensor
        if hidden:
            left = [value for value in initializers.values() if value not in set(order)]
            order = [value for value in order if value in hidden or initializers.get(value.name) is value]  # type: ignore[arg-type]
            initializers.clear()
            for value in (*order, *left):
                model.graph.register_initializer(value)


def new_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Adds `array` to the graph as an initializer called `name`, or `name_1` and so on where that is taken."""
    free, count = name, 0
    while free in graph.initializers:
        count += 1
        free = f"{name}_{count}"
    tensor = ir.Tensor(array, name=free)
    value = ir.Value(name=free, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def new_lazy(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """Adds a tensor that is made when it is written as an initializer, under its name or `name_1` and so on."""
    free, count = tensor.name, 0
    while free in graph.initializers:
        count += 1
        free = f"{tensor.name}_{count}"
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=free, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def free_constant(name: str, array: np.ndarray) -> ir.Value:
    """Returns a constant that is not in a graph yet."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)

"""Small constants, read as arrays; large ones are never touched."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO

import numpy as np
import onnx_ir as ir


class TurnedTensor(ir.LazyTensor):
    """A weight of a file with its axes in another order: it is read when it is written.

    Attributes:
        source: the weight as it lies in the file.
        order: `perm` of the Transpose.
    """

    def __init__(self, source: ir.ExternalTensor, order: Sequence[int], name: str | None) -> None:
        self.source, self.order = source, tuple(order)
        shape = ir.Shape([source.shape[axis] for axis in self.order])
        super().__init__(self._turn, source.dtype, shape, name=name)

    def _turn(self) -> ir.TensorProtocol:
        return ir.tensor(self.source.numpy().transpose(self.order), dtype=self.dtype, name=self.name)


class JoinedTensor(ir.LazyTensor):
    """Weights of one height side by side: they are read when they are written.

    Attributes:
        parts: the weights, of one dtype.
    """

    def __init__(self, parts: Sequence[ir.TensorProtocol], name: str | None) -> None:
        self.parts = tuple(parts)
        height = self.parts[0].shape.numpy()[0]
        shape = ir.Shape([height, sum(part.shape.numpy()[1] for part in self.parts)])
        super().__init__(self._join, self.parts[0].dtype, shape, name=name)

    def _join(self) -> ir.TensorProtocol:
        arrays = [part.numpy() for part in self.parts]
        return ir.tensor(np.concatenate(arrays, axis=1), dtype=self.dtype, name=self.name)


def external_tensors(tensor: ir.TensorProtocol) -> Iterator[ir.ExternalTensor]:
    """Yields the tensors of files that this one is, or is made of when it is written."""
    if isinstance(tensor, ir.ExternalTensor):
        yield tensor
    elif isinstance(tensor, TurnedTensor):
        yield tensor.source
    elif isinstance(tensor, JoinedTensor):
        for part in tensor.parts:
            yield from external_tensors(part)


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


def own_view(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Returns a tensor of its own on the same bytes of a file, which it lets go of with itself; others as they are."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return type(tensor)(
        tensor.location, tensor.offset, tensor.length, tensor.dtype,
        shape=tensor.shape, name=tensor.name, base_dir=tensor.base_dir,
    )  # fmt: skip


def stored_bytes(tensor: ir.TensorProtocol, start: int, stop: int) -> tuple[str, bytes]:
    """Returns the bytes of some of a tensor's elements, as they lie in memory or in a file, and their order.

    The order is "C", or "F" if by columns. What lies in a file is read, not mapped; a weight that is a transposed view
    of one is not copied, and of several that are joined one comes after the other.
    """
    if isinstance(tensor, JoinedTensor):
        return _joined_bytes(tensor, start, stop)
    if isinstance(tensor, TurnedTensor):
        by_columns = tensor.order == tuple(range(len(tensor.order)))[::-1]
        return "F" if by_columns else str(tensor.order), stored_bytes(tensor.source, start, stop)[1]
    if isinstance(tensor, ir.ExternalTensor):
        with FileIO(tensor.path) as file:
            return "C", os.pread(file.fileno(), min(stop, tensor.nbytes) - start, (tensor.offset or 0) + start)
    if tensor.dtype.bitwidth < 8 or sys.byteorder == "big":
        return "C", tensor.tobytes()[start:stop]
    array = tensor.numpy()
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = (array.T if order == "F" else array).reshape(-1)
    return order, flat[start // array.itemsize : stop // array.itemsize].tobytes()


def _joined_bytes(tensor: JoinedTensor, start: int, stop: int) -> tuple[str, bytes]:
    found, orders, offset = b"", [], 0
    for part in tensor.parts:
        first, last = (min(max(place - offset, 0), part.nbytes) for place in (start, stop))
        order, some = stored_bytes(part, first, last)
        found += some
        orders.append(f"{part.shape.numpy()}{order}")
        offset += part.nbytes
    return " ".join(orders), found

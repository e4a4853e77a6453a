"""Weights as they lie in files: turned and joined when they are written, compared without being loaded."""

import os
import sys
from collections.abc import Iterator, Sequence
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

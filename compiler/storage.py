"""ONNX files whose weights never pass through memory: read without them, written by copying them from file to file.

A weight is a span of bytes in some file until a pass asks for its values.
"""

import errno
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ..passes import all_graphs, all_nodes, all_tensors, external_tensors
from . import protos, wire
from .wire import LEAST_BYTES, Span

if TYPE_CHECKING:
    import onnx

_ALIGNMENT = 64
_CHUNK = 1 << 20
_KEPT_BYTES = 1 << 16


class FileTensor(ir.ExternalTensor):
    """A tensor whose bytes are read from its file when its values are asked for.

    It is read, not mapped: the kernel maps the neighbourhood of each byte that is touched, so that a few hundred biases
    would take as much memory as the whole file.
    """

    def numpy(self) -> "np.ndarray":
        """Returns the array; small ones are kept."""
        if self._array is not None or self.dtype.bitwidth < 8 or not self.size:
            return super().numpy()
        data = np.empty(self.nbytes, np.uint8)
        with FileIO(self.path) as file:
            _fill(data.data, file.fileno(), self.offset or 0)
        array = data.view(self.dtype.numpy().newbyteorder("<")).reshape(self.shape.numpy())
        if self.nbytes <= _KEPT_BYTES:
            self._array = array
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray":
        """Returns the array, as NumPy asks for it."""
        return self.numpy().__array__(dtype)


def load(path: Path, *, shapes: bool = True) -> ir.Model:
    """Reads an ONNX file that planc wrote; weights stay on disk.

    Args:
        path: the file.
        shapes: whether the shapes that it states for inner values are kept.
    """
    proto, spans = protos.load_light(path)
    if not shapes:
        drop_shapes(proto)
    return attach(ir.from_proto(proto), path, spans)


def attach(model: ir.Model, path: Path, spans: dict[str, Span]) -> ir.Model:
    """Gives the initializers of a graph read by `protos.load_light` their bytes, which are read when they are used."""
    for stored in all_tensors(model):  # those in functions, too, which the library's set_base_dir leaves out
        if isinstance(stored, ir.ExternalTensor):
            stored.base_dir = str(path.parent)
    for value in model.graph.initializers.values():
        if isinstance(tensor := value.const_value, ir.ExternalTensor):
            value.const_value = FileTensor(
                tensor.path, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=value.name or ""
            )
    for name, span in spans.items():
        value = model.graph.initializers[name]
        empty = value.const_value
        assert empty is not None
        # an absolute location and no base: the library's checks are for files that another file names
        value.const_value = FileTensor(
            str(path.resolve()), span.offset, span.length, empty.dtype, shape=ir.Shape(empty.shape.numpy()), name=name
        )
    return model


def drop_shapes(proto: "onnx.ModelProto") -> None:
    """Drops the shapes of inner values: a file whose inputs were made dynamic by hand still states the old ones.

    What the body of a Loop or Scan is given is such a value, too, but for the two scalars that a Loop begins with: of
    these ONNX Runtime makes tensors of the stated shape.
    """
    for node, graph in ((None, proto.graph), *protos.bodies(proto)):
        given = graph.input[2 if node is not None and node.op_type == "Loop" else 0 :]
        inner = (*given, *graph.output) if node is not None else ()
        stored = {tensor.name for tensor in graph.initializer}
        for value in (*graph.value_info, *inner):
            if value.name not in stored and value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    for function in proto.functions:
        del function.value_info[:]


def load_pointing(path: Path) -> bytes:
    """Returns an ONNX file, serialized, whose large weights are external data at their places in that file."""
    import onnx

    proto, spans = protos.load_light(path)
    for tensor in proto.graph.initializer:
        if (span := spans.get(tensor.name)) is not None:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", path.name), ("offset", span.offset), ("length", span.length)):
                tensor.external_data.add(key=key, value=str(value))
    return bytes(proto.SerializeToString())


def save(model: ir.Model, path: Path) -> None:
    """Writes a graph with its weights beside it in `NAME.data`; those that lie in its folder already stay there.

    Raises:
        OSError: a file cannot be written.
    """
    _require_unread(model, path)
    beside = _beside(model, path)
    with _large_weights(model, path.parent) as weights:
        places = _lay_out(weights, beside.name)
        if places:
            _write_all(places, beside)
        path.write_bytes(ir.to_proto(model).SerializeToString())


def save_named_by_content(model: ir.Model, path: Path) -> None:
    """Writes a graph with its weights beside it, in `NAME.DIGEST.data`.

    An older graph never finds the weights of a newer one.

    Raises:
        OSError: a file cannot be written.
    """
    import hashlib
    from concurrent.futures import ThreadPoolExecutor

    _require_unread(model, path)
    draft = _beside(model, path)
    with _large_weights(model) as weights, ThreadPoolExecutor(1) as side:
        sums = side.map(_checksum, list(weights.values()))
        _write_all(_lay_out(weights, draft.name), draft)
        facts = zip(weights.items(), sums, strict=True)
        lines = [f"{value.name} {one.dtype} {one.shape} {number:08x}\n" for (value, one), number in facts]
        name = f"{path.name}.{hashlib.sha256(''.join(lines).encode()).hexdigest()[:12]}.data"
        _lay_out(weights, name)
        path.write_bytes(ir.to_proto(model).SerializeToString())
        draft.replace(path.with_name(name))


def _beside(model: ir.Model, path: Path) -> Path:
    """Returns the file that takes the weights of `path`: one that none of them is read from."""
    read = files_of(model)
    names = (f"{path.name}{f'.{count}' if count else ''}.data" for count in range(len(read) + 1))
    return next(one for name in names if (one := path.with_name(name)).resolve() not in read)


def _require_unread(model: ir.Model, path: Path) -> None:
    """Raises OSError where weights are read from `path` itself: they would be gone before they are copied."""
    if path.resolve() in files_of(model):
        raise OSError(errno.EBUSY, "the weights are read from the file that is written", str(path))


def files_of(model: ir.Model) -> set[Path]:
    """Returns the files that a graph's weights lie in."""
    found = {part.path for tensor in all_tensors(model) for part in external_tensors(tensor)}
    return {Path(path).resolve() for path in found}


def _write_all(places: list[tuple[ir.TensorProtocol, int]], path: Path) -> None:
    """Writes each tensor at its offset."""
    with FileIO(path, "w") as file:
        for tensor, offset in places:
            _place(tensor, file.fileno(), offset)


def _checksum(tensor: ir.TensorProtocol) -> int:
    checksum = 0
    for chunk in chunks(tensor):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _place(tensor: ir.TensorProtocol, target: int, offset: int) -> None:
    """Writes a tensor's bytes at `offset`, from file to file within the kernel where it can do that."""
    start = _copied(tensor, target, offset) if isinstance(tensor, ir.ExternalTensor) else 0
    for chunk in chunks(tensor, start):
        rest = memoryview(chunk)
        while rest:
            done = os.pwrite(target, rest, offset + start)
            rest, start = rest[done:], start + done


def _copied(tensor: ir.ExternalTensor, target: int, offset: int) -> int:
    """Copies within the kernel, and returns how many bytes: fewer than all where the file systems do not do that."""
    count = 0
    with FileIO(tensor.path) as source, suppress(OSError):
        while count < tensor.nbytes and (
            done := os.copy_file_range(
                source.fileno(), target, tensor.nbytes - count, (tensor.offset or 0) + count, offset + count
            )
        ):
            count += done
    return count


def chunks(tensor: ir.TensorProtocol, start: int = 0) -> Iterator[bytes | memoryview]:
    """Yields a tensor's bytes from `start` on; those of a file are read a few at a time, each over the last."""
    if not isinstance(tensor, ir.ExternalTensor):
        yield _bytes_of(tensor)
        return
    offset, end = (tensor.offset or 0) + start, (tensor.offset or 0) + tensor.nbytes
    buffer = memoryview(bytearray(min(end - offset, _CHUNK)))
    with FileIO(tensor.path) as source:
        for place in range(offset, end, _CHUNK):
            part = buffer[: end - place]
            _fill(part, source.fileno(), place)
            yield part


def _fill(buffer: memoryview, source: int, offset: int) -> None:
    """Reads as many bytes as the buffer holds; one call to the kernel gives 2 GiB at most."""
    while buffer:
        count = os.preadv(source, [buffer], offset)
        if not count:
            raise OSError(errno.EIO, "a weights file is shorter than it was")
        buffer, offset = buffer[count:], offset + count


def save_whole(model: ir.Model, path: Path) -> None:
    """Writes a graph and its weights into one file of at most 2 GiB, the weights at its end.

    Raises:
        OSError: the file cannot be written.
    """
    _require_unread(model, path)
    with _large_weights(model) as weights, path.open("wb", buffering=_CHUNK) as file:
        for part in _whole(model, {value.name or "": tensor for value, tensor in weights.items()}):
            for chunk in (part,) if isinstance(part, bytes) else chunks(part):
                file.write(chunk)


def _whole(model: ir.Model, weights: dict[str, ir.TensorProtocol]) -> Iterator[bytes | ir.TensorProtocol]:
    """Yields the parts of the file in order: bytes, and tensors whose bytes come next."""
    proto = ir.to_proto(model)
    parts: list[bytes | ir.TensorProtocol] = []
    total = 0
    for tensor in proto.graph.initializer:
        if (weight := weights.get(tensor.name)) is None:
            content, size = tensor.SerializeToString(), 0
        else:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            size = weight.nbytes
            content = tensor.SerializeToString() + wire.head(wire.TENSOR_RAW_DATA, size)
        head = wire.head(wire.GRAPH_INITIALIZER, len(content) + size) + content
        total += len(head) + size
        parts += [head] if weight is None else [head, weight]
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    yield proto.SerializeToString() + wire.head(wire.MODEL_GRAPH, len(graph) + total) + graph
    yield from parts


@contextmanager
def _large_weights(model: ir.Model, home: Path | None = None) -> Iterator[dict[ir.Value, ir.TensorProtocol]]:
    """Takes the large weights out of the graph for the time of the block: what is made of it then is small.

    All others are inside the graph, whatever file they came from.

    Args:
        model: the graph.
        home: weights in files of this folder are left alone.
    """
    _read_others(model)
    weights: dict[ir.Value, ir.TensorProtocol] = {}
    before: dict[ir.Value, ir.TensorProtocol] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype is ir.DataType.STRING:
            continue
        before[value] = tensor
        if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).parent == home:
            value.const_value = _elsewhere(tensor, value.name or "", Path(tensor.path).name, tensor.offset)
        elif tensor.nbytes >= LEAST_BYTES:
            weights[value] = tensor
            value.const_value = _elsewhere(tensor, value.name or "", "", 0)
        elif isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.tensor(tensor.numpy(), name=value.name)
    try:
        yield weights
    finally:
        for value, tensor in before.items():
            value.const_value = tensor


def _read_others(model: ir.Model) -> None:
    """Takes tensors of subgraphs and attributes into memory: what names their file is not moved along."""
    for graph in all_graphs(model):
        if isinstance(graph, ir.Graph) and graph is not model.graph:
            for value in graph.initializers.values():
                if value.const_value is not None:
                    value.const_value = _in_memory(value.const_value)
    for node in all_nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.type is ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, _in_memory(attribute.value))
            elif attribute.type is ir.AttributeType.TENSORS and not attribute.is_ref():
                node.attributes[name] = ir.AttrTensors(name, [_in_memory(tensor) for tensor in attribute.value])


def _in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy(), name=tensor.name) if isinstance(tensor, ir.ExternalTensor) else tensor


def _elsewhere(tensor: ir.TensorProtocol, name: str, location: str, offset: int | None) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
    )


def _lay_out(weights: dict[ir.Value, ir.TensorProtocol], location: str) -> list[tuple[ir.TensorProtocol, int]]:
    """Gives each weight its place in one data file; returns the tensors with their offsets, in order."""
    offset, places = 0, []
    for value, tensor in weights.items():
        offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
        value.const_value = _elsewhere(tensor, value.name or "", location, offset)
        places.append((tensor, offset))
        offset += tensor.nbytes
    return places


def _bytes_of(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """Little-endian, several elements of less than a byte in one; not copied where memory holds them so."""
    if sys.byteorder == "big" or tensor.dtype.bitwidth < 8:
        return tensor.tobytes()
    array: np.ndarray = np.ascontiguousarray(tensor.numpy())
    return array.reshape(-1).view(np.uint8).data

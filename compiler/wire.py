"""Protobuf's wire format, as far as taking the weights out of an ONNX file needs it.

A message is a sequence of fields, each a tag and a value, and fields may come in any order.
Source: https://protobuf.dev/programming-guides/encoding/
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

LEAST_BYTES = 1024
"""Smaller weights are read, and stay inside the file."""
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_NAME, TENSOR_RAW_DATA = 7, 5, 8, 9
"""Field numbers of onnx.proto."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Span:
    """Bytes of a file."""

    offset: int
    length: int


def without_weights(data: mmap.mmap | bytes) -> tuple[bytes, dict[str, Span]]:
    """Returns a serialized model without the bytes of its large weights, and where those lie, by name.

    Raises:
        ValueError: the message is not laid out as every writer of ONNX does it, such as with two graphs.
        IndexError: it is cut short.
    """
    graphs = [field for field in fields(data, 0, len(data)) if field[0] == MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError("not one graph")
    _, begin, start, end = graphs[0]
    parts: list[bytes | Span] = []
    spans: dict[str, Span] = {}
    size, kept = 0, start
    for number, tag, first, last in fields(data, start, end):
        if number == GRAPH_INITIALIZER and last - first >= LEAST_BYTES:
            found = _light_tensor(data, first, last)
            if found is not None:
                name, light, span = found
                if name in spans:
                    raise ValueError("two initializers of one name")
                spans[name] = span
                parts += [Span(kept, tag - kept), light]
                size += tag - kept + len(light)
                kept = last
    parts.append(Span(kept, end - kept))
    size += end - kept
    parts = [Span(0, begin), head(MODEL_GRAPH, size), *parts, Span(end, len(data) - end)]
    joined = b"".join(data[one.offset : one.offset + one.length] if isinstance(one, Span) else one for one in parts)
    return joined, spans


def _light_tensor(data: mmap.mmap | bytes, start: int, end: int) -> tuple[str, bytes, Span] | None:
    """Returns name, serialized field without its bytes, and the place of the bytes; None where it has no large ones."""
    kept: list[bytes] = []
    name, span = "", None
    for number, tag, first, last in fields(data, start, end):
        if number == TENSOR_RAW_DATA:
            if span is not None:
                raise ValueError("two values")
            span = Span(first, last - first)
            continue
        if number == TENSOR_NAME:
            name = data[first:last].decode()
        if last - tag >= LEAST_BYTES:
            return None  # typed data: not raw
        kept.append(data[tag:last])
    if span is None or span.length < LEAST_BYTES or not name:
        return None
    light = b"".join(kept) + head(TENSOR_RAW_DATA, 0)
    return name, head(GRAPH_INITIALIZER, len(light)) + light, span


def fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields for each field of a message its number, and where its tag, its value and the next field begin.

    Raises:
        ValueError: it ends too early, or is of a kind that ONNX does not use.
        IndexError: the data ends in the middle of a number.
    """
    while start < end:
        tag = start
        key, start = _read_varint(data, start)
        kind = key & 7
        if kind == _BYTES:
            length, start = _read_varint(data, start)
            stop = start + length
        elif kind == _VARINT:
            _, stop = _read_varint(data, start)
        elif kind in (_FIXED32, _FIXED64):
            stop = start + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError("a group")
        if stop > end:
            raise ValueError("cut short")
        yield key >> 3, tag, start, stop
        start = stop


def _read_varint(data: mmap.mmap | bytes, start: int) -> tuple[int, int]:
    number = shift = 0
    while (byte := data[start]) > 127:
        number |= (byte & 127) << shift
        shift += 7
        start += 1
        if shift > 63:
            raise ValueError("no number")
    return number | byte << shift, start + 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def head(field: int, length: int) -> bytes:
    """Returns what stands before the value of a field that is a message, a text or bytes: its tag and its length."""
    return _varint(field << 3 | _BYTES) + _varint(length)

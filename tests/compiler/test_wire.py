"""The wire format: what is read is what the protobuf library reads, and the bytes that are left out are found again."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from planc.compiler import wire

LARGE = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)


def _model() -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(LARGE, "large"), numpy_helper.from_array(LARGE[0], "small")]
    tensors.append(helper.make_tensor("typed", TensorProto.FLOAT, [1200], LARGE.reshape(-1).tolist()))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 30]) for name in ("x", "y")]
    node = helper.make_node("Add", ["x", "small"], ["y"], doc_string="d" * 300)
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _filled(light: bytes, spans: dict[str, wire.Span], data: bytes) -> onnx.ModelProto:
    """Gives the weights their bytes again."""
    model = onnx.ModelProto.FromString(light)
    for tensor in model.graph.initializer:
        if (span := spans.get(tensor.name)) is not None:
            assert not tensor.raw_data
            tensor.raw_data = data[span.offset : span.offset + span.length]
    return model


def test_only_raw_bytes_of_large_weights_are_left_out() -> None:
    data = _model().SerializeToString()
    light, spans = wire.without_weights(data)
    assert {name: span.length for name, span in spans.items()} == {"large": LARGE.nbytes}
    assert len(light) < len(data) - LARGE.nbytes + 20
    assert _filled(light, spans, data) == _model()


def test_fields_are_those_of_the_library() -> None:
    model = _model()
    data = model.SerializeToString()
    found = [(number, data[first:last]) for number, _, first, last in wire.fields(data, 0, len(data))]
    assert [number for number, _ in found] == [field.number for field, _ in model.ListFields()]
    assert dict(found)[wire.MODEL_GRAPH] == model.graph.SerializeToString()


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 1 << 20, 2**31, 2**35])
def test_a_head_is_read_as_it_was_written(length: int) -> None:
    data = wire.head(wire.GRAPH_INITIALIZER, length)
    if length < 400:
        assert [last - first for _, _, first, last in wire.fields(data + bytes(length), 0, len(data) + length)] == [
            length
        ]
    else:
        with pytest.raises(ValueError, match="cut short"):
            list(wire.fields(data, 0, len(data)))


def _two_graphs(data: bytes) -> bytes:
    return data + data


def _two_of_one_name(data: bytes) -> bytes:
    model = onnx.ModelProto.FromString(data)
    model.graph.initializer.append(model.graph.initializer[0])
    return model.SerializeToString()


@pytest.mark.parametrize("change", [_two_graphs, _two_of_one_name])
def test_what_no_writer_makes_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match=r"not one graph|two initializers"):
        wire.without_weights(change(_model().SerializeToString()))


def test_changed_bytes_are_read_as_the_library_reads_them() -> None:
    data = _model().SerializeToString()
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 0x15
        try:
            light, spans = wire.without_weights(bytes(changed))
        except (ValueError, IndexError):
            continue
        try:
            whole = onnx.ModelProto.FromString(bytes(changed))
        except DecodeError:
            with pytest.raises(DecodeError):
                onnx.ModelProto.FromString(light)
        else:
            assert _filled(light, spans, bytes(changed)).SerializeToString() == whole.SerializeToString()

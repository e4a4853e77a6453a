"""ONNX files without their weights in memory: what is read and written is what the library reads and writes."""

import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from planc.compiler import protos, reference, storage
from planc.passes.fold_constants import FoldConstants

RNG = np.random.default_rng(0)
ARRAYS = {
    "float": RNG.standard_normal((40, 30), dtype=np.float32),
    "half": RNG.standard_normal((700,)).astype(np.float16),
    "brain": RNG.standard_normal((700, 2)).astype(ml_dtypes.bfloat16),
    "long": RNG.integers(-9, 9, (200, 3)),
    "bool": RNG.integers(0, 2, 2000).astype(bool),
    "small": np.arange(5, dtype=np.float32),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 7), np.float32),
    "four": RNG.integers(-8, 8, 3001).astype(ml_dtypes.int4),
}
WRITERS: dict[str, Callable[[ir.Model, Path], None]] = {
    "whole": storage.save_whole,
    "beside": storage.save,
    "named": storage.save_named_by_content,
}


def _proto() -> onnx.ModelProto:
    tensors = [ir.to_proto(ir.tensor(array, name=name)) for name, array in ARRAYS.items()]
    tensors.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a" * 600, b"b" * 600]))
    tensors.append(helper.make_tensor("typed", TensorProto.FLOAT, [400], list(range(400))))
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [40, 30])
    two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [40, 30])
    graph = helper.make_graph([helper.make_node("Add", ["x", "float"], ["y"])], "g", [one], [two], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "g.onnx"
    path.parent.mkdir()
    path.write_bytes(_proto().SerializeToString())
    return path


def _arrays(path: Path) -> dict[str, bytes]:
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return {name: repr(array.tolist()).encode() for name, array in arrays.items()}


def test_reads_all_but_the_large_weights(file: Path) -> None:
    proto, spans = protos.load_light(file)
    assert set(spans) == {"float", "half", "brain", "long", "bool", "four"}
    assert len(proto.SerializeToString()) < 5000
    data = file.read_bytes()
    for name, span in spans.items():
        assert data[span.offset : span.offset + span.length] == ir.tensor(ARRAYS[name]).tobytes()


@pytest.mark.parametrize("name", WRITERS)
def test_writes_what_it_read(name: str, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "g.onnx"
    out.parent.mkdir()
    WRITERS[name](storage.load(file), out)
    onnx.checker.check_model(str(out))
    assert _arrays(out) == _arrays(file)
    data = list(out.parent.glob("*.data"))
    assert len(data) == (name != "whole")
    again = storage.load(out)
    for key, array in ARRAYS.items():
        tensor = again.graph.initializers[key].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)
    assert reference.refusal(out) is None
    np.testing.assert_array_equal(reference.runner(out)({"x": ARRAYS["float"]})["y"], ARRAYS["float"] + ARRAYS["float"])


@pytest.mark.parametrize("name", WRITERS)
def test_writing_leaves_the_graph_as_it_was(name: str, file: Path, tmp_path: Path) -> None:
    model = storage.load(file)
    before = {key: value.const_value for key, value in model.graph.initializers.items()}
    WRITERS[name](model, tmp_path / "g.onnx")
    assert {key: value.const_value for key, value in model.graph.initializers.items()} == before


def test_weights_of_the_same_folder_stay_where_they_are(file: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    storage.save(storage.load(file), first)
    model = storage.load(first)
    model.graph.initializers["half"].const_value = ir.tensor(2 * ARRAYS["half"], name="half")
    storage.save(model, second)
    assert (tmp_path / "b.onnx.data").stat().st_size == ARRAYS["half"].nbytes
    expected = _arrays(first) | {"half": repr((2 * ARRAYS["half"]).tolist()).encode()}
    assert _arrays(second) == expected
    assert str(tmp_path).encode() not in second.read_bytes()


@pytest.mark.parametrize("name", WRITERS)
def test_weights_are_not_written_over_those_that_are_read(name: str, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    storage.save(storage.load(file), path)
    model = storage.load(path)
    model.graph.initializers["half"].const_value = ir.tensor(2 * ARRAYS["half"], name="half")
    WRITERS[name](model, path)
    expected = _arrays(file) | {"half": repr((2 * ARRAYS["half"]).tolist()).encode()}
    assert _arrays(path) == expected
    WRITERS[name](model, path)
    assert _arrays(path) == expected


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_not_written_over_while_its_weights_are_read(name: str, file: Path) -> None:
    with pytest.raises(OSError, match="read from the file that is written"):
        WRITERS[name](storage.load(file), file)
    assert _arrays(file)["float"] == repr(ARRAYS["float"].tolist()).encode()


def test_the_name_of_the_data_tells_its_content(file: Path, tmp_path: Path) -> None:
    model = storage.load(file)
    storage.save_named_by_content(model, tmp_path / "g.onnx")
    storage.save_named_by_content(model, tmp_path / "g.onnx")
    (first,) = tmp_path.glob("g.onnx.*.data")
    model.graph.initializers["bool"].const_value = ir.tensor(~ARRAYS["bool"], name="bool")
    storage.save_named_by_content(model, tmp_path / "g.onnx")
    assert len(list(tmp_path.glob("g.onnx.*.data"))) == 2
    assert first.exists()


def test_shapes_of_inner_values_can_be_dropped(tmp_path: Path) -> None:
    """Those of weights, which exporters state too, stay."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [40, 30]) for name in ("x", "y", "half", "sum")]
    nodes = [helper.make_node("Add", ["x", "half"], ["sum"]), helper.make_node("Neg", ["sum"], ["y"])]
    weight = numpy_helper.from_array(ARRAYS["float"], "half")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:2], [weight], value_info=ends[2:])
    (tmp_path / "g.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    model = storage.load(tmp_path / "g.onnx", shapes=False)
    assert model.graph.initializers["half"].shape == [40, 30]
    assert model.graph.node(0).outputs[0].shape is None
    assert model.graph.node(0).outputs[0].dtype is ir.DataType.FLOAT
    assert model.graph.outputs[0].shape == [40, 30]


def test_a_linked_file_is_read(file: Path, tmp_path: Path) -> None:
    (tmp_path / "soft.onnx").symlink_to(file)
    os.link(file, tmp_path / "hard.onnx")
    for name in ("soft.onnx", "hard.onnx"):
        tensor = storage.load(tmp_path / name).graph.initializers["float"].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), ARRAYS["float"])


def test_two_initializers_of_one_name_are_left_to_the_library(file: Path) -> None:
    proto = _proto()
    proto.graph.initializer.append(proto.graph.initializer[0])
    file.write_bytes(proto.SerializeToString())
    light, spans = protos.load_light(file)
    assert not spans
    assert light == proto


def test_a_file_cut_short_is_never_taken_for_whole(file: Path) -> None:
    data = file.read_bytes()
    for end in range(1, len(data), 97):
        file.write_bytes(data[:end])
        try:
            whole = onnx.ModelProto.FromString(data[:end])
        except DecodeError:
            with pytest.raises(DecodeError):
                protos.load_light(file)
        else:
            assert protos.load_light(file)[0] == whole


def test_external_data_in_a_function_lies_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the working folder, where another file may have its name."""
    constant = TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    constant.external_data.add(key="location", value="w.bin")
    nodes = [helper.make_node("Constant", [], ["c"], value=constant), helper.make_node("Add", ["a", "c"], ["b"])]
    function = helper.make_function("own", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("F", ["x"], ["y"], domain="own")], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model, place = (
        helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9),
        tmp_path / "model",
    )
    place.mkdir()
    (place / "g.onnx").write_bytes(model.SerializeToString())
    (place / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "w.bin").write_bytes(np.full(4, 99, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    storage.save_whole(storage.load(place / "g.onnx"), tmp_path / "o.onnx")
    made = reference.runner(tmp_path / "o.onnx")({"x": np.zeros(4, np.float32)})["y"]
    np.testing.assert_array_equal(made, np.arange(4))


@pytest.mark.parametrize("name", WRITERS)
def test_external_data_in_an_operator_of_somebody_else_is_taken_along(name: str, tmp_path: Path) -> None:
    tensors = [TensorProto(name=name, data_type=1, dims=[4], data_location=1) for name in ("v", "w")]
    for at, tensor in enumerate(tensors):
        for key, value in (("location", "w.bin"), ("offset", 16 * at), ("length", 16)):
            tensor.external_data.add(key=key, value=str(value))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    node = helper.make_node("Table", ["x"], ["y"], domain="own", rows=tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=opsets, ir_version=9)
    place = tmp_path / "model"
    place.mkdir()
    (place / "g.onnx").write_bytes(model.SerializeToString())
    (place / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    WRITERS[name](storage.load(place / "g.onnx"), tmp_path / "o.onnx")
    (made,) = onnx.load(tmp_path / "o.onnx").graph.node[0].attribute
    assert [tensor.name for tensor in made.tensors] == ["v", "w"]
    np.testing.assert_array_equal([numpy_helper.to_array(one) for one in made.tensors], np.arange(8).reshape(2, 4))


def test_a_file_that_a_turned_weight_is_read_from_is_not_written(
    onnx_file: Callable[..., Path], tmp_path: Path
) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[n,200] x) => (float[n,100] y) { a = Transpose(w) y = MatMul(x, a) }"""
    path = onnx_file(tmp_path / "g.onnx", text, w=np.ones((100, 200), np.float32))
    model, before = storage.load(path), path.read_bytes()
    FoldConstants()(model)
    for write in (storage.save, storage.save_whole, storage.save_named_by_content):
        with pytest.raises(OSError, match="weights are read from the file that is written"):
            write(model, path)
    assert path.read_bytes() == before

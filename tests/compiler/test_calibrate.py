"""Calibration of a graph: what is measured, which table fits it, and how bad data is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.calibration import METHODS
from planc.compiler import calibrate
from planc.compiler.errors import BuildFailed, UsageError
from planc.compiler.recipe import Calibration
from planc.compiler.shapes import TensorSpec, parse_dim

SPECS = (TensorSpec("x", "float32", ("batch", 3, 8, 8)),)
DIMS = (parse_dim("batch=1..4@2"),)


@pytest.fixture
def graph(workshop: Path) -> Path:
    return workshop / "conv.onnx"


@pytest.fixture
def images(tmp_path: Path) -> str:
    path = tmp_path / "images.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((5, 3, 8, 8), dtype=np.float32))
    return str(path)


def _measure(graph: Path, notes: list[str] | None = None, specs: Any = SPECS, **words: Any) -> Any:
    def emit(_kind: str, value: Any) -> None:
        if notes is not None:
            notes.append(value)

    return calibrate.measure(graph, Calibration(**words), specs, DIMS, emit=emit)


def test_real_data_is_measured_and_samples_for_the_largest_batch_kept(graph: Path, images: str) -> None:
    table, first = _measure(graph, data=images)
    assert (table.samples, table.source, table.method) == (5, "images.npz", "mse")
    assert len(table.source_digest) == len(table.model_digest) == 64
    array = np.load(images)["x"]
    assert np.array_equal(np.concatenate([one["x"] for one in first]), array[: DIMS[0].max])
    assert table.tensors["x"].min == pytest.approx(float(array.min()))
    assert table.tensors["x"].max == pytest.approx(float(array.max()))
    assert table.tensors["x"].count == array.size


@pytest.mark.parametrize("method", METHODS)
def test_parts_of_the_data_merge_to_the_bytes_of_one_run(
    method: str, onnx_file: Callable[..., Path], images: str, tmp_path: Path
) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[batch,3,8,8] x) => (float[batch,3,8,4] y) {
        r = Relu(x) y = MatMul(r, w)
    }"""
    path = onnx_file(tmp_path / "m.onnx", text, w=np.ones((8, 4), np.float32))
    wanted = Calibration(images, method=method)
    whole, first = _measure(path, data=images, method=method)
    merged, *others = [
        calibrate.gather(path, wanted, SPECS, DIMS, part=(index, 3), emit=lambda *_: None) for index in (2, 0, 1)
    ]
    for one in others:
        merged.merge(one)
    made, again = calibrate.measure(path, wanted, SPECS, DIMS, merged=merged, emit=lambda *_: None)
    for name, one in (("whole", whole), ("made", made)):
        one.save(tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "made").read_bytes()
    assert whole.samples == 5
    assert whole.channels
    assert np.array_equal([one["x"] for one in first], [one["x"] for one in again])


def test_fewer_samples_are_the_first_ones(graph: Path, images: str) -> None:
    table, _ = _measure(graph, data=images, samples=2)
    assert table.samples == 2
    assert table.tensors["x"].max == pytest.approx(float(np.load(images)["x"][:2].max()))


def test_labels_beside_the_inputs_are_left_out(graph: Path, images: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "labelled.npz", x=np.load(images)["x"], labels=np.arange(5))
    table, _ = _measure(graph, data=str(tmp_path / "labelled.npz"))
    assert table.tensors == _measure(graph, data=images)[0].tensors


def test_the_same_data_in_another_form_gives_the_same_table(graph: Path, images: str, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(
        f"import numpy as np\ndef rows():\n    for row in np.load({images!r})['x']:\n        yield {{'x': row[None]}}\n"
    )
    one, other = _measure(graph, data=images)[0], _measure(graph, data=f"{tmp_path}/data.py:rows")[0]
    assert one.tensors == other.tensors
    assert one.source_digest == other.source_digest


def test_random_data_is_only_for_those_who_ask(graph: Path) -> None:
    with pytest.raises(UsageError, match="INT8 needs calibration data"):
        _measure(graph)
    notes: list[str] = []
    table, first = _measure(graph, notes, random=True)
    assert (table.source, table.source_digest, table.samples, first) == ("random", "", 16, ())
    assert any("random data" in note for note in notes)


def test_rows_that_fill_no_batch_are_told(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[2,3] x) => (float[2,3] y) { y = MatMul(x, w) }'
    path = onnx_file(tmp_path / "m.onnx", text, w=np.eye(3, dtype=np.float32))
    np.savez(tmp_path / "c.npz", x=np.ones((5, 3), np.float32))
    notes: list[str] = []
    specs = (TensorSpec("x", "float32", (2, 3)),)
    table, _ = _measure(path, notes, specs, data=str(tmp_path / "c.npz"))
    assert table.samples == 2
    assert "1 rows do not fill a batch of the model and were left out" in notes


class TestRanges:
    def test_a_table_of_the_graph_is_taken(self, graph: Path, images: str, tmp_path: Path) -> None:
        made, _ = _measure(graph, data=images)
        made.save(tmp_path / "ranges.json")
        assert _measure(graph, table=tmp_path / "ranges.json") == (made, ())

    def test_a_table_of_other_weights_is_refused(self, graph: Path, images: str, tmp_path: Path) -> None:
        import onnx

        _measure(graph, data=images)[0].save(tmp_path / "ranges.json")
        model, other = onnx.load(graph), tmp_path / "other.onnx"
        head = next(one for one in model.graph.initializer if one.name == "head")
        head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head) * 2, "head"))
        onnx.save(model, other)
        with pytest.raises(UsageError, match=r"--ranges .*ranges\.json was made for another graph") as caught:
            _measure(other, table=tmp_path / "ranges.json")
        assert "planc calibrate" in caught.value.hint

    def test_external_weights_count(self, graph: Path, tmp_path: Path) -> None:
        import onnx

        digests = set()
        for byte in (0, 1):
            model = onnx.load(graph)
            onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
            data = bytearray((tmp_path / "m.onnx.data").read_bytes())
            data[0] ^= byte
            (tmp_path / "m.onnx.data").write_bytes(data)
            digests.add(calibrate.graph_digest(tmp_path / "m.onnx"))
            (tmp_path / "m.onnx.data").unlink()
        assert len(digests) == 2

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 99}', '{"schema_version": 1}'])
    def test_another_file_is_refused(self, text: str, graph: Path, tmp_path: Path) -> None:
        (tmp_path / "ranges.json").write_text(text)
        with pytest.raises(UsageError, match=r"--ranges .*ranges\.json"):
            _measure(graph, table=tmp_path / "ranges.json")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": np.zeros((2, 3, 8, 8), np.float32)}, "input 'x' is missing"),
        ({"x": np.zeros((2, 3, 8, 8)), "y": np.zeros(2)}, "'y' is not an input"),
        ({"x": np.zeros((2, 3, 8, 9), np.float32)}, r"input 'x' has the shape \[2, 3, 8, 9\]"),
        ({"x": np.full((2, 3, 8, 8), "a")}, "input 'x' is <U1; wanted float32"),
        ({"x": np.full((2, 3, 8, 8), np.nan, np.float32)}, "input 'x' has values that are NaN"),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, "no samples"),
    ],
)
def test_data_that_does_not_fit_is_one_line(arrays: Any, words: str, graph: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(UsageError, match=f"--calibration: .*c\\.npz.*{words}") as caught:
        _measure(graph, data=str(tmp_path / "c.npz"))
    assert "\n" not in caught.value.what


def test_what_a_function_is_to_yield_is_told(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("def rows():\n    yield {'image': [1]}\n")
    with pytest.raises(UsageError, match="input 'x' is missing") as caught:
        _measure(graph, data=f"{tmp_path / 'data.py'}:rows")
    assert caught.value.hint == 'Let it yield {"x": float32 array}'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("yield {'x': np.zeros((1, 3, 8, 8), np.float32)}\n    1 / 0", r"raised ZeroDivisionError: .* at data\.py:4"),
        ("raise ValueError('my own')\n    yield", r"data\.py:rows raised ValueError: my own at data\.py:3"),
        ("open('no such file')\n    yield", r"raised FileNotFoundError: .* at data\.py:3"),
        ("yield [1]", "item 0 of the calibration data is list, not a dict"),
        ("return 7", "the calibration data is int"),
        ("yield {'x': [[1], [1, 2]]}", "raised ValueError"),
    ],
)
def test_what_the_users_function_does_wrong_is_told(body: str, words: str, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(f"import numpy as np\ndef rows():\n    {body}\n")
    with pytest.raises(UsageError, match=words):
        _measure(graph, data=f"{tmp_path}/data.py:rows")


def test_nan_inside_the_graph_is_named(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[n,3] x) => (float[n,3] y) <float[n,3] root> {
        root = Sqrt(x) y = MatMul(root, w)
    }"""
    path = onnx_file(tmp_path / "m.onnx", text, w=np.eye(3, dtype=np.float32))
    np.savez(tmp_path / "c.npz", x=-np.ones((1, 3), np.float32))
    made, _ = _measure(path, specs=(TensorSpec("x", "float32", ("n", 3)),), data=str(tmp_path / "c.npz"))
    with pytest.raises(UsageError, match="'root' is NaN or infinite in 3 of 3 elements on the calibration data"):
        calibrate.require_finite(path, made)


def test_a_sample_that_the_graph_cannot_run_is_named(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (int64[n,3] ids) => (float[n,3,3] y) {
        rows = Gather(table, ids) y = MatMul(rows, w)
    }"""
    path = onnx_file(tmp_path / "m.onnx", text, table=np.eye(7, 3, dtype=np.float32), w=np.eye(3, dtype=np.float32))
    ids = np.zeros((9, 3), np.int64)
    ids[4, 1] = 7
    np.savez(tmp_path / "c.npz", ids=ids)
    with pytest.raises(UsageError, match=r"--calibration .*c\.npz, sample 4: the model cannot run on it: .*idx=7"):
        _measure(path, specs=(TensorSpec("ids", "int64", ("n", 3)),), data=str(tmp_path / "c.npz"))


def test_a_graph_that_cannot_run_is_a_failed_build(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[n,3] x) => (float[n,3] y) {
        shape = Constant<value_ints=[7,3]>() wide = Reshape(x, shape) y = MatMul(wide, w)
    }"""
    path = onnx_file(tmp_path / "m.onnx", text, w=np.eye(3, dtype=np.float32))
    with pytest.raises(BuildFailed, match="ONNX Runtime cannot run the graph on sample 0"):
        _measure(path, specs=(TensorSpec("x", "float32", ("batch", 3)),), random=True)


def test_what_surprises_of_the_data_is_told(graph: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "raw.npz", x=np.random.default_rng(0).integers(0, 255, (5, 3, 8, 8)).astype(np.uint8))
    notes: list[str] = []
    _measure(graph, notes, data=str(tmp_path / "raw.npz"), samples=9)
    assert any("input 'x' is uint8 and was taken as float32" in note for note in notes)
    assert any("has 5 of the 9 samples asked for" in note for note in notes)
    notes.clear()
    np.savez(tmp_path / "wide.npz", x=np.ones((5, 3, 8, 8)))
    _measure(graph, notes, data=str(tmp_path / "wide.npz"), samples=5)
    assert notes == ["calibrate"]

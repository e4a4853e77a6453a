"""Calibration of real graphs on real data: what is watched, what is refused, what memory it takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.calibration.table import RangeTable, load
from planc.compiler import calibrate
from planc.compiler.errors import UsageError
from planc.compiler.recipe import Calibration
from planc.compiler.shapes import Dim, TensorSpec

MLP = """<ir_version: 8, opset_import: ["": 18]> g (float[n,4] x) => (float[n,3] y) <float[n,6] m, float[n,6] r> {
  m = MatMul(x, w)
  r = Relu(m)
  y = MatMul(r, v)
}"""
SPECS = (TensorSpec("x", "float32", ("n", 4)),)
DIMS = (Dim("n", (1, 8), 1),)
NOTES: list[tuple[str, Any]] = []


def _weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((4, 6), np.float32), "v": rng.standard_normal((6, 3), np.float32)}


@pytest.fixture
def mlp(onnx_file: Callable[..., Path], tmp_path: Path) -> Path:
    return onnx_file(tmp_path / "mlp.onnx", MLP, **_weights())


def _data(folder: Path, count: int = 5) -> tuple[str, np.ndarray]:
    array = np.random.default_rng(1).standard_normal((count, 4), np.float32)
    np.savez(folder / "x.npz", x=array)
    return str(folder / "x.npz"), array


def _measure(graph: Path, wanted: Calibration, **options: bool) -> tuple[RangeTable, dict[str, np.ndarray] | None]:
    return calibrate.measure(graph, wanted, SPECS, DIMS, emit=lambda *event: NOTES.append(event), **options)


def test_the_table_has_what_products_read(mlp: Path, tmp_path: Path) -> None:
    name, array = _data(tmp_path)
    table, first = _measure(mlp, Calibration(data=name))
    assert first is not None
    np.testing.assert_array_equal(first["x"], array[:1])
    hidden = np.maximum(array @ _weights()["w"], 0)
    assert (table.samples, table.source) == (5, "x.npz")
    assert table.tensors["x"].min == pytest.approx(array.min())
    assert table.tensors["r"].max == pytest.approx(hidden.max())
    assert table.tensors["x"].affine_choice.method == "minmax", "what a MatMul multiplies is never clipped"
    np.testing.assert_allclose(table.channels["r"].high, hidden.max(axis=0), rtol=1e-6)


def test_everything_is_watched_for_16_bits(mlp: Path, tmp_path: Path) -> None:
    table, _ = _measure(mlp, Calibration(data=_data(tmp_path)[0]), everything=True)
    assert table.tensors.keys() >= {"m", "r", "y"}


def test_the_first_samples_only(mlp: Path, tmp_path: Path) -> None:
    assert _measure(mlp, Calibration(data=_data(tmp_path)[0], samples=2))[0].samples == 2


def test_a_table_fits_its_own_weights_only(mlp: Path, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    table, _ = _measure(mlp, Calibration(data=_data(tmp_path)[0]))
    table.save(tmp_path / "ranges.json")
    again, first = _measure(mlp, Calibration(table=tmp_path / "ranges.json"))
    assert again == table == load(tmp_path / "ranges.json")
    assert first is None
    renamed = mlp.rename(tmp_path / "other-name.onnx")
    assert _measure(renamed, Calibration(table=tmp_path / "ranges.json"))[0] == table
    trained = onnx_file(tmp_path / "trained.onnx", MLP, **_weights(seed=1))
    with pytest.raises(UsageError, match="made for another graph"):
        _measure(trained, Calibration(table=tmp_path / "ranges.json"))


def test_no_data_is_an_error_unless_random_data_is_allowed(mlp: Path) -> None:
    with pytest.raises(UsageError, match="needs calibration data") as caught:
        _measure(mlp, Calibration())
    assert "--calibration" in caught.value.hint
    table, first = _measure(mlp, Calibration(random=True, samples=3))
    assert (table.source, table.source_digest, table.samples) == ("random", "", 3)
    assert first is None
    assert any(kind == "note" and "random" in text for kind, text in NOTES)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"z": np.zeros((2, 4), np.float32)}, "given are z"),
        ({"x": np.zeros((2, 5), np.float32)}, "5"),
        ({"x": np.zeros((0, 4), np.float32)}, "no samples"),
        ({"x": np.full((2, 4), np.nan, np.float32)}, "NaN"),
        ({"x": np.array([["a"] * 4])}, "x"),
    ],
)
def test_data_that_does_not_fit(arrays: dict[str, np.ndarray], reason: str, mlp: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UsageError, match="--calibration") as caught:
        _measure(mlp, Calibration(data=str(tmp_path / "bad.npz")))
    assert "bad.npz" in caught.value.what
    assert reason in caught.value.what


def test_a_callable_yields_samples_and_its_errors_name_its_line(mlp: Path, tmp_path: Path) -> None:
    (tmp_path / "calib_data.py").write_text(
        "import numpy as np\n"
        "def good():\n    yield {'x': np.ones((1, 4), np.float32)}\n"
        "def bad():\n    yield {'x': np.ones((1, 4), np.float32)}\n    raise RuntimeError('no more')\n"
    )
    table, _ = _measure(mlp, Calibration(data=f"{tmp_path / 'calib_data.py'}:good"))
    assert table.samples == 1
    with pytest.raises(UsageError, match=r"raised RuntimeError: no more at calib_data.py:6"):
        _measure(mlp, Calibration(data=f"{tmp_path / 'calib_data.py'}:bad"))


def test_a_tensor_that_is_not_finite_is_named(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = MLP.replace("r = Relu(m)", "r = Log(m)")
    graph = onnx_file(tmp_path / "log.onnx", text, **_weights())
    with pytest.raises(UsageError, match=r"'r' is NaN or infinite in \d+ of 30 elements"):
        _measure(graph, Calibration(data=_data(tmp_path)[0]))

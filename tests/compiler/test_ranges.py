"""The calibration table of a graph: what is watched, and which graph it fits."""

from collections.abc import Callable, Mapping, Sequence
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


def _measure(
    graph: Path, wanted: Calibration, **options: bool
) -> tuple[RangeTable, Sequence[Mapping[str, np.ndarray]]]:
    return calibrate.measure(graph, wanted, SPECS, DIMS, emit=lambda *event: NOTES.append(event), **options)


def test_the_table_has_what_products_read(mlp: Path, tmp_path: Path) -> None:
    name, array = _data(tmp_path)
    table, first = _measure(mlp, Calibration(data=name))
    np.testing.assert_array_equal(np.concatenate([one["x"] for one in first]), array[: DIMS[0].max])
    hidden = np.maximum(array @ _weights()["w"], 0)
    assert (table.samples, table.source) == (5, "x.npz")
    assert table.tensors["x"].min == pytest.approx(array.min())
    assert table.tensors["r"].max == pytest.approx(hidden.max())
    assert table.tensors["x"].affine_choice.method == "minmax", "what a MatMul multiplies is never clipped"
    np.testing.assert_allclose(table.channels["r"].high, hidden.max(axis=0), rtol=1e-6)


def test_everything_is_watched_for_16_bits(mlp: Path, tmp_path: Path) -> None:
    table, _ = _measure(mlp, Calibration(data=_data(tmp_path)[0]), everything=True)
    assert table.tensors.keys() >= {"m", "r", "y"}


def test_a_table_fits_its_own_weights_only(mlp: Path, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    table, _ = _measure(mlp, Calibration(data=_data(tmp_path)[0]))
    table.save(tmp_path / "ranges.json")
    again, first = _measure(mlp, Calibration(table=tmp_path / "ranges.json"))
    assert again == table == load(tmp_path / "ranges.json")
    assert not first
    renamed = mlp.rename(tmp_path / "other-name.onnx")
    assert _measure(renamed, Calibration(table=tmp_path / "ranges.json"))[0] == table
    trained = onnx_file(tmp_path / "trained.onnx", MLP, **_weights(seed=1))
    with pytest.raises(UsageError, match="made for another graph"):
        _measure(trained, Calibration(table=tmp_path / "ranges.json"))

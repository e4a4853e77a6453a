"""Golden data."""

from pathlib import Path

import numpy as np
import pytest

from planc.compiler import golden
from planc.compiler.errors import UsageError
from planc.compiler.golden import Golden
from planc.compiler.shapes import Point, TensorSpec, parse_input

POINT = Point("opt", {"batch": 4, "seq": 100})


def _one(label: str, **outputs: np.ndarray) -> Golden:
    return Golden(label, {"x": np.ones(3, np.float32)}, outputs)


def test_draw_gives_the_asked_dtypes_and_shapes_every_time_the_same() -> None:
    specs = [parse_input(f"{dtype}_={dtype}[batch,seq]") for dtype in ("float32", "float16", "int64", "uint8", "bool")]
    first, second = golden.draw(specs, POINT), golden.draw(specs, POINT)
    for spec in specs:
        assert first[spec.name].dtype == spec.dtype
        assert first[spec.name].shape == (4, 100)
        np.testing.assert_array_equal(first[spec.name], second[spec.name])
    assert set(np.unique(first["int64_"])) == {0, 1}
    assert abs(float(first["float32_"].std()) - 1) < 0.2


def test_draw_stays_within_bounds_and_reaches_both_ends() -> None:
    arrays = golden.draw([parse_input("ids=int64[batch,seq]:3..5"), parse_input("x=float32[batch,seq]:-2..-1")], POINT)
    assert set(np.unique(arrays["ids"])) == {3, 4, 5}
    assert -2 <= arrays["x"].min() < arrays["x"].max() <= -1


def test_check_refuses_nan() -> None:
    golden.check(_one("opt", y=np.array([1.0, np.inf]), n=np.array([1, 2])))
    with pytest.raises(UsageError, match=r"'y' is NaN in 50\.0% of its elements at opt"):
        golden.check(_one("opt", y=np.array([1.0, np.nan])))


def test_goldens_come_back_opt_first(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    golden.save(path, [_one("min", **{"a/b": np.zeros(2)}), _one("opt", **{"a/b": np.ones(2)})])
    back = golden.load(path)
    assert [one.label for one in back] == ["opt", "min"]
    np.testing.assert_array_equal(back[0].outputs["a/b"], np.ones(2))
    np.testing.assert_array_equal(back[0].inputs["x"], np.ones(3, np.float32))


def test_within_keeps_the_first_and_what_fits() -> None:
    goldens = [_one("opt", y=np.zeros(100)), _one("max", y=np.zeros(1000)), _one("min", y=np.zeros(10))]
    assert goldens[0].nbytes == 812
    assert [one.label for one in golden.within(goldens, 1000)] == ["opt", "min"]
    assert [one.label for one in golden.within(goldens, 1)] == ["opt"]
    assert len(golden.within(goldens, 1 << 20)) == 3


def test_resized_repeats_and_cuts() -> None:
    specs = (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("m", "int64", ("seq", "batch")))
    arrays = {"x": np.arange(4, dtype=np.float32).reshape(2, 2), "m": np.arange(6).reshape(3, 2)}
    made = golden.resized(arrays, specs, {"batch": 3, "seq": 1})
    assert made["x"].tolist() == [[0, 1], [2, 3], [0, 1]]
    assert made["m"].tolist() == [[0, 1, 0]]

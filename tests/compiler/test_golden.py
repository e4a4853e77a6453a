"""Golden data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import golden, shapes
from planc.compiler.errors import UsageError
from planc.compiler.golden import Golden
from planc.compiler.shapes import Dim, Point, TensorSpec, parse_dim, parse_input

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


class TestOfSamples:
    """Real samples fill a batch, each in rows of its own."""

    SPECS = (TensorSpec("x", "float32", ("batch", "seq")), TensorSpec("scale", "float32", (1,)))
    DIMS = (parse_dim("batch=1..5@2"), parse_dim("seq=2..3@2"))
    SAMPLES = tuple(
        {"x": np.full((rows, length), value, np.float32), "scale": np.full(1, value, np.float32)}
        for rows, length, value in ((1, 2, 1), (2, 4, 2), (1, 1, 3))
    )

    def _made(self, samples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Golden]:
        return {
            one.label: one
            for one in golden.of_samples(lambda inputs: {"y": inputs["x"] + 1}, samples, self.SPECS, self.DIMS)
        }

    def test_rows_differ_as_long_as_there_are_samples(self) -> None:
        made = self._made(self.SAMPLES)
        assert made["opt"].inputs["x"].tolist() == [[1, 1], [2, 2]]
        assert made["min"].inputs["x"].tolist() == [[1, 1]]
        assert made["max"].inputs["x"].tolist() == [[value] * 3 for value in (1, 2, 2, 3, 1)]
        assert made["max"].outputs["y"].tolist() == [[value] * 3 for value in (2, 3, 3, 4, 2)]
        assert made["max"].inputs["scale"].tolist() == [1]

    def test_only_those_that_fill_the_largest_batch_are_asked_for(self) -> None:
        taken = golden.first(iter(self.SAMPLES * 3), self.SPECS, self.DIMS)
        assert [int(one["scale"][0]) for one in taken] == [1, 2, 3, 1]
        assert len(golden.first(iter(self.SAMPLES), self.SPECS, ())) == 1

    def test_an_axis_given_twice_joins_nothing(self) -> None:
        specs = (TensorSpec("x", "float32", ("n", "n")),)
        made = golden.of_samples(dict, [{"x": np.eye(2)}, {"x": np.ones((3, 3))}], specs, (parse_dim("n=3"),))
        assert made[0].inputs["x"].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_a_drawn_mask_hides_no_row() -> None:
    """Runtimes differ in the attention of a row that hides everything."""
    specs = [parse_input("mask=int64[batch,seq]"), parse_input("flag=bool[batch,seq]"), parse_input("one=int64[]")]
    drawn = golden.draw(specs, Point("opt", {"batch": 200, "seq": 3}))
    for name in ("mask", "flag"):
        assert drawn[name].any(1).all()
        assert not drawn[name].all()


def test_real_inputs_are_used_where_they_fit(tmp_path: Path) -> None:
    specs, dims = (TensorSpec("x", "float32", ("n", 2)),), (Dim("n", (1, 2, 4), 2),)
    real = {"x": np.full((2, 2), 7, np.float32)}
    np.savez(tmp_path / "x.npz", **real)
    made = golden.at_points(shapes.points(dims), specs, real, lambda inputs, _: {"y": inputs["x"]})
    assert [one.label for one in made] == ["opt", "min", "max"]
    assert (made[0].inputs["x"] == 7).all()
    assert [len(one.inputs["x"]) for one in made] == [2, 1, 4]
    assert golden.others_than(tmp_path / "x.npz", made) == ["min", "max"]

"""The table: shards give the bytes of one run, what is saved is loaded, what is wrong is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planc.calibration import METHODS, observers
from planc.calibration.observers import Observer
from planc.calibration.table import Choice, RangeTable, TensorRange, load, table

KINDS = ("relu", "normal", "silu", "outlier")
OF = {"source": "calib.npz", "source_digest": "12ab", "model_digest": "34cd"}


def observed(draw, seeds) -> dict[str, Observer]:
    found = {kind: Observer() for kind in KINDS}
    for seed in seeds:
        for kind in KINDS:
            found[kind].update(draw(kind, seed=seed, size=3000 + 500 * seed))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_two_shards_give_the_bytes_of_one_run(method: str, draw, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    table(observed(draw, range(6)), method, **OF).save(one)
    for name, seeds in (("a", (4, 0)), ("b", (1, 5, 3, 2))):
        observers.save(tmp_path / f"{name}.npz", observed(draw, seeds))
    merged, other = (observers.load(tmp_path / f"{name}.npz") for name in "ba")
    for kind in KINDS:
        merged[kind].merge(other[kind])
    table(merged, method, **OF).save(two)
    assert one.read_bytes() == two.read_bytes()
    assert load(one) == table(merged, method, **OF)


def test_the_document(draw, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    table(observed(draw, [0]), "least-error", **OF).save(path)
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["schema_version"] == 1
    assert content["samples"] == 1
    assert list(content["tensors"]) == sorted(KINDS)
    relu = content["tensors"]["relu"]
    assert set(relu) == {
        "count", "non_finite", "min", "max", "affine", "symmetric", "affine_choice", "symmetric_choice",
    }  # fmt: skip
    assert relu["affine"][0] == relu["min"] == 0
    assert np.float32(relu["max"]) == draw("relu", size=3000).max()
    assert relu["affine_choice"]["method"] in METHODS


def test_zeros_have_an_empty_range_and_no_error(tmp_path: Path) -> None:
    zeros = Observer()
    zeros.update(np.zeros(9, np.float32))
    made = table({"zeros": zeros}, "mse", **OF)
    exact = Choice("mse", None, 0.0)
    assert made.tensors["zeros"] == TensorRange(9, 0, 0, 0, (0, 0), 0, exact, exact)
    made.save(tmp_path / "ranges.json")
    assert "-0.0" not in (tmp_path / "ranges.json").read_text()


def test_values_that_are_not_finite_are_named() -> None:
    mask = Observer()
    mask.update(np.float32([0, -np.inf, np.nan]))
    made = table({"mask": mask}, "minmax", **OF)
    assert made.non_finite == {"mask": 2}
    assert made.tensors["mask"].affine == (0, 0)


def test_the_percentile_is_passed_on(draw) -> None:
    seen = observed(draw, [0])
    assert table(seen, "percentile", **OF, percentile=100.0).tensors == {
        name: replace(
            one,
            affine_choice=replace(one.affine_choice, method="percentile"),
            symmetric_choice=replace(one.symmetric_choice, method="percentile"),
        )
        for name, one in table(seen, "minmax", **OF).tensors.items()
    }


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("kl", {}, "no calibration method 'kl': there are minmax"),
        ("mse", {"percentile": 99.0}, "percentile 99 with the method 'mse'"),
        ("percentile", {"percentile": 101.0}, "percentile 101"),
        ("minmax", {}, "tensor 'x' was never observed"),
    ],
)
def test_what_cannot_be_made(method: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        table({"x": Observer()}, method, **OF, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("schema_version"), "it has no schema_version"),
        (lambda content: content.update(schema_version=9), "schema_version 9; this planc reads 1"),
        (lambda content: content.pop("method"), "method is missing"),
        (lambda content: content.update(samples="8"), "samples is wrong: '8'"),
        (lambda content: content.update(samples=-8), "samples is negative"),
        (lambda content: content.update(tensors=[]), "tensors is wrong"),
        (lambda content: content["tensors"].update(relu=3), "tensor 'relu': affine is missing"),
        (lambda content: content["tensors"]["relu"].pop("symmetric"), "tensor 'relu': symmetric is missing"),
        (lambda content: content["tensors"]["relu"].update(symmetric=-1), "'relu': the symmetric range -1 is negative"),
        (lambda content: content["tensors"]["relu"].update(symmetric=float("nan")), "symmetric is not a finite number"),
        (lambda content: content["tensors"]["relu"].update(symmetric=True), "symmetric is wrong: True"),
        (lambda content: content["tensors"]["relu"].update(affine=[2, 1]), r"affine range \[2, 1\] does not have zero"),
        (lambda content: content["tensors"]["relu"].update(affine=[1]), r"affine is not \[low, high\]"),
        (lambda content: content["tensors"]["relu"].update(affine=[0, 1e999]), "affine is not a finite number: inf"),
        (lambda content: content["tensors"]["relu"].update(min=7.0, max=2.0), "min 7 is greater than max 2"),
        (lambda content: content["tensors"]["relu"]["affine_choice"].update(sqnr_db="x"), "affine_choice.sqnr_db is"),
    ],
)
def test_a_wrong_table_is_refused(change, words: str, draw, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    table(observed(draw, [0]), "minmax", **OF).save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    for text, words in ((b"{", "not JSON"), (b"\xff", "not JSON"), (b"[]", "not a calibration table")):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=words):
            load(path)


def test_a_number_that_json_lacks_is_never_written(tmp_path: Path) -> None:
    bad = TensorRange(1, 0, 0, 0, (0, float("inf")), 0, Choice("minmax", None, 0), Choice("minmax", None, 0))
    with pytest.raises(ValueError, match="JSON"):
        RangeTable("minmax", 1, "random", "", "", {"x": bad}).save(tmp_path / "ranges.json")
    assert not (tmp_path / "ranges.json").exists()

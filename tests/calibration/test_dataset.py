"""Calibration data: feeds have the shape and the dtype that the model wants, and what does not fit is named."""

import pickle
import re
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.calibration.dataset import Tally, feeds, random
from planc.compiler.shapes import TensorSpec

X = TensorSpec("x", "float32", ("batch", 3, 4))
FIXED = TensorSpec("x", "float32", (2, 3))
IDS = TensorSpec("ids", "int64", ("batch", "seq"))
MASK = TensorSpec("mask", "int64", ("batch", "seq"))


def rows(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def shapes(found: list) -> list[tuple[int, ...]]:
    return [feed["x"].shape for feed in found]


def test_a_row_is_fed_as_a_batch_of_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=rows(5, 3, 4))
    found = list(feeds(tmp_path / "c.npz", [X]))
    assert shapes(found) == [(1, 3, 4)] * 5
    assert np.array_equal(np.concatenate([feed["x"] for feed in found]), rows(5, 3, 4))


def test_a_fixed_batch_takes_as_many_rows_and_tells_the_remainder() -> None:
    tally = Tally()
    assert shapes(list(feeds([{"x": rows(5, 3)}], [FIXED], tally=tally))) == [(2, 3), (2, 3)]
    assert (tally.samples, tally.dropped) == (2, 1)
    with pytest.raises(ValueError, match="no samples: 1 rows do not fill one batch"):
        list(feeds([{"x": rows(1, 3)}], [FIXED]))


def test_an_array_of_one_rank_more_holds_whole_feeds() -> None:
    assert shapes(list(feeds([{"x": rows(4, 2, 3)}], [FIXED]))) == [(2, 3)] * 4
    assert shapes(list(feeds([{"x": rows(4, 7, 3, 4)}], [X]))) == [(7, 3, 4)] * 4


def test_a_scalar_input() -> None:
    scale = TensorSpec("x", "float32", ())
    assert shapes(list(feeds([{"x": 3.0}], [scale]))) == [()]
    assert shapes(list(feeds([{"x": rows(3)}], [scale]))) == [()] * 3


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        np.save(tmp_path / f"s{number}.npy", np.full((1, 3, 4), number, np.float32))
    np.savez(tmp_path / "s2.npz", x=np.full((2, 3, 4), 2, np.float32))
    (tmp_path / "notes.txt").write_text("no data")
    found = list(feeds(tmp_path, [X]))
    assert [int(feed["x"][0, 0, 0]) for feed in found] == [1, 2, 2, 9, 10]


def test_a_folder_is_read_only_as_far_as_needed(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", x=rows(2, 3, 4))
    (tmp_path / "2.npz").write_text("broken")
    assert len(list(feeds(tmp_path, [X], samples=2))) == 2
    with pytest.raises(ValueError, match=r"2\.npz: not an \.npz of numbers"):
        list(feeds(tmp_path, [X]))


def test_texts_may_differ_in_length(tmp_path: Path) -> None:
    for length in (5, 9):
        np.savez(tmp_path / f"{length}.npz", ids=np.ones((2, length), int), mask=np.ones((2, length), np.int32))
    found = list(feeds(tmp_path, [IDS, MASK]))
    assert [feed["ids"].shape for feed in found] == [(1, 5), (1, 5), (1, 9), (1, 9)]
    assert all(feed["mask"].dtype == np.int64 for feed in found)


def test_python_gives_dicts() -> None:
    def data():
        for number in range(3):
            yield {"x": [[[number] * 4] * 3]}

    assert shapes(list(feeds(data, [X]))) == shapes(list(feeds(data(), [X]))) == [(1, 3, 4)] * 3
    assert len(list(feeds(data, [X], samples=2))) == 2


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(3, 3, 4))
    np.savez_compressed(tmp_path / "b.npz", x=rows(3, 3, 4).astype(np.float64))
    (tmp_path / "folder").mkdir()
    for index, row in enumerate(rows(3, 3, 4)):
        np.save(tmp_path / "folder" / f"{index}.npy", row[None])

    def digest(source, samples=None) -> str:
        tally = Tally()
        list(feeds(source, [X], tally=tally, samples=samples))
        return tally.digest()

    assert digest(tmp_path / "a.npz") == digest(tmp_path / "b.npz") == digest(tmp_path / "folder")
    assert digest(tmp_path / "a.npz") != digest(tmp_path / "a.npz", samples=2)
    assert digest([{"x": rows(3, 3, 4) + 1}]) != digest(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        ("float32", np.float64([1 / 3])), ("float32", np.float16([0.5])), ("float16", np.float32([0.1])),
        ("int64", np.int32([-3])), ("int32", np.int64([2**31 - 1])), ("uint8", np.int64([255])),
        ("float32", np.uint8([200])), ("bool", np.int64([0])), ("int64", np.array([True])),
    ],
)  # fmt: skip
def test_dtypes_that_lose_nothing_are_cast(dtype: str, given: np.ndarray) -> None:
    (feed,) = feeds([{"x": given}], [TensorSpec("x", dtype, ("n",))])
    assert feed["x"].dtype == dtype
    assert feed["x"] == given.astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "given", "words"),
    [
        ("int64", np.float32([1]), "is float32; wanted int64"),
        ("int32", np.int64([2**31]), "values that int32 cannot hold"),
        ("uint8", np.int8([-1]), "values that uint8 cannot hold"),
        ("int64", np.uint64([2**63]), "values that int64 cannot hold"),
        ("float32", np.int64([2**24 + 1]), "values that float32 cannot hold"),
        ("float32", np.int64([2**63 - 1]), "values that float32 cannot hold"),
        ("float16", np.float32([1e6]), "values that float16 cannot hold"),
        ("bool", np.int64([2]), "values that bool cannot hold"),
        ("float32", np.float32([np.nan]), "NaN or infinite"),
        ("float32", np.float64([np.inf]), "NaN or infinite"),
        ("float32", np.array(["a"]), "is <U1; wanted float32"),
        ("float32", np.array([None]), "is object; wanted float32"),
        ("float32", np.complex64([1j]), "is complex64; wanted float32"),
    ],
)
def test_dtypes_that_lose_something_are_refused(dtype: str, given: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=f"item 0 of the calibration data, sample 0: input 'x'.*{words}"):
        list(feeds([{"x": given}], [TensorSpec("x", dtype, ("n",))]))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": rows(2, 3)}, "input 'mask' is missing: the model's inputs are ids, mask; given are ids"),
        ({}, "input 'ids' is missing: .* given are none"),
        ({"ids": rows(2, 3), "mask": rows(2, 3), "msk": rows(2)}, "'msk' is not an input: the model's inputs are ids"),
        ({"ids": rows(2, 3), "mask": rows(3, 3)}, "differ in their number of samples: ids has 2, mask has 3"),
        ({"ids": rows(2, 3), "mask": rows(2, 4)}, "sample 0: seq is 3 in input 'ids' and 4 in 'mask'"),
        (
            {"ids": rows(3), "mask": rows(2, 4)},
            r"'ids' has the shape \[3\]; wanted \[samples, seq\] or \[samples, batch",
        ),
    ],
)
def test_inputs_that_do_not_agree_are_named(arrays: dict, words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", **{name: array.astype(int) for name, array in arrays.items()})
    with pytest.raises(ValueError, match=words) as caught:
        list(feeds(tmp_path / "c.npz", [IDS, MASK]))
    assert "c.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 4), (5, 3, 5), (5, 1, 4, 4), (1, 5, 1, 3, 4), ()])
def test_fixed_sizes_must_agree(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"has the shape {list(shape)}; wanted [samples, 3, 4] or")):
        list(feeds([{"x": rows(*shape)}], [X]))


def test_a_fixed_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("has the shape [4, 5, 3]; wanted [samples, 3] or [samples, 2, 3]")):
        list(feeds([{"x": rows(4, 5, 3)}], [FIXED]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.mkdir(), "no .npz or .npy files in this folder"),
        (lambda path: path.write_bytes(b""), "the file is damaged"),
        (lambda path: path.write_text("text"), "the file is damaged"),
        (lambda path: path.write_bytes(pickle.dumps([1])), "the file is damaged"),
        (lambda path: np.savez(path, x=np.array([{}])), "it holds Python objects"),
        (lambda path: np.savez(path), "input 'x' is missing: the model's inputs are x; given are none"),
        (lambda path: np.savez(path, x=rows(0, 3, 4)), "no samples"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(make, words: str, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    make(path)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        list(feeds(path, [X]))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_archive_is_named(compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=rows(50, 3, 4))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:-30], whole[:middle] + b"\0\1\2\3\4\5\6\7" + whole[middle + 8 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"c\.npz: not an \.npz of numbers: the file is damaged"):
            list(feeds(path, [X]))


def test_a_file_that_is_the_other_kind_is_told(tmp_path: Path) -> None:
    with (tmp_path / "c.npz").open("wb") as file:
        np.save(file, rows(1, 3, 4))
    with (tmp_path / "c.npy").open("wb") as file:
        np.savez(file, x=rows(1, 3, 4))
    for name, other in (("c.npz", ".npy"), ("c.npy", ".npz")):
        with pytest.raises(ValueError, match=f"not an {name[1:]}, but {other}"):
            list(feeds(tmp_path / name, [X]))


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("text")
    np.save(tmp_path / "c.npy", rows(2, 2))
    for source, specs, words in (
        (tmp_path / "c.txt", [X], "neither an .npz, an .npy nor a folder"),
        (tmp_path / "c.npy", [IDS, MASK], "an .npy holds one input, the model has 2"),
        (7, [X], "the calibration data is int, not an iterable"),
        ({"x": rows(2, 3, 4)}, [X], "the calibration data is dict, not an iterable of dicts"),
        ([rows(3, 4)], [X], "item 0 of the calibration data is ndarray, not a dict"),
        ([], [X], "the calibration data: no samples"),
    ):
        with pytest.raises(ValueError, match=words):
            list(feeds(source, specs))
    with pytest.raises(ValueError, match="0 samples: at least 1"):
        list(feeds([], [X], samples=0))


def test_random_feeds_are_the_same_each_time() -> None:
    bounded = TensorSpec("ids", "int64", ("batch", "seq"), 5, 9)
    specs = [X, bounded, TensorSpec("flag", "bool", ("batch",)), TensorSpec("half", "float16", (2,), -1, 1)]
    sizes = [{"batch": 2, "seq": 50}, {"batch": 1, "seq": 7}]
    first, second = list(random(specs, sizes, 3)), list(random(specs, sizes, 3))
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a)
    assert not np.array_equal(first[0]["x"], first[2]["x"])
    assert [one["ids"].shape for one in first] == [(2, 50), (1, 7), (2, 50)], "each of the sizes in turns"
    assert [first[0][spec.name].dtype.name for spec in specs] == [spec.dtype for spec in specs]
    assert first[0]["x"].shape == (2, 3, 4)
    assert (first[0]["ids"].min(), first[0]["ids"].max()) == (5, 9)
    assert np.abs(first[0]["half"]).max() <= 1


def test_a_random_mask_hides_no_row() -> None:
    (feed,) = random([TensorSpec("mask", "int64", ("batch", "seq"))], [{"batch": 200, "seq": 3}], 1)
    assert feed["mask"].any(1).all() and not feed["mask"].all()


def test_tensors_that_have_a_gradient_are_taken() -> None:
    torch = pytest.importorskip("torch")
    (feed,) = feeds([{"x": torch.ones(1, 3, 4, requires_grad=True)}], [X])
    assert feed["x"].sum() == 12


def test_any_spec_will_do() -> None:
    @dataclass(frozen=True)
    class Spec:
        name: str = "x"
        dtype: str = "float32"
        shape: tuple[int | str, ...] = (1, 2)

    assert next(random([Spec()], [{}], 1))["x"].shape == (1, 2)
    assert shapes(list(feeds([{"x": rows(3, 2)}], [Spec()]))) == [(1, 2)] * 3


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_takes_the_memory_of_a_row(save: Any, tmp_path: Path) -> None:
    spec = TensorSpec("x", "float32", ("n", 1 << 16))
    save(tmp_path / "c.npz", x=np.zeros((200, 1 << 16), np.float32), labels=np.arange(200))
    seen: list[np.ndarray] = []

    def strip(item: dict[str, Any]) -> dict[str, Any]:
        seen.append(np.asarray(item.pop("labels")))
        return item

    tracemalloc.start()
    count = sum(1 for _ in feeds(tmp_path / "c.npz", [spec], strip=strip))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200
    assert peak < 8 * 4 * (1 << 16), "200 rows take 52 MB"
    assert np.array_equal(seen[0], np.arange(200))


def test_an_archive_may_lie_by_column_or_be_big_endian(tmp_path: Path) -> None:
    given = rows(4, 3, 4)
    np.savez(tmp_path / "c.npz", x=np.asfortranarray(given))
    np.savez(tmp_path / "b.npz", x=given.astype(">f4"))
    for name in ("c.npz", "b.npz"):
        assert np.array_equal(np.concatenate([one["x"] for one in feeds(tmp_path / name, [X])]), given)

"""Samples in a file: what is read is what was written, and memory is bounded."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from planc.compiler.spool import Column, Spool

SAMPLES = [
    {"x": np.arange(6, dtype=np.float32).reshape(2, 3) + index, "a/b": np.array(index), "none": np.zeros((0, 2), bool)}
    for index in range(5)
]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path)
    for sample in SAMPLES:
        made.append(sample)
    return made


def test_samples_come_back(spool: Spool) -> None:
    assert len(spool) == 5
    for _ in range(2):
        for sample, wanted in zip(spool, SAMPLES, strict=True):
            assert list(sample) == list(wanted)
            for name, array in wanted.items():
                np.testing.assert_array_equal(sample[name], array, strict=True)


def test_appending_goes_on_after_reading(spool: Spool) -> None:
    first, size = spool[0], spool.nbytes
    spool.append({"x": np.ones(3)})
    assert spool.read(5, "x").tolist() == [1, 1, 1]
    assert 24 < spool.nbytes - size < 24 + 256, "numbers and their header"
    np.testing.assert_array_equal(spool.read(0, "x"), first["x"])


def test_a_column_is_a_sequence(spool: Spool) -> None:
    column = Column(spool, "a/b", 3)
    assert [int(array) for array in column] == [0, 1, 2]
    assert [int(array) for array in column[1:]] == [1, 2]
    assert (len(column), int(column[-1])) == (3, 2)
    with pytest.raises(IndexError):
        column[3]


def test_many_samples_are_not_held_in_memory(tmp_path: Path) -> None:
    image = np.zeros(1 << 18, np.float32)
    tracemalloc.start()
    made = Spool(tmp_path)
    for _ in range(128):
        made.append({"x": image})
    total = sum(array.nbytes for array in Column(made, "x", len(made)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 128 << 20
    assert peak < 48 << 20
    assert list(tmp_path.iterdir()) == [], "the file has no name"

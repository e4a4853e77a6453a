"""Shards of a data set: in any order, and through files, they give the bits of one run."""

from itertools import permutations
from pathlib import Path

import numpy as np

from planc.calibration import shard
from planc.calibration.observers import Observer
from planc.calibration.shard import Shard
from planc.calibration.table import RangeTable, table

NAMES = ("file", "/a/MatMul_output_0")
SAMPLES = [np.random.default_rng(seed).standard_normal((2, 3), dtype=np.float32) for seed in range(5)]
SAMPLES += [np.zeros((1, 3), np.float32), -np.zeros((1, 3), np.float32), np.zeros((0, 3), np.float32)]


def _observed(samples: list[np.ndarray]) -> Shard:
    made = Shard(
        {name: Observer() for name in NAMES},
        first=[{"file": one} for one in SAMPLES[:2]],
        samples=8,
        dropped=1,
        digest="ab",
    )
    for one in samples:
        made.update(dict(zip(NAMES, (one, np.abs(one)), strict=True)), {NAMES[1]})
    return made


def _table(one: Shard) -> RangeTable:
    return table(one.observers, "mse", source="", source_digest="", model_digest="", channels=one.channels)


def test_shards_in_any_order_and_through_files_give_the_bytes_of_one_run(tmp_path: Path) -> None:
    _table(_observed(SAMPLES)).save(tmp_path / "whole.json")
    for index in range(3):
        _observed(SAMPLES[index::3]).save(tmp_path / str(index))
    for order in permutations("012"):
        merged = shard.load(tmp_path / order[0])
        for name in order[1:]:
            merged.merge(shard.load(tmp_path / name))
        _table(merged).save(tmp_path / "merged.json")
        assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_what_is_known_of_the_data_is_kept(tmp_path: Path) -> None:
    _observed([]).save(tmp_path / "none")  # fewer samples than shards
    read = shard.load(tmp_path / "none")
    assert (read.samples, read.dropped, read.digest, read.channels) == (8, 1, "ab", {})
    assert np.array_equal([one["file"] for one in read.first], SAMPLES[:2])
    read.merge(_observed(SAMPLES))
    assert _table(read) == _table(_observed(SAMPLES))


def test_no_channel_has_a_negative_zero() -> None:
    made = _table(_observed([-np.zeros((1, 3), np.float32)]))
    assert "-0.0" not in str(made.channels)

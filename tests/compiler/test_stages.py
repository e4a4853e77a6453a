"""The stages, their order, and what the store has of them."""

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from planc.compiler import keys, recipe, stages
from planc.compiler.cache import Store

UNSEEDED = """
import numpy as np

def rows():
    yield {"x": np.random.default_rng().standard_normal((3, 3, 8, 8), dtype=np.float32)}
"""


def _job(workshop: Path, target: str, precision: str = "fp32", **words: Any) -> recipe.Job:
    source = recipe.source(str(workshop / "conv.onnx"), dims=["batch=1..4@2"])
    return recipe.job(source, target, precision, **words)


def test_the_order_of_the_stages() -> None:
    assert [stage.name for stage in stages.stages()] == [
        "export", "optimize", "calibrate", "lower", "build", "verify",
    ]  # fmt: skip


def test_a_trail_ends_at_the_first_stage_that_is_missing(workshop: Path, tmp_path: Path) -> None:
    job, store = _job(workshop, "null"), Store(tmp_path / "store")
    done, missing, components = stages.trail(job, store)
    assert (done, missing, components["stage"]) == ({}, "export", "export")
    (tmp_path / "work").mkdir()
    work = stages.run_stages(stages.Work(job, tmp_path / "work", store), ("export", "optimize"), emit=lambda *_: None)
    assert work.made == ["export", "optimize"]
    done, missing, _ = stages.trail(job, store)
    assert (list(done), missing) == (["export", "optimize"], "build")
    assert keys.OPTIMIZED in done["optimize"].outputs
    (tmp_path / "again").mkdir()
    again = stages.run_stages(stages.Work(job, tmp_path / "again", store), ("export", "optimize"), emit=lambda *_: None)
    assert again.made == []
    assert again.model.inputs == work.model.inputs
    assert again.model.dims == work.model.dims
    assert again.optimized == work.optimized
    assert again.graph.read_bytes() == work.graph.read_bytes()


def test_large_golden_data_is_left_out(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point is verified; the artifact keeps those that fit."""
    work = stages.Work(_job(workshop, "null"), tmp_path, Store(tmp_path / "store"))
    monkeypatch.setattr(stages, "MOST_GOLDEN_BYTES", 4000)
    made = stages.run_stages(work, ("export", "optimize", "build", "verify"), emit=lambda *_: None)
    assert made.verification["golden_points"] == ["opt", "min"]


class TestShards:
    """Two shards in one process, as a worker runs each."""

    SHARDS = ("optimize", "shard 1/2", "shard 2/2")

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Store(tmp_path / "store")

    @pytest.fixture
    def run(self, workshop: Path, tmp_path: Path, store: Store) -> Callable[..., tuple[stages.Work, list[str]]]:
        np.savez(tmp_path / "images.npz", x=np.random.default_rng(0).standard_normal((5, 3, 8, 8), dtype=np.float32))

        def run(
            *names: str, data: str = "images.npz", method: str = "mse", shards: int = 2
        ) -> tuple[stages.Work, list[str]]:
            wanted = recipe.Calibration(f"{tmp_path}/{data}", method=method, shards=shards)
            job = _job(workshop, "null", "int8", quantization=recipe.Quantization(wanted))
            notes: list[str] = []
            folder = Path(mkdtemp(dir=tmp_path))
            work = stages.run_stages(
                stages.Work(job, folder, store),
                ("export", *names),
                emit=lambda kind, value: notes.append(value) if kind == "note" else None,
            )
            return work, notes

        return run

    def test_the_table_is_put_together_from_them(self, run: Any, store: Store) -> None:
        assert run(*self.SHARDS)[0].made == ["export", *self.SHARDS]
        assert run(*self.SHARDS)[0].made == []
        merged, _ = run("optimize", "calibrate")
        assert merged.made == ["calibrate"]
        assert sorted(path.name for path in merged.folder.iterdir()) == sorted(
            name for entry in merged.done.values() for name in entry.outputs
        )
        whole, _ = run("optimize", "calibrate", shards=1)
        assert whole.made == [], "shards are how, not what"
        for entry in store.listing():
            if entry["stage"] == "calibrate":
                (store.root / "entries" / f"{entry['key']}.json").unlink()
        whole, _ = run("optimize", "calibrate", shards=1)
        assert whole.made == ["calibrate"]
        assert whole.done["calibrate"].outputs == merged.done["calibrate"].outputs
        assert len(merged.merged) == 2
        assert whole.merged == []

    def test_another_method_takes_what_is_gathered(self, run: Any) -> None:
        run(*self.SHARDS)
        work, _ = run("optimize", "calibrate", method="minmax")
        assert (work.made, len(work.merged)) == (["calibrate"], 2)

    def test_without_one_of_them_all_is_calibrated(self, run: Any, store: Store) -> None:
        work, _ = run(*self.SHARDS[:2])
        made, notes = run("optimize", "calibrate")
        assert (made.merged, made.table.samples, notes) == ([], 5, [])
        run(*self.SHARDS)
        blob = store.root / "blobs" / next(iter(work.done["shard 1/2"].outputs.values()))["sha256"]
        blob.unlink()
        made, notes = run("optimize", "calibrate", method="minmax")
        assert (made.merged, made.table.samples) == ([], 5)
        assert "the cache has a gap, shard 1/2" in notes[0]

    def test_data_that_is_another_each_time_is_calibrated_in_one(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "unseeded.py").write_text(UNSEEDED)
        run(*self.SHARDS, data="unseeded.py:rows")
        work, notes = run("optimize", "calibrate", data="unseeded.py:rows")
        assert (work.merged, work.table.samples) == ([], 3)
        assert notes[0].startswith("unseeded.py:rows gives other samples each time")

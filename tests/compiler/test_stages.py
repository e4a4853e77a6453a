"""The stages, their order, and what the store has of them."""

from pathlib import Path
from typing import Any

import pytest

from planc.compiler import keys, recipe, stages
from planc.compiler.cache import Store


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

"""The stages, their order, and what the store has of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from planc.compiler import emulate, golden, keys, recipe, stages
from planc.compiler.cache import Store
from planc.compiler.errors import GateFailed

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


OUTLIER = """<ir_version: 8, opset_import: ["": 18]> g (float[n,16] x) => (float[n,8] y, float[n,16] z) {
  a = MatMul(x, w1) b = Tanh(a) c = MatMul(b, w2) d = Mul(c, outlier) y = MatMul(d, w3) z = Identity(b)
}"""
"""A channel of the last product is 40 times as large as the others: in INT8 they lose most of their digits."""


class TestHeld:
    """Golden data are a few samples; where they miss, `--max-drop` decides, if the runtime does what its graph says."""

    @pytest.fixture
    def work(self, onnx_file: Callable[..., Path], tmp_path: Path) -> stages.Work:
        rng = np.random.default_rng(0)
        arrays = {f"w{index}": rng.standard_normal((16, 16), np.float32) / 4 for index in (1, 2)}
        arrays |= {"w3": rng.standard_normal((16, 8), np.float32), "outlier": np.ones(16, np.float32)}
        arrays["outlier"][3], arrays["w3"][3] = 40, arrays["w3"][3] / 40
        path = onnx_file(tmp_path / "net.onnx", OUTLIER, **arrays)
        np.savez(tmp_path / "x.npz", x=rng.standard_normal((24, 16), np.float32))
        wanted = recipe.quantization(data=str(tmp_path / "x.npz"), smoothing=0.0, max_drop=["mse=100"])
        job = recipe.job(recipe.source(str(path), dims=["n=1..8"]), "null", "int8", quantization=wanted)
        (tmp_path / "work").mkdir()
        made = stages.Work(job, tmp_path / "work", Store(tmp_path / "store"))
        return stages.run_stages(made, ("export", "optimize", "calibrate", "lower"), emit=lambda *_: None)

    def _held(self, work: stages.Work, change: Callable[[dict[str, np.ndarray]], None]) -> tuple[Any, list[Any]]:
        run, told = emulate.runner(work.source), list[Any]()

        def session(**inputs: np.ndarray) -> dict[str, np.ndarray]:
            outputs = dict(run(inputs))
            change(outputs)
            return outputs

        return stages.held(
            work, session, "it", golden.load(work.goldens), emit=lambda kind, value: told.append((kind, value))
        ), told

    def test_what_the_graph_itself_loses_is_the_users_to_judge(self, work: stages.Work) -> None:
        made, told = self._held(work, lambda _: None)
        assert made["passed"]
        assert made["held_by"]["samples"] == 24
        assert any("SQNR" in failure or "cosine" in failure for failure in made["held_by"]["failures"])
        assert 0 <= made["tolerance"]["cosine"] < 0.98
        assert any(kind == "note" and "--max-drop holds in it" in value for kind, value in told)

    def test_rows_that_a_large_batch_mixes_up_are_not(self, work: stages.Work) -> None:
        def mix(outputs: dict[str, np.ndarray]) -> None:
            if len(outputs["y"]) > 1:
                outputs["y"] = outputs["y"][::-1]

        with pytest.raises(GateFailed, match=r"output 'y' at max: cosine"):
            self._held(work, mix)

    def test_nor_an_output_that_no_bound_looks_at(self, work: stages.Work) -> None:
        guard = replace(work.job.quantization.guard, bounds=("top1=1",))
        work.job = replace(work.job, quantization=replace(work.job.quantization, guard=guard))
        assert self._held(work, lambda _: None)[0]["passed"]
        with pytest.raises(GateFailed, match="output 'z' at opt"):
            self._held(work, lambda outputs: outputs.update(z=-outputs["z"]))

    def test_nor_infinities(self, work: stages.Work) -> None:
        with pytest.raises(GateFailed, match="NaN or infinite"):
            self._held(work, lambda outputs: outputs.update(y=outputs["y"] * np.float32("inf")))

    def test_a_bound_that_is_missed_comes_first(self, work: stages.Work) -> None:
        with pytest.raises(GateFailed, match=r"computes: it misses --max-drop, mse=100: "):
            self._held(work, lambda outputs: outputs.update(y=outputs["y"] * 1000))

    def test_what_to_do_is_told_with_bounds_that_would_pass(self, work: stages.Work) -> None:
        work.guarded, guard = None, replace(work.job.quantization.guard, bounds=())
        work.job = replace(work.job, quantization=replace(work.job.quantization, guard=guard))
        with pytest.raises(GateFailed) as caught:
            self._held(work, lambda _: None)
        assert "--max-drop METRIC=VALUE keeps the layers in float that cost most" in caught.value.hint
        _, *words = caught.value.hint.split("--tolerance ")
        work.job = replace(work.job, tolerance=recipe.tolerances([word.strip() for word in words]))
        assert self._held(work, lambda _: None)[0]["passed"]

    def test_a_tolerance_of_the_users_is_not_loosened(self, work: stages.Work) -> None:
        work.job = replace(work.job, tolerance=(("cosine", 0.9999),))
        with pytest.raises(GateFailed, match="cosine"):
            self._held(work, lambda _: None)


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

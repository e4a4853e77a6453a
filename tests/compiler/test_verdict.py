"""What golden data and `--max-drop` say of what was made."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import emulate, golden, recipe, stages, verdict
from planc.compiler.cache import Store
from planc.compiler.errors import GateFailed

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

        return verdict.held(
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

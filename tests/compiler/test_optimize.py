"""Graph passes through the real worker and the real command line; failing ones are left out by name."""

import importlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planc.compiler import optimize, worker
from planc.compiler.errors import BuildFailed
from planc.compiler.worker import Limits
from planc.passes import PRESETS, RemoveUnused
from planc.passes._base import Pass

LIMITS = Limits(seconds=120, memory=4 << 30, cap=4 << 30)


@dataclass(frozen=True)
class Raises(Pass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raise ValueError("cannot do that")


@dataclass(frozen=True)
class LosesAnOutput(Pass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph.outputs.clear()
        return ir.passes.PassResult(model, modified=True)


@dataclass(frozen=True)
class ForgetsANode(Pass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(model.graph)
        model.graph.remove(nodes[0])
        return ir.passes.PassResult(model, modified=True)


@pytest.fixture
def source(workshop: Path) -> Path:
    return workshop / "conv.onnx"


@pytest.mark.parametrize("bad", [Raises(), LosesAnOutput(), ForgetsANode()], ids=lambda one: one.name)
def test_a_failing_pass_is_left_out_and_the_others_run(bad: Pass, source: Path) -> None:
    model, done, left_out = optimize.apply(lambda: ir.load(source), (bad, *PRESETS["onnx"]))
    assert list(left_out) == [bad.name]
    assert left_out[bad.name]
    assert bad.name not in {one["name"] for one in done}
    assert "BatchNormalization" not in {node.op_type for node in model.graph}
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_strict_makes_it_an_error(source: Path) -> None:
    with pytest.raises(BuildFailed, match="pass raises: ValueError: cannot do that"):
        optimize.apply(lambda: ir.load(source), (Raises(), RemoveUnused()), strict=True)


HANG = """\
import time


def hang(*, emit):
    emit("stage", "pass fuse-gelu")
    emit("within", 0.5)
    time.sleep(60)
"""


def test_a_hanging_pass_is_stopped_by_its_own_limit_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging_pass.py").write_text(HANG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    hang = importlib.import_module("hanging_pass").hang
    tried: list[dict[str, str]] = []

    def attempt(skipped: dict[str, str]) -> str:
        tried.append(skipped)
        if "fuse-gelu" in skipped:
            return "done"
        worker.call(hang, limits=LIMITS)
        return "not reached"

    start = time.monotonic()
    assert optimize.leaving_out(attempt) == "done"
    assert time.monotonic() - start < 30
    assert [list(one) for one in tried] == [[], ["fuse-gelu"]]
    assert "did not finish within 0.5 s" in tried[1]["fuse-gelu"]
    with pytest.raises(BuildFailed):
        optimize.leaving_out(attempt, strict=True)


def test_optimize_writes_a_file_that_computes_the_same(
    source: Path, tmp_path: Path, image: np.ndarray, infer: Callable[..., list[Any]]
) -> None:
    report = optimize.optimize(source, tmp_path / "out.onnx", optimize.Recipe(embed=True), limits=LIMITS)
    before, after = (infer(path, x=image) for path in (source, tmp_path / "out.onnx"))
    np.testing.assert_allclose(after[0], before[0], rtol=1e-4, atol=1e-5)
    assert report.before["operators"]["BatchNormalization"] == 1
    assert "BatchNormalization" not in report.after["operators"]
    assert "fuse-conv-bn" in report.changed_by
    assert report.skipped == {}
    assert sum(report.after["operators"].values()) == report.after["nodes"]


def test_the_command_line_tells_what_changed(planc: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    made = planc("optimize", source, "-o", "o.onnx", "--format", "json", cwd=tmp_path)
    document = json.loads(made.stdout)
    assert document["schema_version"] == 1
    assert document["status"] == "built"
    assert document["after"]["nodes"] < document["before"]["nodes"]
    assert {"name", "modified", "nodes", "seconds"} == set(document["passes"][0])
    stamp = (tmp_path / "o.onnx").stat().st_mtime_ns
    again = planc("optimize", source, "-o", "o.onnx", cwd=tmp_path)
    assert again.stdout.startswith("unchanged o.onnx")
    assert "BatchNormalization" in again.stdout
    assert (tmp_path / "o.onnx").stat().st_mtime_ns == stamp


def test_passes_are_chosen_by_name(planc: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    planc("optimize", source, "-o", "skip.onnx", "--skip", "fuse-conv-bn", cwd=tmp_path)
    kept = {node.op_type for node in onnx.load(tmp_path / "skip.onnx").graph.node}
    assert "BatchNormalization" in kept
    planc("optimize", source, "-o", "one.onnx", "--pass", "fuse-conv-bn", cwd=tmp_path)
    graph = onnx.load(tmp_path / "one.onnx")
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    assert graph.opset_import[0].version == 18


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--skip", "fuse-gelux"), "Did you mean 'fuse-gelu'?"),
        (("--pass", "fold-constant"), "unknown pass 'fold-constant'"),
        (("--pass", "fold-constants{max-bytes=1}"), "fold-constants has no option 'max-bytes'"),
        (("--pass", "fold-constants{max-output-bytes=x}"), "max-output-bytes=x is not of type int"),
        (("--preset", "abacus"), "unknown preset 'abacus'"),
    ],
)
def test_unknown_words_are_refused(
    planc: Callable[..., Any], words: tuple[str, str], told: str, source: Path, tmp_path: Path
) -> None:
    made = planc("optimize", source, "-o", "o.onnx", *words, cwd=tmp_path, expect=2)
    assert told in made.stderr.splitlines()[-1]
    assert not (tmp_path / "o.onnx").exists()


def test_a_file_of_somebody_else_is_not_replaced(planc: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    mine = shutil.copy(source, tmp_path / "mine.onnx")
    made = planc("optimize", source, "-o", mine, cwd=tmp_path, expect=2)
    assert "was not made by planc" in made.stderr
    assert mine.read_bytes() == source.read_bytes()
    planc("optimize", source, "-o", mine, "--overwrite", cwd=tmp_path)
    assert mine.read_bytes() != source.read_bytes()


def test_passes_are_listed_with_their_options(planc: Callable[..., Any], tmp_path: Path) -> None:
    listed = {
        one["name"]: one for one in json.loads(planc("passes", "--format", "json", cwd=tmp_path).stdout)["passes"]
    }
    assert listed["fold-constants"]["options"]["max-output-bytes"] == 1 << 20
    assert {one.name for one in PRESETS["onnx"]} <= set(listed)
    assert "fold-constants{" in planc("passes", cwd=tmp_path).stdout

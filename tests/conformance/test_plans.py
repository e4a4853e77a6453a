"""The ONNX project's node cases in TensorRT-RTX: planc's passes lose none, and its verdict is the builder's.

The parser sees every second case, the builder one of each operator of these; `python -m bench verdicts` gives both all.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from planc.compiler import doctor, worker
from planc.compiler.errors import WorkerDied
from planc.compiler.target import find_target

LEAST_PARSED = 547
"""Of 942 cases, with TensorRT-RTX 1.7: fewer would mean that a pass made a model less buildable."""
LEAST_BUILT = 144
"""Of 219 cases, one of each operator. Two of Einsum in float64, which would become float32, are refused."""


@pytest.fixture(scope="module")
def verdicts(repository: Path) -> ModuleType:
    """bench/verdicts.py."""
    path = repository / "bench/verdicts.py"
    spec = importlib.util.spec_from_file_location("bench_verdicts", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_passes_lose_nothing_and_the_verdict_is_the_builders(
    verdicts: ModuleType, tell_plans: Callable[[str], None]
) -> None:
    models = dict(islice(verdicts.cases().items(), None, None, 2))
    found = dict(verdicts.judge(models, build=set(verdicts.one_of_each(models))))
    for line in verdicts.summary(found):
        tell_plans(line)
    assert verdicts.lost(found) == {}
    assert verdicts.wrong(found) == {}
    assert sum(not one.parsed for one in found.values()) >= LEAST_PARSED
    assert sum(one.built == "" for one in found.values()) >= LEAST_BUILT


def test_a_builder_that_searches_for_long_is_stopped(verdicts: ModuleType, tmp_path: Path) -> None:
    (name,) = verdicts.SLOW
    model = tmp_path / "model.onnx"
    onnx.save(verdicts.cases()[name], model)
    limits = worker.Limits(seconds=1)
    with pytest.raises(WorkerDied, match="stage check did not finish within 1 s") as caught:
        worker.call(doctor._refused, model, tmp_path, find_target("l4"), (), limits=limits)
    assert caught.value.exit_code == 4
    assert "--time-limit" in caught.value.hint


def test_a_case_that_crashes_costs_itself_alone(verdicts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {name: onnx.ModelProto(producer_name=name) for name in ("first", "bad", "last")}
    fine = verdicts.Verdict("", "")

    def judge(model: onnx.ModelProto, build: bool, folder: Path) -> object:
        return os.abort() if model.producer_name == "bad" else fine

    monkeypatch.setattr(verdicts, "_verdict", judge)
    found = dict(verdicts.judge(models, build=()))
    assert {name: one.parsed for name, one in found.items()} == {"first": "", "bad": "died or hung", "last": ""}
    assert set(verdicts.lost(found)) == {"bad"}

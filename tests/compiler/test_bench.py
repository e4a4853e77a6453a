"""Latency figures."""

import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planc.compiler import bench, figures
from planc.compiler.errors import UsageError
from planc.compiler.gates import Gates
from planc.compiler.worker import Limits


def test_summary_by_hand() -> None:
    figures = bench.summary([float(value) for value in range(100, 0, -1)])
    assert figures == {
        "latency_p50_ms": 50.5,
        "latency_p95_ms": 96.0,
        "latency_p99_ms": 100.0,
        "throughput_per_s": pytest.approx(1000 / 50.5),
    }
    assert bench.summary([2.0])["latency_p99_ms"] == 2.0


def test_runs_are_interleaved_in_bursts() -> None:
    calls: list[str] = []
    latencies = bench.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert [len(values) for values in latencies.values()] == [15, 15]
    one_round = ["a"] * 6 + ["b"] * 6
    assert calls == ["a"] * 3 + ["b"] * 3 + one_round * 3


def test_time_runs_out_after_three_rounds() -> None:
    latencies = bench.interleaved({"slow": lambda: time.sleep(0.002)}, rounds=50, seconds=0)
    assert len(latencies["slow"]) == 15
    assert min(latencies["slow"]) >= 2.0


# planc bench, for real

QUICK = ("--processes", 1, "--seconds", 0.1, "--threads", 1)


def _plan(*words: str, **changes: Any) -> bench.Plan:
    return bench.plan(words, gates=changes.pop("gates", Gates()), **changes)


@pytest.fixture(scope="module")
def document(ort_artifact: Path, openvino_artifact: Path, workshop: Path) -> dict[str, Any]:
    """Two runtimes and PyTorch, everything on."""
    plan = _plan(
        str(ort_artifact), str(openvino_artifact), against=f"torch:{workshop / 'net.py'}:net", batch="1,4", streams="2",
        threads=1, seconds=0.2, processes=1, price=3.6,
        gates=Gates(max_p99_ms=1e-6, max_size_bytes=10**9, max_drop=("cosine=0.01",)),
    )  # fmt: skip
    return bench.run(plan, limits=Limits())


def test_the_document_keeps_to_the_published_schema(document: dict[str, Any]) -> None:
    schema = json.loads(bench.SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(json.dumps(document)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "latency": 1}, schema)


def test_figures_agree_with_each_other(document: dict[str, Any]) -> None:
    assert [one["name"] for one in document["subjects"]][:2] == ["onnxruntime-cpu", "openvino-cpu"]
    for one in document["subjects"]:
        ordered = [one[f"latency_{name}_ms"] for name in ("min", "p50", "p90", "p95", "p99")]
        assert ordered == sorted(ordered)
        calls = [ms for process in one["blocks_ms"] for block in process for ms in block]
        assert len(calls) == one["calls"]
        assert one["latency_mean_ms"] == pytest.approx(sum(calls) / len(calls), rel=1e-3)
        assert one["latency_p50_ms"] == pytest.approx(sorted(calls)[(len(calls) - 1) // 2], rel=1e-3)
        low, high = one["latency_p50_ms_interval"]
        assert low <= one["latency_p50_ms"] <= high
        steps = sum(one[f"cold_{step}_ms"] for step in ("process", "load", "first_run"))
        assert one["cold_start_ms"] == pytest.approx(steps)
        assert one["throughput_per_s"] == pytest.approx(1000 / one["latency_p50_ms"])
        assert one["cost_per_1000"] == pytest.approx(1 / one["throughput_per_s"])
        assert [(rate["dimension"], rate["size"], rate["streams"]) for rate in one["throughput"]] == [
            ("batch", 1, 2),
            ("batch", 4, 2),
        ]
        assert one["throughput"][1]["throughput_per_s"] == pytest.approx(4 * one["throughput"][1]["calls_per_s"])
    ort, _, torch = document["subjects"]
    assert torch["peak_rss_bytes"] > 2 * ort["peak_rss_bytes"]
    assert torch["cold_start_ms"] > 2 * ort["cold_start_ms"]
    assert bool(ort["energy_reason"]) == (ort["energy_per_inference_mj"] is None)


def test_all_are_compared_with_what_the_user_says(document: dict[str, Any]) -> None:
    pairs = [(one["name"], one["against"].rpartition("/")[2]) for one in document["comparisons"]]
    assert pairs == [("onnxruntime-cpu", "net.py:net"), ("openvino-cpu", "net.py:net")]
    by_name = {one["name"]: one for one in document["subjects"]}
    for one in document["comparisons"]:
        other = by_name[one["against"]]
        assert one["speedup"] == pytest.approx(
            other["latency_p50_ms"] / by_name[one["name"]]["latency_p50_ms"], rel=0.5
        )
        assert one["in_turns"]
    told = "\n".join(figures.told(document))
    assert "onnxruntime-cpu is " in told
    assert " at batch=4, 2 stream(s) of 1 thread(s): " in told
    assert "1 process each" in told
    assert len(figures.table(document)) == 3
    assert all(len(line) == len(figures.HEADERS) for line in figures.table(document))


def test_gates_judge_all_but_the_other(document: dict[str, Any]) -> None:
    assert [(row.name.split()[0], row.name.split()[1], row.status) for row in figures.rows(document)] == [
        (name, gate, status)
        for name in ("onnxruntime-cpu", "openvino-cpu")
        for gate, status in (("--max-p99", "failed"), ("--max-size", "passed"), ("--max-drop", "passed"))
    ]


def test_a_failed_gate_is_exit_code_1_and_told_everywhere(
    ort_artifact: Path, planc: Callable[..., Any], tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    done = planc(
        "bench", ort_artifact, *QUICK, "--max-p99", "1us", "--max-rss", "8GiB", "--junit", "gates.xml",
        "--markdown", "gates.md", "--github", "-o", "base.json", cwd=tmp_path, expect=1,
        GITHUB_STEP_SUMMARY=str(summary),
    )  # fmt: skip
    assert "onnxruntime-cpu" in done.stdout
    assert "failed: onnxruntime-cpu --max-p99 0.001 ms: p99 " in done.stdout
    annotated, line = done.stderr.splitlines()[-2:]
    assert annotated.startswith("::error title=planc bench%3A onnxruntime-cpu --max-p99 0.001 ms::p99 ")
    assert line.startswith("planc: onnxruntime-cpu --max-p99 0.001 ms: p99 ")
    assert line.endswith("is above 0.001 ms: >99.9% sure")
    top = ElementTree.parse(tmp_path / "gates.xml").getroot()
    assert (top.get("tests"), top.get("failures")) == ("2", "1")
    written = (tmp_path / "gates.md").read_text()
    assert written.startswith("### planc bench\n\n|  | p50 ms |")
    assert summary.read_text() == f"before\n{written}"

    slower = json.loads((tmp_path / "base.json").read_text())
    for one in slower["subjects"]:
        one["blocks_ms"] = [[[ms / 10 for ms in block] for block in process] for process in one["blocks_ms"]]
    (tmp_path / "fast.json").write_text(json.dumps(slower))
    words = ("bench", ort_artifact, *QUICK, "--max-regression", "90%", "--format", "json", "--baseline")
    document = json.loads(planc(*words, "fast.json", cwd=tmp_path, expect=1).stdout)
    (one,) = document["comparisons"]
    assert (one["against"], one["in_turns"]) == ("the baseline", False)
    assert one["speedup"] < 0.5
    assert document["gates"][0]["status"] == "failed"
    assert any("the baseline was measured at another time" in note for note in document["notes"])


def test_runs_of_user_code_and_runtimes_fail_by_name(
    ort_artifact: Path, null_artifact: Path, planc: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text("import torch\n\ndef net():\n    return torch.nn.Linear(3, 3)\n")
    done = planc("bench", ort_artifact, *QUICK, "--against", "torch:bad.py:net", cwd=tmp_path, expect=2)
    assert "running the forward of bad.py:net raised RuntimeError" in done.stderr
    done = planc("bench", null_artifact, "--processes", 1, cwd=tmp_path, expect=3)
    assert "null target, which runs nowhere" in done.stderr


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"pin": "4096"}, "--pin 4096: no such core here"),
        ({"streams": "0"}, "--streams 0"),
        ({"seconds": float("nan")}, "--seconds is not positive"),
        ({"processes": 0}, "--processes is not positive"),
        ({"confidence": "20%"}, "--confidence 20% is not from 50%"),
        ({"gates": Gates(min_speedup=2.0)}, "--min-speedup needs something to compare with"),
        ({"gates": Gates(max_slowdown=1.0)}, "--max-regression needs something to compare with"),
        ({"data": Path("no.npz")}, "no such file: no.npz"),
        ({"baseline": Path(__file__)}, "is not a result of planc bench"),
    ],
)
def test_plans_that_make_no_sense(changes: dict[str, Any], what: str, ort_artifact: Path) -> None:
    with pytest.raises(UsageError) as raised:
        _plan(str(ort_artifact), **changes)
    assert what in raised.value.what
    assert raised.value.hint


@pytest.mark.parametrize(("answers", "processes"), [([False], 1), ([True, False], 2), ([True, True, True], 4)])
def test_an_undecided_gate_is_measured_for_longer(
    answers: list[bool], processes: int, ort_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "undecided", lambda *_: answers.pop(0))
    plan = _plan(str(ort_artifact), gates=Gates(max_rss_bytes=1 << 40), threads=1, seconds=0.1, processes=1)
    document = bench.measure(plan, tmp_path, emit=lambda _kind, _value: None)
    assert not answers
    assert document["settings"]["processes"] == processes
    assert len(document["subjects"][0]["blocks_ms"]) == processes


def test_a_baseline_is_found_by_name_or_when_it_is_the_only_one(ort_artifact: Path, openvino_artifact: Path) -> None:
    plan = _plan(str(ort_artifact), baseline=None)
    (subject,) = plan.subjects
    entry = {"name": "other", "blocks_ms": [[[1.0]]]}
    assert bench._earlier(subject, replace(plan, baseline={"subjects": [entry]})) == entry
    both = _plan(str(ort_artifact), str(openvino_artifact))
    known = {**entry, "name": "openvino-cpuu"}
    with pytest.raises(UsageError, match=r"no 'openvino-cpu'\. Did you mean 'openvino-cpuu'"):
        bench._earlier(both.subjects[1], replace(both, baseline={"subjects": [known]}))


def test_the_schema_is_printed(planc: Callable[..., Any], tmp_path: Path) -> None:
    assert json.loads(planc("bench", "--schema", cwd=tmp_path).stdout) == json.loads(bench.SCHEMA.read_text())
    assert "nothing to measure" in planc("bench", cwd=tmp_path, expect=2).stderr

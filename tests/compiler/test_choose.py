"""The automatic choice: what it decides by figures, and the search itself on a small model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import choose, host, pipeline, recipe
from planc.compiler.cache import Store
from planc.compiler.choose import Candidate
from planc.compiler.errors import Unavailable, UsageError
from planc.compiler.worker import Limits

LIMITS = Limits(120, 4 << 30, 4 << 30)
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,256] x) => (float[n,64] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"""


def _candidate(label: str, size: int = 100) -> Candidate:
    return Candidate(label, "int8" not in label, {}, size, 1.0, lambda: pytest.fail("it is unpacked"))


def _latency(costs: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {name: {"latency_p50_ms": ms, "throughput_per_s": 1e3 / ms} for name, ms in costs.items()}


@pytest.mark.parametrize(
    ("costs", "kept"),
    [
        ({"fp32": 2.0, "int8": 1.0}, "int8"),
        ({"fp32": 1.0, "int8": 2.0}, "fp32"),
        ({"fp32": 1.0, "int8": 0.98}, "fp32"),  # not by more than noise: floating point is the safe one
        ({"fp32": 2.0, "bf16": 1.0, "int8": 1.5}, "bf16"),  # faster than one of them is not enough
        ({"fp32": 1.0, "other fp32": 0.9}, "other fp32"),
        ({"int8": 1.0, "dynamic int8": 0.5}, "dynamic int8"),  # what is in floating point was slower, heats ago
    ],
)
def test_an_int8_that_is_not_faster_is_never_kept(costs: dict[str, float], kept: str) -> None:
    found = [_candidate(name) for name in costs]
    assert choose.decide(found, costs, "latency") == kept
    assert choose.decide(found, costs, "throughput") == kept


def test_the_smallest_that_is_not_slower() -> None:
    found = [_candidate("fp32", 100), _candidate("fp16", 50), _candidate("int8", 25)]
    assert choose.decide(found, {"fp32": 2.0, "fp16": 2.5, "int8": 1.0}, "size") == "int8"
    assert choose.decide(found, {"fp32": 2.0, "fp16": 2.5, "int8": 2.1}, "size") == "fp16"


def test_the_slower_half_leaves_and_who_is_not_near() -> None:
    assert choose.survivors({"a": 1.0, "b": 1.01, "c": 2.0, "d": 1.02}, 1.1) == {"a", "b", "d"}
    assert choose.survivors({"a": 1.0, "b": 1.05, "c": 1.05, "d": 1.06}, 1.1) == {"a", "b"}
    assert choose.survivors({"a": 1.0, "b": 3.0, "c": 1.2}, 1.1) == {"a"}
    assert choose.survivors({"a": 1.0}, 1.1) == {"a"}


@pytest.mark.parametrize(("costs", "stays"), [({"f": 1.29, "g": 1.2}, {"g"}), ({"f": 1.31, "g": 1.4}, set())])
def test_the_fastest_float_stays_until_it_is_beaten(costs: dict[str, float], stays: set[str]) -> None:
    assert choose.survivors({"int8": 1.0, **costs}, 1.1, {"f", "g"}) == {"int8", *stays}


def test_candidates_are_compared_by_the_heats_that_all_of_them_ran_in() -> None:
    """The machine is twice as slow in the second heat, which is three times as long."""
    heats = [(1.0, {"a": 1.0, "b": 1.1, "c": 9.0}), (3.0, {"a": 2.1, "b": 2.0, "d": 1.9})]
    both = choose.together(heats, ["a", "b"])
    assert both == pytest.approx({"a": 2.1**0.75, "b": (1.1 * 2**3) ** 0.25})
    assert choose.together(heats, ["b", "d"]) == pytest.approx({"b": 2.0, "d": 1.9})


def test_figures_of_different_heats_are_never_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is twice as slow after the first heat: a figure of that would win."""
    found = [_candidate("fp32"), _candidate("int8"), _candidate("other fp32"), _candidate("slow fp32")]
    found = [replace(one, unpack=lambda: tmp_path, files={"a": one.label}) for one in found]
    costs = {"fp32": 3.0, "int8": 1.0, "other fp32": 1.25, "slow fp32": 9.0, "int8 threads=1": 0.95}
    heats: list[list[str]] = []

    def heat(_call: object, folders: Mapping[str, Path], *_: object, **__: object) -> dict[str, dict[str, float]]:
        heats.append(list(folders))
        return _latency({name: costs[name] * (2 if len(heats) > 1 else 1) for name in folders})

    monkeypatch.setattr(choose.worker, "call", heat)

    def variants(one: Candidate) -> list[Candidate]:
        return [replace(one, label=f"{one.label} threads=1", files={"a": f"{one.label} 1"})]

    store = Store(tmp_path / "cache")
    choice = choose.best(found, "latency", variants=variants, store=store, limits=LIMITS, on_event=None)
    assert heats[1] == ["int8", "other fp32", "int8 threads=1"], "only the winner's variants, and a float that is near"
    assert heats[2] == ["int8", "int8 threads=1"], "now the float is beaten"
    rows = {row["name"]: row for row in choice.rows}
    assert choice.label == "int8 threads=1"
    assert rows["int8"] | {"status": "slower", "latency_p50_ms": 2.0, "heat": 3} == rows["int8"]
    assert (rows["slow fp32"]["heat"], rows["slow fp32"]["times_fastest"]) == (1, 9.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, onnx_file: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("site")
    rng = np.random.default_rng(1)
    w, v = rng.standard_normal((256, 256), dtype=np.float32), rng.standard_normal((256, 64), dtype=np.float32)
    onnx_file(folder / "net.onnx", GRAPH, w=w, v=v)
    np.savez(folder / "calib.npz", x=rng.standard_normal((16, 256), dtype=np.float32))
    return folder


def _job(site: Path, **words: Any) -> recipe.Job:
    source = recipe.source(str(site / "net.onnx"), dims=["n=1..64@32"])
    how = recipe.quantization(
        data=str(site / "calib.npz"), **{name: words.pop(name) for name in ("max_drop",) if name in words}
    )
    return recipe.job(source, words.pop("target", "cpu"), "auto", quantization=how, **words)


def test_the_search_tries_what_can_be_built_here(site: Path) -> None:
    labels = [choose.label(one) for one in choose.candidates(_job(site))]
    expected = ["onnxruntime-cpu fp32", "openvino-cpu fp32", "openvino-cpu fp16"]
    expected += ["onnxruntime-cpu int8", "openvino-cpu int8", "onnxruntime-cpu int8 dynamic"]
    if host.has_bf16():
        expected.insert(2, "openvino-cpu bf16")
        expected.insert(-1, "openvino-cpu int8 around=bf16")
    assert labels == expected
    assert {one.id for one in choose.candidates(_job(site))} == {"net-cpu-auto"}
    busy = choose.candidates(_job(site, objective="throughput"))
    assert host.cores() == 1 or {dict(one.options)["threads"] for one in busy} == {"1"}
    chosen = choose.candidates(_job(site, options=["threads=1"]))
    assert choose.label(chosen[0]) == "onnxruntime-cpu fp32 threads=1"
    assert not choose.variants(chosen[0])


def test_the_choice_is_the_fastest_and_a_repeated_search_does_nothing(site: Path, tmp_path: Path) -> None:
    store, job = Store(site / "cache"), _job(site, target="onnxruntime-cpu")
    result = pipeline.run(job, tmp_path / "one", limits=LIMITS, store=store)
    rows = {row["name"]: row for row in result.report["candidates"]}
    (kept,) = [row for row in rows.values() if row["status"] == "kept"]
    assert kept["name"] == result.label
    last = [row for row in rows.values() if row["heat"] == max(row["heat"] for row in rows.values())]
    assert kept in last
    assert 0.98 * kept["times_fastest"] <= min(row["times_fastest"] for row in last) == 1
    bases = {choose.label(one): one for one in choose.candidates(job)}
    assert bases.keys() <= rows.keys()
    of_each = [{choose.label(one) for one in choose.variants(base)} for base in bases.values()]
    assert rows.keys() - bases.keys() in of_each, "the winner's variants, and no other's"
    manifest = result.artifact.manifest
    assert manifest["job"]["id"] == "net-onnxruntime-cpu-auto"
    assert f"{manifest['job']['target']} {manifest['job']['precision']}" in kept["name"]
    again = pipeline.run(job, tmp_path / "two", limits=LIMITS, store=store)
    assert again.made == ()
    assert again.report["candidates"] == result.report["candidates"]


def test_another_usual_size_is_measured_anew(site: Path, tmp_path: Path) -> None:
    """The payload is the same, to the byte, and another one may be the fastest."""
    store, made = Store(site / "cache"), []
    for size in (8, 64):
        source = recipe.source(str(site / "net.onnx"), dims=[f"n=1..64@{size}"])
        made.append(
            pipeline.run(recipe.job(source, "cpu", "fp32"), tmp_path / f"{size}", limits=LIMITS, store=store).made
        )
    assert all(choose.MEASURE in stages for stages in made)


def test_a_stopped_search_goes_on(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first heat is in the store: only the next ones are measured."""
    store, done = Store(site / "cache"), []
    found = [
        replace(_candidate("fp32"), files={"a": "1"}), replace(_candidate("other fp32"), files={"a": "2"})
    ]  # fmt: skip

    def heat(_call: object, folders: Mapping[str, Path], *_: object, **__: object) -> dict[str, dict[str, float]]:
        done.append(sorted(folders))
        if len(done) == 2:
            raise KeyboardInterrupt
        return _latency(dict.fromkeys(folders, 1.0))

    monkeypatch.setattr(choose.worker, "call", heat)
    found = [replace(one, unpack=lambda: site) for one in found]
    with pytest.raises(KeyboardInterrupt):
        choose.best(found, "latency", store=store, limits=LIMITS, on_event=None)
    assert len(done) == 2
    choice = choose.best(found, "latency", store=store, limits=LIMITS, on_event=None)
    assert choice.label == "fp32"
    assert len(done) == 2 + len(choose._HEATS) - 1, "the first heat is not run again"
    assert not choose.best(found, "latency", store=store, limits=LIMITS, on_event=None).made


def test_what_misses_the_bound_is_not_chosen(site: Path, tmp_path: Path) -> None:
    job = _job(site, target="openvino-cpu", max_drop=["sqnr=100"], objective="size")
    result = pipeline.run(job, tmp_path / "out", limits=LIMITS, store=Store(site / "cache"))
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "report.json").read_text())["candidates"]}
    assert rows["openvino-cpu fp16"]["status"] == "inaccurate"
    assert "--max-drop sqnr=100" in rows["openvino-cpu fp16"]["reason"]
    mixed = rows.pop("openvino-cpu int8 around=bf16", None)
    assert (mixed is not None) == host.has_bf16()
    assert mixed is None or mixed["status"] != "kept"
    lowered = [row for name, row in rows.items() if "int8" in name]
    assert lowered
    for (
        row
    ) in lowered:  # none, or with what the bound needs in floating point: 100 dB of noise is a cosine of 1 - 5e-11
        assert row["status"] == "inaccurate" or row["cosine"] > 1 - 1e-9
    assert result.label == next(name for name, row in rows.items() if row["status"] == "kept")


METRIC = """
import hashlib, pathlib
import helper

def exact(outputs, labels):
    digest = hashlib.sha256(b"".join(one.tobytes() for one in outputs)).hexdigest()
    first = pathlib.Path(__file__).with_name("first")
    if not first.exists():
        first.write_text(digest)  # the reference comes first
    return helper.SCALE * (digest == first.read_text())
"""


@pytest.mark.parametrize(("limit", "kept"), [(2, "openvino-cpu fp16"), (0.5, "openvino-cpu fp32")])
def test_a_metric_of_the_users_judges_weights_in_fp16_too(limit: float, kept: str, site: Path, tmp_path: Path) -> None:
    """Their graph is not planc's to lower, so that no guard has judged it."""
    (tmp_path / "helper.py").write_text("SCALE = 1.0\n")
    (tmp_path / "metric.py").write_text(METRIC)
    job = _job(site, target="openvino-cpu", max_drop=[f"{tmp_path / 'metric.py'}:exact={limit}"], objective="size")
    no_int8 = recipe.Quantization(guard=replace(job.quantization.guard, data=job.quantization.calibration.data))
    job, stages = replace(job, quantization=replace(no_int8, files=job.quantization.files)), list[str]()

    def judged() -> int:
        stages.clear()
        tell = lambda kind, value: stages.append(value) if kind == "stage" else None  # noqa: E731
        store = Store(tmp_path / "cache")
        pipeline.run(job, tmp_path / "out", limits=LIMITS, store=store, overwrite=True, on_event=tell)
        return stages.count("judge")

    halves = 1 + host.has_bf16()
    assert [judged(), judged()] == [halves, 0], "what was judged is kept"
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "report.json").read_text())["candidates"]}
    assert rows[kept]["status"] == "kept"
    assert (rows["openvino-cpu fp16"]["status"] == "inaccurate") == (kept == "openvino-cpu fp32")
    (tmp_path / "helper.py").write_text("SCALE = 0.5\n")
    assert judged() == halves, "the metric is another one"


def test_what_makes_no_sense_is_refused(site: Path) -> None:
    source = recipe.source(str(site / "net.onnx"), dims=["n=1..64@32"])
    with pytest.raises(UsageError, match="--optimize latency goes with -p auto, not with fp32"):
        recipe.job(source, "cpu", "fp32", objective="latency")
    with pytest.raises(UsageError, match="--optimize speed: unknown objective"):
        recipe.job(source, "cpu", "auto", objective="speed")
    with pytest.raises(Unavailable, match="-p auto measures, and tensorrt-rtx:sm89 does not run here"):
        recipe.job(source, "tensorrt-rtx:sm89", "auto")


def test_int8_on_a_cpu_without_vnni_is_told(site: Path, tmp_path: Path) -> None:
    source = recipe.source(str(site / "net.onnx"), dims=["n=1..64@32"])
    how = recipe.quantization(data=str(site / "calib.npz"))
    notes: list[str] = []
    pipeline.run(
        recipe.job(source, "onnxruntime-cpu", "int8", quantization=how),
        tmp_path / "out",
        limits=LIMITS,
        on_event=lambda kind, value: notes.append(value) if kind == "note" else None,
    )
    assert any("no VNNI or AMX" in note for note in notes) is not host.has_vnni()

"""The report: what it says is what the artifacts say, and the page stands alone."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from planc.compiler import html, report
from planc.compiler.errors import Unavailable, UsageError
from planc.compiler.worker import Limits

LIMITS = Limits(seconds=300)


class Page(HTMLParser):
    """What a reader, a keyboard and a screen reader find on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.places: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append((tag, facts))
        self.ids += [str(facts["id"])] if "id" in facts else []
        self.places += [str(facts[name]) for name in ("href", "xlink:href", "src") if name in facts]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._cell = tag in ("td", "th") or (self._cell and tag not in ("table", "tr"))

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of the tags of this name."""
        return [facts for name, facts in self.tags if name == tag]

    def row(self, first: str) -> list[str]:
        """The first row that begins so."""
        return next(row for row in self.rows if row and row[0] == first)


def check_alone(text: str) -> Page:
    """Asserts what holds for each page of planc, and returns it."""
    page = Page(text)
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", text)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "<script" not in text
    assert "<metadata" not in text
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    inner = {place.removeprefix("#") for place in page.places if place.startswith("#")}
    assert inner <= set(page.ids)
    assert {place for place in page.places if not place.startswith("#")} <= {"data:,"}
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert all(facts.get("role") == "img" and facts.get("aria-label") for facts in page.all("svg"))
    assert all(facts.get("scope") in ("col", "row") for facts in page.all("th"))
    assert all(facts.get("aria-label") for facts in page.all("div") if facts.get("role") == "region")
    assert ("html", {"lang": "en"}) in page.tags
    return page


def _entry(item: report.Item, ms: float) -> dict[str, Any]:
    """A subject of a document of planc bench."""
    return {
        "name": item.name, "latency_p50_ms": ms, "latency_p50_ms_interval": [0.9 * ms, 1.1 * ms],
        "latency_p99_ms": 2 * ms, "cold_start_ms": 100 * ms, "peak_rss_bytes": 5e7, "blocks_ms": [[[ms, ms, 2 * ms]]],
    }  # fmt: skip


def _document(items: list[report.Item], folder: Path, **more: Any) -> Path:
    path = folder / "bench.json"
    subjects = [{**_entry(one, 1.25 * number), **more} for number, one in enumerate(items, 1)]
    path.write_text(json.dumps({"schema_version": 1, "subjects": subjects}))
    return path


@pytest.fixture(scope="module")
def items(ort_artifact: Path, openvino_artifact: Path, null_artifact: Path) -> list[report.Item]:
    found = report.find([ort_artifact, openvino_artifact, null_artifact])
    return report.with_nodes(found, limits=LIMITS)


def test_what_was_not_measured_says_so(items: list[report.Item]) -> None:
    page = check_alone(report.page(items))
    for item in items:
        assert "not measured" in page.row(item.name)
        assert page.row(item.name)[-2] == html.size(item.bytes)
    assert page.row("null")[1] == "not executed here"
    assert page.row("openvino-cpu")[1] == "verified"
    assert len(page.all("svg")) == 3, "only how the weights are stored"


def test_figures_are_those_of_the_document(items: list[report.Item], tmp_path: Path) -> None:
    measured = report.with_document(items, _document(items[:2], tmp_path))
    page = check_alone(report.page(measured))
    assert page.row("onnxruntime-cpu")[4:8] == ["1.25", "2.5", "125", "50.0 MB"]
    assert page.row("openvino-cpu")[4:8] == ["2.5", "5", "250", "50.0 MB"]
    assert "not in bench.json" in page.row("null")
    cosine = items[0].cosine
    assert cosine is not None
    assert page.row("onnxruntime-cpu")[-1] == f"{cosine:.6f}"
    labels = [facts["aria-label"] or "" for facts in page.all("svg")]
    assert [one.split()[0] for one in labels[:3]] == ["Latency", "Distribution", "Memory"]


def test_details_are_those_of_the_artifact(items: list[report.Item]) -> None:
    item = items[0]
    page = Page(report.page([item]))
    manifest = item.made.manifest
    for name, facts in manifest["files"].items():
        assert page.row(f"{name}, {html.size(facts['bytes'])}")[1] == facts["sha256"]
    for name, version in manifest["versions"].items():
        assert page.row(name)[1] == version
    assert page.row("dimension batch")[1] == "1 to 4, mostly 2"
    before, after = (item.report["graph"][name]["operators"] for name in ("before", "after"))
    assert before["BatchNormalization"] == 1
    for name in {*before, *after}:
        assert page.row(name) == [name, str(before.get(name, 0)), str(after.get(name, 0))]
    assert page.row("all")[:2] == ["all", ""], "the map: no modules in this payload"
    assert sum(map(int, page.row("all")[2:])) == len(item.nodes) > 0


def test_names_are_text(items: list[report.Item], tmp_path: Path) -> None:
    name = "<script>alert(1)</script>\"'&$x_1$"
    item = report.Item(
        name, items[0].made, {**items[0].report, "layers": [_layer(name, 2e-3), _layer("b", 1e-3)]},
        figures=_entry(items[0], 1.0), nodes=items[0].nodes,
    )  # fmt: skip
    page = check_alone(report.page([item]))
    assert page.row(name)
    assert _layer(name, 0.0)["name"] in [row[0] for row in page.rows]


def _layer(name: str, noise: float | None, sqnr_db: float | None = 30.0, decision: str = "int8") -> dict[str, Any]:
    return {
        "name": name, "origin": "", "op": "Conv", "macs": 2_500_000, "decision": decision, "reason": "",
        "sqnr_db": sqnr_db, "noise": noise,
    }  # fmt: skip


def test_layers_by_their_cost(items: list[report.Item]) -> None:
    layers = [_layer("a", 1e-4), _layer("b", 3e-3, decision="float"), _layer("c", None, None)]
    item = report.Item("x", items[0].made, {"layers": layers})
    page = check_alone(report.page([item]))
    names = [row[0] for row in page.rows if row[1:2] == ["Conv"]]
    assert names == ["b", "a", "c"]
    assert page.row("b") == ["b", "Conv", "float", "0.003", "30.0", "2.5 M", ""]
    assert page.row("c")[3:5] == ["", ""], "unknown, not zero"
    assert page.row("all") == ["all", "", "2", "1"], "the map, from what was lowered"


def test_time_of_layers(items: list[report.Item], tmp_path: Path) -> None:
    layers = [
        {"name": f"n{number}", "op": "Conv", "kernel": "k", "ms": 0.5 * number, "share": 0.1 * number, "module": "m"}
        for number in (1, 3, 2)
    ]
    path = _document(items[:1], tmp_path, profile={"layers": layers, "modules": {}})
    page = check_alone(report.page(report.with_document(items[:1], path)))
    assert [row for row in page.rows if row[2:3] == ["k"]] == [
        ["m n3", "Conv", "k", "1.5", "30.0%"],
        ["m n2", "Conv", "k", "1", "20.0%"],
        ["m n1", "Conv", "k", "0.5", "10.0%"],
    ]
    assert "--profile" in report.page(items[:1])


def test_candidates_are_points_of_the_plot(items: list[report.Item]) -> None:
    row = {"latency_p50_ms": 2.0, "cosine": 0.999, "size_bytes": 1000}
    candidates = [
        {**row, "name": "a", "status": "slower"},
        {**row, "name": "b", "status": "kept", "latency_p50_ms": 1.0},
        {"name": "c", "status": "failed", "reason": "no"},
    ]
    page = check_alone(report.page([report.Item("x", items[0].made, {"candidates": candidates})]))
    assert page.row("x: a") == ["x: a", "2", "0.999000", "1.0 kB"]
    assert [row[:2] for row in page.rows if row[0] == "x"][1] == ["x", "1"]
    assert not [row for row in page.rows if row[0] == "x: c"]


def test_artifacts_of_two_models_and_one_name(
    items: list[report.Item],
    ort_artifact: Path,
    tmp_path: Path,
    planc: Callable[..., Any],
    onnx_file: Callable[..., Path],
) -> None:
    onnx_file(
        tmp_path / "relu.onnx",
        '<ir_version: 8, opset_import: ["": 18]> g (float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }',
    )
    planc("compile", "relu.onnx", "--dim", "batch=1..4@2", "-t", "null", "-o", "out/relu", cwd=tmp_path)
    shutil.copytree(ort_artifact, tmp_path / "out" / ort_artifact.name)
    (tmp_path / "out" / ort_artifact.name / "report.json").unlink()
    found = report.find([ort_artifact, tmp_path / "out"])
    assert [one.model for one in found] == ["conv.onnx", "conv.onnx", "relu.onnx"]
    assert len({one.name for one in found}) == 3, "the longer name where two folders have one"
    text = report.page(found)
    assert "3 artifacts of 2 models" in text
    assert "there is no report.json beside the manifest" in text
    check_alone(text)


def test_what_it_cannot_read(ort_artifact: Path, tmp_path: Path, items: list[report.Item]) -> None:
    with pytest.raises(UsageError, match="no such artifact"):
        report.find([tmp_path / "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="not an artifact"):
        report.find([tmp_path / "empty"])
    others = [report.Item("other", items[0].made, {})]
    path = _document(others, tmp_path)
    with pytest.raises(UsageError, match="measures none of these"):
        report.with_document(items, path)


def test_the_verb(planc: Callable[..., Any], ort_artifact: Path, null_artifact: Path, tmp_path: Path) -> None:
    words = ("report", ort_artifact, null_artifact, "--no-measure", "-o", "r.html")
    assert planc(*words, cwd=tmp_path).stdout.startswith("built r.html: 2 artifacts")
    first = (tmp_path / "r.html").read_bytes()
    document = json.loads(planc(*words, "--format", "json", cwd=tmp_path).stdout)
    assert document["artifacts"] == [ort_artifact.name, "null"]
    assert (tmp_path / "r.html").read_bytes() == first, "the same artifacts, the same page"
    done = planc(*words, "--bench", "x.json", cwd=tmp_path, expect=2)
    assert "exclude each other" in done.stderr


def test_it_measures(items: list[report.Item], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_SECONDS", 0.2)
    monkeypatch.setattr(report, "_PROCESSES", 1)
    ort, null = report.measured([items[0], items[2]], limits=LIMITS)
    assert ort.figures["latency_p50_ms"] > 0
    assert (null.figures, null.unmeasured) == ({}, "not executed here")
    assert Page(report.page([ort])).row("onnxruntime-cpu")[4] == html.ms(ort.figures["latency_p50_ms"])


def test_without_what_draws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html.host, "version", lambda name: None if name == "matplotlib" else "1")
    with pytest.raises(Unavailable, match="matplotlib is not installed") as error:
        html.require(*report.PACKAGES)
    assert (error.value.hint, error.value.exit_code) == ("pip install 'planc[report]'", 3)

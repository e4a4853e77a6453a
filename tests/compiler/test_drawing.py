"""Drawings of graphs: nodes in layers, nothing above what it reads, nothing over another."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from planc.compiler import artifact, drawing, graph

from .test_report import check_alone


def _row(*inputs: int, op: str = "Add", precision: str = "float32", module: str = "") -> dict[str, Any]:
    return {
        "op": op, "name": "", "module": module, "dtype": "float32", "shape": ["batch", 4, None],
        "precision": precision, "inputs": list(inputs),
    }  # fmt: skip


def test_each_node_is_below_what_it_reads_and_over_no_other() -> None:
    rows = [_row(), _row(0), _row(0), _row(1, 2), _row(0, 3), _row(), _row(4, 5)]
    made = drawing.layout(rows)
    tops = [top for _, top in made["boxes"]]
    assert all(tops[one] < tops[place] for place, row in enumerate(rows) for one in row["inputs"])
    assert tops[5] == tops[4], "what reads nothing is beside its reader, not at the top"
    for (left, top), (other, below) in combinations(made["boxes"], 2):
        assert top != below or abs(left - other) >= 168
    assert all(0 <= left <= made["width"] - 168 for left, _ in made["boxes"])
    assert max(tops) + 44 <= made["height"]


def test_a_long_edge_is_shared_and_passes_beside_the_nodes() -> None:
    rows = [_row(), _row(0), _row(1), _row(2, 0), _row(3, 0)]
    made = drawing.layout(rows)
    assert len(made["edges"]) == 9, "4 along the chain, 4 steps of the long edge, one out of it on its way"
    xs = [float(match[1]) for edge in made["edges"] if (match := re.search(r" ([\d.]+) \d+v44$", edge))]
    middles = [left + 84 for left, _ in made["boxes"][1:4]]
    assert all(abs(x - middle) > 84 for x, middle in zip(xs, middles, strict=True))


def test_nothing_to_draw() -> None:
    assert drawing.layout([])["boxes"] == []
    check_alone(drawing.page("empty", []))


def test_the_page_has_each_node_twice() -> None:
    rows = [_row(op="<script>", precision="int8", module="a.<b>"), _row(0, op="com.microsoft.QGemm", precision="int64")]
    page = check_alone(drawing.page("<x>", rows))
    assert {"node0", "node1", "row0", "row1"} <= set(page.ids)
    assert page.rows[1] == ["0", "<script>", "a.<b>", "float32[batch,4,?]", "int8", ""]
    assert page.rows[2] == ["1", "com.microsoft.QGemm", "", "float32[batch,4,?]", "int64", "0"]


def test_colours_by_what_each_runtime_calls_a_type() -> None:
    words = ("i8", "uint8", "bf16", "fp16", "f32", "float", "int64", "unknown")
    assert [drawing.color(one) for one in words] == [
        "int8", "int8", "bfloat16", "float16", "float32", "float32", "other", "other",
    ]  # fmt: skip


def test_a_thousand_nodes() -> None:
    rows = [_row()]
    for _ in range(250):
        last = len(rows) - 1
        rows += [_row(last), _row(last), _row(last + 1, last + 2, 0), _row(last + 3, last)]
    assert len(check_alone(drawing.page("big", rows)).rows) == 1002


def test_inspect_draws(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    done = planc("inspect", workshop / "conv.onnx", "--html", "g.html", cwd=tmp_path)
    assert "parameters: 597" in done.stdout
    page = check_alone((tmp_path / "g.html").read_text())
    names = [row[1] for row in page.rows[1:]]
    assert names == [row["op"] for row in graph.nodes(workshop / "conv.onnx")]
    (tmp_path / "plan").mkdir()
    manifest = {**dict.fromkeys(artifact._KEYS), "schema_version": artifact.SCHEMA_VERSION}
    (tmp_path / "plan/manifest.json").write_text(json.dumps(manifest))
    done = planc("inspect", "plan", "--html", "no.html", cwd=tmp_path, expect=2)
    assert "holds no ONNX graph to draw" in done.stderr
    assert "planc report" in done.stderr


@pytest.mark.parametrize(("text", "wanted"), [("short", "short"), ("x" * 40, "\N{HORIZONTAL ELLIPSIS}" + "x" * 25)])
def test_texts_fit(text: str, wanted: str) -> None:
    assert drawing.short(text) == wanted

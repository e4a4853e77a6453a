"""Gates of planc.toml: what fails them replaces nothing, what passed them is not measured again."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import bench, build, project
from planc.compiler.cache import Store
from planc.compiler.executors import local

Write = Callable[..., Path]

TOML = """
[model.net]
source = "net.onnx"
dims = { n = "1..64@32" }
calibration = "calib.npz"
[[build]]
targets = ["onnxruntime-cpu"]
precisions = ["fp32", "int8"]
gates = { GATES }
"""
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,256] x) => (float[n,256] y) { y = MatMul(x, w) }"""


@pytest.fixture
def site(tmp_path: Path, onnx_file: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(1)
    onnx_file(tmp_path / "net.onnx", GRAPH, w=rng.standard_normal((256, 256), dtype=np.float32))
    np.savez(tmp_path / "calib.npz", x=rng.standard_normal((16, 256), dtype=np.float32))
    monkeypatch.setattr(bench.Plan, "__init__", _quick(bench.Plan.__init__))
    return tmp_path


def _quick(init: Callable[..., None]) -> Callable[..., None]:
    """The gates here are far from any figure: two processes say enough."""

    def made(self: bench.Plan, *words: object, **named: object) -> None:
        init(self, *words, **{"seconds": 0.5, "processes": 2, **named})

    return made


def _build(site: Path, gates: str, *only: str) -> dict[str, build.Outcome]:
    (site / "planc.toml").write_text(TOML.replace("GATES", gates))
    read = project.load(site / "planc.toml")
    entries = project.select(read.jobs, only)
    rows = build.run(read, entries, store=Store(site / "cache"), executor=local.create(2))
    return {row.id.removeprefix("net-onnxruntime-cpu-"): row for row in rows}


def _report(site: Path, precision: str) -> dict:
    return json.loads((site / "out" / f"net-onnxruntime-cpu-{precision}" / "report.json").read_text())


def test_what_passes_is_published_and_not_measured_again(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = 'max_p99 = "30s", max_rss = "8GB", max_size = "1MB", min_speedup = 0.001'
    rows = _build(site, gates)
    assert {row.status for row in rows.values()} == {"built"}
    assert "build" in rows["int8"].made
    assert rows["int8"].latency_p50_ms
    names = [row["name"] for row in _report(site, "int8")["gates"]]
    assert [name.split()[1] for name in names] == ["--max-size", "--max-p99", "--min-speedup", "--max-rss"]
    assert not any("min-speedup" in row["name"] for row in _report(site, "fp32")["gates"])
    monkeypatch.setattr(bench, "run", lambda *_, **__: pytest.fail("it is measured again"))
    assert {row.status for row in _build(site, gates).values()} == {"cached"}
    for path in (site / "out").rglob("*"):
        path.unlink() if path.is_file() else None
    assert {row.status for row in _build(site, gates).values()} == {"cached"}


def test_stages_of_fp32_are_its_own_where_a_gate_needed_them_first(site: Path) -> None:
    (site / "planc.toml").write_text(TOML.replace("GATES", 'max_p99 = "30s", min_speedup = 0.001'))
    read = project.load(site / "planc.toml")
    rows = build.run(read, read.jobs[::-1], store=Store(site / "cache"), executor=local.create(2))
    assert [row.id.rpartition("-")[2] for row in rows] == ["int8", "fp32"]
    assert [row.status for row in rows] == ["built", "built"], [row.reason for row in rows]


@pytest.mark.parametrize(
    ("gates", "told"),
    [('max_p99 = "1us"', "p99"), ("min_speedup = 1000", "over fp32"), ('max_size = "1kB"', "to deploy")],
)
def test_what_fails_replaces_nothing(site: Path, gates: str, told: str) -> None:
    _build(site, 'max_size = "1MB"', "*int8")
    before = (site / "out" / "net-onnxruntime-cpu-int8" / "manifest.json").read_bytes()
    rows = _build(site, gates, "*int8")
    assert rows["int8"].status == "failed"
    assert rows["int8"].exit_code == 1
    assert told in rows["int8"].reason
    assert (site / "out" / "net-onnxruntime-cpu-int8" / "manifest.json").read_bytes() == before


def test_a_regression_is_one_against_what_is_replaced(site: Path, onnx_file: Write) -> None:
    first = _build(site, 'max_regression = "100%"', "*fp32")
    assert first["fp32"].status == "built"
    (row,) = _report(site, "fp32")["gates"]
    assert row["status"] == "skipped"
    assert "nothing is replaced" in row["message"]
    slow = GRAPH.replace("{ y = MatMul(x, w) }", f"{{ a0 = MatMul(x, w) {_chain(40)} y = Identity(a40) }}")
    small = np.random.default_rng(2).standard_normal((256, 256), dtype=np.float32) / 16
    onnx_file(site / "net.onnx", slow, w=small)
    rows = _build(site, 'max_regression = "100%"', "*fp32")
    assert rows["fp32"].status == "failed"
    assert "against what it replaces" in rows["fp32"].reason


def _chain(count: int) -> str:
    return " ".join(f"a{number + 1} = MatMul(a{number}, w)" for number in range(count))


def test_what_is_not_executed_here_is_not_judged_by_time(site: Path) -> None:
    text = TOML.replace("onnxruntime-cpu", "tensorrt-rtx:sm89").replace("GATES", 'max_p99 = "1us"')
    (site / "planc.toml").write_text(text.replace('"fp32", "int8"', '"fp32"'))
    read = project.load(site / "planc.toml")
    (row,) = build.run(read, read.jobs, store=Store(site / "cache"), executor=local.create(2))
    assert row.status == "built", row.reason
    (told,) = json.loads((Path(row.out) / "report.json").read_text())["gates"]
    assert told["status"] == "skipped"
    assert "not executed here" in told["message"]

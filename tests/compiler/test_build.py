"""planc build and planc plan: what is shared is made once, what has not changed is not made again."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import build, project
from planc.compiler.cache import Store
from planc.compiler.errors import UsageError
from planc.compiler.executors import local

Write = Callable[..., Path]

TOML = """
[model.one]
source = "one.onnx"
dims = { n = "1..4@2" }
calibration = "calib.npz"
[model.two]
source = "two.onnx"
dims = { n = "1..4@2" }
calibration = "calib.npz"
[[build]]
models = ["one", "two"]
targets = ["onnxruntime-cpu", "null"]
precisions = ["fp32", "int8"]
"""
DIMS = 'dims = { n = "1..4@2" }\n'
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,64] x) => (float[n,16] y) {
  a = MatMul(x, w)
  r = Relu(a)
  y = MatMul(r, v)
}"""


def _model(onnx_file: Write, path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, v = rng.standard_normal((64, 32), dtype=np.float32), rng.standard_normal((32, 16), dtype=np.float32)
    onnx_file(path, GRAPH, w=w, v=v)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, onnx_file: Write) -> Path:
    """A project of eight jobs; tests run in order and share its cache."""
    folder = tmp_path_factory.mktemp("site")
    _model(onnx_file, folder / "one.onnx", 1)
    _model(onnx_file, folder / "two.onnx", 2)
    np.savez(folder / "calib.npz", x=np.random.default_rng(3).standard_normal((16, 64), dtype=np.float32))
    (folder / "planc.toml").write_text(TOML)
    return folder


def _build(site: Path, only: tuple[str, ...] = (), **words: Any) -> list[build.Outcome]:
    read = project.load(site / "planc.toml")
    entries = project.select(read.jobs, only)
    return build.run(read, entries, store=Store(site / "cache"), executor=local.create(2), **words)


def _count(site: Path) -> Counter[str]:
    return Counter(row["stage"] for row in Store(site / "cache").listing())


def test_a_plan_says_what_is_to_build_and_runs_nothing(site: Path) -> None:
    planned = build.plan(project.load(site / "planc.toml").jobs, Store(site / "cache"))
    assert [one["job"] for one in planned][:2] == ["one-onnxruntime-cpu-fp32", "one-onnxruntime-cpu-int8"]
    assert {row["state"] for one in planned for row in one["stages"]} == {"build"}
    assert planned[0]["stages"][0]["why"] == "never built here"
    assert planned[0]["stages"][1]["why"] == "export comes first"
    assert not (site / "cache" / "entries").exists()


def test_a_matrix_makes_what_is_shared_once(site: Path) -> None:
    rows = _build(site)
    assert {row.status for row in rows} == {"built"}
    assert build.exit_code(rows) == 0
    counts = _count(site)
    assert counts["export"] == 2
    assert counts["optimize"] == 4  # INT8 keeps where nodes come from
    assert counts["calibrate"] == 2
    assert counts["lower"] == 4
    assert counts["build"] == counts["verify"] == 8
    manifest = json.loads((site / "out" / "one-onnxruntime-cpu-int8" / "manifest.json").read_text())
    assert manifest["job"]["id"] == "one-onnxruntime-cpu-int8"
    assert manifest["config"]["model"]["calibration"] == "calib.npz"


def test_one_table_serves_int8_and_16_bits(site: Path, tmp_path: Path) -> None:
    for name in ("one.onnx", "calib.npz"):
        (tmp_path / name).write_bytes((site / name).read_bytes())
    text = TOML.replace("[model.two]", "[model.two]\ndescription = 'unused'").replace('"one", "two"', '"one"')
    (tmp_path / "two.onnx").write_bytes((site / "two.onnx").read_bytes())
    (tmp_path / "planc.toml").write_text(text.replace('"fp32", "int8"', '"fp32", "fp16", "int8"'))
    rows = _build(tmp_path)
    assert {row.id: row.status for row in rows if row.status != "built"} == {"one-onnxruntime-cpu-fp16": "skipped"}
    assert _count(tmp_path)["calibrate"] == 1


def test_nothing_to_do_makes_nothing_and_changes_no_file(site: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (site / "out").rglob("*") if path.is_file()}
    rows = _build(site)
    assert {row.status for row in rows} == {"cached"}
    assert not any(row.made for row in rows)
    assert {path: path.stat().st_mtime_ns for path in (site / "out").rglob("*") if path.is_file()} == before
    planned = build.plan(project.load(site / "planc.toml").jobs, Store(site / "cache"))
    assert {row["state"] for one in planned for row in one["stages"]} == {"cached"}


@pytest.mark.parametrize("words", [["--cache", "cache"], ["--cache", "s3://nowhere"], ["--set", "cache.url=s3://no"]])
def test_nothing_to_do_imports_nothing_heavy(
    words: list[str], site: Path, python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(site / "cache"))
    code = f"""
import sys
from planc import cli
sys.argv = ["planc", "build", *{words}, "--format", "json"]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {{"torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "numpy", "tensorrt_rtx", "fsspec", "s3fs"}}
print(sorted(heavy & set(sys.modules)))
"""
    said = python(code, cwd=site)
    assert said.splitlines()[-1] == "[]"
    assert {row["status"] for row in json.loads(said.rpartition("[")[0])["jobs"]} == {"cached"}


@pytest.mark.parametrize("files", [None, [], {"model.onnx": {}}])
def test_a_manifest_of_another_form_is_damage(files: Any, site: Path) -> None:
    path = site / "out" / "one-onnxruntime-cpu-fp32" / "manifest.json"
    before = path.read_bytes()
    path.write_text(json.dumps({**json.loads(before), "files": files}))
    entries = project.load(site / "planc.toml").jobs
    assert build.plan(entries, Store(site / "cache"))[0]["artifact"] == "damaged"
    path.write_bytes(before)


def test_a_removed_artifact_comes_back_from_the_cache(site: Path) -> None:
    folder = site / "out" / "one-onnxruntime-cpu-fp32"
    before = (folder / "manifest.json").read_bytes()
    entries = project.load(site / "planc.toml").jobs
    for state in ("there", "damaged", "missing"):
        assert build.plan(entries, Store(site / "cache"))[0]["artifact"] == state
        if state == "there":
            model = (folder / "model.onnx").read_bytes()
            (folder / "model.onnx").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
        else:
            for path in folder.iterdir():
                path.unlink()
    (row,) = _build(site, ("one-onnxruntime-cpu-fp32",))
    assert row.made == ()
    assert (folder / "manifest.json").read_bytes() == before


def test_a_changed_model_builds_its_own_jobs_only_and_says_why(site: Path, onnx_file: Write) -> None:
    _model(onnx_file, site / "two.onnx", 4)
    planned = build.plan(project.load(site / "planc.toml").jobs, Store(site / "cache"))
    todo = [one for one in planned if any(row["state"] == "build" for row in one["stages"])]
    assert {one["job"].partition("-")[0] for one in todo} == {"two"}
    assert todo[0]["stages"][0]["why"].startswith("model_sha256: ")
    rows = _build(site)
    assert {row.id.partition("-")[0] for row in rows if row.made} == {"two"}
    assert _count(site)["export"] == 3


def test_a_failing_job_stops_no_other_and_gives_the_exit_code(site: Path) -> None:
    (site / "broken.onnx").write_bytes(b"no model")
    text = TOML.replace('source = "two.onnx"', 'source = "broken.onnx"').replace('"two"]', '"two"]\noutput = "other"')
    (site / "broken.toml").write_text(text)
    read = project.load(site / "broken.toml")
    rows = build.run(read, read.jobs, store=Store(site / "cache"), executor=local.create(2))
    assert {row.id.partition("-")[0]: row.status for row in rows} == {"one": "cached", "two": "failed"}
    assert build.exit_code(rows) == UsageError.exit_code
    assert "broken.onnx" in next(row.reason for row in rows if row.status == "failed")
    rows = build.run(read, read.jobs, store=Store(site / "cache"), executor=local.create(1), fail_fast=True)
    assert Counter(row.status for row in rows)["skipped"] > 0
    assert build.exit_code(rows) == UsageError.exit_code


def test_builds_at_once_make_each_stage_once(site: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("planc")), "build", "--cache", str(tmp_path / "fresh")]
    command += ["--only", "one-*-fp32", "--format", "json", "-j", "2"]
    sets = [["--set", f"output={json.dumps(str(tmp_path / f'out{number}'))}"] for number in range(3)]
    running = [subprocess.Popen([*command, *more], cwd=site, stdout=subprocess.PIPE, text=True) for more in sets]
    documents = [json.loads(one.communicate(timeout=300)[0]) for one in running]
    assert [one.returncode for one in running] == [0, 0, 0]
    made = Counter(stage for one in documents for row in one["jobs"] for stage in row["made"])
    assert made["build"] == made["verify"] == 2
    manifests = [
        (tmp_path / f"out{number}" / "one-null-fp32" / "manifest.json").read_text().replace(f"out{number}", "out")
        for number in range(3)
    ]
    assert len(set(manifests)) == 1
    assert Store(tmp_path / "fresh").verify()[1] == []


def test_a_source_that_was_saved_without_a_change_touches_no_artifact(site: Path) -> None:
    _build(site)
    before = {path: path.stat().st_mtime_ns for path in (site / "out").rglob("*") if path.is_file()}
    (site / "one.onnx").touch()
    (site / "planc.toml").write_text(f"# a comment\n{TOML}")
    rows = _build(site, overwrite=False)
    assert {row.status for row in rows} == {"cached"}
    assert {path: path.stat().st_mtime_ns for path in (site / "out").rglob("*") if path.is_file()} == before


def test_what_planc_did_not_make_is_not_replaced(site: Path) -> None:
    folder = site / "out" / "one-null-fp32"
    (folder / "notes.txt").write_text("mine")  # in an artifact of planc, even
    (site / "out" / "one-null-int8").rename(site / "kept")
    (site / "out" / "one-null-int8").mkdir()
    (site / "out" / "one-null-int8" / "model.onnx").write_text("mine, too")
    rows = {row.id: row for row in _build(site, ("one-*",), overwrite=True)}
    assert {name: row.exit_code for name, row in rows.items() if row.exit_code} == {
        "one-null-fp32": UsageError.exit_code,
        "one-null-int8": UsageError.exit_code,
    }
    assert "exists and is not an artifact of planc" in rows["one-null-fp32"].reason
    assert (folder / "notes.txt").read_text() == "mine"
    assert (site / "out" / "one-null-int8" / "model.onnx").read_text() == "mine, too"


def test_jobs_that_need_more_memory_than_there_is_do_not_overlap(site: Path, onnx_file: Write, tmp_path: Path) -> None:
    _model(onnx_file, site / "three.onnx", 5)
    text = TOML.replace('"onnxruntime-cpu", "null"', '"roomy"').replace('"fp32", "int8"', '"fp32"')
    text += f'[target.roomy]\nbackend = "null"\nmemory = "2GiB"\n[model.three]\nsource = "three.onnx"\n{DIMS}'
    (site / "roomy.toml").write_text(text.replace('["one", "two"]', '["one", "two", "three"]'))
    read = project.load(site / "roomy.toml", overrides=[f"output={json.dumps(str(tmp_path / 'out'))}"])
    told: list[str] = []
    rows = build.run(
        read,
        read.jobs,
        store=Store(tmp_path / "cache"),
        executor=local.create(4, 3 << 30),
        on_event=lambda name, _kind, _value: told.append(name),
    )
    assert {row.status for row in rows} == {"built"}
    jobs = [name for name in told if not name.startswith("export ")]
    assert set(jobs) == {row.id for row in rows}
    assert [name for name, _ in groupby(jobs)] == list(dict.fromkeys(jobs)), "each speaks until it ends"


ROWS = """
import numpy as np
from pathlib import Path

def rows():
    for name in sorted(Path(__file__).with_name("rows").iterdir()):
        yield {"x": np.loadtxt(name, dtype=np.float32)[None]}
"""


class TestShards:
    """Calibration as three tasks; tests run in order and share a cache."""

    @pytest.fixture(scope="class")
    @classmethod
    def folders(cls, tmp_path_factory: pytest.TempPathFactory, onnx_file: Write) -> tuple[Path, Path]:
        """The same project, with and without shards."""
        made = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("shards")
        for folder, shards in zip(made, ("", "shards = 3"), strict=True):
            _model(onnx_file, folder / "one.onnx", 1)
            _model(onnx_file, folder / "two.onnx", 2)
            (folder / "rows").mkdir()
            for number in range(7):
                np.savetxt(folder / "rows" / f"{number}.txt", np.random.default_rng(number).standard_normal(64))
            (folder / "data.py").write_text(ROWS)
            (folder / "planc.toml").write_text(TOML.replace('"calib.npz"', f'"data.py:rows"\n{shards}'))
        return made

    def test_a_build_that_is_stopped_goes_on_with_the_next_shard(self, folders: tuple[Path, Path]) -> None:
        def stop(task: str, _kind: str, _value: object) -> None:
            if task.endswith("shard 3/3"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _build(folders[1], ("one-*-int8",), on_event=stop)
        before = set(_count(folders[1]))
        assert before & {"shard 1/3", "shard 2/3", "shard 3/3", "calibrate"} <= {"shard 1/3", "shard 2/3"}
        rows = _build(folders[1], ("one-*-int8",))
        assert {row.status for row in rows} == {"built"}
        made = {name for row in rows for name in row.made}
        assert not made & before
        assert {"shard 1/3", "shard 2/3", "shard 3/3", "calibrate"} <= made | before

    def test_artifacts_are_those_of_one_run(self, folders: tuple[Path, Path]) -> None:
        _build(folders[0], ("one-*-int8",))
        counts = _count(folders[1])
        assert counts["calibrate"] == counts["shard 1/3"] == counts["shard 2/3"] == counts["shard 3/3"] == 1
        assert counts["lower"] == 2
        for path in (folders[0] / "out").rglob("*"):
            if path.is_file() and path.name != "report.json":
                assert path.read_bytes() == (folders[1] / path.relative_to(folders[0])).read_bytes()
        assert (folders[0] / "out" / "one-null-int8" / "ranges.json").exists()

    def test_a_plan_knows_what_shards_read_but_not_how_many_there_are(self, folders: tuple[Path, Path]) -> None:
        def whys(shards: int) -> dict[str, str]:
            entries = project.load(folders[1] / "planc.toml", overrides=[f"model.one.shards={shards}"]).jobs
            (planned,) = build.plan(project.select(entries, ["one-null-int8"]), Store(folders[1] / "cache"))
            return {row["stage"]: row["why"] for row in planned["stages"]}

        assert list(whys(1)) == ["export", "optimize", "calibrate", "lower", "build", "verify"]
        assert set(whys(1).values()) == set(whys(2).values()) == {""}, "all is cached"
        np.savetxt(folders[1] / "rows" / "6.txt", np.full(64, 9.0))
        assert whys(3)["calibrate"] == "rows/6.txt changed"


def test_a_plan_is_drawn(site: Path) -> None:
    planned = build.plan(project.load(site / "planc.toml").jobs, Store(site / "cache"))
    dot = build.drawn(planned, "dot")
    assert dot.startswith("digraph plan {")
    assert dot.count('"export cached"') == 2
    assert "one-onnxruntime-cpu-int8" in build.drawn(planned, "mermaid")


def test_differences_name_the_leaf() -> None:
    old = {"versions": {"onnx": "1.0"}, "inputs": [1]}
    assert list(build.differences(old, {"versions": {"onnx": "1.1"}, "inputs": [1]})) == ["versions.onnx: 1.0 -> 1.1"]

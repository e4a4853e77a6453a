"""A build on a cluster of dask.distributed: a scheduler and three workers with resources of their own, on 127.0.0.1."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import build, project, worker
from planc.compiler.cache import Store
from planc.compiler.errors import BuildFailed, Unavailable, UsageError
from planc.compiler.executors import Task, dask, local

distributed = pytest.importorskip("distributed")

Write = Callable[..., Path]

RESOURCES = {"first": "l4=1", "second": "npu=1", "third": "l4=1,npu=1"}
TOML = """
[model.one]
source = "one.onnx"
dims = { n = "1..4@2" }
calibration = "data/calib.npz"
[model.two]
source = "two.onnx"
dims = { n = "1..4@2" }
calibration = "data/batches.py:batches"
[target.edge]
backend = "null"
resources = { l4 = 1 }
[target.camera]
backend = "null"
resources = { npu = 1 }
[[build]]
models = ["one"]
targets = ["edge"]
precisions = ["fp32", "int8"]
[[build]]
models = ["two"]
targets = ["camera"]
precisions = ["int8"]
[[build]]
models = ["one"]
targets = ["onnxruntime-cpu"]
precisions = ["int8"]
"""
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,64] x) => (float[n,16] y) {
  a = MatMul(x, w)
  r = Relu(a)
  y = MatMul(r, v)
}"""
BATCHES = """
import numpy as np
from helper import COUNT

def batches():
    for seed in range(COUNT):
        yield {"x": np.random.default_rng(seed).standard_normal((2, 64), dtype=np.float32)}
"""
HELD = """
from pathlib import Path
from time import sleep

while Path({hold!r}).exists():
    sleep(0.05)
"""
SLOW = """
import time

def batches():
    time.sleep(600)
    yield {}
"""


@dataclass
class Cluster:
    """A scheduler and workers, all of them processes of this test."""

    folder: Path
    mark: str
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    def is_known(self) -> bool:
        """Whether the scheduler has written where it is: its file is there before its content."""
        try:
            return bool(self.address)
        except (OSError, ValueError):
            return False

    def start(self, name: str, *words: object) -> None:
        command = [sys.executable, "-m", "dask", *map(str, words), "--scheduler-file", self.file, "--no-dashboard"]
        kept = {name: one for name, one in os.environ.items() if name != "PLANC_CACHE_DIR"}
        words_of = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s", "PLANC_TEST": self.mark}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*command, "--host", "127.0.0.1"], stdout=log, stderr=log, cwd=self.folder, env=kept | words_of
            )

    def left(self) -> list[int]:
        """Processes of planc that workers have started."""
        pids = worker._marked(f"PLANC_TEST={self.mark}".encode())
        return [pid for pid in pids if b"planc.compiler.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    made = Cluster(folder, str(folder))
    try:
        made.start("scheduler", "scheduler", "--port", "0")
        for name, resources in RESOURCES.items():
            made.start(name, "worker", "--name", name, "--no-nanny", "--nthreads", 1, "--resources", resources,
                       "--local-directory", folder / name, "--memory-limit", 0)  # fmt: skip
        _until(made.is_known)
        with distributed.Client(made.address) as client:
            client.wait_for_workers(3, timeout=60)
        yield made
    finally:
        for one in made.processes.values():
            one.kill()
            one.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, onnx_file: Write) -> Path:
    return _site(tmp_path_factory.mktemp("site"), onnx_file)


def _site(folder: Path, onnx_file: Write, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(("one", "two")):
        rng = np.random.default_rng(number + seed)
        w, v = rng.standard_normal((64, 32), dtype=np.float32), rng.standard_normal((32, 16), dtype=np.float32)
        onnx_file(folder / f"{name}.onnx", GRAPH, w=w, v=v)
    (folder / "data").mkdir()
    np.savez(folder / "data" / "calib.npz", x=np.random.default_rng(3).standard_normal((16, 64), dtype=np.float32))
    (folder / "data" / "batches.py").write_text(BATCHES)
    (folder / "data" / "helper.py").write_text("COUNT = 4\n")
    (folder / "planc.toml").write_text(TOML)
    return folder


def _until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def _build(site: Path, executor: Any, only: tuple[str, ...] = (), **words: Any) -> list[build.Outcome]:
    read = project.load(site / "planc.toml")
    return build.run(read, project.select(read.jobs, only), store=Store(site / "cache"), executor=executor, **words)


def _artifacts(site: Path) -> dict[str, bytes]:
    """All that an artifact holds, but for what was measured."""
    files = (path for path in (site / "out").rglob("*") if path.is_file() and path.name != "report.json")
    return {str(path.relative_to(site)): path.read_bytes() for path in files}


def _nothing(*_: object) -> None:
    pass


def test_artifacts_are_those_of_a_local_build_which_then_has_nothing_to_do(
    cluster: Cluster, site: Path, tmp_path: Path, onnx_file: Write
) -> None:
    told: list[tuple[str, str, Any]] = []
    rows = _build(site, dask.create(address=cluster.address), on_event=lambda *event: told.append(event))
    assert [(row.id, row.status) for row in rows if row.status != "built"] == []
    assert {"load", "calibrate", "lower", "verify"} <= {value for _, kind, value in told if kind == "stage"}
    assert {row.id for row in rows} <= {name for name, _, _ in told}
    assert {row.out for row in rows} == {str(site / "out" / row.id) for row in rows}

    again = _build(site, local.create(2))
    assert {row.status for row in again} == {"cached"}
    assert not any(row.made for row in again)

    _build(_site(tmp_path, onnx_file), local.create(2))
    assert _artifacts(site) == _artifacts(tmp_path)
    assert not cluster.left()


def test_the_command_line_with_nothing_to_do_changes_no_file(
    cluster: Cluster, site: Path, planc: Callable[..., Any]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (site / "out").rglob("*")}
    words = ("--executor", "dask", "--address", cluster.address, "--cache", "cache", "--format", "json")
    rows = json.loads(planc("build", *words, cwd=site).stdout)["jobs"]  # paths as planc.toml has them: relative
    assert {row["status"] for row in rows} == {"cached"}
    assert {path: path.stat().st_mtime_ns for path in (site / "out").rglob("*")} == before


def test_what_no_worker_has_is_told_at_once(cluster: Cluster, site: Path) -> None:
    rows = {row.id: row for row in _build(_changed(site, "npu = 1", "tpu = 2"), dask.create(address=cluster.address))}
    assert rows["one-edge-fp32"].status == "cached"
    assert rows["two-camera-int8"].exit_code == Unavailable.exit_code
    assert "has the resource tpu=2. Start one: dask worker tcp://127.0.0.1:" in rows["two-camera-int8"].reason


def _changed(site: Path, old: str, new: str) -> Path:
    """The site with another planc.toml; the store and the artifacts are the same."""
    folder = site.with_name(f"{site.name}-changed")
    folder.mkdir(exist_ok=True)
    for one in site.iterdir():
        if one.name != "planc.toml" and not (folder / one.name).exists():
            (folder / one.name).symlink_to(one)
    (folder / "planc.toml").write_text(TOML.replace(old, new))
    return folder


def test_no_scheduler_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "_CONNECT_SECONDS", 1)
    with pytest.raises(UsageError, match="--address"):
        dask.create(address="nowhere://here")
    with pytest.raises(Unavailable, match="no scheduler answers at tcp:"):
        dask.create(address="tcp://127.0.0.1:1")


def test_errors_and_logs_come_back(cluster: Cluster, site: Path, tmp_path: Path, onnx_file: Write) -> None:
    folder = _site(tmp_path, onnx_file)
    (folder / "data" / "helper.py").write_text("COUNT = 1 / 0\n")
    only = ("one-edge-fp32", "two-camera-int8")
    rows = {row.id: row for row in _build(folder, dask.create(address=cluster.address), only)}
    assert rows["one-edge-fp32"].status == "built"
    failed = rows["two-camera-int8"]
    assert failed.exit_code == UsageError.exit_code
    assert "ZeroDivisionError" in failed.reason
    assert "helper.py:1" in failed.reason


def test_stop_ends_what_workers_run(cluster: Cluster, tmp_path: Path, onnx_file: Write) -> None:
    folder = _site(tmp_path, onnx_file)
    (folder / "data" / "batches.py").write_text(SLOW)
    entry = next(one for one in project.load(folder / "planc.toml").jobs if one.id == "two-camera-int8")
    started = threading.Event()
    executor = dask.create(address=cluster.address)
    work = build.Share(entry.job, ("optimize", "calibrate"), worker.Limits(), Store(folder / "cache"))
    future = executor.submit(
        Task("slow", work, resources=entry.resources),
        lambda kind, value: started.set() if (kind, value) == ("stage", "calibrate") else None,
    )
    assert started.wait(60)
    assert cluster.left()
    executor.stop()
    assert future.done()
    assert not cluster.left()


def test_a_task_beyond_its_time_fails(cluster: Cluster, tmp_path: Path, onnx_file: Write) -> None:
    folder = _site(tmp_path, onnx_file)
    (folder / "data" / "batches.py").write_text(SLOW)
    entry = next(one for one in project.load(folder / "planc.toml").jobs if one.id == "two-camera-int8")
    executor = dask.create(address=cluster.address)
    work = build.Share(entry.job, ("optimize", "calibrate"), worker.Limits(seconds=4), Store(folder / "cache"))
    with pytest.raises(BuildFailed, match="did not finish within 4 s"):
        executor.submit(Task("slow", work, resources=entry.resources), _nothing).result(60)
    executor.stop()


def test_killed_and_stopped_workers_are_replaced(cluster: Cluster, tmp_path: Path, onnx_file: Write) -> None:
    """Last: two of the workers are gone after it. Shards of the calibration run on them, and are not lost."""
    folder, whole = _site(tmp_path / "shards", onnx_file, seed=7), _site(tmp_path / "whole", onnx_file, seed=7)
    hold, text = tmp_path / "hold", TOML.replace("calib.npz", "batches.py:batches")
    for site, own in ((folder, "shards = 3\ncalibration ="), (whole, "calibration =")):
        (site / "planc.toml").write_text(text.replace("calibration =", own))
        (site / "data" / "batches.py").write_text(BATCHES + HELD.format(hold=str(hold)))
    hold.touch()
    executor = dask.create(address=cluster.address)
    names = {
        address: facts["name"] for address, facts in executor.client.scheduler_info(n_workers=-1)["workers"].items()
    }
    signals = {"first": signal.SIGKILL, "second": signal.SIGSTOP}
    hit: dict[str, str] = {}
    ran: dict[str, set[str]] = {}

    def disturb(task: str, kind: str, value: object) -> None:
        name = names.get(executor.running.get(task, ""), "")
        if (kind, value) == ("stage", "calibrate"):
            ran.setdefault(task, set()).add(name)
            if name in signals and name not in hit and "shard" in task:
                hit[name] = task
                cluster.processes[name].send_signal(signals[name])
                if set(hit) == set(signals):
                    hold.unlink()

    only = ("one-edge-int8", "two-camera-int8")
    rows = _build(folder, executor, only, on_event=disturb)
    assert set(hit) == set(signals)
    assert len(ran[hit["first"]]) > 1, "another worker ran it again"
    assert all(len(where) == 1 for task, where in ran.items() if task not in hit.values()), "and no other shard"
    assert set.union(*(where for task, where in ran.items() if "shard" in task)) == set(RESOURCES)
    assert [(row.id, row.reason) for row in rows if row.status != "built"] == []
    assert {row.status for row in _build(folder, local.create(2), only)} == {"cached"}
    counts = Counter(row["stage"] for row in Store(folder / "cache").listing())
    assert counts["shard 1/3"] == counts["shard 2/3"] == counts["shard 3/3"] == counts["calibrate"] == 2
    _build(whole, local.create(2), only[1:])
    assert "out/two-camera-int8/ranges.json" in _artifacts(whole)
    assert _artifacts(whole).items() <= _artifacts(folder).items()
    assert not [pid for pid in cluster.left() if not _is_child_of(pid, cluster.processes["second"].pid)]


def _is_child_of(pid: int, parent: int) -> bool:
    return f"PPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text()

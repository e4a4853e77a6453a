"""planc build: nothing to do, a matrix against its jobs one by one, builds at once, and builds that are killed."""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from planc.compiler import artifact
from planc.compiler.cache import Store

from .common import print_table

PLANC = str(Path(sys.executable).with_name("planc"))
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,WIDTH] x) => (float[n,16] y) {
  a = MatMul(x, w)
  r = Relu(a)
  y = MatMul(r, v)
}"""
KILLS = 50
FULL_DISKS = 10


def main() -> None:
    print("## planc build\n")
    with tempfile.TemporaryDirectory() as place:
        nothing_to_do(Path(place) / "large")
        matrix(Path(place) / "matrix")
        one_of_twelve(Path(place) / "twelve")
        at_once(Path(place) / "at-once")
        killed(Path(place) / "killed")


def site(folder: Path, models: int, *, width: int = 256, hidden: int = 64, targets: str, precisions: str) -> Path:
    """A project of products of matrices, with external weights."""
    folder.mkdir(parents=True)
    text = ""
    for number in range(models):
        rng = np.random.default_rng(number)
        model = onnx.parser.parse_model(GRAPH.replace("WIDTH", str(width)))
        w = rng.standard_normal((width, hidden), dtype=np.float32)
        v = rng.standard_normal((hidden, 16), dtype=np.float32)
        model.graph.initializer.extend([onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(v, "v")])
        onnx.save(
            model, folder / f"m{number}.onnx", save_as_external_data=True, location=f"m{number}.data", size_threshold=0
        )
        text += f'[model.m{number}]\nsource = "m{number}.onnx"\ndims = {{ n = "1..4@2" }}\n'
        text += 'calibration = "calib.npz"\n' if "int8" in precisions or "16" in precisions else ""
    samples = np.random.default_rng(9).standard_normal((16, width), dtype=np.float32)
    np.savez(folder / "calib.npz", x=samples)
    (folder / "planc.toml").write_text(f"{text}[[build]]\ntargets = {targets}\nprecisions = {precisions}\n")
    return folder


def planc(folder: Path, *words: str, check: bool = True) -> dict:
    done = subprocess.run(
        [PLANC, "build", "--cache", "cache", "--format", "json", *words], cwd=folder, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def nothing_to_do(folder: Path) -> None:
    """Twelve jobs over 1 GB of weights."""
    site(
        folder,
        4,
        width=16384,
        hidden=4096,
        targets='["null", "onnxruntime-cpu", "openvino-cpu"]',
        precisions='["fp32"]',
    )
    weights = sum(path.stat().st_size for path in folder.glob("*.data"))
    planc(folder)
    time.sleep(3)
    planc(folder)  # files are remembered once they are two seconds old
    ours, theirs = [], []
    for _ in range(15):
        start = time.perf_counter()
        document = planc(folder)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        theirs.append(time.perf_counter() - start)
    assert {row["status"] for row in document["jobs"]} == {"cached"}
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"Nothing to do, {len(document['jobs'])} jobs over {weights / 1e9:.2f} GB of weights:\n")
    rows = [["planc build", f"{statistics.median(ours):.3f}", f"{ratio:.1f}"]]
    print_table(
        ["command", "s", "/ python -c pass"], [*rows, ["python -c pass", f"{statistics.median(theirs):.3f}", "1"]]
    )
    shutil.rmtree(folder)


def matrix(folder: Path) -> None:
    """3 models x 4 targets x 3 precisions, beside the same jobs one by one, each with an empty cache."""
    targets = '["onnxruntime-cpu", "openvino-cpu", "tensorrt-rtx:sm89", "null"]'
    site(folder, 3, targets=targets, precisions='["fp32", "fp16", "int8"]')
    start = time.perf_counter()
    document = planc(folder)
    together = time.perf_counter() - start
    counts = Counter(row["stage"] for row in Store(folder / "cache").listing())
    jobs = [row["id"] for row in document["jobs"] if row["status"] == "built"]
    start = time.perf_counter()
    for number, job in enumerate(jobs):
        planc(folder, "--only", job, "--cache", f"alone{number}", "--set", f'output="alone{number}-out"')
    apart = time.perf_counter() - start
    print(f"\n3 models x 4 targets x 3 precisions, {len(jobs)} jobs: stages made {dict(counts)}.")
    print(f"Together {together:.1f} s, one by one {apart:.1f} s: {together / apart:.2f}x.\n")


def one_of_twelve(folder: Path) -> None:
    """A change of one model among twelve."""
    site(folder, 12, targets='["null"]', precisions='["fp32"]')
    planc(folder)
    model = onnx.load(folder / "m7.onnx")
    model.graph.node[1].op_type = "Sigmoid"
    onnx.save(model, folder / "m7.onnx", save_as_external_data=True, location="m7.new", size_threshold=0)
    made = {row["id"]: row["made"] for row in planc(folder)["jobs"] if row["made"]}
    print(f"One model of 12 changed: what ran is {made}.\n")


def at_once(folder: Path) -> None:
    """Eight builds on one cache."""
    site(folder, 2, targets='["null", "onnxruntime-cpu"]', precisions='["fp32", "int8"]')
    command = [PLANC, "build", "--cache", "cache", "--format", "json", "-j", "2", "--set"]
    running = [
        subprocess.Popen(
            [*command, f'output="out{number}"'], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for number in range(8)
    ]
    documents = [json.loads(one.communicate()[0]) for one in running]
    made = Counter(f"{row['id']} {stage}" for one in documents for row in one["jobs"] for stage in row["made"])
    files = [
        {
            path.relative_to(folder / f"out{number}"): path.read_bytes()
            for path in (folder / f"out{number}").rglob("*.*")
            if path.name != "report.json"
        }
        for number in range(8)
    ]
    same = all(one == files[0] for one in files)
    codes = [one.returncode for one in running]
    print(
        f"8 builds at once: exit codes {codes}; stages made twice for a job: {sum(n > 1 for n in made.values())}; ",
        end="",
    )
    print(f"artifacts the same: {same}; damaged files in the cache: {len(Store(folder / 'cache').verify()[1])}.\n")


def killed(folder: Path) -> None:
    """Builds that SIGKILL stops at random moments, and builds on a disk that fills up."""
    site(folder, 1, targets='["null", "onnxruntime-cpu"]', precisions='["fp32", "int8"]')
    rng, ended, bad, failed = random.Random(0), 0, 0, 0
    start = time.perf_counter()
    planc(folder)
    whole = time.perf_counter() - start
    for _ in range(KILLS):
        shutil.rmtree(folder / "cache")
        shutil.rmtree(folder / "out")
        process = subprocess.Popen(
            [PLANC, "build", "--cache", "cache"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(rng.uniform(0.1, whole))
            ended += 1
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        bad += damaged(folder / "out")
        failed += planc(folder, check=False)["exit_code"] != 0
        bad += damaged(folder / "out") + len(Store(folder / "cache").verify()[1])
    print(
        f"{KILLS} builds killed at random moments ({ended} had ended): damaged artifacts or cache files {bad}, ", end=""
    )
    print(f"next builds that failed {failed}.")
    full_disks(folder / "full")


def full_disks(folder: Path) -> None:
    """Builds with a cache and an output on a small disk (needs the right to mount one)."""
    site(folder, 1, width=2048, hidden=512, targets='["null", "onnxruntime-cpu"]', precisions='["fp32", "int8"]')
    disk = folder / "disk"
    disk.mkdir()
    bad, codes = 0, Counter[int]()
    for number in range(FULL_DISKS):
        size = (17 << 20) + number * (3 << 20)  # planc wants 16 MiB to start; the builds write about 40
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=False).returncode:
            print("No right to mount a small disk: builds on a full one were not measured.")
            return
        try:
            done = subprocess.run(
                [PLANC, "build", "--cache", "disk/cache", "--set", 'output="disk/out"', "-j", "1"], cwd=folder,
                capture_output=True, text=True,
            )  # fmt: skip
            codes[done.returncode] += 1
            bad += damaged(disk / "out") + len(Store(disk / "cache").verify()[1])
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    print(f"{FULL_DISKS} builds on a full disk: exit codes {dict(codes)}, damaged artifacts or cache files {bad}.")


def damaged(folder: Path) -> int:
    """Folders under final names that are no whole artifact."""
    bad = 0
    for path in folder.iterdir() if folder.exists() else ():
        if not path.name.startswith("."):
            try:
                bad += bool(artifact.read(path).damage())
            except Exception:
                bad += 1
    return bad

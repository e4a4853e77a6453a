"""`planc optimize` beside onnxsim, onnxslim, onnxscript.optimizer and ONNX Runtime's offline optimizer.

Whole processes, in turns: wall time, CPU time, peak memory of the largest process; then the nodes of the results and
their latency in ONNX Runtime and OpenVINO. The peers live in an environment of their own:

    python3.11 -m venv .venv-peers
    .venv-peers/bin/pip install onnxsim==0.8.1 onnxslim==0.1.98 onnxscript==0.7.2 onnxruntime==1.31.1
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from planc.compiler.bench import interleaved

from .common import EFFICIENTNET, MINILM, PLANC, RESNET50, ROOT, VIT, Case, print_table

PEERS = ("onnxsim", "onnxslim", "onnxscript", "onnxruntime")
PYTHON = ROOT / ".venv-peers/bin/python"
CASES = (RESNET50, EFFICIENTNET, MINILM, VIT)
ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """What one run of a tool took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def main(*, threads: int = 0) -> None:
    print("## Graph passes")
    if not PYTHON.exists():
        print(f"\nNot measured: no {PYTHON.relative_to(ROOT)}. See the head of bench/passes.py.")
        return
    for case in CASES:
        measure(case, threads or 2)


def measure(case: Case, threads: int) -> None:
    """Prints the table of one model, exported unoptimised."""
    folder = ROOT / "out/bench/passes" / case.model
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "raw.onnx"
    case.export(source)
    costs: dict[str, list[Cost]] = {}
    for _ in range(ROUNDS):
        for tool in ("planc", *PEERS):
            if (cost := run(command(tool, source, folder / f"{tool}.onnx"))) is not None:
                costs.setdefault(tool, []).append(cost)
    files = {"raw export": source, **{tool: folder / f"{tool}.onnx" for tool in costs}}
    latencies = {runtime: latency(files, load, threads) for runtime, load in RUNTIMES.items()}
    print(f"\n### {case.title}: {ROUNDS} rounds, medians; latencies on {threads} threads, ratio to the raw export")
    headers = ["tool", "wall s", "CPU s", "peak MB", "nodes", "MB", *(f"{name}, ms" for name in RUNTIMES)]
    print_table(headers, [row(name, file, costs.get(name, []), latencies) for name, file in files.items()])


def command(tool: str, source: Path, out: Path) -> list[str | Path]:
    """The command of one tool from file to file."""
    if tool == "planc":
        return [PLANC, "optimize", source, "-o", out, "--overwrite"]
    return [PYTHON, Path(__file__).with_name("_peer.py"), tool, source, out]


LAUNCHER = """
import json, os, sys, time
begin = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                       file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_WRONLY, 0) for fd in (1, 2)])
_, status, used = os.wait4(child, 0)
wall = time.perf_counter() - begin
sys.stdout.write(json.dumps([status, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000]))
"""
"""A small process of its own: a child's peak memory is never less than that of the process that starts it."""


def run(words: Sequence[str | Path]) -> Cost | None:
    """Runs a command to its end; None where it fails."""
    started = subprocess.run([sys.executable, "-I", "-S", "-c", LAUNCHER, *words], capture_output=True, check=True)
    status, *figures = json.loads(started.stdout)
    return Cost(*figures) if status == 0 else None


def row(name: str, file: Path, costs: Sequence[Cost], latencies: dict[str, dict[str, float]]) -> list[str]:
    figures = ["", "", ""]
    if costs:
        figures = [
            f"{statistics.median(cost.wall_s for cost in costs):.2f}",
            f"{statistics.median(cost.cpu_s for cost in costs):.2f}",
            f"{statistics.median(cost.peak_mb for cost in costs):.0f}",
        ]
    nodes, size = len(onnx.load(file, load_external_data=False).graph.node), file.stat().st_size / 1e6
    base = {runtime: one["raw export"] for runtime, one in latencies.items()}
    shown = [f"{one[name]:.2f} ({one[name] / base[runtime]:.2f})" for runtime, one in latencies.items()]
    return [name, *figures, str(nodes), f"{size:.1f}", *shown]


def latency(files: dict[str, Path], load: Callable[[Path, int], Any], threads: int) -> dict[str, float]:
    """Median latency in ms by name; with one thread it is CPU time."""
    arrays = feed(files["raw export"])
    runs = {name: (lambda run=load(file, threads): run(arrays)) for name, file in files.items()}
    clock = time.process_time if threads == 1 else time.perf_counter
    return {name: statistics.median(one) for name, one in interleaved(runs, seconds=20, clock=clock).items()}


def feed(path: Path) -> list[np.ndarray]:
    """One array per input: batch 1, sequence 128, as in the latency benchmark."""
    sizes = {"batch": 1, "seq": 128}
    rng = np.random.default_rng(0)
    arrays = []
    for value in onnx.load(path, load_external_data=False).graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in kind.shape.dim]
        if kind.elem_type == onnx.TensorProto.FLOAT:
            arrays.append(rng.standard_normal(shape, dtype=np.float32))
        else:
            arrays.append(np.ones(shape, np.int64) if "mask" in value.name else rng.integers(0, 30000, shape))
    return arrays


def in_onnxruntime(path: Path, threads: int) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def in_openvino(path: Path, threads: int) -> Any:
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    try:
        request = ov.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    except RuntimeError:  # ONNX Runtime's own operators
        return lambda _arrays: None
    return lambda arrays: request.infer(dict(enumerate(arrays)), share_inputs=True)


RUNTIMES = {"ONNX Runtime": in_onnxruntime, "OpenVINO": in_openvino}

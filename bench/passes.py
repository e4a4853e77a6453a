"""`planc optimize` beside onnxsim, onnxslim, onnxscript.optimizer and ONNX Runtime's offline optimizer.

Whole processes, in turns: wall time, CPU time, peak memory of the largest process; then the nodes of the results, how
far their outputs are from those of the raw export, and their latency in ONNX Runtime and OpenVINO. The peers live in
an environment of their own:

    python3.11 -m venv .venv-peers
    .venv-peers/bin/pip install onnxsim==0.8.1 onnxslim==0.1.98 onnxscript==0.7.2 onnxruntime==1.31.1
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from planc.compiler.bench import interleaved

from .common import EFFICIENTNET, GPT2, MINILM, PLANC, RESNET50, ROOT, VIT, print_table

PEERS = ("onnxsim", "onnxslim", "onnxscript", "onnxruntime")
PYTHON = ROOT / ".venv-peers/bin/python"
CASES = (RESNET50, EFFICIENTNET, MINILM, VIT, GPT2)
ROUNDS = 3
ORDERS = 5
BIG_BYTES = 3_200_000_000


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
        for exporter, export in (("dynamo", case.export), ("TorchScript", case.export_by_torchscript)):
            folder = ROOT / "out/bench/passes" / f"{case.model}-{exporter}"
            folder.mkdir(parents=True, exist_ok=True)
            export(folder / "raw.onnx")
            measure(f"{case.title}, {exporter}", folder, threads or 2)
    measure_big()


def measure(title: str, folder: Path, threads: int) -> None:
    """Prints the table of one model, exported unoptimised to `raw.onnx` in `folder`."""
    source = folder / "raw.onnx"
    costs: dict[str, list[Cost]] = {}
    for _ in range(ROUNDS):
        for tool in ("planc", *PEERS):
            if (cost := run(command(tool, source, folder / f"{tool}.onnx"))) is not None:
                costs.setdefault(tool, []).append(cost)
    files = {"raw export": source, **{tool: folder / f"{tool}.onnx" for tool in costs}}
    latencies = {runtime: latency(files, runtime, threads) for runtime in RUNTIMES}
    apart = {name: distance(source, file) for name, file in files.items()}
    print(f"\n### {title}: {ROUNDS} rounds, medians; latencies on {threads} threads, ratio to the raw export")
    headers = ["tool", "wall s", "CPU s", "peak MB", "nodes", "MB", "max abs", *(f"{name}, ms" for name in RUNTIMES)]
    print_table(headers, [row(name, file, costs.get(name, []), apart[name], latencies) for name, file in files.items()])


def measure_big() -> None:
    """Prints what a model of 3.2 GB, weights beside it, costs beside copying its files."""
    folder = ROOT / "out/bench/passes/big"
    (folder / "in").mkdir(parents=True, exist_ok=True)
    write_big(folder / "in/big.onnx")
    copy = ["/bin/cp", "-r", folder / "in", folder / "copy"]
    costs: dict[str, list[Cost]] = {"cp -r": [], "planc": []}
    for _ in range(ROUNDS):
        costs["cp -r"].append(run(copy) or Cost(0, 0, 0))
        shutil.rmtree(folder / "copy")
        costs["planc"].append(run(command("planc", folder / "in/big.onnx", folder / "out/big.onnx")) or Cost(0, 0, 0))
        shutil.rmtree(folder / "out")
    print(f"\n### 3.2 GB with external data: {ROUNDS} rounds, medians")
    print_table(["tool", "wall s", "CPU s", "peak MB"], [[name, *figures(one)] for name, one in costs.items()])
    shutil.rmtree(folder)


def write_big(path: Path) -> None:
    """Writes 48 layers of MatMul, Add, Identity and Relu, 4096 wide, their weights beside them in one file."""
    wide = 4096
    layers = BIG_BYTES // (4 * wide * wide) + 1
    block = np.random.default_rng(0).standard_normal((wide, wide), dtype=np.float32)
    with path.with_suffix(".data").open("wb") as file:
        for layer in range(layers):
            block[0, 0] = layer
            file.write(block.data)
    nodes, tensors, last = [], [], "x"
    for layer in range(layers):
        weight = onnx.TensorProto(name=f"w{layer}", data_type=1, dims=[wide, wide], data_location=1)
        facts = (("location", f"{path.stem}.data"), ("offset", layer * block.nbytes), ("length", block.nbytes))
        for key, value in facts:
            weight.external_data.add(key=key, value=str(value))
        tensors += [weight, onnx.numpy_helper.from_array(np.full(wide, layer, np.float32), f"b{layer}")]
        for kind, words in (("MatMul", [last, f"w{layer}"]), ("Add", [f"MatMul{layer}", f"b{layer}"]),
                            ("Identity", [f"Add{layer}"]), ("Relu", [f"Identity{layer}"])):  # fmt: skip
            nodes.append(onnx.helper.make_node(kind, words, [f"{kind}{layer}"]))
        last = f"Relu{layer}"
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", wide]) for name in ("x", last)]
    graph = onnx.helper.make_graph(nodes, "big", ends[:1], ends[1:], tensors)
    opset = [onnx.helper.make_opsetid("", 18)]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


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


def row(
    name: str, file: Path, costs: Sequence[Cost], apart: float, latencies: dict[str, dict[str, float]]
) -> list[str]:
    nodes, size = len(onnx.load(file, load_external_data=False).graph.node), file.stat().st_size / 1e6
    base = {runtime: one["raw export"] for runtime, one in latencies.items()}
    shown = [f"{one[name]:.2f} ({one[name] / base[runtime]:.2f})" for runtime, one in latencies.items()]
    return [name, *figures(costs), str(nodes), f"{size:.1f}", f"{apart:.1g}", *shown]


def figures(costs: Sequence[Cost]) -> list[str]:
    """Medians of wall time, CPU time and peak memory."""
    if not costs:
        return ["", "", ""]
    return [
        f"{statistics.median(cost.wall_s for cost in costs):.2f}",
        f"{statistics.median(cost.cpu_s for cost in costs):.2f}",
        f"{statistics.median(cost.peak_mb for cost in costs):.0f}",
    ]


def distance(source: Path, file: Path) -> float:
    """Largest difference of any output, both graphs run as they are; ONNX Runtime's own fusions need its optimizer."""
    from planc.compiler.reference import runner

    names = [value.name for value in onnx.load(source, load_external_data=False).graph.input]
    arrays = dict(zip(names, feed(source), strict=True))
    wanted, found = runner(source)(arrays), runner(file)(arrays)
    return max(float(np.abs(found[name] - wanted[name]).max()) for name in wanted)


def latency(files: dict[str, Path], runtime: str, threads: int) -> dict[str, float]:
    """Latency in ms by name, median over processes of the median in each; with one thread it is CPU time.

    Each process loads the graphs in another order, which alone moves the latencies of equal ones by up to 9%.
    """
    found: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(ORDERS):
        order = random.Random(turn).sample(sorted(files), len(files))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            once = process.submit(latency_once, {name: files[name] for name in order}, runtime, threads).result()
        for name, one in once.items():
            found[name].append(one)
    return {name: statistics.median(some) for name, some in found.items()}


def latency_once(files: dict[str, Path], runtime: str, threads: int) -> dict[str, float]:
    """Median latency in ms by name, all in this process."""
    arrays = feed(files["raw export"])
    runs = {name: (lambda run=RUNTIMES[runtime](file, threads): run(arrays)) for name, file in files.items()}
    clock = time.process_time if threads == 1 else time.perf_counter
    return {name: statistics.median(one) for name, one in interleaved(runs, seconds=5, clock=clock).items()}


def feed(path: Path) -> list[np.ndarray]:
    """One array per input: batch 1, sequence 128, a cache of 64."""
    sizes = {"batch": 1, "seq": 128, "past": 64}
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

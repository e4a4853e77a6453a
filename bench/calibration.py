"""`planc quantize` to INT8 beside NNCF, Olive and ONNX Runtime's static quantization, on the same 64 samples.

Whole processes, in turns: wall time, CPU time, peak memory; the time of the FP32 inference of the samples is what no
tool can do without. Then the error of the results on a sample that none has seen, and their latency in turns. The peers
live in an environment of their own:

    python3.11 -m venv .venv-peers
    .venv-peers/bin/pip install onnxruntime==1.31.1 onnxscript==0.7.2 nncf==3.4.0 openvino==2026.4.1
    .venv-peers/bin/pip install olive-ai==0.13.0 requests torch==2.13.0
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from planc.calibration.metrics import sqnr
from planc.compiler.bench import interleaved

from .common import MINILM, PLANC, RESNET50, ROOT, VIT, print_table
from .passes import PYTHON, Cost, figures, in_onnxruntime, in_openvino, run

CASES = (RESNET50, MINILM, VIT)
ROUNDS = 3
SAMPLES = 64
MANY = 512

TOOLS = ("planc-openvino", "planc-onnxruntime", "nncf", "ort-minmax", "ort-entropy", "olive")


def main(*, threads: int = 0) -> None:
    print("## Calibration and lowering to INT8")
    if not PYTHON.exists():
        print(f"\nNot measured: no {PYTHON.relative_to(ROOT)}. See the head of bench/calibration.py.")
        return
    for case in CASES:
        folder = ROOT / "out/bench/calibration" / case.model
        folder.mkdir(parents=True, exist_ok=True)
        case.export(folder / "raw.onnx")
        write_samples(folder, SAMPLES, "samples.npz")
        measure(case.title, case.dims, folder, threads or 2)
    measure_memory(ROOT / "out/bench/calibration/resnet50")


def measure(title: str, dims: tuple[str, ...], folder: Path, threads: int) -> None:
    """Prints the table of one model."""
    costs: dict[str, list[Cost]] = {}
    limits: list[list[float]] = []
    for _ in range(ROUNDS):
        run(peer("fp32", folder, "fp32.json"))
        limits.append(json.loads((folder / "fp32.json").read_text()))
        for tool in TOOLS:
            if (cost := run(command(tool, dims, folder))) is not None:
                costs.setdefault(tool, []).append(cost)
    wall, cpu = (statistics.median(one) for one in zip(*limits, strict=True))
    made = {tool: folder / result(tool) for tool in costs}
    latencies = latency(made, folder, threads)
    print(f"\n### {title}: {ROUNDS} rounds, medians; FP32 inference of the samples {wall:.1f} s, CPU {cpu:.1f} s")
    rows = [[tool, *figures(ones), f"{noise(folder, made[tool]):.1f}", latencies[tool]] for tool, ones in costs.items()]
    print_table(["tool", "wall s", "CPU s", "peak MB", "SQNR dB", f"ms on {threads} threads"], rows)


def measure_memory(folder: Path) -> None:
    """Prints what calibrating with many samples takes in memory."""
    write_samples(folder, MANY, "many.npz")
    rows = []
    for data in ("samples.npz", "many.npz"):
        sizes = ["--no-cache", "--dim", "batch=1..8@1"]
        words = [PLANC, "calibrate", folder / "raw.onnx", *sizes, "--calibration", folder / data]
        cost = run([*words, "--method", "entropy", "-o", folder / "ranges.json"])
        rows.append([data, *figures([cost] if cost else [])])
    print(f"\n### ResNet-50, {SAMPLES} and {MANY} samples, entropy")
    print_table(["data", "wall s", "CPU s", "peak MB"], rows)
    (folder / "many.npz").unlink()


def write_samples(folder: Path, count: int, name: str) -> None:
    """Writes `count` samples: normal images, or ids of tokens with masks of several lengths."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for value in onnx.load(folder / "raw.onnx", load_external_data=False).graph.input:
        kind = value.type.tensor_type
        shape = [count, *(dim.dim_value or 128 for dim in kind.shape.dim[1:])]
        if kind.elem_type == onnx.TensorProto.FLOAT:
            arrays[value.name] = rng.standard_normal(shape, dtype=np.float32)
        elif "mask" in value.name:
            lengths = rng.integers(16, 129, count)
            arrays[value.name] = (np.arange(128) < lengths[:, None]).astype(np.int64)
        else:
            arrays[value.name] = rng.integers(1000, 30000, shape)
    np.savez(folder / name, **arrays)


def command(tool: str, dims: tuple[str, ...], folder: Path) -> list[str | Path]:
    """The command of one tool."""
    if not tool.startswith("planc"):
        return peer(tool, folder, result(tool))
    target = f"{tool.removeprefix('planc-')}-cpu"
    sizes = [f"--dim={dim}" for dim in dims]
    data = ["--calibration", folder / "samples.npz", "--method", "entropy", "--tolerance", "sqnr_db=0"]
    bounds = ["--tolerance", "cosine=0", "-o", folder / result(tool), "--overwrite"]
    return [PLANC, "quantize", folder / "raw.onnx", "-t", target, "--no-cache", *sizes, *data, *bounds]


def peer(tool: str, folder: Path, out: str) -> list[str | Path]:
    script = Path(__file__).with_name("_peer.py")
    return [PYTHON, script, tool, folder / "raw.onnx", folder / out, folder / "samples.npz"]


def result(tool: str) -> str:
    return "nncf.xml" if tool == "nncf" else f"{tool}.onnx"


def feeds(folder: Path) -> dict[str, np.ndarray]:
    """A sample that was not calibrated with."""
    write_samples(folder, 1, "unseen.npz")
    with np.load(folder / "unseen.npz") as archive:
        return {name: archive[name] for name in archive.files}


def loader(path: Path) -> Callable[[Path, int], Any]:
    """ONNX Runtime for what is made for it, else OpenVINO."""
    return in_openvino if path.suffix == ".xml" or "openvino" in path.name else in_onnxruntime


def noise(folder: Path, path: Path) -> float:
    """SQNR in dB of the first output on an unseen sample."""
    arrays = list(feeds(folder).values())
    wanted = first(in_onnxruntime(folder / "raw.onnx", 2)(arrays))
    return sqnr([first(loader(path)(path, 2)(arrays))], [wanted])


def first(outputs: Any) -> np.ndarray:
    return np.asarray(outputs[0] if isinstance(outputs, list) else next(iter(outputs.values())))


def latency(made: dict[str, Path], folder: Path, threads: int) -> dict[str, str]:
    """Median latency in ms by tool, beside the raw export in FP32 in both runtimes."""
    arrays = list(feeds(folder).values())
    loaded = {tool: loader(path)(path, threads) for tool, path in made.items()}
    loaded |= {name: load(folder / "raw.onnx", threads) for name, load in _FP32.items()}
    runs = {name: (lambda run=run: run(arrays)) for name, run in loaded.items()}
    medians = {name: statistics.median(one) for name, one in interleaved(runs, seconds=30).items()}
    fp32 = {
        tool: medians["OpenVINO fp32" if loader(path) is in_openvino else "ORT fp32"] for tool, path in made.items()
    }
    return {tool: f"{medians[tool]:.2f} ({medians[tool] / fp32[tool]:.2f} of fp32)" for tool in made}


_FP32 = {"ORT fp32": in_onnxruntime, "OpenVINO fp32": in_openvino}

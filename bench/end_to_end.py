"""What `-t cpu -p auto` chooses, beside torch, hand-written ONNX Runtime and OpenVINO scripts, and NNCF's INT8.

All runs in turns in one process on the same threads. NNCF lives in the peers' environment, see calibration.py.
"""

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import latency, models
from .common import EFFICIENTNET, MINILM, RESNET50, ROOT, VIT, Case, print_table
from .passes import PYTHON, run
from .quiet import quiet

DATA = {
    "efficientnet_lite0": "bench/data.py:image_calibration",
    "resnet50": "bench/data.py:image_calibration",
    "vit": "bench/data.py:image_calibration",
    "minilm": "bench/data.py:text_calibration",
}
CASES = (EFFICIENTNET, MINILM, RESNET50, VIT)
DROP = "cosine=0.01"
FOLDER = ROOT / "out/bench/end-to-end"
SAMPLES = 32


def main(names: tuple[str, ...] = ()) -> None:
    print("## End to end: -t cpu -p auto --max-drop " + DROP)
    ratios = [measure(case) for case in CASES if not names or case.model in names]
    print(f"\nGeometric mean of best peer / planc: {math.exp(statistics.mean(map(math.log, ratios))):.3f}")


def measure(case: Case) -> float:
    """Prints the table of one model; returns the time of the best peer of equal or better accuracy over planc's."""
    net = getattr(models, case.model)().eval()
    words = ("--calibration", DATA[case.model], "--samples", str(SAMPLES), "--max-drop", DROP)
    document = case.compile("cpu", "auto", *words)
    if "error" in document:
        raise SystemExit(f"{case.title}: {document['error']['what']}")
    arrays = latency.inputs(document)
    runs = {"torch eager": latency.module(net, arrays), "torch.compile": latency.module(torch.compile(net), arrays)}
    FOLDER.mkdir(parents=True, exist_ok=True)
    raw = FOLDER / f"{case.model}.onnx"
    if not raw.exists():
        case.export(raw)
    runs |= {"ONNX Runtime": onnxruntime_script(raw, arrays), "OpenVINO": openvino_script(raw, arrays)}
    if PYTHON.exists() and (made := nncf(case, raw, arrays)):
        runs["NNCF INT8 in OpenVINO"] = openvino_script(made, arrays)
    runs["planc"] = latency.artifact(document, arrays)
    reference = runs["torch eager"]()
    cosines = {name: latency.worst_cosine(one(), reference) for name, one in runs.items()}
    latencies, note = quiet(runs)
    medians = {name: statistics.median(ones) for name, ones in latencies.items()}
    able = [name for name in runs if name != "planc" and cosines[name] >= min(cosines["planc"], 0.9999)]
    best = min(able, key=medians.__getitem__)
    print(f"\n### {case.title}\n\n{note} Chosen: {chosen(document)}. Best peer of equal or better accuracy: {best}.")
    rows = [
        [name, f"{medians[name]:.2f}", f"{medians[name] / medians['planc']:.2f}", f"{cosines[name]:.6f}"]
        for name in runs
    ]
    print_table(["runtime", "median ms", "it / planc", "worst cosine"], rows)
    print_table(
        ["candidate", "status", "ms in the search"],
        [[row["name"], row["status"], f"{row.get('latency_p50_ms', math.nan):.2f}"] for row in candidates(document)],
    )
    return medians[best] / medians["planc"]


def candidates(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["report"]["candidates"]
    return found


def chosen(document: dict[str, Any]) -> str:
    return next(str(row["name"]) for row in candidates(document) if row["status"] == "kept")


def onnxruntime_script(path: Path, arrays: dict[str, np.ndarray]) -> latency.Run:
    """A session with defaults, as its tutorial has it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda: dict(zip(names, session.run(None, arrays), strict=True))


def openvino_script(path: Path, arrays: dict[str, np.ndarray]) -> latency.Run:
    """A compiled model with the hint "latency", at the shapes of the inputs, results copied."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    names = [next(iter(port.get_names())) for port in compiled.outputs]

    def run_it() -> dict[str, np.ndarray]:
        results = request.infer(arrays, share_inputs=True)
        return {name: np.array(results[index]) for index, name in enumerate(names)}

    return run_it


def nncf(case: Case, raw: Path, arrays: dict[str, np.ndarray]) -> Path | None:
    """NNCF's default INT8 of the raw graph, calibrated on the same samples."""
    out = raw.with_suffix(".nncf.xml")
    if not out.exists():
        samples = raw.with_suffix(".samples.npz")
        np.savez(samples, **calibration(case, arrays))
        run([PYTHON, Path(__file__).with_name("_peer.py"), "nncf", raw, out, samples])
    return out if out.exists() else None


def calibration(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first samples of the data, each of the shapes of `arrays`, first axis samples."""
    from . import data

    rows: dict[str, list[np.ndarray]] = {name: [] for name in arrays}
    for feed in getattr(data, DATA[case.model].partition(":")[2])():
        for name, array in arrays.items():
            row = np.zeros(array.shape[1:], array.dtype)
            given = feed[name][0]
            row[tuple(slice(size) for size in given.shape)] = given[tuple(slice(size) for size in row.shape)]
            rows[name].append(row)
        if len(rows[name]) == SAMPLES:
            break
    return {name: np.stack(ones) for name, ones in rows.items()}

"""What `-t cpu -p auto` chooses, beside torch, hand-written ONNX Runtime and OpenVINO scripts, NNCF's and Olive's INT8.

All runs in turns in one process on the same threads. NNCF and Olive live in the peers' environment, see calibration.py;
what they refuse is left out. The choice is held against a search that measures all candidates, each with each number of
threads, to the end.
"""

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from planc.compiler import choose, pipeline, recipe
from planc.compiler.cache import Store
from planc.compiler.worker import Limits

from . import latency, models
from .common import CREPE, EFFICIENTNET, MINILM, MINILM_8, OCR, RESNET50, ROOT, VIT, Case, print_table
from .passes import PYTHON, run
from .quiet import quiet

DATA = {
    "efficientnet_lite0": "image_calibration",
    "resnet50": "image_calibration",
    "vit": "image_calibration",
    "minilm": "text_calibration",
    "crepe_tiny": "tone_calibration",
    "ocr_rec": "line_calibration",
}
CASES = (EFFICIENTNET, CREPE, OCR, MINILM, MINILM_8, RESNET50, VIT)
DROP = "cosine=0.01"
FOLDER = ROOT / "out/bench/end-to-end"
CACHE = FOLDER / "cache"
SAMPLES = 32
LOWERED = {
    "NNCF INT8 in OpenVINO": ("nncf", ".xml"),
    "Olive INT8 in ONNX Runtime": ("olive", ".onnx"),
    "Olive dynamic INT8 in ONNX Runtime": ("olive-dynamic", ".onnx"),
}
STARTS = 7


def main(*, models: tuple[str, ...] = ()) -> None:
    print("## End to end: -t cpu -p auto --max-drop " + DROP)
    shutil.rmtree(CACHE, ignore_errors=True)
    os.environ["PLANC_CACHE_DIR"] = str(CACHE)
    FOLDER.mkdir(parents=True, exist_ok=True)
    ratios = [measure(case) for case in CASES if not models or case.model in models]
    print(f"\nGeometric mean of best peer / planc: {math.exp(statistics.mean(map(math.log, ratios))):.3f}")


def measure(case: Case) -> float:
    """Prints the tables of one model; returns the time of the best peer of equal or better accuracy over planc's."""
    begin = time.monotonic()
    document = case.compile("cpu", "auto", *words(case))
    if "error" in document:
        raise SystemExit(f"{case.title}: {document['error']['what']}")
    searched = f"compiled in {time.monotonic() - begin:.0f} s"
    arrays = latency.inputs(document)
    raw = FOLDER / f"{case.model}{'-'.join(case.dims)}.onnx"
    if case.onnx is not None:
        raw = Path(case.source)
    elif not raw.exists():
        case.export(raw)
    runs: dict[str, latency.Run] = {}
    if case.onnx is None:
        net = getattr(models, case.model)().eval()
        runs |= {
            "torch eager": latency.module(net, arrays),
            "torch.compile": latency.module(torch.compile(net), arrays),
        }
    runs |= {"ONNX Runtime": onnxruntime_script(raw, arrays), "OpenVINO": openvino_script(raw, arrays)}
    lowered = int8(case, raw, arrays) if PYTHON.exists() else {}
    for name, path in [*lowered.items()]:
        try:
            runs[name] = (openvino_script if path.suffix == ".xml" else onnxruntime_script)(path, arrays)
        except Exception as error:  # any runtime's own: a peer's graph that it refuses
            print(f"\n{case.title}: {name} is left out: {str(error)[:300]}")
            del lowered[name]
    runs["planc"] = latency.artifact(document, arrays)
    reference = next(iter(runs.values()))()
    cosines = {name: latency.worst_cosine(one(), reference) for name, one in runs.items()}
    latencies, note = quiet(runs)
    medians = {name: statistics.median(ones) for name, ones in latencies.items()}
    able = [name for name in runs if name != "planc" and cosines[name] >= min(cosines["planc"], 0.9999)]
    best = min(able, key=medians.__getitem__)
    print(f"\n### {case.title}\n\n{note} Chosen: {chosen(document)}, {searched}. ", end="")
    print(f"Best peer of equal or better accuracy: {best}.")
    starts = cold(case, document, raw, lowered, arrays)
    rows = []
    for name, median in medians.items():
        start = f"{starts[name]:.2f}" if name in starts else ""
        rows.append([name, f"{median:.2f}", f"{median / medians['planc']:.2f}", f"{cosines[name]:.6f}", start])
    print_table(["runtime", "median ms", "it / planc", "worst cosine", "cold start s"], rows)
    rows = []
    for row in candidates(document):
        figures = f"{row.get('times_fastest', math.nan):.2f}", f"{row.get('cosine') or math.nan:.6f}"
        rows.append([row["name"], row["status"], f"{row.get('heat', '')}", *figures])
    print_table(["candidate", "status", "heat", "times the fastest of it", "cosine"], rows)
    print(beside_exhaustive(case, document))
    return medians[best] / medians["planc"]


def words(case: Case) -> tuple[str, ...]:
    return "--calibration", f"bench/data.py:{DATA[case.model]}", "--samples", str(SAMPLES), "--max-drop", DROP


def cold(
    case: Case, document: dict[str, Any], raw: Path, lowered: Mapping[str, Path], arrays: dict[str, np.ndarray]
) -> dict[str, float]:
    """Medians in seconds from the start of a process to its first result, in turns."""
    inputs = FOLDER / "inputs.npz"
    np.savez(inputs, **arrays)
    ways = {"planc": ("planc", document["output"]), "ONNX Runtime": ("onnxruntime", raw), "OpenVINO": ("openvino", raw)}
    ways |= {name: ("openvino" if path.suffix == ".xml" else "onnxruntime", path) for name, path in lowered.items()}
    if case.onnx is None:
        ways["torch eager"] = ("torch", case.model)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(STARTS):
        for name, (way, model) in ways.items():
            begin = time.perf_counter()
            command = [sys.executable, "-m", "bench._cold", way, model, inputs]
            subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(ones) for name, ones in seconds.items()}


def beside_exhaustive(case: Case, document: dict[str, Any]) -> str:
    """Measures each candidate and each number of threads of it in all heats, and says how the choice stands there."""

    def everyone(costs: Mapping[str, float], *_: object) -> set[str]:
        return {*costs}

    source = recipe.source(case.source, inputs=list(case.inputs), dims=list(case.dims))
    how = recipe.quantization(data=f"bench/data.py:{DATA[case.model]}", samples=SAMPLES, max_drop=[DROP])
    job = recipe.job(source, "cpu", "auto", quantization=how)
    how_long = "exhaust"  # a stage of another name: its first heat is in the cache, too
    with (
        mock.patch.object(choose, "survivors", everyone),
        mock.patch.object(choose, "leaders", everyone),
        mock.patch.object(choose, "MEASURE", how_long),
    ):
        whole = pipeline.run(job, FOLDER / "exhaustive", limits=Limits(), store=Store(CACHE), overwrite=True).report
    rows = {row["name"]: row for row in whole["candidates"] if "times_fastest" in row}
    name, best = chosen(document), next(row["name"] for row in rows.values() if row["status"] == "kept")
    times = rows[name]["times_fastest"] / rows[best]["times_fastest"]
    cost = document["report"]["seconds"][choose.MEASURE] / whole["seconds"][how_long]
    return (
        f"Exhaustive search of {len(rows)}: {best}; the choice takes {times:.3f} times as long there. "
        f"The search in heats took {cost:.2f} of the exhaustive one's time.\n"
    )


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


def int8(case: Case, raw: Path, arrays: dict[str, np.ndarray]) -> dict[str, Path]:
    """The peers' default INT8 of the raw graph, calibrated on the same samples, by the peer's name."""
    samples = FOLDER / f"{raw.stem}.samples.npz"
    np.savez(samples, **calibration(case, arrays))
    made = {}
    for name, (tool, suffix) in LOWERED.items():
        out = FOLDER / f"{raw.stem}.{tool}{suffix}"
        if not out.exists():
            run([PYTHON, Path(__file__).with_name("_peer.py"), tool, raw, out, samples])
        if out.exists():
            made[name] = out
    return made


def calibration(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first samples of the data, each of the shapes of `arrays`, first axis samples."""
    from . import data

    rows: dict[str, list[np.ndarray]] = {name: [] for name in arrays}
    for feed in getattr(data, DATA[case.model])():
        for name, array in arrays.items():
            row = np.zeros(array.shape[1:], array.dtype)
            given = feed[name][0]
            row[tuple(slice(size) for size in given.shape)] = given[tuple(slice(size) for size in row.shape)]
            rows[name].append(row)
        if len(rows[name]) == SAMPLES:
            break
    return {name: np.stack(ones) for name, ones in rows.items()}

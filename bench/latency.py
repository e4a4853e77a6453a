"""Latency of artifacts beside torch eager and torch.compile, in turns in one process, on the same threads.

With one thread each it is CPU time, whose ratios hold on a busy machine too.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import planc
from planc.compiler import golden
from planc.compiler.bench import interleaved

from . import models
from .common import EFFICIENTNET, MINILM, MINILM_FIXED, RESNET50, Case, print_table
from .quiet import quiet

CASES = (RESNET50, EFFICIENTNET, MINILM, MINILM_FIXED)
BUILDS = (("onnxruntime-cpu", "fp32"), ("openvino-cpu", "fp32"), ("openvino-cpu", "fp16"), ("openvino-cpu", "bf16"))

Run = Callable[[], Mapping[str, np.ndarray]]
"""One inference: outputs by name."""


def main(*, threads: int = 0, torch_compile: bool = True) -> None:
    if threads:
        torch.set_num_threads(threads)
    print("## Latency")
    print(f"\nThreads each: {torch.get_num_threads()}; medians; eager / it: median of the ratios call by call.")
    for case in CASES:
        measure(case, torch_compile=torch_compile)


def measure(case: Case, *, torch_compile: bool) -> None:
    """Prints the table of one model; a build that planc refuses is a row with planc's reason."""
    net = getattr(models, case.model)().eval()
    threads = f"threads={torch.get_num_threads()}"
    built = {f"{target} {precision}": case.compile(target, precision, "-O", threads) for target, precision in BUILDS}
    arrays = inputs(next(document for document in built.values() if "error" not in document))
    runs = {"torch eager": module(net, arrays)}
    if torch_compile:
        runs["torch.compile"] = module(torch.compile(net), arrays)
    runs |= {name: artifact(document, arrays) for name, document in built.items() if "error" not in document}
    reference = runs["torch eager"]()
    cosines = {name: worst_cosine(run(), reference) for name, run in runs.items()}
    if torch.get_num_threads() == 1:
        latencies, note = interleaved(runs, seconds=60, clock=time.process_time), "CPU time, one thread each."
    else:
        latencies, note = quiet(runs)
    rows = [row(name, one, latencies["torch eager"], cosines[name]) for name, one in latencies.items()]
    refused = [[name, refusal(document), "", "", ""] for name, document in built.items() if "error" in document]
    print(f"\n### {case.title}\n\n{note}")
    print_table(["runtime", "median ms", "least ms", "eager / it", "worst cosine"], rows + refused)


def inputs(document: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of the point "opt" that planc verified with."""
    return dict(golden.load(Path(document["output"]) / "golden.npz")[0].inputs)


def module(net: torch.nn.Module, arrays: dict[str, np.ndarray]) -> Run:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    by_name = len(tensors) > 1

    def run() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            result = net(**tensors) if by_name else {"output": net(*tensors.values())}
        return {name: tensor.numpy() for name, tensor in result.items()}

    return run


def artifact(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> Run:
    session = planc.load(document["output"])
    return lambda: session(**arrays)


def row(name: str, latencies: list[float], eager: list[float], cosine: float) -> list[str]:
    ratio = statistics.median(one / other for one, other in zip(eager, latencies, strict=True))
    return [name, f"{statistics.median(latencies):.2f}", f"{min(latencies):.2f}", f"{ratio:.2f}", f"{cosine:.7f}"]


def refusal(document: dict[str, Any]) -> str:
    error = document["error"]
    return f"not measured here: {error['what']} (exit code {error['exit_code']})"


def worst_cosine(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        one, other = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))

    return min(cosine(outputs[name], reference[name]) for name in reference)

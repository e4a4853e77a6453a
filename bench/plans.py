"""TensorRT-RTX plans of real models in each precision: what builds, how large it is, and what its graph computes.

No GPU is needed. Trained models are calibrated on real data; those with random weights on drawn inputs.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from planc.compiler.target import Precision
from planc.compiler.verify import tolerance

from .accuracy import PROOFS, Proof, call, payload
from .common import GPT2, RESNET50, ROOT, VIT, Case, print_table

TARGET = "l4"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TRAINED = ("efficientnet_lite0", "minilm", "crepe_tiny", "ocr_rec")
FOLDER = ROOT / "out/bench/plans"
OPEN = ("--overwrite", "--tolerance=sqnr_db=0", "--tolerance=cosine=0", "--tolerance=relative=1e9")
"""The table says what a graph computes; what misses planc's bounds is marked there."""


@dataclass(frozen=True)
class Plan:
    """What became of one model in one precision.

    Attributes:
        bytes: of the plan; 0 where none was made.
        seconds: of the build stage.
        effective: layers and products by precision, Q/DQ and casts of the parsed network.
        worst: the least cosine and SQNR in dB of the graph in ONNX Runtime, over outputs and sizes.
        refusal: why there is none.
    """

    bytes: int = 0
    seconds: float = 0
    effective: Mapping[str, Mapping[str, int]] | None = None
    worst: tuple[float, float] = (0, 0)
    refusal: str = ""


def main() -> None:
    print(f"## Plans for GPUs, without one: {TARGET}\n")
    rows = []
    for title, compiled in subjects():
        plans = {precision: read(compiled(precision)) for precision in PRECISIONS}
        rows += [row(title, precision, one, plans["fp32"].bytes) for precision, one in plans.items()]
    headers = ["model", "precision", "MB (of fp32)", "build s", "products", "layers", "cosine", "SQNR dB"]
    print_table(headers, rows)


def subjects() -> Iterator[tuple[str, Any]]:
    """Titles, and functions from a precision to the JSON document of `planc compile`."""
    for proof in PROOFS:
        if proof.name in TRAINED:
            yield proof.title, _trained(proof)
    for case in (RESNET50, VIT, GPT2):
        yield case.title.partition(",")[0], _random(case)


def read(document: Mapping[str, Any]) -> Plan:
    """What `planc compile` says of its artifact."""
    if "error" in document:
        return Plan(refusal=document["error"]["what"])
    report = json.loads((ROOT / document["output"] / "report.json").read_text())
    verification = document["manifest"]["verification"]
    points = verification.get("graph", verification)["points"]
    metrics = [one for point in points.values() for one in point.values() if "cosine" in one]
    return Plan(
        bytes=payload(document),
        seconds=report["seconds"]["build"],
        effective=document["manifest"]["effective_precision"],
        worst=(
            min(one["cosine"] for one in metrics),
            min(float("inf") if one["sqnr_db"] is None else one["sqnr_db"] for one in metrics),
        ),
    )


def row(title: str, precision: str, plan: Plan, fp32: int) -> list[str]:
    """A line of the table."""
    if plan.effective is None:
        return [title, precision, plan.refusal, *[""] * 5]
    size = f"{plan.bytes / 1e6:.1f}" + (f" ({plan.bytes / fp32:.3f})" if fp32 else "")
    counts = [_counts(plan.effective[kind]) for kind in ("products", "layers")]
    cosine, sqnr = plan.worst
    bounds = tolerance(Precision(precision))
    missed = " **missed**" if cosine < bounds.cosine or sqnr < bounds.sqnr_db else ""
    return [title, precision, size, f"{plan.seconds:.1f}", *counts, f"{cosine:.6f}", f"{sqnr:.1f}{missed}"]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _trained(proof: Proof) -> Any:
    source = cache(proof.source)  # exported when it is asked for
    return lambda precision: proof.compile(source(), TARGET, precision, *OPEN)


def _random(case: Case) -> Any:
    @cache
    def source() -> Path:
        out = FOLDER / f"{case.model}.onnx"
        out.parent.mkdir(parents=True, exist_ok=True)
        case.export(out)
        return out

    def compiled(precision: str) -> dict[str, Any]:
        sizes = [f"--input={text}" for text in case.inputs] + [f"--dim={text}" for text in case.dims]
        drawn = ["--allow-random-calibration"] if precision == "int8" else []
        out = FOLDER / f"{case.model}-{precision}"
        return call("compile", source(), *sizes, "-t", TARGET, "-p", precision, *drawn, "-o", out, *OPEN)

    return compiled

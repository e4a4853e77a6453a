"""Holds an artifact against its reference: metrics per output, with stated tolerances per precision."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .errors import IOFailed
from .golden import Golden
from .target import Precision
from .tolerance import Tolerance, tolerance
from .worker import Emit


def verify(
    session: Callable[..., Mapping[str, np.ndarray]], goldens: Sequence[Golden], bounds: Tolerance
) -> dict[str, Any]:
    """Runs the session on each golden's inputs and compares its outputs.

    Returns:
        `passed`, the bounds, the metrics of each output by point, and `failures`: one line each.
    """
    points: dict[str, dict[str, Any]] = {}
    for golden in goldens:
        actual = session(**golden.inputs)
        points[golden.label] = {}
        for name, reference in golden.outputs.items():
            points[golden.label][name] = compare(reference, actual[name])
    finite = {name: value for name, value in asdict(bounds).items() if math.isfinite(value)}
    missed = failures(points, lambda _: bounds)
    return {"passed": not missed, "tolerance": finite, "points": points, "failures": missed}


def failures(points: Mapping[str, Mapping[str, Any]], bounds: Callable[[str], Tolerance]) -> list[str]:
    """Returns a line for each bound that an output misses at a point.

    Args:
        points: metrics by point and output, as `verify` returns them.
        bounds: those of an output, by its name.
    """
    return [
        f"output {name!r} at {label}: {reason}"
        for label, outputs in points.items()
        for name, metrics in outputs.items()
        for reason in judge(metrics, bounds(name))
    ]


def compare(reference: np.ndarray, actual: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of one output against its reference, computed in float64.

    Non-finite elements must be at the same places with the same values; the metrics are of the finite rest. For
    equal arrays `sqnr_db` is None (infinite).
    """
    if reference.shape != actual.shape or reference.dtype != actual.dtype:
        return {"differs": f"{actual.dtype}{list(actual.shape)} instead of {reference.dtype}{list(reference.shape)}"}
    if reference.dtype.kind != "f":
        return {"mismatch": float(np.mean(reference != actual)) if reference.size else 0.0}
    finite = np.isfinite(reference)
    if not np.array_equal(reference[~finite], actual[~finite], equal_nan=True) or not np.isfinite(actual[finite]).all():
        bad, expected_bad = int((~np.isfinite(actual)).sum()), int((~finite).sum())
        return {"differs": f"{bad} elements are NaN or infinite, in the reference {expected_bad}"}
    expected = reference[finite].astype(np.float64)
    error = actual[finite].astype(np.float64) - expected
    if not expected.size:
        return {"max_abs": 0.0, "relative": 0.0, "cosine": 1.0, "sqnr_db": None}
    noise, signal = float(error @ error), float(expected @ expected)
    other = expected + error
    norms = math.sqrt(signal) * math.sqrt(float(other @ other))
    largest = float(np.abs(expected).max())
    worst = float(np.abs(error).max())
    return {
        "max_abs": worst,
        "relative": worst / largest if largest else (0.0 if worst == 0 else 1.0),
        "cosine": float(expected @ other) / norms if norms else (1.0 if noise == 0 else 0.0),
        "sqnr_db": 10 * math.log10(signal / noise) if noise and signal else (None if not noise else 0.0),
    }


def judge(metrics: Mapping[str, Any], bounds: Tolerance) -> list[str]:
    """Returns why the metrics miss the bounds; empty where they hold."""
    if "differs" in metrics:
        return [metrics["differs"]]
    if "mismatch" in metrics:
        share = metrics["mismatch"]
        return (
            [f"{share:.3%} of the elements differ, {bounds.mismatch:.3%} are allowed"]
            if share > bounds.mismatch
            else []
        )
    if metrics["max_abs"] <= bounds.atol:
        return []
    reasons = []
    if metrics["cosine"] < bounds.cosine:
        reasons.append(f"cosine {metrics['cosine']:.6f} < {bounds.cosine}")
    if metrics["sqnr_db"] is not None and metrics["sqnr_db"] < bounds.sqnr_db:
        reasons.append(f"SQNR {metrics['sqnr_db']:.1f} dB < {bounds.sqnr_db} dB")
    if metrics["relative"] > bounds.relative:
        reasons.append(f"relative error {metrics['relative']:.2e} > {bounds.relative:.0e}")
    return reasons


def verify_artifact(path: Path, overrides: Sequence[tuple[str, float]], *, emit: Emit) -> dict[str, Any]:
    """Checks an artifact's files against its manifest and its outputs against its golden data (in a worker).

    Where the machine that built it could not execute it, a verification that passes with the bounds of the build is
    added to the manifest.

    Raises:
        IOFailed: a file is missing or damaged.
        PlancError: the artifact cannot be loaded here.
    """
    from . import artifact, golden

    emit("stage", "verify")
    made = artifact.read(path)
    if damage := made.damage():
        raise IOFailed(f"{path} is damaged: {'; '.join(damage)}", hint="Build it again")
    goldens = golden.load(path / artifact.GOLDEN)
    built_with = made.manifest["verification"].get("tolerance", {})
    bounds = tolerance(Precision(made.manifest["requested_precision"]), (*built_with.items(), *overrides))
    result = verify(artifact.session(made), goldens, bounds)
    if made.manifest["verification"]["passed"] is None and result["passed"] and not overrides:
        artifact.complete(made, result)
    said = made.manifest["verification"]
    loosened = {"loosened_by": said["held_by"]} if "held_by" in said and not overrides else {}
    return {"artifact": path.name, "reference": said.get("reference"), **result, **loosened}

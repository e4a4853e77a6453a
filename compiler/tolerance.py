"""How far a payload may be from its reference, by precision. Light: keys of the cache are made of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .target import Precision


@dataclass(frozen=True)
class Tolerance:
    """Bounds for one output. A float output passes where its largest error is at most `atol`, or all of the rest hold.

    Attributes:
        cosine: least cosine similarity.
        sqnr_db: least signal-to-quantization-noise ratio in dB, 10 log10(sum r^2 / sum (a - r)^2).
        relative: greatest error, as a share of the reference's largest magnitude.
        atol: greatest absolute error that passes by itself.
        mismatch: greatest share of integer or bool elements that differ.
    """

    cosine: float
    sqnr_db: float
    relative: float
    atol: float
    mismatch: float


TOLERANCES = {
    Precision.FP32: Tolerance(cosine=0.99999, sqnr_db=60, relative=1e-3, atol=1e-7, mismatch=0),
    Precision.FP16: Tolerance(cosine=0.9999, sqnr_db=35, relative=2e-2, atol=1e-6, mismatch=0.001),
    Precision.BF16: Tolerance(cosine=0.999, sqnr_db=25, relative=1e-1, atol=1e-6, mismatch=0.01),
    Precision.INT8: Tolerance(cosine=0.98, sqnr_db=14, relative=math.inf, atol=1e-5, mismatch=0.05),
}


def tolerance(precision: Precision, overrides: Sequence[tuple[str, float]] = ()) -> Tolerance:
    """Returns the bounds of a precision, with some replaced by name."""
    return replace(TOLERANCES[precision], **dict(overrides))


def loosened(bounds: Mapping[str, float], found: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Returns bounds by name that allow twice the error that was found: of the SQNR that is 3 dB.

    Args:
        bounds: by name, as far as they are finite.
        found: metrics of outputs, see `verify.compare`.
    """
    made = dict(bounds)
    for metrics in found:
        if "mismatch" in metrics:
            made["mismatch"] = max(made["mismatch"], min(1.0, math.ceil(2e3 * metrics["mismatch"]) / 1e3))
        elif metrics.get("max_abs", 0.0) > made["atol"]:
            made["cosine"] = min(made["cosine"], max(0.0, math.floor(1e3 - 2e3 * (1 - metrics["cosine"])) / 1e3))
            if metrics["sqnr_db"] is not None:
                made["sqnr_db"] = min(made["sqnr_db"], math.floor(10 * metrics["sqnr_db"] - 30) / 10)
            if "relative" in made:
                made["relative"] = max(made["relative"], math.ceil(2e3 * metrics["relative"]) / 1e3)
    return made

"""Bounds by precision."""

import math

from planc.compiler.target import Precision
from planc.compiler.tolerance import TOLERANCES, tolerance


def test_overrides_replace_by_name_only() -> None:
    assert tolerance(Precision.FP32) == TOLERANCES[Precision.FP32]
    looser = tolerance(Precision.FP32, (("sqnr_db", 40.0),))
    assert (looser.sqnr_db, looser.cosine) == (40.0, TOLERANCES[Precision.FP32].cosine)


def test_lower_precisions_have_looser_bounds() -> None:
    order = [TOLERANCES[one] for one in (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8)]
    assert [one.sqnr_db for one in order] == sorted((one.sqnr_db for one in order), reverse=True)
    assert math.isinf(order[-1].relative)

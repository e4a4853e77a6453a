"""Bounds by precision."""

import math

from planc.compiler.target import Precision
from planc.compiler.tolerance import TOLERANCES, loosened, tolerance


def test_overrides_replace_by_name_only() -> None:
    assert tolerance(Precision.FP32) == TOLERANCES[Precision.FP32]
    looser = tolerance(Precision.FP32, (("sqnr_db", 40.0),))
    assert (looser.sqnr_db, looser.cosine) == (40.0, TOLERANCES[Precision.FP32].cosine)


def test_lower_precisions_have_looser_bounds() -> None:
    order = [TOLERANCES[one] for one in (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8)]
    assert [one.sqnr_db for one in order] == sorted((one.sqnr_db for one in order), reverse=True)
    assert math.isinf(order[-1].relative)


def test_loosened_bounds_allow_twice_the_error() -> None:
    bounds = {"cosine": 0.98, "sqnr_db": 14, "atol": 1e-5, "mismatch": 0.05}
    worse = {"max_abs": 1.0, "cosine": 0.9, "sqnr_db": 7.0, "relative": 0.2}
    assert loosened(bounds, [worse]) == {"cosine": 0.8, "sqnr_db": 4.0, "atol": 1e-5, "mismatch": 0.05}
    assert loosened(bounds, [{**worse, "max_abs": 1e-6}]) == bounds
    assert loosened(bounds, [{"mismatch": 0.1}, {"mismatch": 0.6}])["mismatch"] == 1
    assert loosened({**bounds, "relative": 0.1}, [worse])["relative"] == 0.4
    assert loosened({**bounds, "cosine": 0.9999}, [{**worse, "cosine": 0.99995}])["cosine"] == 0.999, "never tighter"
    assert loosened(bounds, [{**worse, "cosine": -1.0}])["cosine"] == 0

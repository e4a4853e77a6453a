"""Metrics against values worked out by hand, and the verdicts that follow."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import artifact
from planc.compiler import manifest as manifests
from planc.compiler.errors import IOFailed
from planc.compiler.golden import Golden
from planc.compiler.target import Precision
from planc.compiler.tolerance import TOLERANCES, tolerance
from planc.compiler.verify import compare, judge, verify, verify_artifact

FP32 = TOLERANCES[Precision.FP32]


def _f(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_metrics_by_hand() -> None:
    metrics = compare(_f(3, 4), _f(3, 4.5))
    assert metrics["max_abs"] == 0.5
    assert metrics["relative"] == 0.125
    assert metrics["sqnr_db"] == pytest.approx(20.0)  # 25 / 0.25 = 100
    assert metrics["cosine"] == pytest.approx((9 + 18) / (5 * math.sqrt(9 + 20.25)))


def test_equal_arrays_have_infinite_sqnr() -> None:
    assert compare(_f(1, 2), _f(1, 2)) == {"max_abs": 0.0, "relative": 0.0, "cosine": pytest.approx(1), "sqnr_db": None}
    assert judge(compare(_f(1, 2), _f(1, 2)), FP32) == []


def test_zero_reference() -> None:
    assert judge(compare(_f(0, 0), _f(0, 0)), FP32) == []
    assert judge(compare(_f(0, 0), _f(0, 1e-8)), FP32) == []  # within atol
    bad = compare(_f(0, 0), _f(0, 1))
    assert (bad["cosine"], bad["relative"], bad["sqnr_db"]) == (0.0, 1.0, 0.0)
    assert len(judge(bad, FP32)) == 3


def test_empty_and_scalar_arrays() -> None:
    assert judge(compare(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)), FP32) == []
    assert compare(np.zeros(0, np.int64), np.zeros(0, np.int64)) == {"mismatch": 0.0}
    assert compare(np.float32(2.0).reshape(()), np.float32(1.0).reshape(()))["max_abs"] == 1.0


@pytest.mark.parametrize(
    ("actual", "fine"),
    [
        (_f(1, np.inf, -np.inf, np.nan), True),
        (_f(1, np.inf, np.inf, np.nan), False),
        (_f(1, 3e38, -np.inf, np.nan), False),
        (_f(1, np.inf, -np.inf, 0), False),
        (_f(np.nan, np.inf, -np.inf, np.nan), False),
        (_f(np.inf, np.inf, -np.inf, np.nan), False),
    ],
)
def test_non_finite_elements_must_be_where_the_reference_has_them(actual: np.ndarray, fine: bool) -> None:
    reasons = judge(compare(_f(1, np.inf, -np.inf, np.nan), actual), FP32)
    assert (reasons == []) is fine
    assert fine or "NaN or infinite" in reasons[0]


def test_large_values_do_not_overflow() -> None:
    metrics = compare(_f(3e38, 3e38), _f(3e38, 2.9e38))
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_count_mismatches(dtype: type) -> None:
    metrics = compare(np.array([0, 1, 1, 0], dtype), np.array([0, 1, 0, 0], dtype))
    assert metrics == {"mismatch": 0.25}
    assert judge(metrics, FP32) == ["25.000% of the elements differ, 0.000% are allowed"]
    assert judge(metrics, tolerance(Precision.FP32, [("mismatch", 0.25)])) == []


def test_shape_and_dtype_must_be_equal() -> None:
    assert judge(compare(_f(1, 2), _f(1)), FP32) == ["float32[1] instead of float32[2]"]
    assert judge(compare(_f(1), np.array([1.0])), FP32) == ["float64[1] instead of float32[1]"]


def test_each_bound_is_judged_by_itself() -> None:
    metrics = {"max_abs": 1.0, "relative": 0.5, "cosine": 0.9, "sqnr_db": 10.0}
    loose = [("relative", 1.0), ("cosine", 0.5), ("sqnr_db", 1.0)]
    assert judge(metrics, tolerance(Precision.FP32, loose)) == []
    for name, word in (("relative", "relative error"), ("cosine", "cosine"), ("sqnr_db", "SQNR")):
        kept = [bound for bound in loose if bound[0] != name]
        assert [reason.partition(word)[1] for reason in judge(metrics, tolerance(Precision.FP32, kept))] == [word]
    assert judge(metrics, tolerance(Precision.FP32, [("atol", 1.0)])) == []


def test_verify_names_output_and_point() -> None:
    goldens = [
        Golden("opt", {"x": _f(1, 2)}, {"y": _f(2, 4), "z": _f(1, 2)}),
        Golden("max", {"x": _f(5, 5)}, {"y": _f(10, 10), "z": _f(5, 5)}),
    ]
    good = verify(lambda x: {"y": 2 * x, "z": x}, goldens, FP32)
    assert good["passed"] is True
    assert good["failures"] == []
    assert good["points"].keys() == {"opt", "max"}
    assert good["tolerance"]["sqnr_db"] == 60
    bad = verify(lambda x: {"y": 2 * x, "z": x if x[0] == 1 else -x}, goldens, FP32)
    assert bad["passed"] is False
    assert all(line.startswith("output 'z' at max: ") for line in bad["failures"])
    assert bad["failures"]


def test_infinite_bounds_are_left_out_of_the_report() -> None:
    golden = Golden("opt", {"x": _f(1)}, {"y": _f(1)})
    assert "relative" not in verify(lambda x: {"y": x}, [golden], TOLERANCES[Precision.INT8])["tolerance"]


def test_lower_precisions_are_allowed_more() -> None:
    order = [TOLERANCES[one] for one in (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8)]
    for strict, loose in itertools.pairwise(order):
        assert strict.cosine > loose.cosine
        assert strict.sqnr_db > loose.sqnr_db
        assert strict.relative < loose.relative


def test_verify_artifact(ort_artifact: Path) -> None:
    result = verify_artifact(ort_artifact, (), emit=lambda *_: None)
    assert result["passed"] is True
    assert result["points"].keys() == {"opt", "min", "max"}
    tight = verify_artifact(ort_artifact, [("atol", 0.0), ("sqnr_db", 1000.0), ("cosine", 1.1)], emit=lambda *_: None)
    assert tight["passed"] is False


def test_verify_artifact_tells_damage(copied: Path) -> None:
    payload = copied / "model.onnx"
    data = bytearray(payload.read_bytes())
    data[-1] ^= 1
    payload.write_bytes(data)
    with pytest.raises(IOFailed, match=r"model\.onnx is not the file that was built"):
        verify_artifact(copied, (), emit=lambda *_: None)


def test_what_could_not_be_executed_where_it_was_built_is_completed(copied: Path) -> None:
    manifest = json.loads((copied / artifact.MANIFEST).read_text())
    executed = manifest["verification"]
    manifest["verification"] = manifests.not_executed("no GPU", executed) | {"golden_points": executed["golden_points"]}
    (copied / artifact.MANIFEST).write_text(json.dumps(manifest))
    result = verify_artifact(copied, (), emit=lambda _kind, _value: None)
    completed = json.loads((copied / artifact.MANIFEST).read_text())["verification"]
    assert result["passed"] is completed["passed"] is True
    assert completed["points"] == result["points"]
    assert completed["graph"]["points"] == executed["points"]
    assert completed["executed_on"]["cpu"]
    assert "reason" not in completed
    assert not artifact.read(copied).damage()


def test_what_differs_completes_nothing(copied: Path) -> None:
    manifest = json.loads((copied / artifact.MANIFEST).read_text())
    manifest["verification"] = manifests.not_executed("no GPU", manifest["verification"])
    (copied / artifact.MANIFEST).write_text(json.dumps(manifest))
    assert not verify_artifact(copied, [("cosine", 2.0), ("atol", -1.0)], emit=lambda _kind, _value: None)["passed"]
    assert json.loads((copied / artifact.MANIFEST).read_text()) == manifest

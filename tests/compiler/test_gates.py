"""Gates: fail where the whole interval is beyond the bound, say how sure they are."""

import numpy as np
import pytest

from planc.compiler import gates
from planc.compiler.bootstrap import Estimate
from planc.compiler.errors import UsageError
from planc.compiler.gates import Figures, Gates


def _spread(value: float, half: float) -> Estimate:
    """An estimate whose draws fill value - half to value + half evenly."""
    return Estimate(value, np.linspace(value - half, value + half, 2001))


def _figures(**changes: object) -> Figures:
    known = {"p99": _spread(5, 1), "rss": _spread(100e6, 1e6), "size_bytes": 1000}
    return Figures(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "status", "told"),
    [
        (3.0, "failed", "is above 3 ms: >99.9% sure"),
        (4.5, "passed", "is above 4.5 ms: 75.0% sure, which is not enough to fail"),
        (5.5, "passed", "is within 5.5 ms: 75.0% sure"),
        (7.0, "passed", "is within 7 ms: >99.9% sure"),
    ],
)
def test_max_p99(limit: float, status: str, told: str) -> None:
    (row,) = gates.judge("net", _figures(), Gates(max_p99_ms=limit), 0.99)
    assert row.name == f"net --max-p99 {limit:g} ms"
    assert row.status == status
    assert row.message.startswith("p99 5 ms (4.01 ms to 5.99 ms) ")
    assert told in row.message


@pytest.mark.parametrize(
    ("least", "status", "told"),
    [
        (1.5, "passed", "is at least 1.5x: >99.9% sure"),
        (2.1, "passed", "is below 2.1x: 75.0% sure, which"),
        (2.5, "failed", "is below 2.5x: >99.9% sure"),
    ],
)
def test_min_speedup(least: float, status: str, told: str) -> None:
    figures = _figures(speedup=_spread(2.0, 0.2), than="eager")
    (row,) = gates.judge("net", figures, Gates(min_speedup=least), 0.99)
    assert row.status == status
    assert row.message.startswith("over eager 2x (1.8x to 2.2x) ")
    assert told in row.message


@pytest.mark.parametrize(("allowed", "status"), [(0.02, "failed"), (0.04, "passed"), (0.2, "passed")])
def test_max_regression(allowed: float, status: str) -> None:
    figures = _figures(speedup=_spread(1 / 1.05, 0.02), than="the baseline")
    (row,) = gates.judge("net", figures, Gates(max_slowdown=1 + allowed), 0.99)
    assert row.status == status
    assert row.name == f"net --max-regression {allowed:.1%}"
    assert "against the baseline +5.0% (+2.9% to +7.2%)" in row.message


@pytest.mark.parametrize(("limit", "open_"), [(3.0, False), (4.5, True), (5.5, False), (7.0, False)])
def test_undecided_is_what_is_beyond_and_not_proven(limit: float, open_: bool) -> None:
    assert gates.undecided(_figures(), Gates(max_p99_ms=limit), 0.99) is open_


def test_a_wider_confidence_fails_less() -> None:
    statuses = [
        gates.judge("net", _figures(), Gates(max_p99_ms=4.1), confidence)[0].status for confidence in (0.5, 0.8, 0.99)
    ]
    assert statuses == ["failed", "failed", "passed"]


def test_size_memory_and_accuracy() -> None:
    bounds = Gates(max_size_bytes=999, max_rss_bytes=10**9, max_drop=("cosine=0.01", "sqnr=30"))
    losses = {"cosine=0.01": 0.02, "sqnr=30": -35.0}
    rows = gates.judge("net", _figures(losses=losses, samples=7), bounds, 0.99)
    assert [row.status for row in rows] == ["passed", "failed", "failed", "passed"]
    assert rows[2].message == "0.02 on 7 golden samples, computed and not estimated"
    assert rows[3].message.startswith("35 dB on 7")
    without = gates.judge("torch", _figures(size_bytes=None), bounds, 0.99)
    assert [row.status for row in without] == ["passed", "skipped", "skipped", "skipped"]


def test_words_of_the_command_line() -> None:
    made = gates.gates(
        max_p99="800us", min_speedup="1.5x", max_regression="5%", max_size="2MB", max_rss="1GiB", max_drop=["mse=0.1"]
    )
    assert made == Gates(pytest.approx(0.8), 1.5, pytest.approx(1.05), 2_000_000, 2**30, ("mse=0.1",))
    assert made.given
    assert made.compare
    assert not gates.gates().given
    assert gates.milliseconds("--max-p99", "0.5s") == 500
    assert gates.share("--max-regression", "0.05") == 0.05


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ({"max_p99": "5"}, "--max-p99 5ms"),
        ({"max_p99": "0ms"}, "--max-p99 5ms"),
        ({"min_speedup": "fast"}, "--min-speedup 2x"),
        ({"max_regression": "150%"}, "--max-regression 5%"),
        ({"max_size": "big"}, "8GiB or 500MB"),
        ({"max_drop": ["cosin=1"]}, "cosine=0.005"),
    ],
)
def test_words_that_make_no_sense(words: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        gates.gates(**words)  # type: ignore[arg-type]
    assert hint in raised.value.hint

"""Figures for people."""

from typing import Any

from planc.compiler import figures

QUANTILES = {
    f"latency_{name}_ms": value for name, value in zip(("p90", "p95", "p99", "mean"), (2, 3, 4, 1.5), strict=True)
}
SUBJECT = {
    "name": "net", "latency_p50_ms": 1.2345, "latency_p50_ms_interval": [1.0, 1.5], **QUANTILES, "latency_min_ms": 0.5,
    "latency_stdev_ms": 0.25, "throughput_per_s": 810.0, "cold_start_ms": 300.4, "cold_process_ms": 60.0,
    "cold_load_ms": 238.0, "cold_first_run_ms": 2.44, "calls": 100, "warm_up_calls": 40, "peak_rss_bytes": 64e6,
    "size_bytes": 382_000, "throughput": [], "cost_per_1000": None, "energy_per_inference_mj": None,
    "energy_reason": "none here",
}  # fmt: skip


def _document(**changes: Any) -> dict[str, Any]:
    settings = {"confidence": 0.99, "processes": 10, "price_per_hour": None}
    known = {"subjects": [SUBJECT], "comparisons": [], "gates": [], "notes": [], "settings": settings}
    return {**known, **changes}


def test_the_table() -> None:
    (line,) = figures.table(_document())
    told = dict(zip(figures.HEADERS, line, strict=True))
    assert told == {
        "": "net", "p50 ms": "1.23 (1 to 1.5)", "p90": "2", "p95": "3", "p99": "4", "mean": "1.5", "least": "0.5",
        "stdev": "0.25", "per s": "810", "cold start ms": "300", "peak MB": "64", "files MB": "0.382",
    }  # fmt: skip
    (line,) = figures.table(_document(subjects=[{**SUBJECT, "size_bytes": None}]))
    assert line[-1] == ""


def test_a_difference_is_proven_where_the_interval_leaves_out_1() -> None:
    same = {"name": "a", "against": "b", "speedup": 1.01, "speedup_interval": [0.99, 1.03], "faster_probability": 0.8}
    slower = {**same, "speedup": 0.5, "speedup_interval": [0.4, 0.6], "faster_probability": 0.0}
    lines = figures.told(_document(comparisons=[same, slower]))
    assert lines[1] == "a is 1.010x as fast as b (0.990 to 1.030): no difference is proven"
    assert lines[2] == "a is 0.500x as fast as b (0.400 to 0.600): >99.9% sure"


def test_the_lines() -> None:
    rate = {
        "dimension": "batch", "size": 4, "streams": 2, "threads": 1, "throughput_per_s": 1234.5,
        "throughput_per_s_interval": [1200.0, 1300.0], "cost_per_1000": 0.5,
    }  # fmt: skip
    subject = {**SUBJECT, "throughput": [rate], "cost_per_1000": 0.25, "energy_per_inference_mj": 3.0}
    gate = {"name": "net --max-p99 5 ms", "status": "passed", "seconds": 0.0, "message": "p99 4 ms"}
    settings = {"confidence": 0.95, "processes": 1, "price_per_hour": 2.0}
    assert figures.told(_document(subjects=[subject], gates=[gate], notes=["it rained"], settings=settings)) == [
        "net: cold start 300 ms (process 60, load 238, first run 2.44); 100 calls measured, 40 before",
        "net at batch=4, 2 stream(s) of 1 thread(s): 1234 per s (1200 to 1300), 0.5 per 1,000",
        "net: 0.25 per 1,000 calls, one at a time",
        "net: 3 mJ per inference, with all that ran beside it",
        "energy: not measured, none here",
        "passed: net --max-p99 5 ms: p99 4 ms",
        "note: it rained",
        "intervals hold with probability 0.95; 1 process each",
    ]

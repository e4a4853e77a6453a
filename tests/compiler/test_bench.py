"""Latency figures."""

import time

import pytest

from planc.compiler import bench


def test_summary_by_hand() -> None:
    figures = bench.summary([float(value) for value in range(100, 0, -1)])
    assert figures == {
        "latency_p50_ms": 50.5,
        "latency_p95_ms": 96.0,
        "latency_p99_ms": 100.0,
        "throughput_per_s": pytest.approx(1000 / 50.5),
    }
    assert bench.summary([2.0])["latency_p99_ms"] == 2.0


def test_runs_are_interleaved_in_bursts() -> None:
    calls: list[str] = []
    latencies = bench.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert [len(values) for values in latencies.values()] == [15, 15]
    one_round = ["a"] * 6 + ["b"] * 6
    assert calls == ["a"] * 3 + ["b"] * 3 + one_round * 3


def test_time_runs_out_after_three_rounds() -> None:
    latencies = bench.interleaved({"slow": lambda: time.sleep(0.002)}, rounds=50, seconds=0)
    assert len(latencies["slow"]) == 15
    assert min(latencies["slow"]) >= 2.0

"""The document of `planc bench` for people: a table, and the lines below it."""

from collections.abc import Mapping
from typing import Any

from .gates import sure
from .results import Row


def rows(document: Mapping[str, Any]) -> list[Row]:
    """Returns the gates of a document."""
    return [Row(**row) for row in document["gates"]]


HEADERS = ("", "p50 ms", "p90", "p95", "p99", "mean", "least", "stdev", "per s", "cold start ms", "peak MB", "files MB")


def table(document: Mapping[str, Any]) -> list[list[str]]:
    """Returns the figures of each subject, by HEADERS; the half width of the interval stands beside the median."""
    made = []
    for one in document["subjects"]:
        low, high = one["latency_p50_ms_interval"]
        quantiles = [one[f"latency_{name}_ms"] for name in ("p90", "p95", "p99", "mean", "min", "stdev")]
        made.append(
            [
                one["name"],
                f"{one['latency_p50_ms']:.3g} ({low:.3g} to {high:.3g})",
                *(f"{value:.3g}" for value in quantiles),
                f"{one['throughput_per_s']:.4g}",
                f"{one['cold_start_ms']:.0f}",
                f"{one['peak_rss_bytes'] / 1e6:.0f}",
                "" if one["size_bytes"] is None else f"{one['size_bytes'] / 1e6:.3g}",
            ]
        )
    return made


def told(document: Mapping[str, Any]) -> list[str]:
    """Returns the lines below the table: comparisons, throughput, cost, gates, and what makes the figures less sure."""
    level = f"{document['settings']['confidence']:.4g}"
    lines = [_of_start(one) for one in document["subjects"]]
    for one in document["comparisons"]:
        low, high = one["speedup_interval"]
        certain = sure(max(one["faster_probability"], 1 - one["faster_probability"]))
        verdict = "no difference is proven" if low <= 1 <= high else f"{certain} sure"
        what = f"{one['name']} is {one['speedup']:.3f}x as fast as {one['against']}"
        lines.append(f"{what} ({low:.3f} to {high:.3f}): {verdict}")
    for one in document["subjects"]:
        for rate in one["throughput"]:
            low, high = rate["throughput_per_s_interval"]
            at = f"{rate['dimension']}={rate['size']}, " if rate["dimension"] else ""
            how = f"{rate['streams']} stream(s) of {rate['threads']} thread(s)"
            cost = "" if rate["cost_per_1000"] is None else f", {rate['cost_per_1000']:.3g} per 1,000"
            lines.append(
                f"{one['name']} at {at}{how}: {rate['throughput_per_s']:.4g} per s ({low:.4g} to {high:.4g}){cost}"
            )
        if one["cost_per_1000"] is not None:
            lines.append(f"{one['name']}: {one['cost_per_1000']:.3g} per 1,000 calls, one at a time")
        if one["energy_per_inference_mj"] is not None:
            lines.append(
                f"{one['name']}: {one['energy_per_inference_mj']:.3g} mJ per inference, with all that ran beside it"
            )
    reasons = {one["energy_reason"] for one in document["subjects"]} - {""}
    lines += [f"energy: not measured, {reason}" for reason in reasons if document["settings"]["price_per_hour"]]
    lines += [f"{row.status}: {row.name}: {row.message}" for row in rows(document)]
    lines += [f"note: {note}" for note in document["notes"]]
    count = document["settings"]["processes"]
    return [*lines, f"intervals hold with probability {level}; {count} process{'es' * (count > 1)} each"]


def _of_start(one: Mapping[str, Any]) -> str:
    process, load, first = (one[f"cold_{step}_ms"] for step in ("process", "load", "first_run"))
    steps = f"process {process:.0f}, load {load:.0f}, first run {first:.3g}"
    warm = f"{one['calls']} calls measured, {one['warm_up_calls']} before"
    return f"{one['name']}: cold start {one['cold_start_ms']:.0f} ms ({steps}); {warm}"

"""Bounds of the accuracy guard, read without what measures them: `metrics.py` says what each one bounds."""

import math
import re

METRICS = ("top1", "cosine", "sqnr", "mse")

_BOUND = re.compile(r"\s*(?P<metric>\w+)\s*=\s*(?P<value>\d+(?:\.\d*)?(?:[eE]-?\d+)?|\.\d+)\s*(?P<unit>pp|%|dB|db)?\s*")


def parse(text: str) -> tuple[str, float]:
    """Parses what follows `--max-drop`, such as `top1=0.5pp`, `cosine=0.005` or `sqnr=20dB`, into metric and limit.

    Raises:
        ValueError: the text is not of that form, or the metric or its unit is unknown, or the limit makes no sense.
    """
    match = _BOUND.fullmatch(text)
    if not match:
        raise ValueError(f"--max-drop {text!r} is not of the form METRIC=VALUE, such as top1=0.5pp")
    metric, value, unit = match["metric"], float(match["value"]), match["unit"]
    if metric not in METRICS:
        raise ValueError(f"--max-drop {text!r}: no metric {metric!r}, there are {', '.join(METRICS)}")
    allowed = {"top1": ("pp", "%"), "sqnr": ("dB", "db")}.get(metric, ())
    if unit and unit not in allowed:
        raise ValueError(
            f"--max-drop {text!r}: {metric} has no unit {unit!r}{f', but {allowed[0]!r}' if allowed else ''}"
        )
    limit = value / 100 if metric == "top1" and unit else value
    most = {"top1": 1.0, "cosine": 2.0}.get(metric, math.inf)
    if limit > most:
        hint = f": write {metric}={value:g}pp" if metric == "top1" and not unit else ""
        raise ValueError(f"--max-drop {text!r}: {metric} cannot drop by more than {most:g}{hint}")
    return metric, limit

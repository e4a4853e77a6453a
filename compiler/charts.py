"""Figures of the report as SVG, by matplotlib, in the CSS variables of the page: light or dark as its reader wants.

matplotlib draws with stand-in colours, which are replaced in its SVG; text stays text.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import drawing, spacing

if TYPE_CHECKING:
    from .report import Point

_VARIABLES = {
    "#010101": "var(--ink)", "#020202": "var(--faint)", "#030303": "var(--line)", "#040404": "var(--paper)",
    "#050505": "var(--one)", "#060606": "var(--two)", "#070707": "var(--three)", "#080808": "var(--four)",
}  # fmt: skip
_INK, _FAINT, _LINE, _PAPER, *_SERIES = _VARIABLES
_COLORS = {"float32": _SERIES[0], "int8": _SERIES[1], "float16": _SERIES[2], "bfloat16": _SERIES[3], "other": _FAINT}
"""By `drawing.color`, as in the style of the page."""
_WIDTH = 9.6  # inches; the page scales it
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "planc", "text.parse_math": False,
    "font.family": "sans-serif", "font.size": 10,
    "text.color": _INK, "axes.labelcolor": _FAINT, "axes.edgecolor": _LINE,
    "xtick.color": _FAINT, "ytick.color": _FAINT, "xtick.minor.size": 0, "ytick.minor.size": 0,
    "xtick.labelcolor": _FAINT, "ytick.labelcolor": _INK, "axes.facecolor": "none", "figure.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "grid.color": _LINE,
    "xtick.major.size": 0, "ytick.major.size": 0, "axes.axisbelow": True,
}  # fmt: skip
_LEAST_LOSS = 1e-8
_LONGEST = 34


def pareto(points: "Sequence[Point]") -> str:
    """Latency against the loss of accuracy (1 - cosine), bubbles as large as the files; "" without points."""
    if not points:
        return ""
    with _drawing(max(3.6, 1 + 0.23 * len(points))) as (figure, axes):
        largest = max(point.bytes for point in points)
        for point in sorted(points, key=lambda one: -one.bytes):
            color = _SERIES[0] if point.kept else _FAINT
            area = 40 + 500 * point.bytes / largest
            deep = 0.35 if point.kept else 0.12
            axes.scatter(point.ms, _loss(point), area, facecolor=color, edgecolor=color, alpha=deep, linewidth=1.2)
            axes.scatter(point.ms, _loss(point), 9, color=color)
        front = _front(points)
        axes.plot([one.ms for one in front], [*map(_loss, front)], color=_SERIES[0], lw=1, ls=":")
        least, most = (pick(map(_loss, points)) for pick in (min, max))
        axes.set_ylim(least / 4, most * 4)
        axes.set_yscale("log")
        axes.set_xlim(0, 1.12 * max(point.ms for point in points))
        axes.yaxis.set_major_formatter(lambda value, _place: f"{value:.0e}")
        axes.yaxis.set_minor_formatter("")
        axes.set_xlabel("median latency, ms")
        axes.set_ylabel("loss: 1 - cosine")
        axes.grid(axis="both", lw=0.6)
        _name(axes, points)
        return _svg(figure, f"Latency against loss of accuracy of {len(points)} ways to run the model; table below")


def _name(axes: Any, points: "Sequence[Point]") -> None:
    """Writes the names of points to the right of the axes, each with a line to its point."""
    import math

    low, high = map(math.log10, axes.get_ylim())
    ordered = sorted(points, key=lambda one: (_loss(one), -one.ms))
    wished = [(math.log10(_loss(one)) - low) / (high - low) for one in ordered]
    height = 0.19 / (axes.figure.get_figheight() - 0.7)
    places = spacing.apart(wished, [height] * len(ordered), 0)
    moved = min(0.0, 1 - height / 2 - places[-1])
    for point, place in zip(ordered, places, strict=True):
        axes.annotate(
            _short(point.name), (point.ms, _loss(point)), xytext=(1.04, place + moved), textcoords="axes fraction",
            va="center", fontsize=9, color=_INK if point.kept else _FAINT,
            arrowprops={"arrowstyle": "-", "color": _FAINT, "lw": 0.5, "alpha": 0.6, "shrinkA": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def _loss(point: "Point") -> float:
    return max(1 - point.cosine, _LEAST_LOSS)


def spread(calls: Mapping[str, Sequence[float]], medians: Sequence[float]) -> str:
    """Distributions of latencies: from the 1st to the 99th percentile, the middle half, and the median as estimated."""
    if not calls:
        return ""
    import numpy as np

    with _drawing(0.7 + 0.42 * len(calls)) as (figure, axes):
        for row, (values, middle) in enumerate(zip(calls.values(), medians, strict=True)):
            low, left, right, high = np.quantile(np.asarray(values), [0.01, 0.25, 0.75, 0.99])
            axes.plot([low, high], [row, row], color=_SERIES[0], lw=1.4, alpha=0.6, solid_capstyle="butt")
            axes.plot([left, right], [row, row], color=_SERIES[0], lw=9, alpha=0.45, solid_capstyle="butt")
            axes.plot([middle, middle], [row - 0.24, row + 0.24], color=_SERIES[0], lw=2.2)
        axes.set_yticks(range(len(calls)), [_short(name) for name in calls])
        axes.set_ylim(len(calls) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(axis="x", lw=0.6)
        axes.set_xlabel("latency, ms: 1st to 99th percentile, middle half, median")
        return _svg(figure, f"Distribution of the latency of {', '.join(calls)}; table above")


def panels(amounts: Mapping[str, Mapping[str, float]], title: str) -> str:
    """A panel of bars for each kind of amount, side by side, with a row for each name; "" where there is none."""
    if not amounts:
        return ""
    kinds = list(next(iter(amounts.values())))
    with _drawing(0.8 + 0.32 * len(amounts), len(kinds)) as (figure, axes):
        for kind, panel in zip(kinds, axes, strict=True):
            _bars(panel, {name: one[kind] for name, one in amounts.items()}, kind, _SERIES[0])
        return _svg(figure, f"{title} of {', '.join(amounts)}; the table has the numbers")


def ranked(amounts: Mapping[str, float], label: str, kinds: Sequence[str] = ()) -> str:
    """A bar for each, in the given order and in the colours of its kind (`drawing.color`); "" where there is none."""
    if not amounts:
        return ""
    with _drawing(0.6 + 0.26 * len(amounts)) as (figure, axes):
        _bars(axes, amounts, label, [_COLORS[kind] for kind in kinds] or _SERIES[0])
        return _svg(figure, f"{label} of {len(amounts)} layers; table below")


def _bars(axes: Any, amounts: Mapping[str, float], label: str, color: str | list[str]) -> None:
    drawn = axes.barh(range(len(amounts)), list(amounts.values()), 0.7, color=color, alpha=0.8)
    axes.bar_label(drawn, fmt="%.3g", padding=4, fontsize=9, color=_FAINT)
    axes.set_yticks(range(len(amounts)), [_short(name) for name in amounts])
    axes.set_ylim(len(amounts) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.grid(axis="x", lw=0.6)
    axes.set_xlabel(label)


def shares(amounts: Mapping[str, int]) -> str:
    """One bar of parts, such as the bytes of weights by precision; "" where all are 0."""
    whole = sum(amounts.values())
    if not whole:
        return ""
    with _drawing(0.5) as (figure, axes):
        start = 0.0
        for name, amount in sorted(amounts.items(), key=lambda pair: -pair[1]):
            share = amount / whole
            axes.barh(0, share, left=start, color=_COLORS[drawing.color(name)], height=0.8, alpha=0.7, edgecolor=_PAPER)
            if share > 0.08:
                axes.text(start + share / 2, 0, f"{name} {share:.0%}", ha="center", va="center", fontsize=9, color=_INK)
            start += share
        axes.set_xlim(0, 1)
        axes.set_axis_off()
        return _svg(figure, ", ".join(f"{name} {amount / whole:.1%}" for name, amount in amounts.items()))


def _short(name: str) -> str:
    """A name that leaves room for what is drawn: its end, which differs."""
    return name if len(name) <= _LONGEST else f"\N{HORIZONTAL ELLIPSIS}{name[1 - _LONGEST :]}"


def _front(points: "Sequence[Point]") -> "list[Point]":
    """Those that no other is both faster and more accurate than, the fastest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (one.ms, -one.cosine)):
        if not found or point.cosine > found[-1].cosine:
            found.append(point)
    return found


@contextmanager
def _drawing(height: float, panels: int = 1) -> Iterator[tuple[Any, Any]]:
    """Yields a figure and its axes, several where there are several panels, in the style of the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots(1, panels, sharey=True)


def _svg(figure: Any, title: str) -> str:
    """The figure as an element of HTML, with a text for who does not see it."""
    from html import escape

    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)

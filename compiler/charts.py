"""Figures of the report as SVG, by matplotlib, in the CSS variables of the page: light or dark as its reader wants.

matplotlib draws with stand-in colours, which are replaced in its SVG; text stays text.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .report import Point

_VARIABLES = {
    "#010101": "var(--ink)", "#020202": "var(--faint)", "#030303": "var(--line)", "#040404": "var(--paper)",
    "#050505": "var(--one)", "#060606": "var(--two)", "#070707": "var(--three)", "#080808": "var(--four)",
}  # fmt: skip
_INK, _FAINT, _LINE, _PAPER, *_SERIES = _VARIABLES
_WIDTH = 7.2  # inches; the page scales it
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
    with _drawing(3.6) as (figure, axes):
        largest = max(point.bytes for point in points)
        ordered = sorted(points, key=lambda one: -one.bytes)
        for point in ordered:
            loss = max(1 - point.cosine, _LEAST_LOSS)
            color = _SERIES[0] if point.kept else _FAINT
            area = 40 + 700 * point.bytes / largest
            axes.scatter(
                point.ms,
                loss,
                s=area,
                facecolor=color,
                edgecolor=color,
                alpha=0.35 if point.kept else 0.12,
                linewidth=1.2,
            )
            axes.scatter(point.ms, loss, s=9, color=color)
        front = _front(points)
        axes.plot(
            [one.ms for one in front],
            [max(1 - one.cosine, _LEAST_LOSS) for one in front],
            color=_SERIES[0],
            lw=1,
            ls=":",
        )
        for point in front:
            axes.annotate(
                point.name, (point.ms, max(1 - point.cosine, _LEAST_LOSS)), xytext=(8, 6), textcoords="offset points",
                fontsize=9, color=_INK if point.kept else _FAINT,
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlabel("median latency, ms")
        axes.set_ylabel("loss: 1 - cosine")
        axes.grid(axis="both", lw=0.6)
        axes.margins(0.18, 0.25)
        low, high = axes.get_xlim()
        axes.set_xlim(max(0, low), high + 0.12 * (high - low))
        return _svg(figure, f"Latency against loss of accuracy of {len(points)} ways to run the model; table below")


def spread(calls: Mapping[str, Sequence[float]]) -> str:
    """Distributions of latencies: from the 1st to the 99th percentile, the middle half, and the median."""
    if not calls:
        return ""
    import numpy as np

    with _drawing(0.7 + 0.42 * len(calls)) as (figure, axes):
        for row, (_name, values) in enumerate(calls.items()):
            low, left, middle, right, high = np.quantile(np.asarray(values), [0.01, 0.25, 0.5, 0.75, 0.99])
            axes.plot([low, high], [row, row], color=_SERIES[0], lw=1.4, alpha=0.6, solid_capstyle="butt")
            axes.plot([left, right], [row, row], color=_SERIES[0], lw=9, alpha=0.45, solid_capstyle="butt")
            axes.plot([middle, middle], [row - 0.24, row + 0.24], color=_SERIES[0], lw=2.2)
        axes.set_yticks(range(len(calls)), [_short(name) for name in calls])
        axes.set_ylim(len(calls) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(axis="x", lw=0.6)
        axes.set_xlabel("latency, ms: 1st to 99th percentile, middle half, median")
        return _svg(figure, f"Distribution of the latency of {', '.join(calls)}; table above")


def bars(amounts: Mapping[str, Mapping[str, float]], unit: str, by: float, title: str) -> str:
    """A bar for each amount of each name, with its number; "" where there is none."""
    if not amounts:
        return ""
    kinds = list(next(iter(amounts.values())))
    with _drawing(0.9 + (0.18 + 0.24 * len(kinds)) * len(amounts)) as (figure, axes):
        thick = 0.8 / len(kinds)
        for number, kind in enumerate(kinds):
            places = [row - 0.4 + thick * (number + 0.5) for row in range(len(amounts))]
            drawn = axes.barh(
                places, [one[kind] * by for one in amounts.values()], thick * 0.85, color=_SERIES[number], label=kind
            )
            axes.bar_label(drawn, fmt="%.3g", padding=4, fontsize=9, color=_FAINT)
        axes.set_yticks(range(len(amounts)), [_short(name) for name in amounts])
        axes.set_ylim(len(amounts) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.grid(axis="x", lw=0.6)
        axes.set_xlabel(unit)
        figure.legend(loc="outside upper right", frameon=False, ncols=len(kinds), fontsize=9)
        return _svg(figure, f"{title} of {', '.join(amounts)}; the table has the numbers")


def ranked(amounts: Mapping[str, float], label: str) -> str:
    """A bar for each, in the given order; "" where there is none."""
    if not amounts:
        return ""
    with _drawing(0.6 + 0.26 * len(amounts)) as (figure, axes):
        drawn = axes.barh(range(len(amounts)), list(amounts.values()), 0.7, color=_SERIES[0], alpha=0.8)
        axes.bar_label(drawn, fmt="%.3g", padding=4, fontsize=9, color=_FAINT)
        axes.set_yticks(range(len(amounts)), [_short(name) for name in amounts])
        axes.set_ylim(len(amounts) - 0.4, -0.6)
        axes.margins(x=0.1)
        axes.grid(axis="x", lw=0.6)
        axes.set_xlabel(label)
        return _svg(figure, f"{label} of {len(amounts)} layers; table below")


def shares(amounts: Mapping[str, int]) -> str:
    """One bar of parts, such as the bytes of weights by precision; "" where all are 0."""
    whole = sum(amounts.values())
    if not whole:
        return ""
    with _drawing(0.5) as (figure, axes):
        start = 0.0
        for number, (name, amount) in enumerate(sorted(amounts.items(), key=lambda pair: -pair[1])):
            share = amount / whole
            axes.barh(0, share, left=start, color=_SERIES[number % len(_SERIES)], height=0.8, alpha=0.75)
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
def _drawing(height: float) -> Iterator[tuple[Any, Any]]:
    """Yields a figure and its axes in the style of the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


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

"""`planc report`: artifacts on one page that people look at, with no network: figures, their tables, and provenance."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import artifact, bench, host, subjects
from .artifact import Artifact
from .errors import PlancError, Unavailable, UsageError, one_line
from .gates import Gates
from .worker import Emit, Limits

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_PACKAGES = ("matplotlib", "jinja2")
_SECONDS = 2.0
_PROCESSES = 3


@dataclass(frozen=True)
class Item:
    """An artifact on the page.

    Attributes:
        name: its folder's.
        made: the artifact.
        report: its report.json; empty without one.
        figures: a subject of a `planc bench` document; empty where it was not measured.
        unmeasured: why not.
    """

    name: str
    made: Artifact
    report: Mapping[str, Any]
    figures: Mapping[str, Any] = field(default_factory=dict)
    unmeasured: str = ""

    @property
    def model(self) -> str:
        """What it was made of: artifacts of one model are compared."""
        return str(self.made.manifest["job"]["model"])

    @property
    def bytes(self) -> int:
        """Bytes to deploy."""
        return subjects.deployed_bytes(self.made.manifest)

    @property
    def cosine(self) -> float | None:
        """The least cosine to the reference over outputs and sizes; None where that is not known."""
        found = self.made.manifest["verification"]
        points = (found.get("graph") or found).get("points") or {}
        known = [one.get("cosine") for outputs in points.values() for one in outputs.values()]
        return min((one for one in known if one is not None), default=None)

    @property
    def verified(self) -> str:
        """Whether it computes what the reference computes."""
        passed = self.made.manifest["verification"]["passed"]
        return {True: "verified", False: "differs", None: "not executed here"}[passed]


def find(paths: Sequence[Path]) -> list[Item]:
    """Returns the artifacts at the paths: an artifact's folder, or a folder of them.

    Raises:
        UsageError: there is none, or one cannot be read.
    """
    items: list[Item] = []
    for path in paths:
        inner = sorted(one.parent for one in path.glob(f"*/{artifact.MANIFEST}"))
        folders = [path] if (path / artifact.MANIFEST).exists() or not inner else inner
        items += [Item(folder.resolve().name, artifact.read(folder), _report(folder)) for folder in folders]
    names = [item.name for item in items]
    return [replace(one, name=str(one.made.path)) if names.count(one.name) > 1 else one for one in items]


def measured(items: Sequence[Item], *, limits: Limits, on_event: Emit | None = None) -> list[Item]:
    """Returns the items with figures: those of one model in turns, each in processes of its own.

    Raises:
        PlancError: a worker died.
    """
    found: dict[str, Item] = {}
    for group in _alike(items):
        able = [one for one in group if one.made.manifest["verification"]["passed"] is not None]
        found |= {one.name: replace(one, unmeasured="not executed here") for one in group if one not in able}
        if not able:
            continue
        plan = bench.plan(
            [str(one.made.path) for one in able], gates=Gates(), seconds=_SECONDS * len(able), processes=_PROCESSES
        )
        try:
            document = bench.run(plan, limits=limits, on_event=on_event)
        except PlancError as error:
            found |= {one.name: replace(one, unmeasured=one_line(error.what)) for one in able}
            continue
        found |= {
            one.name: replace(one, figures=entry) for one, entry in zip(able, document["subjects"], strict=True)
        }  # fmt: skip
    return [found[item.name] for item in items]


def with_document(items: Sequence[Item], path: Path) -> list[Item]:
    """Returns the items with the figures of a document of `planc bench -o`, by the names of the folders.

    Raises:
        UsageError: it is no such document, or knows none of them.
    """
    entries = {Path(entry["name"]).name: entry for entry in bench.read_baseline(path)["subjects"]}
    if not any(item.made.path.resolve().name in entries for item in items):
        raise UsageError(f"{path} measures none of these artifacts", hint=f"It has {', '.join(entries)}")
    return [
        replace(one, figures=entries[name]) if (name := one.made.path.resolve().name) in entries
        else replace(one, unmeasured=f"not in {path.name}")
        for one in items
    ]  # fmt: skip


def require_packages() -> None:
    """Checks that what draws the page is there.

    Raises:
        Unavailable: it is not installed.
    """
    if missing := [name for name in _PACKAGES if not host.version(name)]:
        raise Unavailable(f"{missing[0]} is not installed", hint="pip install 'planc[report]'")


def page(items: Sequence[Item]) -> str:
    """Returns the page as HTML: all in one file."""
    import jinja2

    from . import charts

    names = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names.filters |= {"size": _size, "ms": _ms, "share": lambda value: f"{value:.1%}", "cosine": _cosine}
    groups = [
        {
            "model": group[0].model,
            "items": group,
            "pareto": charts.pareto(list(_points(group))),
            "points": list(_points(group)),
            "spread": charts.spread({one.name: _calls(one) for one in group if one.figures}),
        }
        for group in _alike(items)
    ]
    details = [
        {
            "item": one,
            "weights": charts.shares(one.made.manifest["effective_precision"].get("weights_bytes") or {}),
            "operators": _operators(one),
        }
        for one in items
    ]
    return names.get_template(_TEMPLATE.name).render(
        groups=groups, details=details, items=items, planc=host.version("planc")
    )


def _report(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / artifact.REPORT).read_text()))
    except (OSError, ValueError):
        return {}


def _alike(items: Sequence[Item]) -> list[list[Item]]:
    """Items by model and inputs: those take the same arrays."""
    groups: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        groups.setdefault((item.model, item.made.inputs, item.made.dims), []).append(item)
    return list(groups.values())


@dataclass(frozen=True)
class Point:
    """A way to run a model: an artifact, or a candidate that an automatic choice left."""

    name: str
    ms: float
    cosine: float
    bytes: int
    kept: bool


def _points(group: Sequence[Item]) -> Iterator[Point]:
    for item in group:
        if item.figures and item.cosine is not None:
            yield Point(item.name, item.figures["latency_p50_ms"], item.cosine, item.bytes, kept=True)
        for row in item.report.get("candidates", ()):
            if row.get("latency_p50_ms") and row.get("cosine") is not None and row["status"] != "kept":
                yield Point(
                    f"{item.name}: {row['name']}", row["latency_p50_ms"], row["cosine"], row["size_bytes"], kept=False
                )


def _calls(item: Item) -> list[float]:
    return [ms for process in item.figures["blocks_ms"] for block in process for ms in block]


def _operators(item: Item) -> list[tuple[str, int, int]]:
    """Operator, nodes before and after the passes; the most frequent first."""
    graph = item.report.get("graph") or {}
    before, after = (graph.get(name, {}).get("ops", {}) for name in ("before", "after"))
    rows = [(name, before.get(name, 0), after.get(name, 0)) for name in {*before, *after}]
    return sorted(rows, key=lambda row: (-max(row[1:]), row[0]))


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _cosine(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6f}"

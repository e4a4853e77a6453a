"""`planc report`: artifacts on one page that people look at, with no network: figures, their tables, and provenance."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import artifact, bench, drawing, html, profile, subjects, worker
from ._ort import plain_name
from .artifact import Artifact
from .errors import PlancError, UsageError, one_line
from .gates import Gates
from .worker import Emit, Limits

PACKAGES = ("matplotlib", "jinja2")
"""What draws the page."""
_SECONDS = 2.0
_PROCESSES = 3
_MOST_LAYERS = 25
_MOST_MODULES = 40
_FEW_MODULES = 12


@dataclass(frozen=True)
class Item:
    """An artifact on the page.

    Attributes:
        name: its folder's.
        made: the artifact.
        report: its report.json; empty without one.
        figures: a subject of a `planc bench` document; empty where it was not measured.
        unmeasured: why not.
        nodes: of the payload, see `graph.nodes`; empty where it is no ONNX file.
    """

    name: str
    made: Artifact
    report: Mapping[str, Any]
    figures: Mapping[str, Any] = field(default_factory=dict)
    unmeasured: str = ""
    nodes: Sequence[Mapping[str, Any]] = ()

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


def with_nodes(items: Sequence[Item], *, limits: Limits) -> list[Item]:
    """Returns the items with the nodes of their payloads, where those are ONNX files."""
    return [
        replace(one, nodes=worker.call(artifact.describe_nodes, payload, limits=limits)) if payload.exists() else one
        for one in items
        for payload in [one.made.path / "model.onnx"]
    ]


def page(items: Sequence[Item]) -> str:
    """Returns the page as HTML: all in one file."""
    groups = [_group(group) for group in _alike(items)]
    details = [_detail(one, f"artifact{number}") for number, one in enumerate(items, 1)]
    ids = {one["item"].name: one["id"] for one in details}
    return html.render("report.html.jinja", items=items, groups=groups, details=details, ids=ids)


def _group(group: Sequence[Item]) -> dict[str, Any]:
    from . import charts

    points = sorted(_points(group), key=lambda one: one.ms)
    measured = [one for one in group if one.figures]
    return {
        "model": group[0].model,
        "items": group,
        "points": points,
        "pareto": charts.pareto(points) if len(points) > 1 else "",
        "spread": charts.spread(
            {one.name: _calls(one) for one in measured}, [one.figures["latency_p50_ms"] for one in measured]
        ),
        "memory": charts.panels(
            {
                one.name: {
                    "files to deploy, MB": one.bytes / 1e6,
                    "peak of a process, MB": one.figures["peak_rss_bytes"] / 1e6,
                }
                for one in measured
            },
            "Memory",
        ),
    }


def _detail(item: Item, place: str) -> dict[str, Any]:
    from . import charts

    manifest = item.made.manifest
    layers, times = _sensitive(item), _times(item)
    noisy = any(one["noise"] is not None for one in layers)
    key, label = ("noise", "noise that this layer alone adds") if noisy else ("sqnr_db", "SQNR of its input, dB")
    drawn = [one for one in layers if one[key] is not None][:_MOST_LAYERS]
    return {
        "item": item,
        "id": place,
        "manifest": manifest,
        "weights": charts.shares(manifest["effective_precision"].get("weights_bytes") or {}),
        "layers": layers,
        "sensitivity": charts.ranked(
            {one["label"]: one[key] for one in drawn}, label, [drawing.color(one["decision"]) for one in drawn]
        ),
        "times": times,
        "kinds": list(dict.fromkeys(drawing.color(one["decision"]) for one in drawn)),
        "time": charts.ranked({one["label"]: one["ms"] for one in times[:_MOST_LAYERS]}, "ms"),
        "map": _map(item),
        "operators": _operators(item),
    }


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
            kept = row.get("status") == "kept"
            if row.get("latency_p50_ms") and row.get("cosine") is not None and not (kept and item.figures):
                name = item.name if kept else f"{item.name}: {row['name']}"
                yield Point(name, row["latency_p50_ms"], row["cosine"], row["size_bytes"], kept=kept)


def _calls(item: Item) -> list[float]:
    return [ms for process in item.figures["blocks_ms"] for block in process for ms in block]


def _operators(item: Item) -> list[tuple[str, int, int]]:
    """Operator, nodes before and after the passes; the most frequent first."""
    graph = item.report.get("graph") or {}
    before, after = (graph.get(name, {}).get("operators", {}) for name in ("before", "after"))
    rows = [(name, before.get(name, 0), after.get(name, 0)) for name in {*before, *after}]
    return sorted(rows, key=lambda row: (-max(row[1:]), row[0]))


def _sensitive(item: Item) -> list[dict[str, Any]]:
    """Layers whose precision is laid down in the graph; those that cost most first, as far as that is known."""
    rows = [
        {**row, "label": row["origin"] or row["name"], "noise": row.get("noise"), "sqnr_db": row.get("sqnr_db")}
        for row in item.report.get("layers") or _excluded(item)
    ]
    return sorted(_distinct(rows), key=lambda row: (-(row["noise"] or 0), row["sqnr_db"] or 1e9))


def _excluded(item: Item) -> list[dict[str, Any]]:
    """What the manifest alone knows of layers: those that the search left in floating point."""
    guard = (item.made.manifest.get("quantization") or {}).get("guard") or {}
    return [
        {**row, "op": "", "decision": "float", "reason": "costs too much", "macs": None}
        for row in guard.get("excluded") or ()
    ]


def _times(item: Item) -> list[dict[str, Any]]:
    """Layers by the time that each takes, the longest first; empty without `planc bench --profile`."""
    layers = ((item.figures or {}).get("profile") or {}).get("layers") or ()
    rows = [{"op": "", "kernel": "", "module": "", "share": None, **row} for row in layers if row.get("ms") is not None]
    named = _distinct([{**row, "label": str(row["module"] or row.get("name") or row["op"])} for row in rows])
    return sorted(named, key=lambda row: -row["ms"])


def _distinct(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with labels of their own: those of one module have their node's name, too."""
    labels = [row["label"] for row in rows]
    made: dict[str, dict[str, Any]] = {}
    for row in rows:
        label = row["label"] if labels.count(row["label"]) == 1 else f"{row['label']} {row.get('name', '')}".strip()
        while label in made:
            label += "'"
        made[label] = {**row, "label": label}
    return list(made.values())


def _map(item: Item) -> dict[str, Any]:
    """Cells in the order of the graph by module: the nodes of an ONNX payload, else the layers that were lowered."""
    known = profile.modules(item.made.path)
    rows = [{**row, "module": row["module"] or known.get(plain_name(row["name"]), "")} for row in item.nodes] or [
        {
            "op": row["op"],
            "name": row["name"],
            "module": row["origin"],
            "precision": row["decision"],
        }
        for row in item.report.get("layers") or ()
    ]
    for depth in (9, 4, 3, 2, 1, 0):
        modules: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            cell = {**row, "color": drawing.color(row["precision"])}
            modules.setdefault(".".join(row["module"].split(".")[:depth]), []).append(cell)
        if len(modules) <= min(_MOST_MODULES, max(_FEW_MODULES, len(rows) // 2)):
            break
    counted = [{"module": name, "cells": cells, "counts": _counts(cells)} for name, cells in modules.items()]
    kinds = [name for name in (*drawing.PRECISIONS, "other") if any(name in one["counts"] for one in counted)]
    return {"rows": counted, "kinds": kinds, "of": "nodes" if item.nodes else "layers"}


def _counts(cells: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(Counter(cell["color"] for cell in cells))

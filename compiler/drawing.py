"""`planc inspect --html`: a graph in layers, inputs at the top, as one page with a table of its nodes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from . import html, spacing

PRECISIONS = ("int8", "float16", "bfloat16", "float32")
"""Those that have a colour; the rest (integers, booleans, what is not known) is "other"."""
_ALIASES = {
    "float": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "half": "float16",
    "bf16": "bfloat16", "i8": "int8", "u8": "int8", "uint8": "int8",
}  # fmt: skip
_SWEEPS = 6
_PULL = 0.97
"""Towards the middle of the picture, so that no path drifts away from it."""
_WIDTH, _HEIGHT = 168, 44
_GAP, _RISE = 20, 26
_BEND = 10.0
"""Room that an edge has where it passes a layer."""
_LONGEST_TEXT = 26


def page(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page of a graph.

    Args:
        title: what is drawn.
        rows: its nodes, see `graph.nodes`.
    """
    nodes = [
        {**row, "color": color(row["precision"]), "signature": signature(row), "kind": row["op"].rpartition(".")[2]}
        for row in rows
    ]
    return html.render("drawing.html.jinja", title=title, nodes=nodes, modules=_modules(rows), **layout(rows))


def color(precision: str) -> str:
    """The class of a precision, as any runtime calls it, in the style of the pages."""
    named = _ALIASES.get(precision, precision)
    return named if named in PRECISIONS else "other"


def signature(row: Mapping[str, Any]) -> str:
    """Dtype and shape of what a node gives."""
    sizes = ["..."] if row["shape"] is None else ["?" if one is None else str(one) for one in row["shape"]]
    return f"{row['dtype']}[{','.join(sizes)}]"


def short(text: str) -> str:
    """The text where it fits into a node; else its end, which is what differs."""
    return text if len(text) <= _LONGEST_TEXT else f"\N{HORIZONTAL ELLIPSIS}{text[1 - _LONGEST_TEXT :]}"


def layout(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Places the nodes in layers, each below all that it reads, and the edges between them.

    An edge that passes layers has a place in each, shared by all that read the same node; places of a layer are ordered
    by the mean of their neighbours, and lie as close to it as their widths allow.

    Returns:
        `width`, `height` and `middle` of the picture, `boxes` (left, top) of the nodes, and `edges` as paths of SVG.
    """
    depth: list[int] = []
    readers: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        depth.append(1 + max((depth[one] for one in row["inputs"]), default=-1))
        for one in row["inputs"]:
            readers[one].append(place)
    for place in reversed(range(len(rows))):  # next to what reads it, not to the inputs
        depth[place] = min((depth[one] - 1 for one in readers[place]), default=depth[place])
    layers: list[list[tuple[int, int]]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for place, first in enumerate(depth):  # (node, layer): the node itself in its own, a bend of its edge in others
        last = max((depth[one] for one in readers[place]), default=first)
        for passed in range(first, max(last, first + 1)):
            layers[passed].append((place, passed))
    above: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for place, row in enumerate(rows):
        above[place, depth[place]] = [(one, depth[place] - 1) for one in row["inputs"]]
    for number, layer in enumerate(layers):
        above |= {(node, number): [(node, number - 1)] for node, _ in layer if depth[node] != number}
    below: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for item, sources in above.items():
        for source in sources:
            below[source].append(item)
    wide = {item: _WIDTH if depth[item[0]] == item[1] else _BEND for layer in layers for item in layer}
    middle = {item: 0.0 for layer in layers for item in layer}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for layer in layers if down else reversed(layers):
            wished = {
                item: _PULL * sum(middle[one] for one in near.get(item) or [item]) / len(near.get(item) or [item])
                for item in layer
            }
            layer.sort(key=wished.__getitem__)
            places = spacing.apart([wished[item] for item in layer], [wide[item] for item in layer], _GAP)
            middle |= zip(layer, places, strict=True)
    left = min((middle[item] - wide[item] / 2 for item in middle), default=0.0) - _GAP
    right = max((middle[item] + wide[item] / 2 for item in middle), default=0.0) + _GAP
    pitch = _HEIGHT + _RISE
    boxes = [
        (round(middle[place, number] - left - _WIDTH / 2, 1), _GAP + number * pitch)
        for place, number in enumerate(depth)
    ]
    edges = []
    for item, sources in above.items():
        x, y = middle[item] - left, _GAP + item[1] * pitch
        for source in sources:
            start, top = middle[source] - left, _GAP + source[1] * pitch + _HEIGHT
            edges.append(
                f"M{start:.1f} {top}C{start:.1f} {top + _RISE / 2:.0f} {x:.1f} {y - _RISE / 2:.0f} {x:.1f} {y}"
                + (f"v{_HEIGHT}" if depth[item[0]] != item[1] else "")
            )
    height = 2 * _GAP + len(layers) * pitch - _RISE
    return {
        "width": round(right - left),
        "height": height,
        "middle": round(-left),
        "boxes": boxes,
        "edges": edges,
        "short": short,
    }


def _modules(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Modules in the order of the graph, with the place of the first node of each and their number."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        found.setdefault(row["module"], []).append(place)
    return [{"name": name, "first": places[0], "nodes": len(places)} for name, places in found.items() if name]

"""What differs between two artifacts: job, graph, precision, size, accuracy, latency, tools."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import artifact
from .subjects import deployed_bytes
from .worker import Emit

PARTS = ("job", "graph", "precision", "size", "files", "accuracy", "latency", "tools")
MEASURED = ("latency",)
"""Parts that differ from build to build and make no artifact a different one."""


def compare(old: Path, new: Path, *, emit: Emit) -> dict[str, Any]:
    """Compares two artifacts (in a worker).

    Returns:
        `same`, `differs` (the parts that do), and for each of PARTS a list of `{name, old, new}`, where None stands for
        what one of them has not.

    Raises:
        UsageError: one of them is no artifact.
    """
    emit("stage", "diff")
    sides = [_facts(artifact.read(path)) for path in (old, new)]
    parts = {part: _changes(sides[0][part], sides[1][part]) for part in PARTS}
    differs = [part for part, changes in parts.items() if changes and part not in MEASURED]
    return {"old": str(old), "new": str(new), "same": not differs, "differs": differs, "parts": parts}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Returns one line per difference, part by part; one line where there is none."""
    told = []
    for part, changes in found["parts"].items():
        if changes:
            note = " (measured, which makes no difference)" if part in MEASURED else ""
            told.append(f"{part}{note}:")
            told += [f"  {one['name']}: {_word(one['old'])} -> {_word(one['new'])}{_change(one)}" for one in changes]
    return told or [f"{found['old']} and {found['new']} are the same"]


def _facts(made: artifact.Artifact) -> dict[str, dict[str, Any]]:
    """Facts by part and name."""
    manifest = made.manifest
    report = _report(made.path)
    named = manifest.get("semantic_sha256", {})
    sealed = {name: named.get(name) or one["sha256"] for name, one in manifest["files"].items()}
    verification = manifest["verification"]
    judged = verification if verification.get("points") else verification.get("graph", {})
    return {
        "job": _flat({**manifest["job"], "session": manifest["session"], "requires": manifest["requires"]}),
        "graph": {**_graph(made), **_io("input", made.inputs), **_io("output", made.outputs)},
        "precision": _flat({"requested": manifest["requested_precision"], **manifest["effective_precision"]}),
        "size": {
            "to deploy": deployed_bytes(manifest),
            **{name: one["bytes"] for name, one in manifest["files"].items()},
        },
        "files": sealed,
        "accuracy": {"passed": verification["passed"], **_flat(judged.get("points", {}))},
        "latency": _flat(report.get("latency", {})),
        "tools": {"planc": manifest["planc"], **manifest["versions"]},
    }


def _graph(made: artifact.Artifact) -> dict[str, Any]:
    """Operators of an ONNX payload, or of OpenVINO IR; nothing of what only its own library reads."""
    if (path := made.path / "model.onnx").is_file():
        from . import graph

        facts = graph.describe(path)
        return {"nodes": facts["nodes"], "parameters": facts["parameters"], **_flat({"op": facts["operators"]})}
    if (path := made.path / "model.xml").is_file():
        return _ir(path)
    return {}


def _ir(path: Path) -> dict[str, Any]:
    import xml.etree.ElementTree as ElementTree
    from collections import Counter

    kinds = Counter(str(layer.get("type")) for layer in ElementTree.parse(path).iter("layer"))  # noqa: S314  sealed
    return {"nodes": sum(kinds.values()), **{f"op.{kind}": count for kind, count in kinds.items()}}


def _io(side: str, specs: Sequence[Any]) -> dict[str, str]:
    return {f"{side} {spec.name}": str(spec) for spec in specs}


def _report(folder: Path) -> dict[str, Any]:
    import json

    try:
        return dict(json.loads((folder / artifact.REPORT).read_text()))
    except (OSError, ValueError):
        return {}


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return [
        {"name": name, "old": old.get(name), "new": new.get(name)} for name in names if old.get(name) != new.get(name)
    ]


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text


def _change(one: Mapping[str, Any]) -> str:
    """The ratio of two numbers, where it says something."""
    old, new = one["old"], one["new"]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (old, new))
    return f" ({new / old - 1:+.1%})" if numbers and old and "cosine" not in one["name"] else ""

"""What `manifest.json` says of an artifact: what was built, of what, by what, and how it was verified."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import host, keys, recipe
from .artifact import LOG, RANGES, SCHEMA_VERSION, UNSEALED
from .cache import Entry
from .recipe import Job

_PLANC = "planc"
_SEARCH = ("costs", "evaluations")
"""What the search for layers in floating point tells of itself: report.json has it."""


def of(job: Job, done: Mapping[str, Entry]) -> dict[str, Any]:
    """Returns the content of `manifest.json`.

    Args:
        job: what was built.
        done: entries of its stages, by name.
    """
    exported, built, verified = done["export"].facts, done["build"].facts["built"], done["verify"]
    report = done["optimize"].facts["report"]
    files_of = {payload_name(name): facts for one in done.values() for name, facts in one.outputs.items()}
    sealed = {name: dict(facts) for name, facts in sorted(files_of.items()) if name and name not in UNSEALED}
    versions = {name: version for one in done.values() for name, version in one.components["versions"].items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "planc": host.version(_PLANC),
        "job": {
            "id": job.id,
            "model": Path(job.source.text).name,
            "target": job.target.name,
            "chosen_for": job.chosen_for,
            "precision": str(job.precision),
            "options": _shown(recipe.backend_options(job)),
            "dims": {row.pop("name"): row for row in map(shown_dim, exported["dims"])},
        },
        "backend": job.target.backend,
        "inputs": [_shown_spec(row) for row in exported["inputs"]],
        "outputs": [_shown_spec(row) for row in exported["outputs"]],
        "sources": exported["sources"],
        "passes": [one["name"] for one in report["passes"] if one["modified"]],
        "passes_skipped": report["skipped"],
        "requested_precision": str(job.precision),
        "effective_precision": built["effective_precision"],
        "placement": built["placement"],
        "log": LOG if LOG in files_of else None,
        "quantization": _quantization(done["lower"].facts, done["calibrate"].facts) if "lower" in done else {},
        "session": built["session"],
        "requires": built["requires"],
        "semantic_sha256": built["semantic_sha256"],
        "host": verified.facts["host"],
        "verification": verified.facts["verification"],
        "versions": {name: version for name, version in (versions | exported["versions"]).items() if version},
        "files": sealed,
    }


def payload_name(name: str) -> str:
    """The name in the artifact of a file that a stage left, or "" where it does not get there."""
    return RANGES if name == keys.RANGES else name.removeprefix(keys.PAYLOAD) if name.startswith(keys.PAYLOAD) else ""


def _shown(options: Any) -> dict[str, Any]:
    """Options as the manifest has them: files by their names."""
    return {name: value.name if isinstance(value, Path) else value for name, value in vars(options).items()}


def shown_dim(row: Mapping[str, Any]) -> dict[str, Any]:
    """A dimension as the manifest has it."""
    sizes = list(row["sizes"])
    return {
        "name": row["name"],
        "min": sizes[0],
        "opt": row["opt"],
        "max": sizes[-1],
        "sizes": sizes,
        "choice": row["choice"],
    }


def _shown_spec(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": row["name"], "dtype": row["dtype"], "shape": list(row["shape"])}


def _quantization(lowered: Mapping[str, Any], calibrated: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a precision that is laid down in the graph."""
    facts = lowered["guarded"]["facts"] if lowered["guarded"] else None
    kept = (row for row in lowered["lowered"]["layers"] if row["decision"] == "float")
    return {
        "products": lowered["lowered"]["effect"],
        "kept": [{"name": row["name"], "reason": row["reason"]} for row in kept],
        "dynamic": calibrated["dynamic"],
        "calibration": calibrated["calibration"],
        "guard": {name: fact for name, fact in facts.items() if name not in _SEARCH} if facts else None,
    }


def not_executed(reason: str, graph: Mapping[str, Any], *, completable: bool = True) -> dict[str, Any]:
    """What a manifest says of a payload that this machine cannot execute.

    Args:
        reason: why it cannot.
        graph: how the graph that was compiled compares to the reference, in ONNX Runtime.
        completable: whether another machine can execute it.
    """
    return {
        "passed": None,
        "reason": f"built, not executed here: {reason}",
        **({"complete_with": "planc verify ARTIFACT, on a machine that has what it runs on"} if completable else {}),
        "reference": graph["reference"],
        "tolerance": graph["tolerance"],
        "graph": graph,
    }

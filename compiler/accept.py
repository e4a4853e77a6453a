"""The gates of planc.toml on a fresh artifact, before it gets its final name: what fails them replaces nothing.

What passed is kept in the store, so that a build with nothing to do measures nothing.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import bench, keys, pipeline, subjects
from ._subject import Subject
from .artifact import Artifact, read
from .cache import Entry, Store, key_of
from .errors import GateFailed, UsageError
from .gates import Gates, size_row
from .recipe import Job
from .results import Row
from .worker import Emit, Limits

_STAGE = "gates"
_SHORT_SECONDS = 0.1
_NOT_HERE = "not measured: the artifact is not executed here. planc bench on its machine measures it"
_FIRST = "nothing is replaced: there is nothing to compare with"


@dataclass(frozen=True)
class Trial:
    """What an artifact is held to.

    Attributes:
        gates: the bounds.
        rival: job of the fp32 artifact that `min_speedup` compares with; None where it is not asked for.
        store: has the stages of the rival, and keeps what passed.
        limits: of each worker.
    """

    gates: Gates
    rival: Job | None
    store: Store
    limits: Limits

    def __call__(self, fresh: Artifact, old: Path | None, folder: Path, on_event: Emit | None) -> dict[str, Any]:
        """Judges an artifact and returns its rows, and its latencies where they were measured.

        Args:
            fresh: the artifact, not under its final name.
            old: folder of the one that it would replace; None without one.
            folder: for what else is needed.
            on_event: receives the stages.

        Raises:
            GateFailed: a gate fails.
        """
        rows: list[Row] = []
        latency: dict[str, float] = {}
        if self.gates.max_size_bytes is not None:
            rows.append(size_row(_STAGE, subjects.deployed_bytes(fresh.manifest), self.gates.max_size_bytes))
        timed = replace(self.gates, max_size_bytes=None)
        if timed.given and fresh.manifest["verification"]["passed"] is None:
            rows.append(Row(_STAGE, "skipped", message=_NOT_HERE))
        elif timed.given:
            for against, bounds in self._comparisons(timed, old, folder, on_event):
                if bounds.compare and against is None:
                    rows.append(Row(f"{_STAGE} --max-regression", "skipped", message=_FIRST))
                    bounds = replace(bounds, max_slowdown=None)
                if bounds.given:
                    found = self._measured(fresh, against, bounds, on_event)
                    rows += [Row(**row) for row in found["rows"]]
                    latency = found["latency"] or latency
        failed = [row for row in rows if row.status == "failed"]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise GateFailed(f"{failed[0].name.removeprefix(f'{_STAGE} ')}: {failed[0].message}{more}")
        return {"rows": [asdict(row) for row in rows], "latency": latency}

    def _comparisons(
        self, timed: Gates, old: Path | None, folder: Path, on_event: Emit | None
    ) -> list[tuple[Path | None, Gates]]:
        """What the artifact is measured against, and the gates that are judged by that."""
        if self.rival is None:
            return [(old, timed)]
        made = pipeline.run(self.rival, folder / "fp32", limits=self.limits, store=self.store, on_event=on_event)
        found: list[tuple[Path | None, Gates]] = [(made.artifact.path, replace(timed, max_slowdown=None))]
        if timed.max_slowdown is not None:
            found.append((old, Gates(max_slowdown=timed.max_slowdown)))
        return found

    def _measured(self, fresh: Artifact, against: Path | None, bounds: Gates, on_event: Emit | None) -> dict[str, Any]:
        """Rows and latencies, from the store where they passed before on such a machine."""
        other = read(against) if against is not None else None
        components = {
            **keys.machine(_STAGE),
            "fresh": fresh.manifest["files"],
            "session": fresh.manifest["session"],
            "against": other.manifest["files"] if other else None,
            "bounds": asdict(bounds),
        }
        kept = self.store.find(key_of(components), lambda _: True)
        if kept is not None:
            return dict(kept.facts)
        measured = [Subject(_STAGE, "artifact", str(fresh.path))]
        if other is not None:
            measured.append(Subject("what it replaces" if bounds.max_slowdown else "fp32", "artifact", str(other.path)))
        plan = bench.Plan(tuple(measured), against=measured[1].name if other else "", gates=bounds)
        timed = bounds != Gates(max_drop=bounds.max_drop)
        if not timed:  # how fast it is does not matter
            plan = replace(plan, seconds=_SHORT_SECONDS, processes=1)
        try:
            document = bench.run(plan, limits=self.limits, on_event=on_event)
        except UsageError as error:  # the two do not take the same inputs
            if other is None:
                raise
            return {"rows": [asdict(Row(_STAGE, "skipped", message=error.what))], "latency": {}}
        found = {"rows": document["gates"], "latency": _latency(document["subjects"][0]) if timed else {}}
        if all(row["status"] == "passed" for row in found["rows"]):
            self.store.save(Entry(_STAGE, "", components, {}, {}, found), {})
        return found


def _latency(subject: Mapping[str, Any]) -> dict[str, float]:
    return {name: subject[name] for name in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "throughput_per_s")}

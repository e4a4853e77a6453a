"""`planc build`: the jobs of planc.toml, what they share once, as many at a time as memory and cores allow.

Jobs that begin alike wait for one task that makes what they share: the export of a model, and its calibration. That
may wait in turn for tasks that each gather the statistics of a shard of the data.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import artifact, cache, choose, keys, observe, pipeline, recipe, stages
from .cache import Store
from .errors import GateFailed, PlancError, Unavailable, UsageError
from .executors import Executor, Task
from .project import Entry, Project
from .recipe import Job
from .results import Row
from .worker import Emit, Limits

_STAGES = "stages"
_TORCH_BYTES = 2 << 30
_GRAPH_BYTES = 768 << 20


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        id: of the job.
        status: "built", "cached", "skipped" or "failed".
        seconds: wall time of what ran for it alone.
        made: stages that ran; those made once for several jobs are at the first of them in planc.toml.
        bytes: of the files to deploy.
        precision: effective precision, counted from the payload.
        latency_p50_ms: where candidates were measured.
        reason: why it was skipped or failed, as one line.
        exit_code: of a job that failed, or 0.
        out: folder of the artifact.
    """

    id: str
    status: str
    seconds: float = 0.0
    made: tuple[str, ...] = ()
    bytes: int = 0
    precision: Mapping[str, Any] = field(default_factory=dict)
    latency_p50_ms: float | None = None
    reason: str = ""
    exit_code: int = 0
    out: str = ""


HEADERS = ("job", "status", "seconds", "MB to deploy")

OnRow = Callable[[Outcome], None]
OnEvent = Callable[[str, str, Any], None]
"""Receives (job id, kind, value) of what a job's worker tells."""


def run(
    project: Project,
    entries: Sequence[Entry],
    *,
    store: Store,
    executor: Executor,
    overwrite: bool = False,
    fail_fast: bool = False,
    on_row: OnRow = lambda _: None,
    on_event: OnEvent = lambda *_: None,
) -> list[Outcome]:
    """Builds jobs and returns one row for each, in their order. A job that fails does not stop others.

    Args:
        project: where they come from.
        entries: the jobs.
        store: what they share.
        executor: runs them.
        overwrite: whether equal artifacts are written anew.
        fail_fast: whether no more jobs begin after one has failed.
        on_row: receives each row when it is known.
        on_event: receives what workers tell.
    """
    rows: dict[str, Outcome] = {}

    def finish(row: Outcome) -> None:
        rows[row.id] = row
        on_row(row)

    running: dict[Future[Any], Task] = {}
    made: dict[str, list[str]] = {}
    for entry in entries:
        if entry.skipped:
            finish(Outcome(entry.id, "skipped", reason=entry.skipped, out=str(entry.out)))
    try:
        tasks = _tasks(project, entries, store, overwrite, elsewhere=executor.elsewhere)
        waiting = {task.name: task for task in tasks}
        while waiting or running:
            for task in _ready(waiting, running.values()):
                del waiting[task.name]
                running[executor.submit(task, partial(on_event, task.name))] = task
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                try:
                    result = future.result()
                except PlancError as error:
                    result = Outcome(task.name, "failed", reason=str(error), exit_code=error.exit_code)
                if task.job:
                    finish(_with_made(result, made.pop(task.name, [])))
                elif isinstance(result, list):
                    made.setdefault(task.owner, []).extend(result)
            if fail_fast and any(row.status == "failed" for row in rows.values()):
                queued = {future: task for future, task in running.items() if future.cancel()}
                running = {future: task for future, task in running.items() if future not in queued}
                for task in (*waiting.values(), *queued.values()):
                    if task.job:
                        finish(Outcome(task.name, "skipped", reason="another job failed, and --fail-fast says to stop"))
                waiting.clear()
    finally:
        executor.stop()
    return [rows[entry.id] for entry in entries]


def _with_made(row: Outcome, before: Sequence[str]) -> Outcome:
    """The row of a job, some of whose stages were made before it."""
    if not before:
        return row
    return replace(
        row,
        made=tuple(dict.fromkeys((*before, *row.made))),
        status="built" if row.status == "cached" else row.status,
    )


def _ready(waiting: Mapping[str, Task], running: Any) -> list[Task]:
    """Tasks that wait for no other; what was to be shared and failed fails again in each job, with its reason."""
    open_names = {*waiting, *(task.name for task in running)}
    return [task for task in waiting.values() if not open_names & set(task.after)]


def _tasks(
    project: Project, entries: Sequence[Entry], store: Store, overwrite: bool, *, elsewhere: bool
) -> Iterator[Task]:
    """Yields the jobs, each after the tasks that make what it shares with others.

    Other machines than this one say themselves what they cannot build.
    """
    shared: dict[str, Task] = {}
    for entry in entries:
        if entry.skipped:
            continue
        limits = recipe.limits(entry.job.source, project.seconds, project.memory)
        jobs = choose.candidates(entry.job, here=not elsewhere)
        after: list[str] = []
        for job in jobs:
            after += _share(job, entry, store, limits, shared)
        run_one = Build(entry, limits, store, overwrite)
        memory, measures = entry.memory or needs(entry.job), len(jobs) != 1 or entry.gates.timed
        if measures:  # it comes when all that it measures is in the store
            owned = [(job, entry.id) for job in jobs] + ([(entry.rival, entry.rival.id)] if entry.rival else [])
            for job, owner in owned:
                if stages.trail(job, store)[1]:
                    name = f"{_STAGES} {job.id} {job.target.name}"
                    make = Share(job, pipeline.AFTER_EXPORT, limits, store)
                    first = tuple(dict.fromkeys(after))
                    shared.setdefault(name, Task(name, make, first, memory, entry.resources, owner=owner))
                    after.append(name)
        yield Task(entry.id, run_one, tuple(dict.fromkeys(after)), memory, entry.resources, job=True, alone=measures)
    yield from shared.values()


def _share(job: Job, entry: Entry, store: Store, limits: Limits, shared: dict[str, Task]) -> Iterator[str]:
    """Adds the tasks that make what a job shares, where it is not in the store; yields their names."""
    done, missing, components = stages.trail(job, store)
    after: tuple[str, ...] = ()

    def add(name: str, *names: str) -> str:
        make = Share(job, names, limits, store)
        shared.setdefault(name, Task(name, make, after, needs(job), entry.resources, owner=entry.id))
        return name

    if missing == "export":
        after = (add(f"export {cache.key_of(components)[:12]}"),)
        yield from after
    calibrates = "calibrate" in keys.stages_of(job) and "calibrate" not in done
    if calibrates:
        like = cache.key_of({
            "export": cache.key_of(keys.components("export", job, {}, store.digest)),
            "family": job.target.family,
            "origin": keys.keeps_origin(job),
            "calibration": [str(one) for one in asdict(job.quantization.calibration).values()],
            "everything": keys.watches_everything(job),
            "judge": job.quantization.guard.data,
        })[:12]  # fmt: skip
        gathered = stages.shards(job, done, store) if "optimize" in done else {}
        shards = [one for one in keys.shards_of(job) if one not in gathered]
        if shards and "optimize" not in done:
            after = (add(f"optimize {like}", "optimize"),)
            yield from after
        if shards:
            after = tuple(add(f"calibrate {like} {one}", "optimize", one) for one in shards)
            yield from after
        yield add(f"calibrate {like}", "optimize", "calibrate")


@dataclass(frozen=True)
class Share:
    """Makes what several jobs begin with, and returns the stages that ran. What fails fails again in each job.

    Attributes:
        job: one of them.
        names: stages after the export.
        limits: of each worker.
        store: gets it.
    """

    job: Job
    names: tuple[str, ...]
    limits: Limits
    store: Store

    def __call__(self, on_event: Emit) -> list[str]:
        """Makes it; `on_event` receives the stages."""
        with TemporaryDirectory(prefix="planc-") as place:
            folder = Path(place) / "work"
            return pipeline.through(
                self.job, folder, self.store, self.names, limits=self.limits, on_event=on_event
            ).made  # fmt: skip


@dataclass(frozen=True)
class Build:
    """Builds one job.

    Attributes:
        entry: the job, and its place.
        limits: of each worker.
        store: has what it shares with others.
        overwrite: whether an equal artifact is written anew.
    """

    entry: Entry
    limits: Limits
    store: Store
    overwrite: bool

    def __call__(self, on_event: Emit) -> Outcome:
        """Builds it.

        Raises:
            PlancError: any class of the exit-code table.
        """
        start = time.perf_counter()
        entry, accept = self.entry, None
        if entry.gates.given:
            from .accept import Trial

            accept = Trial(entry.gates, entry.rival, self.store, self.limits)
        result = pipeline.run(
            entry.job, entry.out, limits=self.limits, store=self.store, overwrite=self.overwrite,
            config=entry.resolved, accept=accept, on_event=on_event,
        )  # fmt: skip
        manifest = result.artifact.manifest
        latency = result.report["latency"].get(result.label, {}).get("latency_p50_ms")
        return Outcome(
            entry.id,
            "built" if result.made or result.status == "replaced" else "cached",
            round(time.perf_counter() - start, 3),
            result.made,
            sum(facts["bytes"] for name, facts in manifest["files"].items() if name != "golden.npz"),
            manifest["effective_precision"],
            latency,
            out=str(entry.out),
        )


def needs(job: Job) -> int:
    """Estimate of the memory that building a job takes at its peak, in bytes.

    Torch and its exporter, or graph libraries, and some copies of the weights where their file is known.
    """
    known = (keys.model_file(job), job.source.weights)
    weights = sum(path.stat().st_size for path in known if path is not None and path.exists())
    return (_TORCH_BYTES if job.source.frontend == "torch" else _GRAPH_BYTES) + 4 * weights


def require(rows: Sequence[Outcome], globs: Sequence[str]) -> list[Outcome]:
    """Returns the rows; jobs that one of `globs` wants and no machine could build have failed."""
    return [
        replace(row, status="failed", exit_code=Unavailable.exit_code)
        if row.status == "skipped" and any(fnmatchcase(row.id, glob) for glob in globs)
        else row
        for row in rows
    ]


def exit_code(rows: Sequence[Outcome]) -> int:
    """The worst exit code of the jobs: the highest."""
    return max((row.exit_code for row in rows), default=0)


def results(rows: Sequence[Outcome]) -> list[Row]:
    """The jobs as other programs want them: one that a gate refused has failed, any other error is an error."""
    states = {"built": "passed", "cached": "passed", "skipped": "skipped"}
    return [
        Row(
            row.id,
            states.get(row.status) or ("failed" if row.exit_code == GateFailed.exit_code else "error"),
            row.seconds,
            row.reason,
        )
        for row in rows
    ]


def table(rows: Sequence[Outcome]) -> list[list[str]]:
    """The jobs as lines of a table, under HEADERS."""
    return [[row.id, row.status, f"{row.seconds:.2f}", f"{row.bytes / 1e6:.2f}"] for row in rows]


def plan(entries: Sequence[Entry], store: Store) -> list[dict[str, Any]]:
    """Returns, for each job, its stages with "cached" or "build" and why, without running anything."""
    return [_planned(entry, store) for entry in entries]


def _planned(entry: Entry, store: Store) -> dict[str, Any]:
    if entry.skipped:
        return {"job": entry.id, "skipped": entry.skipped, "artifact": "", "stages": []}
    rows = []
    for job in choose.candidates(entry.job):
        done, missing, components = stages.trail(job, store)
        rest = list(keys.stages_of(job))[len(done) :]
        for name, one in done.items():
            rows.append(_stage(job, name, "cached", one.key, ""))
        for name in rest:
            why = why_missing(job, name, components, store) if name == missing else f"{missing} comes first"
            rows.append(_stage(job, name, "build", cache.key_of(components) if name == missing else "", why))
    return {"job": entry.id, "skipped": "", "artifact": _found(entry.out, store), "stages": rows}


def _found(out: Path, store: Store) -> str:
    """What is at the place of an artifact: "there", "damaged" or "missing"."""
    if not (out / artifact.MANIFEST).exists():
        return "missing"
    try:
        return "damaged" if artifact.read(out).damage(store.digest) else "there"
    except (AttributeError, KeyError, TypeError, UsageError):  # another document than planc writes
        return "damaged"


def drawn(planned: Sequence[Mapping[str, Any]], form: str) -> str:
    """Returns a plan as a graph in the language of Graphviz ("dot") or of Mermaid; stages of one key are one node."""
    nodes: dict[str, str] = {}
    edges: dict[tuple[str, str], None] = {}
    for one in planned:
        before: dict[str, str] = {}
        for row in one["stages"]:
            own = f"{one['job']}/{row['target']}/{row['stage']}"
            name = f"n{cache.key_of({'node': row['key'] or own})[:10]}"
            nodes[name] = f"{row['stage']} {row['state']}{'' if row['key'] else ' ' + one['job']}"
            if row["target"] in before:
                edges[before[row["target"]], name] = None
            before[row["target"]] = name
        for name in before.values():
            nodes[f"j{cache.key_of({'job': one['job']})[:10]}"] = one["job"]
            edges[name, f"j{cache.key_of({'job': one['job']})[:10]}"] = None
    if form == "dot":
        lines = [f'  {name} [label="{label}"];' for name, label in nodes.items()]
        return "\n".join(["digraph plan {", *lines, *(f"  {one} -> {other};" for one, other in edges), "}"])
    lines = [f'  {name}["{label}"]' for name, label in nodes.items()]
    return "\n".join(["flowchart LR", *lines, *(f"  {one} --> {other}" for one, other in edges)])


def _stage(job: Job, name: str, state: str, key: str, why: str) -> dict[str, str]:
    return {"target": job.target.name, "stage": name, "state": state, "key": key, "why": why}


def why_missing(job: Job, stage: str, components: Mapping[str, Any], store: Store) -> str:
    """Says what changed since a job's stage was last made here."""
    last = store.last(job.id, stage)
    if last is None:
        return "never built here"
    lines = [*differences(last["components"], components)]
    if last["reads"]:
        lines += observe.changes(last["reads"], keys.anchor(job), store.digest)
    return "; ".join(lines[:5]) or "its result is no longer in the cache"


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Yields one line for each leaf in which two JSON documents differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        shown = [str(one)[:12] if isinstance(one, str) and len(one) == 64 else str(one)[:60] for one in (old, new)]
        yield f"{name}: {shown[0]} -> {shown[1]}"

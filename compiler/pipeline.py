"""From a job to an artifact under its final name: what the store has is taken, the rest is made in workers.

A PyTorch model runs in a worker of its own; the others never import torch. A graph pass that fails is left out and
reported.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import artifact, choose, exclusions, files, keys, observe, optimize, recipe, worker
from . import manifest as manifests
from .artifact import Artifact
from .cache import Damaged, Entry, Store
from .errors import BuildFailed, GateFailed, PlancError, UsageError, WorkerDied
from .recipe import Job
from .stages import Work, run_stages, shards, trail
from .target import Precision
from .worker import Emit, Limits

AFTER_EXPORT = ("optimize", "calibrate", "lower", "build", "verify")

Done = Mapping[str, Entry]
Accept = Callable[[Artifact, Path | None, Path, Emit | None], dict[str, Any]]
"""Judges an artifact before it gets its final name, see `accept.Trial`."""


@dataclass(frozen=True)
class Result:
    """What a compile gave.

    Attributes:
        artifact: the artifact under its final name.
        status: "built", "replaced" or "unchanged".
        report: timings by stage, measured latencies, and all candidates.
        sources: files that the result depends on.
        label: of what was chosen, as in the report.
        made: names of the stages that ran; the others came from the store.
    """

    artifact: Artifact
    status: str
    report: dict[str, Any]
    sources: list[str]
    label: str
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """A candidate whose stages are all in the store.

    Attributes:
        job: what was built.
        done: its entries by stage.
        made: names of the stages that ran.
        seconds: wall time by step of those.
    """

    job: Job
    done: Done
    made: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def run(
    job: Job,
    out: Path,
    *,
    limits: Limits,
    store: Store | None = None,
    overwrite: bool = False,
    config: Mapping[str, Any] = MappingProxyType({}),
    accept: Accept | None = None,
    on_event: Emit | None = None,
) -> Result:
    """Compiles `job` to an artifact at `out`: whole and verified, or not there.

    Args:
        job: what to build.
        out: the artifact's folder.
        limits: of each worker.
        store: keeps what stages leave, and has what others left; None for nothing kept.
        overwrite: whether an equal artifact is written anew.
        config: what the manifest keeps of planc.toml.
        accept: judges the artifact before it replaces another; what it returns is kept in the report.
        on_event: receives the stages.

    Raises:
        GateFailed: the payload does not compute what the reference computes, or is not accepted.
        PlancError: any other class of the exit-code table.
    """
    start = time.perf_counter()
    artifact.require_replaceable(out)
    with files.staging(out) as folder:
        used = store or Store(folder / "store", private=True)
        while True:
            built, failures = _candidates(job, folder, used, limits, on_event)
            begin = time.perf_counter()
            best, choice, measured = _best(built, folder, used, limits, on_event)
            seconds = dict(best.seconds) | {
                choose.MEASURE: time.perf_counter() - begin,
                "total": time.perf_counter() - start,
            }
            manifest = manifests.of(best.job, best.done) | ({"config": dict(config)} if config else {})
            made, label = (
                tuple(dict.fromkeys((*(name for one in built for name in one.made), *measured))),
                choose.label(best.job),
            )
            report = {
                "schema_version": 1,
                "seconds": {name: round(value, 3) for name, value in {**seconds, "own": _own(seconds, built)}.items()},
                "stages": {name: "built" if name in made else "cached" for name in best.done},
                "latency": choice.latency if choice else {},
                "candidates": [*(choice.rows if choice else ()), *map(_failed, failures.items())],
                "passes": best.done["optimize"].facts["report"]["passes"],
                "modules": best.done["optimize"].facts["report"]["modules"],
                "graph": {name: best.done["optimize"].facts["report"][name] for name in ("before", "after")},
                "layers": _layers(best.done),
            }
            sources = _sources(job, built)
            list_excluded(best.job, best.done)
            status = "replaced" if out.exists() and any(out.iterdir()) else "built"
            if status == "replaced" and not overwrite and artifact.same_content(out, manifest, used.digest):
                return Result(artifact.read(out), "unchanged", report, sources, label, made)
            try:
                payload = _assemble(best, folder, used, manifest)
            except Damaged as damage:
                _tell(on_event, f"{damage}: made again")
                continue
            if accept is not None:
                judged = accept(Artifact(payload, manifest), out if status == "replaced" else None, folder, on_event)
                report["gates"] = judged["rows"]
                if judged["latency"]:
                    report["latency"] = {label: judged["latency"]}
            (payload / artifact.REPORT).write_text(artifact.as_text(report))
            artifact.require_replaceable(out)
            files.publish(payload, out)
            return Result(artifact.read(out), status, report, sources, label, made)


def _layers(done: Done) -> list[dict[str, Any]]:
    """What became of each layer where the graph lays down its precision; `noise` is its cost alone, where searched."""
    if "lower" not in done:
        return []
    facts = done["lower"].facts
    costs = ((facts["guarded"] or {}).get("facts") or {}).get("costs", {})
    return [{**row, "noise": costs.get(row["name"])} for row in facts["lowered"]["layers"]]


def through(
    job: Job,
    folder: Path,
    store: Store,
    names: tuple[str, ...],
    *,
    limits: Limits,
    on_event: Emit | None,
    run: Callable[..., Work] = run_stages,
    args: tuple[Any, ...] = (),
) -> Work:
    """Brings a job to the end of the stages called `names`, in `folder`, and returns it.

    Args:
        job: what is asked for.
        folder: of its files; made anew.
        store: keeps what stages leave.
        names: of the stages.
        limits: of each worker.
        on_event: receives the stages.
        run: `run_stages`, or a function like it that does more in the same worker.
        args: what it takes beside the work and the names.

    Raises:
        PlancError: any class of the exit-code table.
    """
    folder.mkdir()
    work = Work(job, folder, store.local)
    _fetch(job, store, names)
    export = trail(job, store)[0].get("export")
    try:
        if export is None:
            raise Damaged("no export yet")
        store.restore(export, lambda name: folder / name)
        work.done["export"] = export
    except Damaged:
        files.remove(folder)  # what was there of it
        folder.mkdir()
        if keys.has_user_code("export", job) or store.local is not store:
            with _sharing(store, on_event) as listen:
                work = worker.call(run_stages, work, ("export",), limits=limits, on_event=listen)
            _fetch(job, store, names)  # an edit that changes nothing in the graph leads to what others have made
        else:
            names = ("export", *names)

    def attempt(skipped: dict[str, str]) -> Work:
        left = _taken_up(work, store, names) if skipped and "export" in names else names
        with _sharing(store, on_event) as listen:
            return worker.call(
                run,
                replace(work, skipped=skipped),
                left,
                *args,
                limits=replace(limits, steady=keys.backend(job).STEADY),
                on_event=listen,
            )

    try:
        work = optimize.leaving_out(attempt)
    except WorkerDied as error:
        raise _with_last_words(error, work.payload / artifact.LOG) from error
    for entry in work.done.values():
        store.note_last(str(job.id), entry)
    return work


def _taken_up(work: Work, store: Store, names: tuple[str, ...]) -> tuple[str, ...]:
    """Takes the export that a worker made before a pass killed it, and returns the stages that are left."""
    files.remove(work.folder)
    work.folder.mkdir()
    export = trail(work.job, store)[0]["export"]
    store.restore(export, lambda name: work.folder / name)
    work.done, work.made, work.seconds = {"export": export}, ["export"], {"export": export.seconds}
    return tuple(name for name in names if name != "export")


def _fetch(job: Job, store: Store, names: tuple[str, ...]) -> None:
    """Brings what a shared store has of some stages to this machine: workers know its local half only."""
    done, missing, _ = trail(job, store)
    wanted = {name: entry for name, entry in done.items() if name in names}
    if missing == "calibrate":
        wanted |= shards(job, done, store)
    for entry in wanted.values():
        store.fetch(entry)


@contextmanager
def _sharing(store: Store, on_event: Emit | None) -> Iterator[Emit]:
    """Hears what a worker keeps, and gives it to others at the end, also where a later stage has failed."""
    kept: list[Entry] = []

    def listen(kind: str, value: Any) -> None:
        if kind == "kept":
            kept.append(value)
        elif on_event is not None:
            on_event(kind, value)

    try:
        yield listen
    except PlancError:
        for entry in kept:
            store.share(entry)
        raise
    for entry in kept:
        store.share(entry)


def _candidates(
    job: Job, folder: Path, store: Store, limits: Limits, on_event: Emit | None
) -> tuple[list[Built], dict[str, PlancError]]:
    """Returns what was built for each candidate of the job's target, and why others were not."""
    built: list[Built] = []
    failures: dict[str, PlancError] = {}
    several = bool(job.target.candidates or job.objective)
    for candidate in choose.candidates(job):
        try:
            one = _built(candidate, folder / f"{len(built)}-{len(failures)}", store, limits, on_event)
            _require_bounds(job, one, folder, store, limits, on_event)
            built.append(one)
        except PlancError as error:
            if not several or error.exit_code == UsageError.exit_code:
                raise
            failures[choose.label(candidate)] = error
    if not built:
        raise next(iter(failures.values()))
    return built, failures


def _require_bounds(
    job: Job, built: Built, folder: Path, store: Store, limits: Limits, on_event: Emit | None
) -> None:  # fmt: skip
    """Holds a candidate in 16 bits that no guard has judged to the bounds of the job."""
    bounds = job.quantization.guard.bounds
    if job.objective and bounds and built.job.precision is not Precision.FP32 and not keys.is_lowered(built.job):
        label, manifest = choose.label(built.job), manifests.of(built.job, built.done)
        place = _assemble(built, folder / "judge" / label.replace(" ", "-"), store, manifest)
        if any(".py:" in text for text in bounds):
            graph = folder / "judge" / f"{label.replace(' ', '-')}-graph"
            for stage in ("export", "optimize"):  # its weights lie beside the export
                store.restore(built.done[stage], lambda name: graph / name)
            choose.require_own(place, graph / keys.OPTIMIZED, job, label, store=store, limits=limits, on_event=on_event)
        else:
            choose.require_bounds(place, bounds, label, store=store, limits=limits, on_event=on_event)


def _failed(failure: tuple[str, PlancError]) -> dict[str, Any]:
    name, error = failure
    status = "inaccurate" if isinstance(error, GateFailed) else "failed"
    return {"name": name, "status": status, "reason": str(error)}


def _built(job: Job, folder: Path, store: Store, limits: Limits, on_event: Emit | None) -> Built:
    done, missing, _ = trail(job, store)
    if not missing:
        for entry in done.values():
            for note in entry.notes:
                _tell(on_event, note)
        return Built(job, done)
    files.remove(folder)
    work = through(job, folder, store, AFTER_EXPORT, limits=limits, on_event=on_event)
    return Built(job, work.done, tuple(work.made), work.seconds)


def _tell(on_event: Emit | None, note: str) -> None:
    if on_event is not None:
        on_event("note", note)


def _with_last_words(error: WorkerDied, log: Path) -> BuildFailed:
    """The error, and how the log of the backend ends, where it has one."""
    if not log.exists() or not (lines := log.read_text(errors="replace").strip().splitlines()):
        return error
    told = BuildFailed(f"{error.what}; its log ends: {' | '.join(lines[-3:])}", hint=error.hint)
    told.stage = error.stage
    return told


def _best(
    built: list[Built], folder: Path, store: Store, limits: Limits, on_event: Emit | None
) -> tuple[Built, choose.Choice | None, tuple[str, ...]]:
    """Returns the candidate that is kept, and why; and the stages that were made to tell."""
    objective = built[0].job.objective
    if len(built) == 1 and not objective:
        return built[0], None, ()
    named = {choose.label(one.job): one for one in built}

    def variants(one: choose.Candidate) -> list[choose.Candidate]:
        found: list[Built] = []
        for job in choose.variants(named[one.label].job):
            found.append(_built(job, folder / f"v{len(named)}", store, limits, on_event))
            named[choose.label(job)] = found[-1]
        return [_candidate(other, folder, store) for other in found]

    choice = choose.best(
        [_candidate(one, folder, store) for one in built],
        objective or recipe.OBJECTIVES[0],
        variants=variants,
        store=store,
        limits=limits,
        on_event=on_event,
    )
    made = [name for one in named.values() if one not in built for name in one.made]
    return named[choice.label], choice, (*made, *((choose.MEASURE,) if choice.made else ()))


def _candidate(built: Built, folder: Path, store: Store) -> choose.Candidate:
    """What is chosen among."""
    label, manifest = choose.label(built.job), manifests.of(built.job, built.done)
    cosines = [
        figures["cosine"]
        for outputs in (manifest["verification"].get("points") or {}).values()
        for figures in outputs.values() if figures.get("cosine") is not None
    ]  # fmt: skip
    return choose.Candidate(
        label,
        built.job.precision is not Precision.INT8,
        {name: one["sha256"] for name, one in manifest["files"].items()} | {"session": str(manifest["session"])},
        sum(one["bytes"] for name, one in manifest["files"].items() if name != artifact.GOLDEN),
        min(cosines, default=None),
        lambda: _assemble(built, folder / "measure" / label.replace(" ", "-"), store, manifest),
    )


def _assemble(built: Built, folder: Path, store: Store, manifest: Mapping[str, Any]) -> Path:
    """Puts an artifact together from the store and returns its folder.

    Raises:
        Damaged: the store is.
    """
    payload = folder / "artifact"
    files.remove(payload)
    payload.mkdir(parents=True)
    for entry in (built.done[stage] for stage in ("calibrate", "build", "verify") if stage in built.done):
        wanted = {name for name in entry.outputs if manifests.payload_name(name)}
        store.restore(entry, lambda name: payload / manifests.payload_name(name), only=wanted, copied=True)
    (payload / artifact.MANIFEST).write_text(artifact.as_text(manifest))
    return payload


def _sources(job: Job, built: list[Built]) -> list[str]:
    """Files that the result depends on, each once."""
    found = set(keys.named_files(job))
    for one in built:
        for entry in one.done.values():
            found |= {path.resolve() for path in observe.sources(entry.reads, keys.anchor(one.job))}
    return sorted(map(str, found))


def list_excluded(job: Job, done: Done) -> None:
    """Writes the list of what the guard found, where one is wanted."""
    wanted = job.quantization
    guarded = done["lower"].facts["guarded"] if "lower" in done else None
    if wanted.guard.listing is not None and guarded is not None:
        exclusions.write(wanted.guard.listing, guarded["facts"]["excluded"], wanted.keep)


def _own(seconds: Mapping[str, float], built: list[Built]) -> float:
    """Seconds that planc itself added to loading, export, reference, backend builds and verification."""
    theirs = sum(value for name, value in seconds.items() if name.startswith("export."))
    theirs += sum(one.seconds.get(name, 0.0) for one in built for name in ("build", "verify"))
    return seconds["total"] - seconds[choose.MEASURE] - theirs

"""The whole compiler on one screen: a job's stages in order, each in a worker process.

    export     MODEL      -> model.onnx      the reference runs at each point
    optimize   model.onnx -> model.opt.onnx  graph passes
    calibrate  .opt.onnx  -> ranges.json     INT8: what its tensors hold on real data
    lower      .opt.onnx  -> model.q.onnx    INT8: Q/DQ for the target's kernels, within the accuracy bound
    build      .onnx      -> payload         the backend's compiler
    verify     payload    -> golden.npz      payload against the reference

User code runs in the first worker only; the others never import torch. A graph pass that fails is left out and
reported.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import artifact, exclusions, files, host, optimize, plugins, recipe, user_code, worker
from .artifact import Artifact
from .errors import BuildFailed, GateFailed, PlancError, UsageError, WorkerDied
from .recipe import Job, Source
from .target import Precision
from .worker import Emit, Limits

if TYPE_CHECKING:
    import numpy as np

    from ..calibration.table import RangeTable
    from .backends import Built
    from .bisect import Fault
    from .frontends import Exported
    from .guard import Guarded
    from .optimize import Report
    from .parity import Check
    from .quantize import Lowered

MOST_GOLDEN_BYTES = 16 << 20
_NEAR_TIE = 0.97
_PLANC = "planc"
_LOOSEN = "Loosen a bound by name, such as --tolerance sqnr_db=40, only if you accept the error"

_REAL = "--inputs FILE.npz or --eval DATA gives real ones"


@dataclass
class Work:
    """A job on its way: what each stage leaves for the next.

    Attributes:
        job: what is asked for.
        folder: for files between stages.
        payload: the folder that becomes the artifact.
        seconds: wall time by step.
        skipped: graph passes that killed a worker, with the reason: they are left out.
        imported: the user's Python files that gave data or metrics.
    """

    job: Job
    folder: Path
    payload: Path
    seconds: dict[str, float] = field(default_factory=dict)
    exported: "Exported | None" = None
    skipped: dict[str, str] = field(default_factory=dict)
    optimized: "Report | None" = None
    table: "RangeTable | None" = None
    lowered: "Lowered | None" = None
    guarded: "Guarded | None" = None
    built: "Built | None" = None
    manifest: dict[str, Any] = field(default_factory=dict)
    imported: set[Path] = field(default_factory=set)

    @property
    def model(self) -> "Exported":
        """The exported model."""
        assert self.exported is not None
        return self.exported

    @property
    def graph(self) -> Path:
        """The graph after the passes of the target's family."""
        return self.folder / f"{self.job.target.family}.opt.onnx"

    @property
    def source(self) -> Path:
        """The graph that the backend compiles."""
        return self.folder / f"{self.job.target.name}.q.onnx" if self.lowered else self.graph

    @property
    def goldens(self) -> Path:
        """Golden data: of real inputs at each point, or as the frontend has made them."""
        return self.real if self.real.exists() else self.folder / "all.npz"

    @property
    def real(self) -> Path:
        """Golden data of a lowered graph, where some real inputs are known."""
        return self.folder / "real.npz"


@dataclass(frozen=True)
class Stage:
    """One step of the compiler; `run` reads and completes a Work."""

    name: str
    ext: str
    run: Callable[[Work, Emit], None]


@dataclass(frozen=True)
class Result:
    """What a compile gave.

    Attributes:
        artifact: the artifact under its final name.
        status: "built", "replaced" or "unchanged".
        report: timings by stage, measured latencies and failed candidates.
        sources: files that the result depends on.
    """

    artifact: Artifact
    status: str
    report: dict[str, Any]
    sources: list[str]


def stages() -> Iterator[Stage]:
    """Yields the stages; their order is the order of the compilation."""
    yield Stage("export", ".onnx", _export)
    yield Stage("optimize", ".opt.onnx", _optimize)
    yield Stage("calibrate", ".ranges.json", _calibrate)
    yield Stage("lower", ".q.onnx", _lower)
    yield Stage("build", "", _build)
    yield Stage("verify", ".npz", _verify)


def run(job: Job, out: Path, *, limits: Limits, overwrite: bool = False, on_event: Emit | None = None) -> Result:
    """Compiles `job` to an artifact at `out`: whole and verified, or not there.

    Raises:
        GateFailed: the payload does not compute what the reference computes.
        PlancError: any other class of the exit-code table.
    """
    start = time.perf_counter()
    artifact.require_replaceable(out)
    with files.staging(out) as folder:
        work = Work(job, folder, folder)
        work = worker.call(run_stages, work, ("export",), limits=limits, on_event=on_event)
        works: list[Work] = []
        failures: dict[str, PlancError] = {}
        for candidate in recipe.candidates(job):
            begun = replace(work, job=candidate, payload=folder / candidate.target.name, seconds=dict(work.seconds))
            begun.optimized = next((one.optimized for one in works if one.graph == begun.graph), None)
            begun.table = next((one.table for one in works if one.graph == begun.graph), None)
            try:
                works.append(optimize.leaving_out(partial(_attempt, begun, limits, on_event)))
            except PlancError as error:
                if not job.target.candidates:
                    raise
                failures[candidate.target.name] = error
        if not works:
            raise next(iter(failures.values()))
        begin = time.perf_counter()
        best, latencies = _fastest(works, work.model.needs, limits, on_event)
        best.seconds["measure"] = time.perf_counter() - begin
        read = {*work.model.sources, *job.quantization.files, *(path for one in works for path in one.imported)}
        sources = sorted(map(str, {path.resolve(): path for path in sorted(read)}.values()))
        seconds = best.seconds | {"total": time.perf_counter() - start}
        report = {
            "schema_version": 1,
            "seconds": {name: round(value, 3) for name, value in {**seconds, "own": _own(seconds, works)}.items()},
            "latency": latencies,
            "passes": best.optimized.passes if best.optimized else [],
            "failed_candidates": {name: str(error) for name, error in failures.items()},
        }
        (best.payload / artifact.REPORT).write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
        _list_excluded(best)
        status = "replaced" if out.exists() and any(out.iterdir()) else "built"
        if status == "replaced" and not overwrite and artifact.same_content(out, best.manifest):
            return Result(artifact.read(out), "unchanged", report, sources)
        artifact.require_replaceable(out)
        files.publish(best.payload, out)
    return Result(artifact.read(out), status, report, sources)


def _attempt(work: Work, limits: Limits, on_event: Emit | None, skipped: dict[str, str]) -> Work:
    try:
        return worker.call(
            run_stages,
            replace(work, skipped=skipped),
            ("optimize", "calibrate", "lower", "build", "verify"),
            limits=replace(limits, steady=_backend(work).STEADY),
            on_event=on_event,
        )
    except WorkerDied as error:
        raise _with_last_words(error, work.payload / artifact.LOG) from error


def _with_last_words(error: WorkerDied, log: Path) -> BuildFailed:
    """The error, and how the log of the backend ends, where it has one."""
    if not log.exists() or not (lines := log.read_text(errors="replace").strip().splitlines()):
        return error
    told = BuildFailed(f"{error.what}; its log ends: {' | '.join(lines[-3:])}", hint=error.hint)
    told.stage = error.stage
    return told


def run_stages(work: Work, names: tuple[str, ...], *, emit: Emit) -> Work:
    """Runs the stages called `names`, in order (in a worker)."""
    if work.exported is not None:
        emit("memory", work.exported.needs)
    with files.telling(work.folder):
        for stage in stages():
            if stage.name in names:
                start, before = time.perf_counter(), set(sys.modules)
                stage.run(work, emit)
                if stage.name in ("calibrate", "lower"):
                    work.imported |= user_code.loaded(before)
                work.seconds[stage.name] = time.perf_counter() - start
    return work


def export_file(
    source: Source, out: Path, *, limits: Limits, overwrite: bool = False, on_event: Emit | None = None
) -> dict[str, Any]:
    """Exports a model to one ONNX file that ONNX Runtime loads and that computes what the reference computes.

    Weights are inside the file up to 1.8 GB, else beside it in a file named after their digest.

    Returns:
        `status`, the file's facts, and how it compares to the reference.

    Raises:
        PlancError: any class of the exit-code table.
    """
    files.require_ours(out, overwrite)
    with files.staging(out) as folder:
        facts = worker.call(_export_file, source, folder, out.name, limits=limits, on_event=on_event)
        return {"status": files.publish_onnx(folder / out.name, out, overwrite), **facts}


def optimize_file(
    source: Path,
    out: Path,
    chosen: optimize.Recipe,
    *,
    limits: Limits,
    check: "Check | None" = None,
    overwrite: bool = False,
    on_event: Emit | None = None,
) -> tuple[str, "Report"]:
    """Runs graph passes from ONNX file to ONNX file, weights inside up to 1.8 GB; returns status and report.

    With `check`, passes that change the outputs are left out as well; a repro of each is written beside `out`.

    Raises:
        PlancError: any class of the exit-code table.
    """
    files.require_file(source)
    files.require_ours(out, overwrite)
    with files.staging(out) as folder:
        staged = folder / out.name
        if check is None:
            report = optimize.optimize(source, staged, chosen, limits=limits, on_event=on_event)
        else:
            report = _optimize_checked(source, staged, out, chosen, check, limits, on_event)
        return files.publish_onnx(staged, out, overwrite), report


def calibrate_file(
    job: Job, out: Path, *, limits: Limits, overwrite: bool = False, on_event: Emit | None = None
) -> dict[str, Any]:
    """Calibrates a model and writes its table; returns status and facts.

    Raises:
        PlancError: any class of the exit-code table.
    """
    files.require_table(out, overwrite)
    with files.staging(out) as folder:
        work = _lowered(job, folder, ("optimize", "calibrate"), limits, on_event)
        assert work.table
        work.table.save(folder / out.name)
        status = files.publish_same(folder / out.name, out)
    table = work.table
    return {
        "status": status,
        "method": table.method,
        "samples": table.samples,
        "data": table.source,
        "tensors": len(table.tensors),
        "seconds": {name: round(value, 3) for name, value in work.seconds.items()},
    }


def quantize_file(
    job: Job, out: Path, *, limits: Limits, overwrite: bool = False, on_event: Emit | None = None
) -> dict[str, Any]:
    """Lowers a model to one ONNX file with Q/DQ for the job's target; returns status, effect and layers.

    Raises:
        PlancError: any class of the exit-code table.
    """
    files.require_ours(out, overwrite)
    if job.target.candidates:
        names = ", ".join(job.target.candidates)
        raise UsageError(f"{job.target.name} has no layout of its own", hint=f"Give one of its backends: -t {names}")
    if job.precision not in plugins.load("backends", job.target.backend).LOWERED:
        raise UsageError(
            f"{job.target.name} takes {job.precision.upper()} from its own compiler, not from the graph",
            hint="Run planc compile, or give -t null",
        )
    with files.staging(out) as folder:
        work = _lowered(job, folder, ("optimize", "calibrate", "lower"), limits, on_event)
        metrics = worker.call(_write_lowered, work, folder / out.name, limits=limits, on_event=on_event)
        _list_excluded(work)
        status = files.publish_onnx(folder / out.name, out, overwrite)
    assert work.lowered
    return {
        "status": status,
        "products": work.lowered.effect,
        "layers": work.lowered.layers,
        "guard": work.guarded.facts if work.guarded else None,
        "verification": metrics,
        "seconds": {name: round(value, 3) for name, value in work.seconds.items()},
    }


def _list_excluded(work: Work) -> None:
    """Writes the list of what the guard found, where one is wanted."""
    wanted = work.job.quantization
    if wanted.guard.listing is not None and work.guarded is not None:
        exclusions.write(wanted.guard.listing, work.guarded.facts["excluded"], wanted.keep)


def _lowered(job: Job, folder: Path, names: tuple[str, ...], limits: Limits, on_event: Emit | None) -> Work:
    """Runs the first stages of a job."""
    work = worker.call(run_stages, Work(job, folder, folder), ("export",), limits=limits, on_event=on_event)

    def attempt(skipped: dict[str, str]) -> Work:
        return worker.call(run_stages, replace(work, skipped=skipped), names, limits=limits, on_event=on_event)

    return optimize.leaving_out(attempt)


def _write_lowered(work: Work, out: Path, *, emit: Emit) -> dict[str, Any]:
    """Writes the lowered graph and holds it against the reference (in a worker)."""
    from ..passes import StripMetadata
    from . import emulate, golden, storage, verify

    emit("stage", "write")
    with files.telling(out.parent):
        model = storage.load(work.source)
        StripMetadata()(model)
        optimize.write(model, out, embed=True)
    emit("stage", "verify")
    if work.job.precision is Precision.BF16:
        emit(
            "note", "verified in float32 with each result rounded to bfloat16: ONNX Runtime's CPU has no kernels for it"
        )
    run = emulate.runner(out)
    bounds = verify.tolerance(work.job.precision, work.job.tolerance)
    result = verify.verify(lambda **inputs: run(inputs), golden.load(work.goldens), bounds)
    if not result["passed"]:
        raise GateFailed(_difference("the lowered graph", work.model, result), hint=_hint(work))
    return result


def bisect_file(
    source: Path,
    repro: Path | None,
    chosen: optimize.Recipe,
    check: "Check",
    *,
    limits: Limits,
    on_event: Emit | None = None,
) -> tuple["Fault | None", dict[str, Any]]:
    """Returns the first pass that changes the outputs, or fails, and what was compared.

    Args:
        source: the ONNX file.
        repro: where the repro goes, a folder; None for nowhere.
        chosen: which passes.
        check: what they run on.
        limits: of each worker.
        on_event: receives the stages.

    Raises:
        PlancError: any class of the exit-code table.
    """
    from . import bisect

    files.require_file(source)
    if repro is not None:
        bisect.require_replaceable(repro)
    with files.staging(repro) if repro is not None else tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        try:
            found = worker.call(bisect.search, source, chosen, check, folder, "", limits=limits, on_event=on_event)
        except BuildFailed as error:  # a pass crashed or hung: is one before it at fault?
            if not (name := optimize.killer(error)):
                raise
            fault, facts = worker.call(
                bisect.search, source, chosen, check, folder, name, limits=limits, on_event=on_event
            )
            found = fault or bisect.Fault(name, "kills its worker", error.what), facts
        if repro is not None and (folder / "repro").is_dir():
            files.publish(folder / "repro", repro)
        return found


def _optimize_checked(
    source: Path,
    staged: Path,
    out: Path,
    chosen: optimize.Recipe,
    check: "Check",
    limits: Limits,
    on_event: Emit | None,
) -> "Report":
    """Optimizes in workers; repros of passes that changed the outputs are there also where that is an error."""
    from . import bisect

    def attempt(skipped: dict[str, str]) -> "Report":
        return worker.call(
            bisect.optimize_checked, source, staged, chosen, check, skipped, limits=limits, on_event=on_event
        )

    try:
        report = optimize.leaving_out(attempt, strict=chosen.strict)
    except GateFailed:
        bisect.publish(staged.parent, out)
        raise
    bisect.publish(staged.parent, out)
    return report


def _export(work: Work, emit: Emit) -> None:
    from . import golden

    start = time.perf_counter()
    frontend = plugins.load("frontends", work.job.source.frontend)
    imports = time.perf_counter() - start
    exported = frontend.export(work.job.source, work.folder, emit=emit)
    golden.save(work.folder / "all.npz", exported.goldens)
    work.exported = replace(exported, goldens=())
    for name, seconds in exported.seconds.items():
        work.seconds[f"export.{name}"] = seconds + (imports if name == "load" else 0)


def _optimize(work: Work, emit: Emit) -> None:
    if work.optimized is not None:  # by another candidate
        return
    family = optimize.Recipe(
        family=work.job.target.family,
        keep_origin=_is_lowered(work) or _backend(work).ORIGINS,  # layers are named after their modules
        trusted=work.job.source.frontend == "torch",
        own=True,
    )
    work.optimized = optimize.run(work.model.path, work.graph, family, work.skipped, emit=emit)


def _calibrate(work: Work, emit: Emit) -> None:
    """Leaves ranges, and golden data of real inputs, for what is lowered."""
    if not _is_lowered(work):
        return
    sample = _ranges(work, emit)
    if not work.real.exists():  # by another candidate
        _make_golden(work, sample, emit)


def _ranges(work: Work, emit: Emit) -> "Mapping[str, np.ndarray] | None":
    """INT8 needs ranges, unless it is dynamic; for 16 bits they are welcome. Returns a sample of the calibration."""
    wanted, precision = work.job.quantization.calibration, work.job.precision
    if work.job.quantization.dynamic or work.table is not None:  # by another candidate
        return None
    if precision is not Precision.INT8 and not wanted.given:
        return None
    from . import calibrate, quantize

    if not wanted.given and quantize.has_own(work.graph):  # of quantization-aware training
        return None
    model = work.model
    work.table, sample = calibrate.measure(
        work.graph, wanted, model.inputs, model.dims, everything=precision is not Precision.INT8, emit=emit
    )
    return sample


def _make_golden(work: Work, sample: "Mapping[str, np.ndarray] | None", emit: Emit) -> None:
    """Makes golden data of the user's inputs, else of a sample of the calibration, else of one to judge by.

    What numbers are drawn at random says little of INT8: ranges are those of real data.
    """
    from . import calibrate, golden, reference

    model, wanted = work.model, work.job.quantization
    if work.job.source.data is not None:
        sample = files.load_arrays(work.job.source.data)
    elif sample is None and wanted.guard.data:
        sample = next(iter(calibrate.Data(wanted.guard.data, model.inputs, 1, option="--eval")))
    if sample is None:
        if work.job.precision is Precision.INT8 and not wanted.calibration.random:
            emit("note", f"verification runs on random numbers: {_REAL}")
        return
    if work.job.source.frontend == "torch":  # the samples' outputs come from the exported graph
        _hold_against_reference(model.path, replace(model, goldens=tuple(golden.load(work.folder / "all.npz"))))
    golden.save(work.real, golden.of_sample(reference.runner(model.path), sample, model.inputs, model.dims))


def _lower(work: Work, emit: Emit) -> None:
    if not _is_lowered(work):
        return
    from . import guard, quantize

    emit("stage", "lower")
    how = quantize.lowering(work.job, work.model.dims)
    out = work.folder / f"{work.job.target.name}.q.onnx"
    if work.job.quantization.guard.bounds:
        work.guarded = guard.search(work.job, work.graph, how, work.table, work.model.inputs, emit=emit)
        how = replace(how, keep=(*how.keep, *work.guarded.excluded))
    work.lowered = quantize.lower(work.graph, out, how, work.table)


def _is_lowered(work: Work) -> bool:
    """Whether the precision is laid down in the graph before the backend sees it."""
    return work.job.precision in _backend(work).LOWERED


def _backend(work: Work) -> Any:
    return plugins.load("backends", work.job.target.backend)


def _build(work: Work, emit: Emit) -> None:
    emit("stage", "build")
    work.payload.mkdir()
    request = recipe.request(work.job, work.source, work.payload, inputs=work.model.inputs, dims=work.model.dims)
    work.built = _backend(work).build(request)
    products = work.built.effective_precision.get("products", {})
    wanted = work.lowered.effect.get("int8", {}).get("nodes", 0) if work.lowered else 0
    if 0 < products.get("int8", wanted) < wanted:
        emit(
            "note", f"of {wanted} layers in INT8 the runtime computes {wanted - products['int8']} in float all the same"
        )


def _verify(work: Work, emit: Emit) -> None:
    from . import golden, verify

    emit("stage", "verify")
    goldens = golden.load(work.goldens)
    kept = golden.within(goldens, MOST_GOLDEN_BYTES)
    golden.save(work.payload / artifact.GOLDEN, kept)
    manifest = _manifest(work)
    bounds = verify.tolerance(work.job.precision, work.job.tolerance)
    reason = _backend(work).unverifiable(work.job.target)
    if reason is None:
        session: Callable[..., Mapping[str, Any]] = artifact.session(
            Artifact(work.payload, artifact.write_manifest(work.payload, manifest))
        )
        what = work.job.target.name
    else:  # its graph, then
        from . import emulate

        run = emulate.runner(work.source)
        session, what = lambda **inputs: run(inputs), "the graph that was compiled"
    result = verify.verify(session, goldens, bounds)
    if not result["passed"]:
        raise GateFailed(_difference(what, work.model, result), hint=_hint(work))
    said = {"reference": _reference_of(work), **result}
    manifest["verification"] = (
        said if reason is None else artifact.not_executed(reason, said, completable=_backend(work).RUNS)
    )
    manifest["verification"]["golden_points"] = [one.label for one in kept]
    if work.table is not None:
        work.table.save(work.payload / artifact.RANGES)
    work.manifest = artifact.write_manifest(work.payload, manifest)


def _reference_of(work: Work) -> str:
    """What computed the golden data."""
    if work.goldens.name == "all.npz" or work.job.source.frontend == "onnx":
        return work.model.reference
    return f"ONNX Runtime on the exported graph, itself held against {work.model.reference}"


def _manifest(work: Work) -> dict[str, Any]:
    job, model = work.job, work.model
    assert work.built
    assert work.optimized
    return {
        "planc": host.version(_PLANC),
        "job": {
            "id": job.id,
            "model": Path(job.source.text).name,
            "target": job.target.name,
            "chosen_for": job.chosen_for,
            "precision": str(job.precision),
            "options": _shown(recipe.backend_options(job)),
            "dims": {
                dim.name: {
                    "min": dim.min,
                    "opt": dim.opt,
                    "max": dim.max,
                    "sizes": list(dim.sizes),
                    "choice": dim.choice,
                }
                for dim in model.dims
            },
        },
        "backend": job.target.backend,
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in model.inputs],
        "outputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in model.outputs],
        "sources": sorted(
            ({"name": path.name, "sha256": files.digest(path)} for path in model.sources),
            key=lambda one: (one["name"], one["sha256"]),
        ),
        "passes": work.optimized.changed_by,
        "passes_skipped": work.optimized.skipped,
        "requested_precision": str(job.precision),
        "effective_precision": dict(work.built.effective_precision),
        "placement": dict(work.built.placement),
        "log": artifact.LOG if (work.payload / artifact.LOG).exists() else None,
        "quantization": _quantization(work),
        "session": dict(work.built.session),
        "requires": dict(work.built.requires),
        "semantic_sha256": dict(work.built.semantic_sha256),
        "host": {"cpu": host.cpu_name(), "cpu_flags": sorted(host.cpu_flags())},
        "versions": {
            **model.versions,
            "onnx-ir": host.version("onnx-ir"),
            "onnxscript": host.version("onnxscript"),
            **_backend(work).fingerprint(),
        },
    }


def _shown(options: Any) -> dict[str, Any]:
    """Options as the manifest has them: files by their names."""
    return {name: value.name if isinstance(value, Path) else value for name, value in vars(options).items()}


def _quantization(work: Work) -> dict[str, Any]:
    """What the manifest says of a precision that is laid down in the graph; empty for others."""
    if work.lowered is None:
        return {}
    table = work.table
    return {
        "products": work.lowered.effect,
        "kept": [{"name": one["name"], "reason": one["reason"]} for one in work.lowered.kept],
        "dynamic": work.job.quantization.dynamic,
        "calibration": {
            "method": table.method,
            "samples": table.samples,
            "data": table.source,
            "data_sha256": table.source_digest,
        }
        if table is not None
        else None,
        "guard": {name: fact for name, fact in work.guarded.facts.items() if name != "evaluations"}
        if work.guarded
        else None,
    }


def _fastest(works: list[Work], needs: int, limits: Limits, on_event: Emit | None) -> tuple[Work, dict[str, Any]]:
    """Measures the candidates interleaved at the point "opt"; the first one wins a near tie."""
    if len(works) == 1:
        return works[0], {}
    folders = {work.job.target.name: work.payload for work in works}
    latencies = worker.call(_measure, folders, needs, limits=limits, on_event=on_event)
    best = works[0]
    for work in works[1:]:
        if (
            latencies[work.job.target.name]["latency_p50_ms"]
            < _NEAR_TIE * latencies[best.job.target.name]["latency_p50_ms"]
        ):
            best = work
    return best, latencies


def _measure(folders: dict[str, Path], needs: int, *, emit: Emit) -> dict[str, dict[str, float]]:
    from . import bench, golden

    emit("stage", "measure")
    emit("memory", needs * len(folders))
    runs = {}
    for name, folder in folders.items():
        session, inputs = artifact.load(folder), golden.load(folder / artifact.GOLDEN)[0].inputs
        runs[name] = lambda session=session, inputs=inputs: session(**inputs)
    return {name: bench.summary(latencies) for name, latencies in bench.interleaved(runs).items()}


def _own(seconds: dict[str, float], works: list[Work]) -> float:
    """Seconds that planc itself added to loading, export, reference, backend builds and verification."""
    theirs = sum(value for name, value in seconds.items() if name.startswith("export."))
    theirs += sum(work.seconds["build"] + work.seconds["verify"] for work in works)
    return seconds["total"] - seconds["measure"] - theirs


def _export_file(source: Source, folder: Path, name: str, *, emit: Emit) -> dict[str, Any]:
    with files.telling(folder):
        return _export_one(source, folder, name, emit=emit)


def _export_one(source: Source, folder: Path, name: str, *, emit: Emit) -> dict[str, Any]:
    """Exports into `folder`, writes the file called `name` there and holds it against the reference (in a worker)."""
    from . import graph, storage

    between = folder / "export"
    between.mkdir()
    exported = plugins.load("frontends", source.frontend).export(source, between, emit=emit)
    written = folder / name
    optimize.write(storage.load(exported.path), written, embed=True)
    emit("stage", "verify")
    _hold_against_reference(written, exported)
    return {
        "facts": graph.describe(written),
        "reference": exported.reference,
        "sources": [str(path) for path in exported.sources],
        "seconds": {step: round(seconds, 3) for step, seconds in exported.seconds.items()},
    }


def _hold_against_reference(path: Path, exported: "Exported") -> None:
    from . import verify
    from .reference import runner

    try:
        run = runner(path)
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime cannot load what was exported: {error}") from error
    result = verify.verify(lambda **inputs: run(inputs), exported.goldens, verify.tolerance(Precision.FP32))
    if not result["passed"]:
        raise GateFailed(_difference("the exported graph", exported, result))


def _hint(work: Work) -> str:
    """What to do where a payload differs: random numbers may be to blame."""
    drawn = _is_lowered(work) and work.goldens != work.real
    return f"It ran on random numbers: {_REAL}. {_LOOSEN}" if drawn else _LOOSEN


def _difference(what: str, model: "Exported", result: Mapping[str, Any]) -> str:
    return f"{what} does not compute what {model.reference} computes: {'; '.join(result['failures'][:3])}"

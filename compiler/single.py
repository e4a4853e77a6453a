"""Each stage alone, from file to file: `planc export`, `optimize`, `calibrate`, `quantize`, `bisect`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files, optimize, plugins, worker
from .cache import Store
from .errors import BuildFailed, GateFailed, UsageError
from .pipeline import list_excluded, through
from .recipe import Job, Source
from .stages import Work, run_stages
from .target import Precision
from .verdict import held, hold_against_reference
from .worker import Emit, Limits

if TYPE_CHECKING:
    from .bisect import Fault
    from .optimize import Report
    from .parity import Check


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
    files.require_ours(out, overwrite, source.text)
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
    files.require_ours(out, overwrite, source)
    with files.staging(out) as folder:
        staged = folder / out.name
        if check is None:
            report = optimize.optimize(source, staged, chosen, limits=limits, on_event=on_event)
        else:
            report = _optimize_checked(source, staged, out, chosen, check, limits, on_event)
        return files.publish_onnx(staged, out, overwrite), report


def calibrate_file(
    job: Job,
    out: Path,
    *,
    limits: Limits,
    store: Store | None = None,
    overwrite: bool = False,
    on_event: Emit | None = None,
) -> dict[str, Any]:
    """Calibrates a model and writes its table; returns status and facts.

    Raises:
        PlancError: any class of the exit-code table.
    """
    files.require_table(out, overwrite)
    with files.staging(out) as folder:
        used = store or Store(folder / "store", private=True)
        work = through(job, folder / "work", used, ("optimize", "calibrate"), limits=limits, on_event=on_event)
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
    job: Job,
    out: Path,
    *,
    limits: Limits,
    store: Store | None = None,
    overwrite: bool = False,
    on_event: Emit | None = None,
) -> dict[str, Any]:
    """Lowers a model to one ONNX file with Q/DQ for the job's target; returns status, effect and layers.

    Raises:
        PlancError: any class of the exit-code table.
    """
    files.require_ours(out, overwrite, job.source.text)
    if job.target.candidates:
        names = ", ".join(job.target.candidates)
        raise UsageError(f"{job.target.name} has no layout of its own", hint=f"Give one of its backends: -t {names}")
    if job.precision not in plugins.load("backends", job.target.backend).LOWERED:
        raise UsageError(
            f"{job.target.name} takes {job.precision.upper()} from its own compiler, not from the graph",
            hint="Run planc compile, or give -t null",
        )
    with files.staging(out) as folder:
        used = store or Store(folder / "store", private=True)
        stages = ("optimize", "calibrate", "lower")
        work = through(
            job, folder / "work", used, stages,
            limits=limits, on_event=on_event, run=_quantize, args=(folder / out.name,),
        )  # fmt: skip
        list_excluded(job, work.done)
        status = files.publish_onnx(folder / out.name, out, overwrite)
    assert work.lowered
    return {
        "status": status,
        "products": work.lowered.effect,
        "layers": work.lowered.layers,
        "guard": work.guarded.facts if work.guarded else None,
        "verification": work.verification,
        "seconds": {name: round(value, 3) for name, value in work.seconds.items()},
    }


def _quantize(work: Work, names: tuple[str, ...], out: Path, *, emit: Emit) -> Work:
    """Runs the stages, writes the lowered graph and holds it against the reference (in a worker)."""
    from ..passes import StripMetadata
    from . import emulate, golden, storage

    work = run_stages(work, names, emit=emit)
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
    work.verification = held(
        work, lambda **inputs: run(inputs), "the lowered graph", golden.load(work.goldens), emit=emit
    )
    return work


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
    hold_against_reference(written, exported)
    return {
        "facts": graph.describe(written),
        "reference": exported.reference,
        "sources": [str(path) for path in exported.sources],
        "seconds": {step: round(seconds, 3) for step, seconds in exported.seconds.items()},
    }

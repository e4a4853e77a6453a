"""The stages of a job in order, each cached by what it reads (`keys`); they run in a worker process.

    export     MODEL      -> model.onnx      the reference runs at each point
    optimize   model.onnx -> model.opt.onnx  graph passes
    calibrate  .opt.onnx  -> ranges.json     INT8: what its tensors hold on real data
    lower      .opt.onnx  -> model.q.onnx    INT8: Q/DQ for the target's kernels, within the accuracy bound
    build      .onnx      -> payload         the backend's compiler
    verify     payload    -> golden.npz      payload against the reference

A stage leaves files in the folder of its job, and facts as JSON. Statistics for ranges.json can be gathered in shards:
"shard 1/3" is a stage of its own, and calibrate merges what is there of them all.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from . import artifact, files, host, keys, observe, optimize, plugins, recipe, verdict
from . import manifest as manifests
from .artifact import Artifact
from .cache import Damaged, Entry, Store, key_of
from .keys import backend
from .recipe import Job
from .shapes import Dim, TensorSpec
from .target import Precision
from .worker import Emit

if TYPE_CHECKING:
    import numpy as np

    from ..calibration.shard import Shard
    from ..calibration.table import RangeTable
    from .backends import Built
    from .frontends import Exported
    from .guard import Guarded
    from .optimize import Report
    from .quantize import Lowered

T = TypeVar("T")

MOST_GOLDEN_BYTES = 16 << 20
_ON_CPU = ("onnxruntime", "openvino")
_NO_VNNI = (
    "this CPU has no VNNI or AMX: sums of INT8 products would saturate, so weights get 7 bits; FP32 may be as fast; "
    "planc bench tells, and -p auto keeps INT8 only where it is faster"
)


@dataclass
class Work:
    """A job on its way: what each stage leaves for the next.

    Attributes:
        job: what is asked for.
        folder: of its files.
        store: keeps what stages leave.
        done: entries of the stages that are done, by name.
        made: names of those that ran; the others came from the store.
        seconds: wall time of those that ran, by step.
        skipped: graph passes that killed a worker, with the reason: they are left out.
        merged: entries of the shards that the calibration was put together from.
    """

    job: Job
    folder: Path
    store: Store
    done: dict[str, Entry] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    exported: "Exported | None" = None
    optimized: "Report | None" = None
    merged: list[Entry] = field(default_factory=list)
    table: "RangeTable | None" = None
    lowered: "Lowered | None" = None
    guarded: "Guarded | None" = None
    built: "Built | None" = None
    verification: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> "Exported":
        """The exported model."""
        assert self.exported is not None
        return self.exported

    @property
    def graph(self) -> Path:
        """The graph after the passes of the target's family."""
        return self.folder / keys.OPTIMIZED

    @property
    def source(self) -> Path:
        """The graph that the backend compiles."""
        return self.folder / keys.LOWERED if self.lowered else self.graph

    @property
    def payload(self) -> Path:
        """The folder that becomes the artifact."""
        return self.folder / keys.PAYLOAD

    @property
    def goldens(self) -> Path:
        """Golden data: of real inputs at each point, or as the frontend has made them."""
        return self.real if self.real.exists() else self.folder / keys.GOLDEN

    @property
    def real(self) -> Path:
        """Golden data of a lowered graph, where some real inputs are known."""
        return self.folder / keys.REAL


@dataclass(frozen=True)
class Stage:
    """One step of the compiler.

    Attributes:
        name: its name.
        ext: of what it leaves.
        run: completes a Work.
        facts: what it found, as JSON.
        load: completes a Work by such facts, the stage's files being there.
    """

    name: str
    ext: str
    run: Callable[[Work, Emit], None]
    facts: Callable[[Work], Mapping[str, Any]]
    load: Callable[[Work, Mapping[str, Any]], None]


def stages() -> Iterator[Stage]:
    """Yields the stages; their order is the order of the compilation."""
    yield Stage("export", ".onnx", _export, _export_facts, _load_export)
    yield Stage("optimize", ".opt.onnx", _optimize, lambda work: {"report": asdict(_of(work.optimized))}, _load_report)
    yield Stage("calibrate", ".ranges.json", _calibrate, _calibrate_facts, _load_table)
    yield Stage("lower", ".q.onnx", _lower, _lower_facts, _load_lowered)
    yield Stage("build", "", _build, lambda work: {"built": asdict(_of(work.built))}, _load_built)
    yield Stage("verify", ".npz", _verify, _verify_facts, _load_verification)


def _shards(job: Job) -> Iterator[Stage]:
    """Yields the stages that each gather the statistics of a part of the calibration data, for one table."""
    names = keys.shards_of(job)
    for index, name in enumerate(names):
        yield Stage(name, ".npz", partial(_gather, (index, len(names))), lambda _: {}, lambda *_: None)


def shards(job: Job, done: Mapping[str, Entry], store: Store) -> dict[str, Entry]:
    """Returns the entries of the shards of a job's calibration that are in the store; `done` has the stages before."""
    named = ((name, find(store, job, keys.components(name, job, done, store.digest))) for name in keys.shards_of(job))
    return {name: entry for name, entry in named if entry is not None}


def trail(job: Job, store: Store) -> tuple[dict[str, Entry], str, dict[str, Any]]:
    """Returns the entries of a job that are in the store, in order, without running anything.

    Returns:
        The entries; the first stage that has none, or ""; and the components of that one's key.
    """
    done: dict[str, Entry] = {}
    for name in keys.stages_of(job):
        components = keys.components(name, job, done, store.digest)
        entry = find(store, job, components)
        if entry is None:
            return done, name, components
        done[name] = entry
    return done, "", {}


def find(store: Store, job: Job, components: Mapping[str, Any]) -> Entry | None:
    """Returns the entry of a stage of a job, where what user code read is as it was."""
    anchor = keys.anchor(job)
    return store.find(key_of(components), lambda reads: observe.holds(reads, anchor, store.digest))


def run_stages(work: Work, names: tuple[str, ...], *, emit: Emit) -> Work:
    """Runs the stages called `names` that the job has, in order, or takes them from the store (in a worker)."""
    with files.telling(work.folder):
        for stage in stages():
            if stage.name in keys.stages_of(work.job):
                if stage.name in names:
                    _do(stage, work, emit)
                elif stage.name in work.done:  # its files are there
                    stage.load(work, work.done[stage.name].facts)
                if stage.name == "export":
                    emit("memory", work.model.needs)
        for shard in _shards(work.job):
            if shard.name in names:
                _do(shard, work, emit)
    return work


def _do(stage: Stage, work: Work, emit: Emit) -> None:
    """Takes a stage from the store, or runs it; another build that runs it just now is waited for."""
    start = time.perf_counter()
    components = keys.components(stage.name, work.job, work.done, work.store.digest, work.skipped)
    if not _take(stage, work, components, emit):
        waiting = partial(emit, "note", f"another job makes stage {stage.name}: waiting for it")
        with work.store.lock(key_of(components), waiting):
            if not _take(stage, work, components, emit):
                _make(stage, work, components, emit)
                work.made.append(stage.name)
                work.seconds[stage.name] = time.perf_counter() - start


def _take(stage: Stage, work: Work, components: Mapping[str, Any], emit: Emit) -> bool:
    """Completes the work by what the store has of a stage; returns whether it has it, whole."""
    entry = find(work.store, work.job, components)
    if entry is None:
        return False
    try:
        work.store.restore(entry, lambda name: work.folder / name)
    except Damaged as damage:
        emit("note", f"{damage}: made again")
        for path in map(work.folder.joinpath, entry.outputs):
            path.unlink(missing_ok=True)
            if path.parent != work.folder:
                with suppress(OSError):  # a stage before has files there
                    path.parent.rmdir()
        return False
    for note in entry.notes:
        emit("note", note)
    stage.load(work, entry.facts)
    work.done[stage.name] = entry
    return True


def _make(stage: Stage, work: Work, components: Mapping[str, Any], emit: Emit) -> None:
    """Runs a stage and keeps what it leaves."""
    notes: list[str] = []

    def tell(kind: str, value: Any) -> None:
        if kind == "note":
            notes.append(str(value))
        emit(kind, value)

    start, before = time.perf_counter(), _files_in(work.folder)
    if stage.name == "export":
        plugins.load("frontends", work.job.source.frontend)  # what it imports is in the key
    watched = keys.has_user_code(stage.name, work.job)
    own = (work.folder, work.store.root)
    seen = observe.Seen()
    try:
        with observe.watching(own) if watched else nullcontext(seen) as seen:
            stage.run(work, tell)
    except BaseException:
        emit("read", sorted(map(str, {*seen.files, *seen.modules.values()})))
        raise
    if seen.programs:
        programs = ", ".join(sorted(seen.programs))
        tell("note", f"user code started other programs ({programs}): what they read is not watched, see --no-cache")
    if stage.name == "export":
        seen.files |= {path.absolute() for path in work.model.sources}
    seen.files -= {path for path in seen.files if path.resolve() in keys.named_files(work.job)}
    reads = seen.reads(keys.anchor(work.job), work.store.digest)
    if stage.name == "calibrate":
        reads = reduce(observe.union, (shard.reads for shard in work.merged), reads)
    made = {name: path for name, path in _files_in(work.folder).items() if name not in before}
    seconds = time.perf_counter() - start
    fresh = Entry(stage.name, "", components, reads, {}, stage.facts(work), tuple(notes), round(seconds, 3))
    work.done[stage.name] = work.store.save(fresh, made)
    emit("kept", work.done[stage.name])


def _files_in(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def _of(value: T | None) -> T:
    assert value is not None
    return value


def _export(work: Work, emit: Emit) -> None:
    from . import golden

    start = time.perf_counter()
    frontend = plugins.load("frontends", work.job.source.frontend)
    imports = time.perf_counter() - start
    exported = frontend.export(work.job.source, work.folder, emit=emit)
    golden.save(work.folder / keys.GOLDEN, exported.goldens)
    work.exported = replace(exported, goldens=())
    for name, seconds in exported.seconds.items():
        work.seconds[f"export.{name}"] = seconds + (imports if name == "load" else 0)


def _export_facts(work: Work) -> dict[str, Any]:
    model = work.model
    named = ({"name": path.name, "sha256": work.store.digest(path)} for path in model.sources)
    return {
        "inputs": [asdict(spec) for spec in model.inputs],
        "outputs": [asdict(spec) for spec in model.outputs],
        "dims": [asdict(dim) for dim in model.dims],
        "reference": model.reference,
        "sources": sorted(named, key=lambda one: (one["name"], one["sha256"])),
        "versions": dict(model.versions),
        "needs": model.needs,
    }


def _load_export(work: Work, facts: Mapping[str, Any]) -> None:
    from .frontends import Exported

    work.exported = Exported(
        path=work.folder / keys.MODEL,
        inputs=specs(facts["inputs"]),
        outputs=specs(facts["outputs"]),
        dims=dims(facts["dims"]),
        goldens=(),
        reference=facts["reference"],
        sources=(),
        versions=facts["versions"],
        seconds={},
        needs=facts["needs"],
    )


def specs(rows: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    """Specs of tensors from JSON."""
    return tuple(TensorSpec(**{**row, "shape": tuple(row["shape"])}) for row in rows)


def dims(rows: list[dict[str, Any]]) -> tuple[Dim, ...]:
    """Dimensions from JSON."""
    return tuple(Dim(**{**row, "sizes": tuple(row["sizes"])}) for row in rows)


def _optimize(work: Work, emit: Emit) -> None:
    family = optimize.Recipe(
        family=work.job.target.family,
        keep_origin=keys.keeps_origin(work.job),
        trusted=work.job.source.frontend == "torch",
        own=True,
    )
    work.optimized = optimize.run(work.model.path, work.graph, family, work.skipped, emit=emit)
    for name, reason in work.skipped.items():  # those that failed otherwise are told of as they fail
        emit("note", f"left out the pass {name}: {reason}")


def _load_report(work: Work, facts: Mapping[str, Any]) -> None:
    work.optimized = optimize.Report(**facts["report"])


def _gather(part: tuple[int, int], work: Work, emit: Emit) -> None:
    from . import calibrate

    emit("stage", "calibrate")
    model, everything = work.model, keys.watches_everything(work.job)
    gathered = calibrate.gather(
        work.graph, work.job.quantization.calibration, model.inputs, model.dims,
        everything=everything, part=part, emit=emit,
    )  # fmt: skip
    gathered.save(work.folder / f"shard-{part[0] + 1}")


def _merged(work: Work, emit: Emit) -> "Shard | None":
    """What all shards have left together; None where one is missing, or where they have seen different data."""
    from ..calibration import shard

    found = shards(work.job, work.done, work.store)
    if set(found) != set(keys.shards_of(work.job)):
        return None
    whole: Shard | None = None
    for entry in found.values():
        with TemporaryDirectory(dir=work.folder) as place:
            try:
                work.store.restore(entry, lambda name: Path(place, Path(name).name))
            except Damaged as damage:
                emit("note", f"{damage}: calibrated anew")
                return None
            one = shard.load(Path(place))
        if whole is None:
            whole = one
        elif whole.digest == one.digest:
            whole.merge(one)
        else:
            name = Path(work.job.quantization.calibration.data).name
            emit("note", f"{name} gives other samples each time: its shards do not fit, it is calibrated in one")
            return None
    work.merged = list(found.values())
    return whole


def _calibrate(work: Work, emit: Emit) -> None:
    """Leaves ranges, and golden data of real inputs, for what is lowered."""
    samples = _ranges(work, emit)
    if work.table is not None:
        work.table.save(work.folder / keys.RANGES)
    _make_golden(work, samples, emit)


def _calibrate_facts(work: Work) -> dict[str, Any]:
    table = work.table
    said = {
        "method": table.method,
        "samples": table.samples,
        "data": table.source,
        "data_sha256": table.source_digest,
    } if table is not None else None  # fmt: skip
    return {"dynamic": work.job.quantization.dynamic, "calibration": said}


def _load_table(work: Work, _facts: Mapping[str, Any]) -> None:
    from ..calibration.table import load

    path = work.folder / keys.RANGES
    work.table = load(path) if path.exists() else None


def _ranges(work: Work, emit: Emit) -> "Sequence[Mapping[str, np.ndarray]]":
    """INT8 needs ranges, unless dynamic; for 16 bits they are welcome. Returns the calibration's first samples."""
    wanted, precision = work.job.quantization.calibration, work.job.precision
    if work.job.quantization.dynamic or (precision is not Precision.INT8 and not wanted.given):
        return ()
    from . import calibrate, quantize

    if not wanted.given and quantize.has_own(work.graph):  # of quantization-aware training
        return ()
    model = work.model
    work.table, samples = calibrate.measure(
        work.graph, wanted, model.inputs, model.dims,
        everything=keys.watches_everything(work.job), merged=_merged(work, emit), emit=emit,
    )  # fmt: skip
    if precision is Precision.INT8:
        calibrate.require_finite(work.graph, work.table)
    return samples


def _make_golden(work: Work, samples: "Sequence[Mapping[str, np.ndarray]]", emit: Emit) -> None:
    """Makes golden data of the user's inputs, else of samples of the calibration, else of those to judge by.

    What numbers are drawn at random says little of INT8: ranges are those of real data.
    """
    from . import calibrate, golden, reference

    model, wanted = work.model, work.job.quantization
    if work.job.source.data is not None:
        samples = [files.load_arrays(work.job.source.data)]
    elif not samples and wanted.guard.data:
        samples = golden.first(
            calibrate.Data(wanted.guard.data, model.inputs, option="--eval"), model.inputs, model.dims
        )
    if not samples:
        if work.job.precision is Precision.INT8 and not wanted.calibration.random:
            emit("note", f"verification runs on random numbers: {verdict.REAL}")
        return
    if work.job.source.frontend == "torch":  # the samples' outputs come from the exported graph
        verdict.hold_against_reference(
            model.path, replace(model, goldens=tuple(golden.load(work.folder / keys.GOLDEN)))
        )
    golden.save(work.real, golden.of_samples(reference.runner(model.path), samples, model.inputs, model.dims))


def _lower(work: Work, emit: Emit) -> None:
    from . import calibrate, guard, quantize

    emit("stage", "lower")
    if work.job.precision is Precision.INT8 and work.table is not None:
        calibrate.require_finite(work.graph, work.table)
    if work.job.precision is Precision.INT8 and work.job.target.backend in _ON_CPU and not host.has_vnni():
        emit("note", _NO_VNNI)
    how = quantize.lowering(work.job, work.model.dims)
    if work.job.quantization.guard.bounds:
        work.guarded = guard.search(work.job, work.graph, how, work.table, work.model.inputs, emit=emit)
        how = replace(how, keep=(*how.keep, *work.guarded.excluded))
    work.lowered = quantize.lower(work.graph, work.folder / keys.LOWERED, how, work.table)


def _lower_facts(work: Work) -> dict[str, Any]:
    return {
        "lowered": asdict(_of(work.lowered)),
        "guarded": asdict(work.guarded) if work.guarded else None,
    }


def _load_lowered(work: Work, facts: Mapping[str, Any]) -> None:
    from .guard import Guarded
    from .quantize import Lowered

    work.lowered = Lowered(**facts["lowered"])
    if guarded := facts["guarded"]:
        work.guarded = Guarded(tuple(guarded["excluded"]), guarded["facts"])


def _build(work: Work, emit: Emit) -> None:
    emit("stage", "build")
    work.payload.mkdir()
    request = recipe.request(work.job, work.source, work.payload, inputs=work.model.inputs, dims=work.model.dims)
    work.built = backend(work.job).build(request)
    products = work.built.effective_precision.get("products", {})
    wanted = work.lowered.effect.get("int8", {}).get("nodes", 0) if work.lowered else 0
    if not work.lowered and products.get("int8") == 0 and "DequantizeLinear" in _of(work.optimized).after["operators"]:
        emit(
            "note",
            "the model has Q/DQ of its own, and the runtime computes no layer in INT8: "
            "they were laid out for another runtime; quantize the float model for this one",
        )
    if 0 < products.get("int8", wanted) < wanted:
        emit(
            "note", f"of {wanted} layers in INT8 the runtime computes {wanted - products['int8']} in float all the same"
        )


def _load_built(work: Work, facts: Mapping[str, Any]) -> None:
    from .backends import Built

    work.built = Built(**facts["built"])


def _verify(work: Work, emit: Emit) -> None:
    from . import golden

    emit("stage", "verify")
    goldens = golden.load(work.goldens)
    data = work.job.source.data
    if data is not None and work.goldens != work.real and (drawn := golden.others_than(data, goldens)):
        emit("note", f"{data.name} does not have the sizes of {', '.join(drawn)}: golden data are random there")
    kept = golden.within(goldens, MOST_GOLDEN_BYTES)
    golden.save(work.payload / artifact.GOLDEN, kept)
    module = backend(work.job)
    reason = module.unverifiable(work.job.target)
    if reason is None:
        session: Callable[..., Mapping[str, Any]] = artifact.session(Artifact(work.payload, _runnable(work)))
        what = work.job.target.name
    else:  # its graph, then
        from . import emulate

        run = emulate.runner(work.source)
        session, what = lambda **inputs: run(inputs), "the graph that was compiled"
    said = {"reference": _reference_of(work), **verdict.held(work, session, what, goldens, emit=emit)}
    work.verification = said if reason is None else manifests.not_executed(reason, said, completable=module.RUNS)
    work.verification["golden_points"] = [one.label for one in kept]


def _verify_facts(work: Work) -> dict[str, Any]:
    return {
        "verification": work.verification,
        "host": {"cpu": host.cpu_name(), "cpu_flags": sorted(host.cpu_flags())},
    }


def _load_verification(work: Work, facts: Mapping[str, Any]) -> None:
    work.verification = dict(facts["verification"])


def _runnable(work: Work) -> dict[str, Any]:
    """As much of a manifest as it takes to load a payload."""
    built, model = _of(work.built), work.model
    payload = {path.name: {"bytes": path.stat().st_size} for path in work.payload.iterdir()}
    return {
        "backend": work.job.target.backend,
        "files": payload,
        "inputs": [asdict(spec) for spec in model.inputs],
        "outputs": [asdict(spec) for spec in model.outputs],
        "job": {"dims": {row.pop("name"): row for row in map(manifests.shown_dim, map(asdict, model.dims))}},
        "session": dict(built.session),
        "requires": dict(built.requires),
    }


def _reference_of(work: Work) -> str:
    """What computed the golden data."""
    if work.goldens.name == keys.GOLDEN or work.job.source.frontend == "onnx":
        return work.model.reference
    return f"ONNX Runtime on the exported graph, itself held against {work.model.reference}"

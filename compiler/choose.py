"""Which of several ways to run a model is kept: `-t cpu` chooses the backend, `-p auto` the precision and threads, too.

Candidates are built through the store, held to the bounds, and measured in turns in heats, each time in new processes:
half of them leave after each heat, and who is clearly slower (successive halving, arXiv:1502.07943; races, Maron and
Moore 1993). Each heat is kept in the store, so that a search that was stopped goes on, and one that is repeated
measures nothing.
"""

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import host, keys, recipe, worker
from ._subject import Setting, Subject
from .cache import Entry, Store, key_of
from .errors import GateFailed, Unavailable
from .recipe import Calibration, Job, Quantization
from .target import Precision
from .worker import Emit, Limits

if TYPE_CHECKING:
    from .rounds import Measured

MEASURE = "measure"
_HEATS = ((1, 0.2, 1.25), (1, 0.4, 1.15), (2, 1.0, 1.0))
"""Processes of each candidate, seconds of measuring for each, and how many times as long as the fastest may stay."""
_CLOSE = 1.03
"""Who takes at most so many times as long as the fastest stays beside the faster half."""
_WARM_UP = 0.3
"""Seconds at most until a process settles, beside its share: on a machine with other work it may never."""
_BEATEN = 1.3
"""The fastest in floating point stays until it takes so many times as long as an INT8."""
_TIE = 0.98
"""Who takes a larger share of the time of an earlier candidate does not replace it: floating point comes first."""


@dataclass(frozen=True)
class Candidate:
    """A way to run the model, built and verified.

    Attributes:
        label: its name.
        floating: whether it computes in floating point.
        files: SHA-256 of each file, with the data that it is measured on, and its session.
        bytes: to deploy.
        accuracy: the least cosine to the reference over outputs and sizes; None where it was not executed.
        unpack: makes an artifact of it and returns its folder.
    """

    label: str
    floating: bool
    files: Mapping[str, str]
    bytes: int
    accuracy: float | None
    unpack: Callable[[], Path]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        label: of the one that is kept.
        rows: one per candidate, for the report.
        latency: figures by label.
        made: whether anything was measured now.
    """

    label: str
    rows: list[dict[str, Any]]
    latency: dict[str, dict[str, float]]
    made: bool


def candidates(job: Job, *, here: bool = True) -> list[Job]:
    """Returns the jobs that one of is kept, floating point first; one where there is nothing to choose.

    Args:
        job: what to build.
        here: whether it is built on this machine; for another one they are those of its target, or none are known.

    Raises:
        Unavailable: none can be built here.
    """
    try:
        return _candidates(job) if job.objective else recipe.candidates(job)
    except Unavailable:
        if here:
            raise
        return [] if job.objective else recipe.alternatives(job)


def label(job: Job) -> str:
    """Names a candidate: by its target, and by what else was not the user's to say."""
    if not job.objective:
        return job.target.name
    dynamic = " dynamic" if job.quantization.dynamic else ""
    options = "".join(f" {name}={value}" for name, value in job.options if name in ("around", "threads"))
    return f"{job.target.name} {job.precision}{dynamic}{options}"


def variants(job: Job) -> list[Job]:
    """Returns the job with other numbers of threads, where the user left them open."""
    backend = keys.backend(job)
    if not job.objective or job.objective == "throughput" or recipe.backend_options(job).threads:
        return []
    known = getattr(backend.Options(), "threads", None)
    fewer = {max(1, host.cores() // 2)} - {host.cores()} if known is not None else set()
    return [replace(job, options=(*job.options, ("threads", str(number)))) for number in sorted(fewer)]


def _candidates(job: Job) -> list[Job]:
    """Precisions times backends that this machine can build.

    Raises:
        Unavailable: there are none.
    """
    found: list[Job] = []
    reason: Unavailable | None = None
    options = job.options
    if job.objective == "throughput" and not dict(options).get("threads") and host.cores() > 1:
        options = (*options, ("threads", "1"))  # as many run side by side as there are cores
    for precision, how in _ways(job):
        try:
            able = recipe.candidates(replace(job, precision=precision, quantization=how, options=options))
        except Unavailable as error:
            reason = reason or error
            continue
        found += [one for base in able for one in (base, *_mixed(base))]
    if not found:
        assert reason is not None
        raise reason
    return found


def _mixed(job: Job) -> list[Job]:
    """Returns the INT8 job with BF16 around it, where backend and CPU can."""
    backend = keys.backend(job)
    if job.precision is not Precision.INT8 or not hasattr(recipe.backend_options(job), "around"):
        return []
    mixed = replace(job, options=(*job.options, ("around", str(Precision.BF16))))
    return [mixed] if backend.why_not(mixed.target, mixed.precision, recipe.backend_options(mixed)) is None else []


def _ways(job: Job) -> Iterator[tuple[Precision, Quantization]]:
    """Precisions, and how the model gets to each."""
    given = job.quantization
    yield Precision.FP32, Quantization()
    for half in (Precision.BF16, Precision.FP16):
        lowered = recipe.lowered(recipe.alternatives(replace(job, precision=half)))
        yield half, given if lowered else Quantization()
    if given.calibration.given:
        yield Precision.INT8, given
    guard = replace(given.guard, data=given.guard.data or given.calibration.data)
    if guard.data or not guard.bounds:  # without data there is nothing to judge it by
        yield Precision.INT8, replace(given, calibration=Calibration(), guard=guard, dynamic=True)


def require_bounds(
    folder: Path, bounds: Sequence[str], name: str, *, store: Store, limits: Limits, on_event: Emit | None
) -> None:
    """Holds an artifact to bounds on golden data, where no guard did.

    Raises:
        GateFailed: it misses one.
    """
    from .artifact import GOLDEN, read

    files = read(folder).manifest["files"]
    components = {**keys.machine("losses"), "files": files, "bounds": list(bounds)}
    entry = store.find(key_of(components), lambda _: True)
    if entry is None:
        losses = worker.call(_losses, folder, folder / GOLDEN, tuple(bounds), limits=limits, on_event=on_event)
        entry = store.save(Entry("losses", "", components, {}, {}, {"losses": losses}), {})
    from ..calibration import metrics

    for text in bounds:
        if not metrics.parse(text).holds(entry.facts["losses"][text]):
            raise GateFailed(f"{name} misses --max-drop {text}: {entry.facts['losses'][text]:.4g} on golden data")


def require_own(
    folder: Path, graph: Path, job: Job, name: str, *, store: Store, limits: Limits, on_event: Emit | None
) -> None:
    """Holds an artifact to bounds of which one is a metric of the user's own, on all the data, where no guard did.

    Args:
        folder: the artifact.
        graph: its FP32 graph, the reference.
        job: names bounds and data.
        name: of the candidate.
        store: keeps the answer.
        limits: of the worker.
        on_event: receives the stage.

    Raises:
        GateFailed: it misses one.
    """
    from . import observe
    from .artifact import read

    named = {str(number): store.digest(path) for number, path in enumerate(sorted(keys.named_files(job)))}
    files, bounds = read(folder).manifest["files"], list(job.quantization.guard.bounds)
    components = {**keys.machine("judged"), "files": files, "bounds": bounds, "named": named}
    entry = store.find(key_of(components), lambda reads: observe.holds(reads, keys.anchor(job), store.digest))
    if entry is None:
        holds, told, reads = worker.call(_judged, folder, graph, job, store.root, limits=limits, on_event=on_event)
        entry = store.save(Entry("judged", "", components, reads, {}, {"holds": holds, "told": told}), {})
    if not entry.facts["holds"]:
        raise GateFailed(f"{name} misses --max-drop, {entry.facts['told']}")


def _judged(folder: Path, graph: Path, job: Job, root: Path, *, emit: Emit) -> tuple[bool, str, dict[str, Any]]:
    """Whether an artifact holds the bounds, how, and what user code read (in a worker)."""
    from . import artifact, guard, observe
    from . import files as on_disk

    session = artifact.load(folder)
    with observe.watching((root, graph.parent)) as seen:
        judged = guard.judge(session, job, graph, session.inputs, emit=emit)
    return judged.holds, judged.told, seen.reads(keys.anchor(job), on_disk.digest)


def _losses(folder: Path, golden: Path, bounds: tuple[str, ...], *, emit: Emit) -> dict[str, float]:
    from . import rounds

    emit("stage", "judge")
    with (
        tempfile.TemporaryDirectory(prefix="planc-choose-") as place,
        rounds.stage([Subject("it", "artifact", str(folder))], Setting(), _inputs(folder, Path(place))) as parts,
    ):
        return dict(parts["it"].turn("losses", golden, bounds)["losses"])


def best(
    found: Sequence[Candidate],
    objective: str,
    *,
    variants: Callable[[Candidate], Sequence[Candidate]] = lambda _: (),
    store: Store,
    limits: Limits,
    on_event: Emit | None,
) -> Choice:
    """Measures candidates in heats and returns the one to keep.

    Machines change between heats, and candidates are compared only by heats in which all of them ran.

    Args:
        found: the first one wins a near tie.
        objective: "latency", "throughput" or "size".
        variants: of the candidate that won the first heat, and run from the second one on.
        store: keeps the heats.
        limits: of the worker that measures.
        on_event: receives the stage.
    """
    left, everyone, made = list(found), list(found), False
    rows: dict[str, dict[str, float]] = {}
    folders: dict[str, Path] = {}
    heats: list[tuple[float, Mapping[str, float]]] = []
    for number, (processes, seconds, near) in enumerate(_HEATS, 1):
        if len(left) == 1 and rows:
            continue
        components = {
            **keys.machine(MEASURE),
            "files": {one.label: dict(one.files) for one in left},
            "objective": objective,
            "heat": [number, processes, seconds],
        }
        entry = store.find(key_of(components), lambda _: True)
        if entry is None:
            made = True
            for one in left:
                folders[one.label] = folders.get(one.label) or one.unpack()
            running = {one.label: folders[one.label] for one in left}
            figures = worker.call(
                _heat, running, processes, seconds * len(left), objective, limits=limits, on_event=on_event
            )
            entry = store.save(Entry(MEASURE, "", components, {}, {}, {"latency": figures}), {})
        heat = entry.facts["latency"]
        heats.append((seconds, {one.label: cost(heat[one.label], objective) for one in left}))
        costs = together(heats, [one.label for one in left])
        for name, value in costs.items():
            rows[name] = {**heat[name], "heat": number, "times_fastest": round(value / min(costs.values()), 4)}
        if number < len(_HEATS) and objective != "size":
            stays = survivors(costs, near, {one.label for one in left if one.floating})
            fresh = [other for one in left if number == 1 and one.label in leaders(costs) for other in variants(one)]
            left, everyone = [*(one for one in left if one.label in stays), *fresh], [*everyone, *fresh]
    costs = {one.label: rows[one.label]["times_fastest"] for one in left}
    kept = decide(left, costs, objective)
    told = [
        {
            "name": one.label,
            "status": _status(one, kept, costs, objective),
            **rows[one.label],
            "size_bytes": one.bytes,
            "cosine": one.accuracy,
        }
        for one in everyone
    ]
    return Choice(kept, told, rows, made)


def cost(figures: Mapping[str, float], objective: str) -> float:
    """What is to be small: ms per call, or of all streams together per call."""
    return 1e3 / figures["throughput_per_s"] if objective == "throughput" else figures["latency_p50_ms"]


def together(heats: Sequence[tuple[float, Mapping[str, float]]], names: Collection[str]) -> dict[str, float]:
    """Returns the geometric mean of the costs of some candidates over the heats in which all of them ran.

    Args:
        heats: the seconds of each, which it counts for, and the costs.
        names: of the candidates; all of them ran in one heat at least.
    """
    shared = [(seconds, costs) for seconds, costs in heats if all(name in costs for name in names)]
    whole = sum(seconds for seconds, _ in shared)
    return {name: math.exp(sum(seconds * math.log(costs[name]) for seconds, costs in shared) / whole) for name in names}


def leaders(costs: Mapping[str, float]) -> set[str]:
    """Returns the candidates whose variants are worth a try."""
    return {min(costs, key=lambda name: costs[name])}


def survivors(costs: Mapping[str, float], near: float, floating: Collection[str] = ()) -> set[str]:
    """Returns who is near the fastest (half of all, or very near), and the fastest float unless it is beaten.

    The last one is what an INT8 is held against in the last heat.
    """
    ranked = sorted(costs, key=lambda name: costs[name])
    fastest = costs[ranked[0]]
    half = math.ceil(len(ranked) / 2)
    ahead = [name for index, name in enumerate(ranked) if costs[name] <= fastest * (near if index < half else _CLOSE)]
    beside = [name for name in ranked if name in floating and costs[name] <= _BEATEN * fastest][:1]
    return {*ahead, *beside}


def decide(left: Sequence[Candidate], costs: Mapping[str, float], objective: str) -> str:
    """Returns the label of the candidate to keep: of those that were measured to the end.

    An INT8 that is not faster than each one in floating point is never kept.
    """
    floats = [costs[one.label] for one in left if one.floating]
    able = [one for one in left if one.floating or not floats or costs[one.label] < _TIE * min(floats)]
    if objective == "size":
        return min(able, key=lambda one: one.bytes).label
    chosen = able[0]
    for one in able[1:]:
        if costs[one.label] < _TIE * costs[chosen.label]:
            chosen = one
    return chosen.label


def _status(one: Candidate, kept: str, costs: Mapping[str, float], objective: str) -> str:
    """What became of a candidate; `costs` has those of the last heat."""
    if one.label == kept:
        return "kept"
    if one.label not in costs or costs[one.label] >= costs[kept]:
        return "slower"
    return "larger" if objective == "size" else "not better"


def _heat(
    folders: Mapping[str, Path], processes: int, seconds: float, objective: str, *, emit: Emit
) -> dict[str, dict[str, float]]:
    """Measures artifacts in turns (in a worker); returns figures by label."""
    from . import rounds

    emit("stage", MEASURE)
    subjects = [Subject(name, "artifact", str(folder)) for name, folder in folders.items()]
    with tempfile.TemporaryDirectory(prefix="planc-choose-") as place:
        inputs = _inputs(next(iter(folders.values())), Path(place))
        found = rounds.measure(
            subjects, Setting(), inputs, seconds=seconds, processes=processes, warm_up=_WARM_UP, emit=lambda *_: None
        )
        made = {name: _figures(one) for name, one in found.items()}
        if objective == "throughput":
            setting = Setting(threads=1, streams=host.cores())
            rates = rounds.throughput(subjects, setting, {0: inputs}, seconds=seconds / len(subjects) / 3, rounds=3)
            for name, by_size in rates.items():
                made[name]["throughput_per_s"] = sorted(by_size[0])[len(by_size[0]) // 2]
    return made


def _inputs(folder: Path, place: Path) -> Path:
    from . import artifact, files, golden

    path = place / "inputs.npz"
    files.save_arrays(path, dict(golden.load(folder / artifact.GOLDEN)[0].inputs))
    return path


def _figures(measured: "Measured") -> dict[str, float]:
    from . import bench, bootstrap

    calls = [latency for process in measured.blocks for block in process for latency in block]
    low, high = bootstrap.quantiles(measured.blocks, [0.5])[0].interval(0.99)
    return {**bench.summary(calls), "latency_p50_ms_low": low, "latency_p50_ms_high": high}

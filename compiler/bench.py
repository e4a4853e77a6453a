"""Measures artifacts, ONNX files and modules: latency, throughput, cold start, memory, cost; alone and compared."""

import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import host, subjects, worker
from ._subject import Setting, Subject
from .errors import UsageError, did_you_mean
from .gates import Figures, Gates, judge, share, undecided
from .shapes import Dim, parse_dim
from .worker import Emit, Limits

if TYPE_CHECKING:
    from .bootstrap import Estimate
    from .rounds import Measured

SCHEMA = Path(__file__).with_name("bench.schema.json")
SCHEMA_VERSION = 1
_QUANTILES = {"latency_p50_ms": 0.5, "latency_p90_ms": 0.9, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}
_SWEEP_ROUNDS = 5
_LOOKS = (1, 1, 2)
"""Shares of --seconds and --processes after which the gates are judged; the next one comes where one is undecided.

Who looks three times errs three times: each look is at a third of the error that --confidence leaves (Bonferroni).
"""
_KEPT_DIGITS = 5
_MUCH = 0.1

_WARM_UP = 3
_BURST = 5
_QUIET_SECONDS = 0.02  # several ticks of the clock that counts the CPU time of other threads
_MOST_QUIET_TRIES = 25


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Calls the functions in turn, in short bursts, each from rest, and returns their latencies in ms.

    Args:
        runs: functions by name.
        rounds: bursts of each function, at most.
        seconds: no round starts after this time; at least three are made.
        clock: seconds; time.process_time gives CPU time, which other work on the machine hardly changes.
    """
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    latencies: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        for name, run in runs.items():
            _wait_until_idle()
            run()
            for _ in range(_BURST):
                begin = clock()
                run()
                latencies[name].append((clock() - begin) * 1e3)
    return latencies


def _wait_until_idle() -> None:
    """Sleeps until no thread of this process spins: idle ones do for 1 (OpenVINO) to 45 ms (ONNX Runtime) after a run.

    They would take cores from the next runtime. How long they spin depends on the runtime and on the CPU.
    """
    for _ in range(_MOST_QUIET_TRIES):
        before = time.process_time()
        time.sleep(_QUIET_SECONDS)
        if time.process_time() - before < _QUIET_SECONDS / 10:
            return


def summary(latencies: list[float]) -> dict[str, float]:
    """Returns `latency_p50_ms`, `latency_p95_ms`, `latency_p99_ms` and `throughput_per_s` (one call at a time)."""
    ordered = sorted(latencies)

    def quantile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    median = statistics.median(ordered)
    return {
        "latency_p50_ms": median,
        "latency_p95_ms": quantile(0.95),
        "latency_p99_ms": quantile(0.99),
        "throughput_per_s": 1e3 / median,
    }


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        subjects: what is measured, in the user's order.
        against: the one of them that the others are compared with; empty for the first.
        baseline: document of an earlier run to compare with, too.
        dims: sizes for ONNX files alone.
        data: .npz with inputs; None takes golden data.
        batch: sizes for the throughput, as `subjects.sweep` takes them; empty for the size of the inputs.
        streams: numbers of streams for the throughput; empty for no figures of throughput but the latency's.
        threads: of each inference; 0 leaves it to the subject.
        cores: that processes may use; empty for all.
        seconds: of measuring latency, without the starts of the processes.
        processes: of each subject.
        confidence: of the intervals.
        price: per hour of the machine; None without.
        gates: bounds.
        profile: whether the layers of each are timed as well.
    """

    subjects: tuple[Subject, ...]
    against: str = ""
    baseline: Mapping[str, Any] | None = None
    dims: tuple[Dim, ...] = ()
    data: Path | None = None
    batch: str = ""
    streams: tuple[int, ...] = ()
    threads: int = 0
    cores: tuple[int, ...] = ()
    seconds: float = 10.0
    processes: int = 10
    confidence: float = 0.99
    price: float | None = None
    gates: Gates = field(default_factory=Gates)
    profile: bool = False


def run(plan: Plan, *, limits: Limits, on_event: Emit | None = None) -> dict[str, Any]:
    """Measures everything and returns the document that `bench.schema.json` describes.

    Raises:
        UsageError: the inputs do not fit, or the baseline does not.
        PlancError: a subject cannot be loaded or run here.
    """
    with tempfile.TemporaryDirectory(prefix="planc-bench-") as folder:  # here: a worker that is killed removes nothing
        return worker.call(measure, plan, Path(folder), limits=limits, on_event=on_event)


def measure(plan: Plan, folder: Path, *, emit: Emit) -> dict[str, Any]:
    """Measures everything (in a worker).

    Args:
        plan: what, and how.
        folder: for inputs; empty.
        emit: hears of the progress.
    """
    from . import files, rounds

    emit("stage", "measure")
    subjects.require_threads(plan.subjects, plan.threads)
    arrays, origin, kept = subjects.inputs(plan.subjects, plan.dims, plan.data)
    sweep = subjects.sweep(plan.batch, kept) if plan.batch else None
    setting = Setting(plan.threads or len(plan.cores), plan.cores)
    than = {one.name: _earlier(one, plan) for one in plan.subjects if one.name != plan.against}
    watched: dict[str, float] = {}
    level = 1 - (1 - plan.confidence) / len(_LOOKS)
    with rounds.watching(watched):
        path = folder / "inputs.npz"
        files.save_arrays(path, arrays)
        found: dict[str, rounds.Measured] = {}
        looked = 0
        for more in _LOOKS:
            found = rounds.measure(
                plan.subjects, setting, path, seconds=more * plan.seconds, processes=more * plan.processes, emit=emit,
                found=found,
            )  # fmt: skip
            looked += more
            estimates = {name: _estimates(measured) for name, measured in found.items()}
            comparisons, speedups = _comparisons(plan, found, than)
            if not any(
                undecided(_figures(estimates[one.name], None, speedups.get(one.name), None), plan.gates, level)
                for one in plan.subjects if one.name != plan.against
            ):  # fmt: skip
                break
        rates = _rates(plan, sweep, arrays, kept, folder, emit)
        losses = _losses(plan, setting, path)
        profiles = _profiles(plan, setting, path, emit) if plan.profile else {}
    entries = {
        one.name: _entry(one, plan, found[one.name], estimates[one.name], rates[one.name])
        | {"profile": profiles.get(one.name)}
        for one in plan.subjects
    }
    rows = []
    for one in plan.subjects:
        if one.name != plan.against:
            size = entries[one.name]["size_bytes"]
            figures = _figures(estimates[one.name], size, speedups.get(one.name), losses.get(one.name))
            rows += judge(one.name, figures, plan.gates, level)
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": {**_machine(), **watched},
        "settings": {
            "seconds": plan.seconds * looked, "processes": plan.processes * looked, "threads": plan.threads or None,
            "cores": list(plan.cores) or None, "confidence": plan.confidence, "inputs": origin,
            "shapes": {name: list(array.shape) for name, array in arrays.items()}, "price_per_hour": plan.price,
        },
        "subjects": list(entries.values()),
        "comparisons": comparisons,
        "notes": _notes(plan, arrays, entries, watched["others_share"]),
        "gates": [asdict(row) for row in rows],
    }  # fmt: skip


def plan(
    texts: Sequence[str],
    *,
    gates: Gates,
    against: str = "",
    baseline: Path | None = None,
    dims: Sequence[str] = (),
    data: Path | None = None,
    batch: str = "",
    streams: str = "",
    threads: int = 0,
    pin: str = "",
    seconds: float = 10.0,
    processes: int = 10,
    confidence: str = "99%",
    price: float | None = None,
    profile: bool = False,
) -> Plan:
    """Returns the plan that the words of a command line mean.

    Raises:
        UsageError: one of them makes no sense, or a file is not there.
    """
    from .files import require_file

    found = subjects.find(texts, against)
    parsed = tuple(map(parse_dim, dims))
    cores = subjects.numbers("--pin", pin)
    known = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if foreign := [core for core in cores if core not in known]:
        raise UsageError(f"--pin {foreign[0]}: no such core here", hint=f"Give some of {', '.join(map(str, known))}")
    if 0 in (amounts := subjects.numbers("--streams", streams)):
        raise UsageError("--streams 0: at least one is needed", hint="Write --streams 1,2")
    positive = {"--seconds": seconds > 0, "--processes": processes > 0, "--threads": threads >= 0}
    positive["--price"] = price is None or price > 0
    if wrong := [flag for flag, right in positive.items() if not right]:
        raise UsageError(f"{wrong[0]} is not positive", hint="See planc bench --help")
    if not 0.5 <= (level := share("--confidence", confidence, such="99%")) < 1:
        raise UsageError(f"--confidence {confidence} is not from 50% to below 100%", hint="Write --confidence 99%")
    if gates.compare and not against and baseline is None:
        flag = "--min-speedup" if gates.min_speedup is not None else "--max-regression"
        raise UsageError(f"{flag} needs something to compare with", hint="Add --against ART or --baseline base.json")
    if data is not None:
        require_file(data)
    return Plan(
        found, against=found[-1].name if against else "",
        baseline=read_baseline(baseline) if baseline is not None else None,
        dims=parsed, data=data, batch=batch, streams=amounts, threads=threads, cores=cores, seconds=seconds,
        processes=processes, confidence=level, price=price, gates=gates, profile=profile,
    )  # fmt: skip


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a document that a later run takes for its `--baseline`.

    Raises:
        IOFailed: the place cannot be written to.
    """
    from .files import write_text

    write_text(path, json.dumps(document, indent=1) + "\n")


def read_baseline(path: Path) -> dict[str, Any]:
    """Reads what `planc bench --format json` or `-o` wrote.

    Raises:
        UsageError: it is not that.
    """
    from .files import require_file

    require_file(path)
    try:
        document = json.loads(path.read_text())
        known = document["schema_version"] == SCHEMA_VERSION and bool(document["subjects"][0]["blocks_ms"])
    except (ValueError, KeyError, IndexError, TypeError, OSError):
        known = False
    if not known:
        raise UsageError(
            f"--baseline {path} is not a result of planc bench", hint=f"planc bench ART -o {path} makes one"
        )
    return dict(document)


def _earlier(subject: Subject, plan: Plan) -> Mapping[str, Any] | None:
    """The entry of the baseline for a subject: the one of its name, or the only one where one is measured."""
    if plan.baseline is None:
        return None
    entries = {entry["name"]: entry for entry in plan.baseline["subjects"]}
    measured = [one for one in plan.subjects if one.name != plan.against]
    if subject.name in entries:
        found = entries[subject.name]
    elif len(entries) == len(measured) == 1:
        found = next(iter(entries.values()))
    else:
        raise UsageError(
            f"the baseline has no {subject.name!r}", hint=did_you_mean(subject.name, entries) or "Measure it anew"
        )
    return found  # type: ignore[no-any-return]


def _comparisons(
    plan: Plan, found: "Mapping[str, Measured]", than: Mapping[str, Mapping[str, Any] | None]
) -> "tuple[list[dict[str, Any]], dict[str, tuple[Estimate, str]]]":
    """Speedups of each subject over what it is compared with; and those that the gates judge."""
    from . import bootstrap

    listed, judged = [], dict[str, tuple[bootstrap.Estimate, str]]()
    first = plan.against or plan.subjects[0].name
    for one in plan.subjects:
        made = []
        if one.name != first:
            made.append((bootstrap.speedup(found[one.name].blocks, found[first].blocks), first, True))
        if earlier := than.get(one.name):
            made.append((bootstrap.speedup_apart(found[one.name].blocks, earlier["blocks_ms"]), "the baseline", False))
        for estimate, other, paired in made:
            low, high = estimate.interval(plan.confidence)
            listed.append(
                {"name": one.name, "against": other, "in_turns": paired, "speedup": estimate.value,
                 "speedup_interval": [low, high], "faster_probability": estimate.above(1.0)}
            )  # fmt: skip
            judged[one.name] = (estimate, other)
    if not plan.against and plan.baseline is None:
        judged = {}
    return listed, judged


def _notes(
    plan: Plan, arrays: "Mapping[str, Any]", entries: Mapping[str, Mapping[str, Any]], others_share: float
) -> list[str]:
    """What makes the figures less sure than they look, one line each."""
    notes = []
    if plan.baseline is not None:
        machine, settings = plan.baseline["machine"], plan.baseline["settings"]
        pairs = {
            "CPU": (machine["cpu"], host.cpu_name()),
            "number of cores": (machine["cores"], host.cores()),
            "--threads": (settings["threads"], plan.threads or None),
            "--pin": (settings["cores"], list(plan.cores) or None),
            "shapes": (settings["shapes"], {name: list(array.shape) for name, array in arrays.items()}),
        }
        notes += [
            f"the baseline has another {what}: {old}, not {new}" for what, (old, new) in pairs.items() if old != new
        ]
        notes += ["the baseline was measured at another time: --against an artifact compares in turns"]
    for name, entry in entries.items():
        if entry["stable_processes"] < plan.processes:
            count = plan.processes - entry["stable_processes"]
            notes.append(f"{name} did not settle while it warmed up, in {count} of {plan.processes} processes")
    if others_share > _MUCH:
        share = f"{others_share:.0%}"
        notes.append(f"other work took {share} of the cores meanwhile: intervals are wider than on a quiet machine")
    if plan.processes == 1:
        notes.append("one process each says nothing of how processes differ: --processes 10")
    return notes


def _figures(
    estimates: "Mapping[str, Estimate]",
    size: int | None,
    speedup: "tuple[Estimate, str] | None",
    loss: Mapping[str, Any] | None,
) -> Figures:
    """What the gates look at."""
    return Figures(
        estimates["latency_p99_ms"], estimates["peak_rss_bytes"], size,
        speedup=speedup[0] if speedup else None, than=speedup[1] if speedup else "",
        losses=loss["losses"] if loss else None, samples=loss["samples"] if loss else 0,
    )  # fmt: skip


def _estimates(measured: "Measured") -> "dict[str, Estimate]":
    """Figures of one subject that have an interval, by their names in the document."""
    from . import bootstrap

    blocks = measured.blocks
    found = dict(zip(_QUANTILES, bootstrap.quantiles(blocks, list(_QUANTILES.values())), strict=True))
    found["latency_mean_ms"] = bootstrap.mean(blocks)
    found["throughput_per_s"] = found["latency_p50_ms"].inverse().times(1e3)
    for step in measured.cold[0]:
        found[f"cold_{step}"] = bootstrap.of_processes([cold[step] for cold in measured.cold])
    found["cold_start_ms"] = bootstrap.of_processes([sum(cold.values()) for cold in measured.cold])
    found["peak_rss_bytes"] = bootstrap.of_processes(measured.peaks)
    return found


def _entry(
    one: Subject,
    plan: Plan,
    measured: "Measured",
    estimates: "Mapping[str, Estimate]",
    rates: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the document says of one subject."""
    calls = [latency for process in measured.blocks for block in process for latency in block]
    figures: dict[str, Any] = {}
    for name, estimate in estimates.items():
        figures[name] = estimate.value
        figures[f"{name}_interval"] = list(estimate.interval(plan.confidence))
    energy = statistics.fmean(measured.joules) if measured.joules else None
    return {
        "name": one.name,
        "kind": one.kind,
        **subjects.facts(one),
        **figures,
        "latency_min_ms": min(calls),
        "latency_stdev_ms": statistics.stdev(calls),
        "calls": len(calls),
        "warm_up_calls": sum(warm["calls"] for warm in measured.warm_ups),
        "stable_processes": sum(warm["stable"] for warm in measured.warm_ups),
        "throughput": rates,
        "energy_per_inference_mj": None if energy is None else energy * 1e3,
        "energy_reason": "" if energy is not None else "this machine shows no RAPL counters (/sys/class/powercap)",
        "cost_per_1000": _cost(plan.price, figures["throughput_per_s"]),
        "blocks_ms": [[[_short(ms) for ms in block] for block in process] for process in measured.blocks],
    }


def _rates(
    plan: Plan,
    sweep: tuple[str, tuple[int, ...]] | None,
    arrays: "Mapping[str, Any]",
    kept: subjects.Signature,
    folder: Path,
    emit: Emit,
) -> dict[str, list[dict[str, Any]]]:
    """Throughput of each subject over sizes and streams."""
    from . import bootstrap, files, rounds

    found: dict[str, list[dict[str, Any]]] = {one.name: [] for one in plan.subjects}
    if sweep is None and not plan.streams:
        return found
    dimension, sizes = sweep or (None, (0,))
    inputs = {}
    for size in sizes:
        inputs[size] = folder / f"inputs-{size}.npz"
        given = subjects.resized(kept, arrays, dimension, size) if dimension else arrays
        files.save_arrays(inputs[size], given)
    for streams in plan.streams or (1,):
        emit("stage", f"throughput, {streams} stream{'s' * (streams > 1)}")
        threads = plan.threads or max(1, (len(plan.cores) or host.cores()) // streams)
        setting = Setting(threads, plan.cores, streams)
        seconds = max(0.1, plan.seconds / 50)
        seen = rounds.throughput(plan.subjects, setting, inputs, seconds=seconds, rounds=_SWEEP_ROUNDS)
        for name, by_size in seen.items():
            for size, rates in by_size.items():
                calls = bootstrap.of_processes(rates)
                units = calls.times(size or 1)
                found[name].append(
                    {"dimension": dimension, "size": size or None, "streams": streams, "threads": threads,
                     "calls_per_s": calls.value, "throughput_per_s": units.value,
                     "throughput_per_s_interval": list(units.interval(plan.confidence)),
                     "cost_per_1000": _cost(plan.price, units.value)}
                )  # fmt: skip
    return found


def _losses(plan: Plan, setting: Setting, path: Path) -> dict[str, dict[str, Any]]:
    """Losses on golden data of the subjects that have some, by their names."""
    from . import artifact, rounds

    if not plan.gates.max_drop:
        return {}
    found = {}
    for one in plan.subjects:
        if one.kind == "artifact" and one.name != plan.against:
            with rounds.stage([one], setting, path) as parts:
                golden = Path(one.source) / artifact.GOLDEN
                found[one.name] = parts[one.name].turn("losses", golden, plan.gates.max_drop)
    return found


def _profiles(plan: Plan, setting: Setting, path: Path, emit: Emit) -> dict[str, dict[str, Any]]:
    """Layers of each subject by time, each in a process of its own, by the subjects' names."""
    from . import rounds

    found = {}
    for one in plan.subjects:
        emit("stage", f"profile {one.name}")
        with rounds.stage([one], setting, path) as parts:
            found[one.name] = parts[one.name].turn("profile", one, setting)
    return found


def _cost(price: float | None, per_second: float) -> float | None:
    """Of 1,000 inferences, in the currency of the price per hour."""
    return None if price is None else price / 3600 / per_second * 1000


def _machine() -> dict[str, Any]:
    return {
        "cpu": host.cpu_name(),
        "cpu_flags": sorted(host.cpu_flags()),
        "cores": host.cores(),
        "memory_bytes": host.memory_bytes(),
        "gpus": list(host.gpus()),
        "python": ".".join(map(str, sys.version_info[:3])),
        "planc": host.version("planc"),
    }


def _short(ms: float) -> float:
    return round(ms, _KEPT_DIGITS - 1 - math.floor(math.log10(ms))) if ms > 0 else 0.0

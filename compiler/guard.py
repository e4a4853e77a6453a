"""The accuracy guard: which layers go back to floating point so that a quantized graph keeps its accuracy."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..calibration import metrics, sensitivity
from . import calibrate, files, plugins, quantize, recipe, user_code
from .errors import GateFailed, UsageError
from .recipe import Job
from .shapes import TensorSpec
from .spool import Column, Spool
from .worker import Emit

if TYPE_CHECKING:
    from ..calibration.table import RangeTable

_RANKED_SAMPLES = 8
_RUNTIME = 2 << 30
"""Bytes that a runtime may take on samples of many shapes: OpenVINO keeps 5000 kernels, a set for each shape."""


class Bound(Protocol):
    """What may be lost."""

    @property
    def most(self) -> float:
        """The greatest loss within the bound."""

    def loss(
        self, outputs: Sequence[np.ndarray], references: Sequence[np.ndarray], labels: Sequence[np.ndarray] | None
    ) -> float:
        """Returns the loss, the less the better."""

    def holds(self, loss: float) -> bool:
        """Returns whether it is within the bound."""


@dataclass(frozen=True)
class Own:
    """A bound on the user's own metric, `file.py:callable=VALUE`: callable(outputs, labels) -> float, more is better.

    Attributes:
        text: `file.py:callable`.
        limit: how much less than the reference's the value may be.
        metric: the callable; `outputs` is a list of arrays, `labels` one of arrays or None.
    """

    text: str
    limit: float
    metric: Callable[..., float] = field(repr=False)

    @property
    def most(self) -> float:
        """The greatest loss within the bound."""
        return self.limit

    def loss(
        self, outputs: Sequence[np.ndarray], references: Sequence[np.ndarray], labels: Sequence[np.ndarray] | None
    ) -> float:
        """Returns the reference's value less the model's."""
        if (known := self._value(references, labels)) != known:
            raise ValueError(f"{self.text} returned NaN for the outputs of the FP32 model")
        return known - self._value(outputs, labels)

    def holds(self, loss: float) -> bool:
        """Returns whether it is within the bound; NaN is not."""
        return loss <= self.limit

    def _value(self, outputs: Sequence[np.ndarray], labels: Sequence[np.ndarray] | None) -> float:
        return user_code.guard(self.text, "calling", lambda: float(self.metric(list(outputs), labels)))

    def __str__(self) -> str:
        place, _, name = self.text.rpartition(":")
        return f"{Path(place).name}:{name}={self.limit:g}"


@dataclass(frozen=True)
class Guarded:
    """What the guard found.

    Attributes:
        excluded: layers that stay in floating point, in the order of the graph.
        facts: bounds, losses, the cost of each layer, samples and evaluations, for the manifest.
    """

    excluded: tuple[str, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """What a payload loses.

    Attributes:
        holds: whether all bounds hold.
        told: the losses in words.
        loss: by bound.
        samples: how many it ran on.
        outputs: names of those that a bound looks at.
    """

    holds: bool
    told: str
    loss: dict[str, float]
    samples: int
    outputs: frozenset[str]


@dataclass
class Evaluation:
    """Samples with what the reference makes of them.

    Attributes:
        feeds: arrays by name of the input.
        references: arrays by name of the output.
        labels: one per sample; None where the data has none.
        digest: sha256 of all of it.
    """

    feeds: Spool
    references: Spool
    labels: list[np.ndarray] | None
    digest: str

    @property
    def needs(self) -> int:
        """Bytes that judging by it may take: a user's metric may ask for all outputs at once."""
        return _RUNTIME + 4 * (self.feeds.nbytes + self.references.nbytes)


def search(
    job: Job,
    graph: Path,
    how: quantize.Lowering,
    table: "RangeTable | None",
    specs: Sequence[TensorSpec],
    *,
    emit: Emit,
) -> Guarded:
    """Returns the fewest layers found that must stay in floating point for all bounds to hold (in a worker).

    Raises:
        UsageError: the evaluation data or a bound does not fit the model.
        GateFailed: no choice of layers holds the bounds; says which came nearest.
    """
    guard = job.quantization.guard
    bounds = [bound_of(text) for text in guard.bounds]
    with tempfile.TemporaryDirectory(dir=graph.parent) as place:
        emit("stage", "reference")
        data = evaluation(guard, job.quantization.calibration, specs, graph, Path(place))
        emit("memory", data.needs)
        digest = _digest(data.digest, calibrate.graph_digest(graph), table, how, guard.bounds, job)
        memo = _memo(guard.state, digest, job.target.name)
        trial = _Trial(job, graph, how, table, data, bounds, Path(place))
        nodes = trial.layers()
        emit("stage", "guard")
        found = sensitivity.search(
            nodes, trial.loss, lambda loss: loss <= 0, rank=trial.rank, budget=guard.budget, memo=memo
        )
        losses = trial.losses(frozenset(found.excluded))
        holds = trial.loss(frozenset(found.excluded)) <= 0  # as measured now, not as remembered
        everything = trial.losses(frozenset()) if nodes and trial.products <= set(found.excluded) else None
    facts = {
        "bounds": list(map(str, bounds)),
        "loss": _rounded(bounds, losses),
        "samples": len(data.feeds),
        "labelled": data.labels is not None,
        "outputs": _judged(bounds, data),
        "evaluations": found.evaluations,
        "costs": {name: round(cost, 8) for name, cost in found.costs.items()},
        "excluded": [
            {"name": name, "origin": trial.origins[name], "noise": round(found.costs.get(name, 0.0), 8)}
            for name in found.excluded
        ],
    }
    if holds and everything is not None:
        told = _told(bounds, everything)
        what = f"{job.precision.upper()} misses the bound"
        raise GateFailed(
            f"{what} unless all {len(trial.products)} layers stay in float; with none of them it loses {told}",
            hint="Loosen --max-drop, give more calibration data, or build -p fp32",
        )
    if not holds:
        told = _told(bounds, losses)
        some = ", ".join((*found.excluded[:5], *(["..."] if len(found.excluded) > 5 else [])))
        count = f"{len(found.excluded)} of {len(nodes)} layers in float ({some})"
        raise GateFailed(
            f"{job.precision.upper()} misses the bound: the best found loses {told}, with {count}",
            hint="Loosen --max-drop, give more calibration data, or build -p fp32",
        )
    return Guarded(found.excluded, facts)


def judge(
    session: Callable[..., Mapping[str, np.ndarray]],
    job: Job,
    graph: Path,
    specs: Sequence[TensorSpec],
    *,
    emit: Emit,
) -> Judged:
    """Returns what a payload loses by the bounds of the user on all the data (in a worker).

    Args:
        session: runs the payload.
        job: its guard names bounds and data.
        graph: the FP32 graph, the reference.
        specs: of the model's inputs.
        emit: receives the stage.
    """
    emit("stage", "judge")
    guard = job.quantization.guard
    bounds = [bound_of(text) for text in guard.bounds]
    with tempfile.TemporaryDirectory(dir=graph.parent) as place:
        data = evaluation(guard, job.quantization.calibration, specs, graph, Path(place))
        emit("memory", data.needs)
        outputs, samples = Spool(Path(place)), len(data.feeds)
        judged = frozenset(name for names in _judged(bounds, data).values() for name in names)
        for index in range(samples):
            try:
                outputs.append(dict(session(**data.feeds[index])))
            except UsageError as error:  # of other sizes than the payload is made for
                return Judged(False, f"cannot be told, at sample {index} {error.what}", {}, samples, judged)
        losses = _losses(bounds, data, outputs)
    holds = all(bound.holds(loss) for bound, loss in zip(bounds, losses, strict=True))
    return Judged(holds, _told(bounds, losses), _rounded(bounds, losses), samples, judged)


def bound_of(text: str) -> Bound:
    """Returns the bound that `--max-drop` states.

    Raises:
        UsageError: its callable cannot be imported.
    """
    place, _, value = text.rpartition("=")
    if ".py:" in place:
        return Own(place, float(value), user_code.find(place))
    return metrics.parse(text)


def evaluation(
    guard: recipe.Guard, calibration: recipe.Calibration, specs: Sequence[TensorSpec], graph: Path, place: Path
) -> Evaluation:
    """Reads the evaluation data, or else that of the calibration, and runs the FP32 graph on it.

    Args:
        guard: names the data; an array `labels` beside the inputs has one entry per sample.
        calibration: names data that takes its place.
        specs: of the model's inputs.
        graph: the ONNX file.
        place: folder for many samples.

    Raises:
        UsageError: there is no data, or it does not fit.
    """
    from .reference import runner

    if not guard.data and not calibration.data:
        raise UsageError("--max-drop needs data to judge by", hint="Add --eval DATA or --calibration DATA")
    labels: list[np.ndarray] = []
    if guard.data:
        data = calibrate.Data(guard.data, specs, None, option="--eval", labels=labels)
    else:
        data = calibrate.Data(calibration.data, specs, calibration.samples, labels=labels)
    feeds, references, run = Spool(place), Spool(place), runner(graph)
    for index, feed in enumerate(data):
        try:
            answers = run(feed)
        except Exception as error:
            data.refuse(index, error)
            raise
        feeds.append(feed)
        references.append(answers)
    labels = _per_sample(labels, data) if labels else labels
    digest = hashlib.sha256(data.tally.digest().encode())
    for label in labels:
        digest.update(np.ascontiguousarray(label).tobytes())
    return Evaluation(feeds, references, labels or None, digest.hexdigest())


def _per_sample(labels: list[np.ndarray], data: calibrate.Data) -> list[np.ndarray]:
    """Labels of the rows that make a sample, where the model's batch is fixed to several."""
    samples = data.tally.samples
    if len(labels) == samples:
        return labels
    first = data.specs[0].shape[0] if data.specs and data.specs[0].shape else 1
    if not isinstance(first, int) or len(labels) != samples * first + data.tally.dropped:
        raise UsageError(
            f"{data.option} {data.text}: {len(labels)} labels for {samples} samples", hint="Give one for each"
        )
    return [np.stack(labels[start : start + first]) for start in range(0, samples * first, first)]


class _Trial:
    """Builds and runs the graph with some layers in floating point."""

    def __init__(
        self,
        job: Job,
        graph: Path,
        how: quantize.Lowering,
        table: "RangeTable | None",
        data: Evaluation,
        bounds: Sequence[Bound],
        place: Path,
    ) -> None:
        self.job, self.graph, self.how, self.table = job, graph, how, table
        self.data, self.bounds, self.place = data, bounds, place
        self.origins: dict[str, str] = {}
        self.products: set[str] = set()
        self.known: dict[frozenset[str], list[float]] = {}

    def layers(self) -> list[str]:
        """Returns the names of the layers that can be in INT8."""
        lowered = quantize.lower(self.graph, self.place / "all.onnx", self.how, self.table)
        lowered_rows = [row for row in lowered.layers if row["decision"] != "float" and row["method"] != quantize.OWN]
        self.origins = {row["name"]: row["origin"] for row in lowered_rows}
        self.products = {row["name"] for row in lowered_rows if row["op"] != "Gather"}
        return list(self.origins)

    def loss(self, kept: frozenset[str]) -> float:
        """Returns by how much the worst bound is missed, as a share of it; at most 0 where all hold."""
        losses = self.losses(kept)
        if all(bound.holds(loss) for bound, loss in zip(self.bounds, losses, strict=True)):
            return 0.0
        return max(_excess(bound, loss) for bound, loss in zip(self.bounds, losses, strict=True))

    def losses(self, kept: frozenset[str]) -> list[float]:
        """Returns the loss by each bound, on the target's own backend."""
        if kept not in self.known:
            self.known[kept] = self._measure(kept)
        return self.known[kept]

    def _measure(self, kept: frozenset[str]) -> list[float]:
        return _losses(self.bounds, self.data, self._run(kept, len(self.data.feeds), self._backend))

    def rank(self, kept: frozenset[str]) -> float:
        """Returns the noise at the outputs on a few samples, by ONNX Runtime on the lowered graph."""
        count = min(len(self.data.feeds), _RANKED_SAMPLES)
        outputs = self._run(kept, count, _plain)
        noises = [
            metrics.mse(Column(outputs, name, count), Column(self.data.references, name, count))
            for name, array in self.data.references[0].items()
            if array.dtype.kind == "f"
        ]
        return max(noises, default=0.0)

    def _run(
        self,
        kept: frozenset[str],
        count: int,
        load: Callable[[Path], Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]],
    ) -> Spool:
        """Outputs of the first `count` samples, at least."""
        if self.origins and kept >= self.products:  # nothing computes in it: embeddings alone are not worth a build
            return self.data.references
        path = self.place / "trial.onnx"
        how = replace(self.how, keep=(*self.how.keep, *sorted(kept)))
        quantize.lower(self.graph, path, how, self.table)
        run, outputs = load(path), Spool(self.place)
        for index in range(count):
            outputs.append(run(self.data.feeds[index]))
        return outputs

    def _backend(self, path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        backend = plugins.load("backends", self.job.target.backend)
        if not backend.TRIALS:
            return _plain(path)
        with tempfile.TemporaryDirectory(dir=self.place) as made:
            built = backend.build(recipe.request(recipe.on_all_cores(self.job), path, Path(made)))
            run = backend.load(Path(made), built.session)
        inputs, outputs = list(self.data.feeds[0]), list(self.data.references[0])
        return lambda feed: dict(zip(outputs, run([feed[name] for name in inputs]), strict=True))


def _losses(bounds: Sequence[Bound], data: Evaluation, outputs: Spool) -> list[float]:
    """Returns the loss by each bound, of the output that loses most.

    Raises:
        UsageError: a bound does not fit the outputs or labels.
    """
    count = len(data.feeds)
    try:
        return [
            _worst(
                bound.loss(Column(outputs, name, count), Column(data.references, name, count), data.labels)
                for name in names
            )
            for bound, names in zip(bounds, _judged(bounds, data).values(), strict=True)
        ]
    except ValueError as error:
        raise UsageError(f"--max-drop: {error}", hint="Check --eval and its labels") from error


def _worst(losses: Iterable[float]) -> float:
    """The greatest loss; NaN, which `max` overlooks, where one is NaN."""
    return float(np.max(list(losses)))


def _judged(bounds: Sequence[Bound], data: Evaluation) -> dict[str, list[str]]:
    """Outputs by bound: all of floats for errors, the first for an answer; what is an input, too, tells nothing."""
    given, everything = data.feeds[0], data.references[0]
    reference = {name: array for name, array in everything.items() if name not in given} or everything
    first, floats = list(reference)[:1], [name for name, array in reference.items() if array.dtype.kind == "f"]
    error = [isinstance(bound, metrics.Bound) and bound.metric != "top1" for bound in bounds]
    return {str(bound): (floats or first) if one else first for bound, one in zip(bounds, error, strict=True)}


def _plain(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    from .emulate import runner

    return runner(path)


def _shown(bound: Bound, loss: float) -> float:
    """A loss as the user reads it: of sqnr the ratio itself."""
    return -loss if bound.most < 0 else loss


def _rounded(bounds: Sequence[Bound], losses: Sequence[float]) -> dict[str, float]:
    return {str(bound): round(_shown(bound, loss), 6) for bound, loss in zip(bounds, losses, strict=True)}


def _told(bounds: Sequence[Bound], losses: Sequence[float]) -> str:
    return ", ".join(f"{bound}: {_shown(bound, loss):.4g}" for bound, loss in zip(bounds, losses, strict=True))


def _excess(bound: Bound, loss: float) -> float:
    """By how much a loss misses a bound, as a share of it."""
    return float("inf") if loss != loss else max(loss - bound.most, 1e-12) / max(abs(bound.most), 1e-6)


def _memo(state: Path | None, digest: str, target: str) -> sensitivity.Memo:
    """What an earlier search for the target has measured: the candidates of one build share a file."""
    if state is None:
        return sensitivity.Memo(digest=digest)
    try:
        return sensitivity.Memo.load(state, digest, name=target)
    except ValueError as error:
        raise UsageError(f"--state {error}", hint="Give another file, or remove it") from error


def _digest(
    data: str, graph: str, table: "RangeTable | None", how: quantize.Lowering, bounds: Sequence[str], job: Job
) -> str:
    """What a loss depends on besides the layers."""
    words = [
        data,
        graph,
        repr(table),
        repr(how),
        list(bounds),
        [files.digest(Path(text.rpartition(":")[0])) for text in bounds if ".py:" in text],
        job.target.name,
        plugins.load("backends", job.target.backend).fingerprint(),
    ]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()

"""Calibration: runs the FP32 graph on real data, one sample at a time, and keeps what its tensors hold."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..calibration import dataset
from . import golden, host, user_code
from .errors import BuildFailed, UsageError, one_line, words_of
from .recipe import NO_DATA, Calibration
from .shapes import Dim, TensorSpec, points
from .worker import Emit

if TYPE_CHECKING:
    from ..calibration.shard import Shard
    from ..calibration.table import RangeTable

T = TypeVar("T")
V = TypeVar("V")

_FORMS = "Give an .npz, a folder of .npz or .npy files, or file.py:callable"
_RANDOM_SAMPLES = 16
STREAMS = min(host.cores(), 2)
"""Samples that run at once: two on a thread each keep two cores busier than one on two, which wait for each other."""
LABELS = "labels"
"""Array of the data that is no input, unless the model has one of that name."""


@dataclass(frozen=True)
class Data:
    """Samples of a data set, as a model takes them.

    Attributes:
        text: see `recipe.Calibration.data`.
        specs: of the model's inputs.
        samples: how many at most; None for all.
        option: the one that named the data, for messages.
        labels: where those of the data go, one array per row; None to leave them out.
        tally: what was seen of it.
    """

    text: str
    specs: Sequence[TensorSpec]
    samples: int | None = None
    option: str = "--calibration"
    labels: list[np.ndarray] | None = None
    tally: dataset.Tally = field(default_factory=dataset.Tally)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields a dict of arrays for each sample.

        Raises:
            UsageError: the data is missing, empty or does not fit the inputs.
        """
        own = ".py:" in self.text
        source = user_code.find(self.text) if own else Path(self.text)
        found = dataset.feeds(source, self.specs, samples=self.samples, tally=self.tally, strip=self._strip)
        while True:
            try:
                feed = next(found, None)
            except dataset.DataError as error:
                rows = ", ".join(f'"{spec.name}": {spec.dtype} array' for spec in self.specs)
                hint = f"Let it yield {{{rows}}}" if own else _FORMS
                raise UsageError(f"{self.option}: {words_of(error)}", hint=hint) from error
            except (Exception, SystemExit) as error:  # of the user's function
                if not own:
                    raise
                what = f"{type(error).__name__}: {words_of(error)}{user_code.where(error)}"
                raise UsageError(
                    f"{self.option} {self.text} raised {what}",
                    hint="Mend it; --debug shows its traceback",
                ) from error
            if feed is None:
                return
            yield feed

    def notes(self) -> list[str]:
        """Returns what may surprise of the data that was read."""
        told = [
            f"{self.option} {self.text}: input {name!r} is {given} and was taken as {wanted}, its values as they are"
            for name, (given, wanted) in sorted(self.tally.integers.items())
        ]
        if self.samples and self.tally.samples < self.samples:
            told.append(f"{self.option} {self.text} has {self.tally.samples} of the {self.samples} samples asked for")
        return told

    def refuse(self, index: int, error: Exception) -> None:
        """Tells of the sample that the model does not run on, as with an index that is out of bounds.

        Raises:
            UsageError: ONNX Runtime says that the data is to blame, not the graph or the machine.
        """
        if type(error).__name__ == "InvalidArgument":
            raise UsageError(
                f"{self.option} {self.text}, sample {index}: the model cannot run on it: {_why(error)}",
                hint="Mend or remove it",
            ) from error

    def _strip(self, item: dict[str, Any]) -> dict[str, Any]:
        """Takes the labels out of an item, which may hold several samples."""
        if LABELS not in item or any(spec.name == LABELS for spec in self.specs):
            return item
        if self.labels is not None:
            self.labels.extend(np.atleast_1d(np.asarray(item[LABELS])))
        return {name: array for name, array in item.items() if name != LABELS}


def measure(
    graph: Path,
    wanted: Calibration,
    specs: Sequence[TensorSpec],
    dims: Sequence[Dim],
    *,
    everything: bool = False,
    merged: "Shard | None" = None,
    emit: Emit,
) -> "tuple[RangeTable, Sequence[Mapping[str, np.ndarray]]]":
    """Returns the calibration table of an optimized FP32 graph, and the first samples of real data (in a worker).

    Args:
        graph: the ONNX file.
        wanted: data and method.
        specs: of the model's inputs.
        dims: sizes of their named dimensions.
        everything: whether all float32 tensors are watched, or those that INT8 products read and give.
        merged: what all shards of the data have left; None to run the graph on all of it.
        emit: receives the stage.

    Raises:
        UsageError: the data does not fit.
        BuildFailed: ONNX Runtime cannot run the graph on it.
    """
    from ..calibration.table import table

    emit("stage", "calibrate")
    digest = graph_digest(graph)
    if wanted.table is not None:
        return _read(wanted.table, digest), ()
    whole = merged or gather(graph, wanted, specs, dims, everything=everything, emit=emit)
    if whole.dropped:
        emit("note", f"{whole.dropped} rows do not fill a batch of the model and were left out")
    made = table(
        whole.observers,
        wanted.method,
        samples=whole.samples or None,
        source=Path(wanted.data).name if wanted.data else "random",
        source_digest=whole.digest,
        model_digest=digest,
        channels=whole.channels,
        whole=whole.channels,  # outliers in what a matrix multiplies carry what the model knows: arXiv:2208.07339
    )
    return made, whole.first if wanted.data else ()


def gather(
    graph: Path,
    wanted: Calibration,
    specs: Sequence[TensorSpec],
    dims: Sequence[Dim],
    *,
    everything: bool = False,
    part: tuple[int, int] = (0, 1),
    emit: Emit,
) -> "Shard":
    """Returns the statistics of a part of the data (in a worker). All of the data is read, the graph runs on the part.

    Args:
        graph: the ONNX file.
        wanted: data.
        specs: of the model's inputs.
        dims: sizes of their named dimensions.
        everything: see `measure`.
        part: the first sample, and the distance to the next.
        emit: receives what is to be told.

    Raises:
        UsageError: the data does not fit.
        BuildFailed: ONNX Runtime cannot run the graph on it.
    """
    from ..calibration.observers import Observer
    from ..calibration.shard import Shard

    names, channelled = _observed(graph, everything)
    made = Shard({name: Observer() for name in names})
    data = Data(wanted.data, specs, wanted.samples)
    source = iter(data) if wanted.data else _random(wanted, specs, dims, emit)
    begin, step = part

    def own() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        short = bool(wanted.data)
        for index, given in enumerate(source):
            feed = {name: array.copy() for name, array in given.items()}  # user code may fill the same arrays again
            if short:
                made.first.append(feed)
                short = not golden.enough(made.first, specs, dims)
            if index % step == begin:
                yield index, feed

    for _, arrays in _ahead(_watcher(graph, names, data if wanted.data else None), own()):
        made.update(dict(zip(names, arrays, strict=True)), channelled)
    if wanted.data:
        made.samples, made.dropped, made.digest = data.tally.samples, data.tally.dropped, data.tally.digest()
        if begin == 0:
            for note in data.notes():
                emit("note", note)
    return made


def require_finite(graph: Path, made: "RangeTable") -> None:
    """Checks what INT8 products read and give; other tensors, such as masks, may hold infinities.

    Raises:
        UsageError: a tensor held NaN or an infinity.
    """
    names = set(_observed(graph, everything=False)[0])
    for name, count in made.non_finite.items():
        if name in names:
            seen = made.tensors[name].count
            raise UsageError(
                f"{name!r} is NaN or infinite in {count} of {seen} elements on the calibration data",
                hint="Mend the model or its data",
            )


def graph_digest(graph: Path) -> str:
    """Returns the SHA-256 of an ONNX file and the content of its weights, wherever they lie."""
    from . import protos, storage

    proto, _ = protos.load_light(graph)
    for tensor in proto.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("raw_data")
    whole = hashlib.sha256(proto.SerializeToString(deterministic=True))
    for name, value in sorted(storage.load(graph).graph.initializers.items()):
        if value.const_value is not None:
            whole.update(f"{name}\n".encode())
            for chunk in storage.chunks(value.const_value):
                whole.update(chunk)
    return whole.hexdigest()


def _read(path: Path, digest: str) -> "RangeTable":
    from ..calibration.table import load

    try:
        made = load(path)
    except ValueError as error:
        raise UsageError(f"--ranges {error}", hint="planc calibrate writes one") from error
    if made.model_digest != digest:
        raise UsageError(
            f"--ranges {path} was made for another graph, or by another version of planc",
            hint="Calibrate again: planc calibrate MODEL --calibration DATA -o ranges.json",
        )
    return made


def _random(
    wanted: Calibration, specs: Sequence[TensorSpec], dims: Sequence[Dim], emit: Emit
) -> Iterator[dict[str, np.ndarray]]:
    if not wanted.random:
        raise UsageError("INT8 needs calibration data", hint=NO_DATA)
    emit("note", "calibrating on random data, as --allow-random-calibration says: expect no accuracy")
    sizes = [point.sizes for point in points(dims)]  # what a tensor holds may depend on them, as behind Softmax
    return dataset.random(specs, sizes, wanted.samples or _RANDOM_SAMPLES)


def _observed(graph: Path, everything: bool) -> tuple[list[str], set[str]]:
    """Names of the tensors that are observed, and of those whose channels are."""
    import onnx_ir as ir

    from ..passes import channelled, observed
    from . import storage

    model = storage.load(graph)
    known = channelled(model)
    values = [value for node in model.graph for value in node.outputs] if everything else []
    others = [value.name for value in values if value.name and value.dtype is ir.DataType.FLOAT]
    return list(dict.fromkeys((*observed(model), *sorted(known), *others))), known


def _ahead(run: Callable[[T], V], source: Iterator[T]) -> Iterator[tuple[T, V]]:
    """Yields each item with its result, in order; the next ones are computed meanwhile."""
    with ThreadPoolExecutor(STREAMS) as pool:
        running: deque[tuple[T, Future[V]]] = deque()
        for item in source:
            running.append((item, pool.submit(run, item)))
            if len(running) > STREAMS:
                done, result = running.popleft()
                yield done, result.result()
        for done, result in running:
            yield done, result.result()


def _watcher(
    graph: Path, names: Sequence[str], data: Data | None
) -> Callable[[tuple[int, Mapping[str, np.ndarray]]], list[np.ndarray]]:
    """Returns what runs the graph on a sample, which comes with its number, and gives the tensors called `names`."""
    from .reference import watcher

    try:
        watch = watcher(graph, names, streams=STREAMS)
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime cannot load the graph to calibrate it: {words_of(error)}") from error

    def run(sample: tuple[int, Mapping[str, np.ndarray]]) -> list[np.ndarray]:
        index, feed = sample
        try:
            return watch(feed)
        except Exception as error:
            if data is not None:
                data.refuse(index, error)
            if isinstance(error, MemoryError | OSError):
                raise
            raise BuildFailed(f"ONNX Runtime cannot run the graph on sample {index}: {_why(error)}") from error

    return run


def _why(error: Exception) -> str:
    """What ONNX Runtime says of a run that failed, without its preface."""
    return one_line(words_of(error).rpartition("Status Message: ")[2])

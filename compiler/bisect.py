"""Finds the pass that changes what a graph computes, and the few nodes on which it does."""

import glob
import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files, host, optimize, parity
from .errors import BuildFailed, GateFailed, UsageError, one_line, words_of
from .optimize import Recipe, Report
from .parity import Check
from .worker import Emit

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..passes import Pass
    from ._cut import Piece, Recording
    from .golden import Golden

FACTS = "repro.json"
_REPRO = ("before.onnx", "after.onnx", "inputs.npz", FACTS)
MOST_TRIES = 300
"""Smaller graphs that are tried in the search for the nodes."""
_CHANGES, _FAILS, _LOADS = "changes the outputs", "fails", "leaves a graph that ONNX Runtime does not load"
_TOOLS = ("planc", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with a list of passes.

    Attributes:
        kind: what the last of them does.
        upto: how many of them, from the first, it takes.
        reason: one line.
        point: label of the first sizes at which the outputs differ; empty where nothing was compared.
    """

    kind: str
    upto: int
    reason: str
    point: str = ""


@dataclass(frozen=True)
class Fault:
    """A pass that is at fault.

    Attributes:
        name: the pass; empty where reading and writing the graph changes the outputs already.
        kind: what it does.
        reason: one line.
        nodes: operator, name (else that of its output) and origin (module path) of the nodes on which it does so; empty
            where it is not known.
        command: shows it again in the folder of the repro; empty where there is no repro.
    """

    name: str
    kind: str
    reason: str
    nodes: tuple[dict[str, str], ...] = ()
    command: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}{f'; at {self.where}' if self.nodes else ''}"

    @property
    def where(self) -> str:
        """Its first nodes in words."""
        told = [
            f"{one['operator']} {one['name']!r}{' of ' + one['origin'] if one['origin'] else ''}" for one in self.nodes
        ]
        return ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")


@dataclass(frozen=True)
class Trial:
    """A graph and what it must compute.

    Attributes:
        load: gives the graph anew.
        goldens: inputs and outputs.
        tolerance: as of `Check`.
        folder: where the graphs that are run are written.
        emit: receives the stages.
    """

    load: "Callable[[], ir.Model]"
    goldens: "Sequence[Golden]"
    tolerance: tuple[tuple[str, float], ...]
    folder: Path
    emit: Emit

    def trouble(self, passes: "Sequence[Pass]") -> Trouble | None:
        """Returns what goes wrong with these passes; None where the outputs agree at all points."""
        model, _, left_out = optimize.apply(self.load, passes, emit=_without_notes(self.emit))
        for name, reason in left_out.items():
            return Trouble(_FAILS, next(at for at, one in enumerate(passes, 1) if one.name == name), reason)
        self.emit("stage", "check")
        try:
            run = self.runner(model)
        except BuildFailed as error:
            return Trouble(_LOADS, len(passes), one_line(error.what, 300))
        for golden in self.goldens:
            found, _ = parity.differences(run, [golden], self.tolerance)
            if found:
                return Trouble(_CHANGES, len(passes), str(found[0]), golden.label)
        return None

    def runner(self, model: "ir.Model") -> "parity.Run":
        """Returns a function from inputs to outputs that runs the graph, which is written and spent by that.

        Raises:
            BuildFailed: ONNX Runtime does not load it, or it cannot be written.
        """
        from .reference import runner

        with tempfile.TemporaryDirectory(dir=self.folder) as place:  # not to keep the weights of every trial
            path = Path(place) / "trial.onnx"
            try:
                optimize.write(model, path, embed=True)
                return runner(path)
            except OSError:  # the disk's fault, not the pass's
                raise
            except Exception as error:
                raise BuildFailed(words_of(error).replace(str(path), "it")) from error


def optimize_checked(
    source: Path, out: Path, recipe: Recipe, check: Check, skipped: dict[str, str], *, emit: Emit
) -> Report:
    """Runs the passes from file to file, and again without each that changes the outputs (in a worker).

    A repro of each is left beside `out`, as `repro_of` names it.

    Raises:
        UsageError: the source cannot be checked.
        GateFailed: a pass changes the outputs and the recipe is strict, or no pass is to blame.
        BuildFailed: as `optimize.run`.
    """
    from .reference import runner

    goldens = parity.reference(check, emit=emit)
    while True:
        failure: BuildFailed | GateFailed
        try:
            report = optimize.run(source, out, recipe, skipped, emit=emit)
        except BuildFailed as error:
            if recipe.strict:
                raise
            failure = error
        else:
            emit("stage", "check")
            found, metrics = parity.differences(runner(out), goldens, check.tolerance)
            if not found:
                return replace(report, checked={"points": [one.label for one in goldens], **parity.worst(metrics)})
            skipped, failure = report.skipped, GateFailed(f"the optimized graph differs from {source}: {found[0]}")
        left = [one for one in optimize.chosen_passes(recipe) if one.name not in skipped]
        fault = find(source, left, check, goldens, out.parent, emit=emit, repro=lambda name: repro_of(out, name))
        if fault is None or not fault.name or fault.kind == _FAILS:
            raise failure
        told = f"{fault}{f'; see {repro_of(out, fault.name).name}' if fault.command else ''}"
        if recipe.strict:
            raise GateFailed(f"pass {fault.name} {told}", hint=f"Use --skip {fault.name}, or drop --strict")
        emit("note", f"left out the pass {fault.name}: it {told}")
        skipped = {**skipped, fault.name: f"it {told}"}


def search(
    source: Path, recipe: Recipe, check: Check, folder: Path, until: str, *, emit: Emit
) -> tuple[Fault | None, dict[str, Any]]:
    """Returns the first pass of the recipe that is at fault, and what was compared (in a worker).

    Args:
        source: the ONNX file.
        recipe: which passes.
        check: what they run on.
        folder: where the repro is left, as `repro`.
        until: a pass that kills its worker: those before it are looked at; empty for all.
        emit: receives the stages.

    Raises:
        UsageError: the source cannot be checked, or the recipe names an unknown pass.
    """
    passes = optimize.chosen_passes(recipe)
    names = [one.name for one in passes]
    passes = passes[: names.index(until)] if until else passes
    goldens = parity.reference(check, emit=emit)
    fault = find(source, passes, check, goldens, folder, emit=emit, repro=lambda _: folder / "repro")
    return fault, {"passes": len(passes), "points": [golden.label for golden in goldens]}


def find(
    source: Path,
    passes: "Sequence[Pass]",
    check: Check,
    goldens: "Sequence[Golden]",
    folder: Path,
    *,
    emit: Emit,
    repro: Callable[[str], Path],
) -> Fault | None:
    """Returns the pass after which the outputs are wrong for the first time; None where they never are.

    Args:
        source: the ONNX file.
        passes: in order.
        check: for its tolerance.
        goldens: what the source computes.
        folder: for files that are written on the way.
        emit: receives the stages.
        repro: from the pass to the folder in which its repro is left.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        trial = Trial(lambda: _load(source), goldens, check.tolerance, Path(scratch), emit)
        trouble = _first(trial, passes)
        if trouble is None:
            return None
        if not trouble.upto:
            return Fault("", trouble.kind, trouble.reason)
        culprit = passes[trouble.upto - 1]
        emit("note", f"the pass {culprit.name} {trouble.kind}: looking for the nodes")
        fault = Fault(culprit.name, trouble.kind, trouble.reason)
        narrowed = _narrow(trial, passes[: trouble.upto], trouble)
        return _leave(narrowed, fault, check, repro(culprit.name), source.name) if narrowed else fault


def _first(trial: Trial, passes: "Sequence[Pass]") -> Trouble | None:
    """Returns the trouble of the shortest list that has it, while the list without its last pass has none."""
    trouble = trial.trouble(passes)
    if trouble is None:
        return None
    if (untouched := trial.trouble(())) is not None:
        return untouched
    low = 0
    while trouble.upto - low > 1:
        middle = (low + trouble.upto) // 2
        found = trial.trouble(passes[:middle])
        low, trouble = (middle, trouble) if found is None else (low, found)
    return trouble


@dataclass(frozen=True)
class _Narrowed:
    """A piece of a graph on which some passes go wrong, the last of them to blame."""

    trial: Trial
    piece: "Piece"
    passes: "tuple[Pass, ...]"
    nodes: "tuple[ir.Node, ...]"


def _narrow(trial: Trial, passes: "Sequence[Pass]", trouble: Trouble) -> _Narrowed | None:
    """Returns few nodes on which the last pass goes wrong by itself; None where it does not even on all.

    A file tells no shapes of inner values that could be trusted: where the pass needs them, it needs their inference.
    """
    from ..passes import InferShapes
    from ._cut import record, smallest

    *others, culprit = passes
    before, _, _ = optimize.apply(trial.load, others, emit=_without_notes(trial.emit))
    golden = next(one for one in trial.goldens if trouble.point in ("", one.label))
    try:
        recording = record(before, golden, trial.runner)
    except Exception as error:
        trial.emit("note", f"no nodes: what flows between them cannot be recorded: {one_line(words_of(error), 200)}")
        return None
    for helpers in ((), (InferShapes(),)):
        shown = (*helpers, culprit)

        def attempt(nodes: "Sequence[ir.Node]", shown: "tuple[Pass, ...]" = shown) -> _Narrowed | None:
            return _attempt(trial, recording, nodes, shown, trouble.kind)

        if attempt(list(before.graph)) is not None:
            return attempt(smallest(list(before.graph), lambda nodes: attempt(nodes) is not None, tries=MOST_TRIES))
    return None


def _attempt(
    trial: Trial, recording: "Recording", nodes: "Sequence[ir.Node]", passes: "tuple[Pass, ...]", kind: str
) -> _Narrowed | None:
    """Returns the nodes as a piece where the last pass, and nothing before it, goes wrong in that way on them."""
    from ._cut import cut

    piece = cut(recording, nodes)
    if piece is None:
        return None
    alone = replace(trial, load=lambda: _fresh(piece.model), goldens=[piece.golden])
    found = alone.trouble(passes)
    if found is None or (found.kind, found.upto) != (kind, len(passes)) or alone.trouble(passes[:-1]) is not None:
        return None
    return _Narrowed(alone, piece, passes, tuple(nodes))


def _leave(narrowed: _Narrowed, fault: Fault, check: Check, folder: Path, source: str) -> Fault:
    """Writes the repro, whole or not at all, and returns the fault with what it shows."""
    options = [word for one in narrowed.passes for word in ("--pass", _text(one))]
    bounds = [word for name, value in check.tolerance for word in ("--tolerance", f"{name}={value:g}")]
    command = shlex.join(["planc", "bisect", "before.onnx", *options, *bounds, "--inputs", "inputs.npz"])
    fault = replace(fault, nodes=tuple(map(_facts, narrowed.nodes)), command=command)
    trouble, golden = narrowed.trial.trouble(narrowed.passes), narrowed.piece.golden
    partial = narrowed.trial.folder / "repro"
    partial.mkdir()
    optimize.write(_fresh(narrowed.piece.model), partial / "before.onnx", embed=True)
    if fault.kind != _FAILS:
        after, _, _ = optimize.apply(narrowed.trial.load, narrowed.passes)
        optimize.write(after, partial / "after.onnx", embed=True)
    files.save_arrays(partial / "inputs.npz", golden.inputs)
    document = {
        "schema_version": 1,
        "pass": fault.name,
        "kind": fault.kind,
        "reason": trouble.reason if trouble else "",
        "in_the_model": {"source": source, "reason": fault.reason},
        "nodes": fault.nodes,
        "inputs": {name: f"{array.dtype}{list(array.shape)}" for name, array in golden.inputs.items()},
        "outputs": {name: f"{array.dtype}{list(array.shape)}" for name, array in golden.outputs.items()},
        "command": command,
        "versions": {name: host.version(name) for name in _TOOLS},
    }
    (partial / FACTS).write_text(json.dumps(document, indent=2) + "\n")
    files.publish(partial, folder)
    return fault


def repro_of(out: Path, name: str) -> Path:
    """Returns the folder of the repro of the pass called `name`, beside the result `out`."""
    return out.with_name(f"{out.name}.repro-{name}")


def publish(folder: Path, out: Path) -> None:
    """Gives the repros in the staging folder of `out` their final names, in place of all older ones of that file.

    Raises:
        UsageError: there is something else under such a name.
    """
    prefix = repro_of(out, "").name
    staged = sorted(path for path in folder.iterdir() if path.name.startswith(prefix))
    fresh = [out.parent / path.name for path in staged]
    for final in fresh:
        require_replaceable(final)
    for path, final in zip(staged, fresh, strict=True):
        files.publish(path, final)
    for old in sorted(out.parent.glob(f"{glob.escape(prefix)}*")):
        if old not in fresh and _is_untouched(old):
            shutil.rmtree(old)


def _is_untouched(folder: Path) -> bool:
    """Whether `folder` is a repro and holds nothing else."""
    if folder.is_symlink() or not (folder / FACTS).is_file():
        return False
    return all(
        path.name in _REPRO or (path.name.startswith(_REPRO) and path.suffix == ".data") for path in folder.iterdir()
    )


def require_replaceable(folder: Path) -> None:
    """Checks that `folder` is free or holds a repro.

    Raises:
        UsageError: it holds something else.
    """
    taken = folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if taken and not (folder / FACTS).is_file():
        raise UsageError(f"{folder} exists and is not a repro of planc", hint="Give another -o, or remove it first")


def _text(one: "Pass") -> str:
    """What `passes.parse` reads: `fold-constants{max-output-bytes=4096}`."""
    values = {field.name.replace("_", "-"): getattr(one, field.name) for field in fields(one)}
    options = ",".join(f"{name}={str(value).lower()}" for name, value in values.items())
    return f"{one.name}{{{options}}}" if options else one.name


def _facts(node: "ir.Node") -> dict[str, str]:
    from ..passes import ORIGIN

    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    name = node.name or next((value.name for value in node.outputs if value.name), "")
    return {"operator": operator, "name": name or "", "origin": node.metadata_props.get(ORIGIN, "")}


def _load(source: Path) -> "ir.Model":
    from .frontends.onnx import read

    model = read(source, shapes=False)
    for value in model.graph.outputs:
        value.shape = None
    return model


def _fresh(model: "ir.Model") -> "ir.Model":
    """Returns a copy that knows what a file tells: nothing of the shapes of inner values."""
    from ..passes import all_nodes

    copy = model.clone()
    for node in all_nodes(copy):
        for value in node.outputs:
            value.shape = value.shape if value.is_graph_output() else None
    return copy


def _without_notes(emit: Emit) -> Emit:
    return lambda kind, value: emit(kind, value) if kind != "note" else None

"""Runs graph passes. One that raises, breaks the graph, hangs or crashes costs that pass, not the build."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from . import files, worker
from .errors import BuildFailed, UsageError, did_you_mean, named
from .worker import Emit, Limits

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..passes import Pass

T = TypeVar("T")

PASS_SECONDS = 120.0
MOST_EMBEDDED_BYTES = 1_800_000_000
"""Weights beyond this go beside the file: protobuf holds 2 GiB."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FUSED = ("Add", "Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
_STAGE = "pass "
_PRODUCER = "planc"


@dataclass(frozen=True)
class Report:
    """What the passes did.

    Attributes:
        before: number of nodes, nodes by operator and bytes of weights of the source.
        after: the same of the result.
        passes: for each pass that ran: name, whether it modified the graph, nodes after it, seconds.
        skipped: name of each pass that was left out because it failed, and why.
        checked: with `--check`, the sizes at which the result ran beside the source, and the largest errors.
        explained: for each pass that the recipe asks about: node, origin, operator and reason of its near misses.
        modules: names of nodes and values, before and after, by the path of the PyTorch module that they came from.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    passes: list[dict[str, Any]]
    skipped: dict[str, str] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)
    explained: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    modules: dict[str, list[str]] = field(default_factory=dict)

    @property
    def changed_by(self) -> list[str]:
        """Names of the passes that modified the graph, in order."""
        return [one["name"] for one in self.passes if one["modified"]]


@dataclass(frozen=True)
class Recipe:
    """Which passes run, and how their failures and their notes are treated.

    Attributes:
        family: key of `passes.PRESETS`.
        only: passes such as `fold-constants{max-output-bytes=1024}`, in order, instead of the preset.
        skip: names of passes that do not run.
        strict: whether a failing pass fails the build.
        keep_origin: whether nodes keep the module path that they came from.
        embed: whether weights go into the file, up to what protobuf holds; else beside it.
        trusted: whether the shapes that the file states for inner values are true, as those of planc's own export.
        own: whether the file is one that planc wrote and checked, and the caller loads the result by itself.
        explain: names of passes whose near misses go into the report.
    """

    family: str = "onnx"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    strict: bool = False
    keep_origin: bool = False
    embed: bool = False
    trusted: bool = False
    own: bool = False
    explain: tuple[str, ...] = ()


def optimize(source: Path, out: Path, recipe: Recipe, *, limits: Limits, on_event: Emit | None = None) -> Report:
    """Reads the ONNX file `source`, runs the passes in a worker, and writes `out`.

    Raises:
        UsageError: the recipe names an unknown pass, option or preset.
        BuildFailed: the graph cannot be read or written, or a pass failed and the recipe is strict.
    """
    return leaving_out(
        lambda skipped: worker.call(run, source, out, recipe, skipped, limits=limits, on_event=on_event),
        strict=recipe.strict,
    )


def leaving_out(attempt: Callable[[dict[str, str]], T], *, strict: bool = False) -> T:
    """Calls `attempt` with the passes to leave out, and again with one more where a pass killed or hung its worker.

    Raises:
        BuildFailed: as the last attempt did.
    """
    skipped: dict[str, str] = {}
    while True:
        try:
            return attempt(skipped)
        except BuildFailed as error:
            name = killer(error)
            if strict or not name or name in skipped:
                raise
            skipped = {**skipped, name: error.what}


def killer(error: BuildFailed) -> str:
    """Returns the pass that ran when the worker died; empty where none did."""
    return error.stage.removeprefix(_STAGE) if error.stage.startswith(_STAGE) else ""


def chosen_passes(recipe: Recipe) -> "tuple[Pass, ...]":
    """Returns the passes of a recipe, in order.

    Raises:
        UsageError: it names an unknown pass, option or preset.
    """
    from .. import passes

    known = passes.names()
    named = [(option, name) for option in ("skip", "explain") for name in getattr(recipe, option)]
    for option, name in (*named, *(("pass", one.partition("{")[0]) for one in recipe.only)):
        if name not in known:
            guess = did_you_mean(name, known)
            hint = f"{guess} See planc passes" if guess.startswith("Did") else "See planc passes"
            raise UsageError(f"--{option} {name}: unknown pass", hint=hint)
    if recipe.family not in passes.PRESETS:
        raise UsageError(f"unknown preset {recipe.family!r}", hint=did_you_mean(recipe.family, passes.PRESETS))
    try:
        wanted = tuple(map(passes.parse, recipe.only)) or passes.PRESETS[recipe.family]
    except ValueError as error:
        raise UsageError(f"--pass: {error}", hint="See planc passes") from error
    if recipe.keep_origin:
        keeping = passes.StripMetadata(keep_origin=True)
        wanted = tuple(keeping if isinstance(one, passes.StripMetadata) else one for one in wanted)
    return tuple(one for one in wanted if one.name not in recipe.skip)


def describe_passes(*, emit: Emit) -> list[dict[str, Any]]:
    """Returns name, first line of documentation, options and presets of each pass (in a worker)."""
    from dataclasses import fields

    from .. import passes

    emit("stage", "passes")
    return [
        {
            "name": name,
            "description": (cls.__doc__ or "").splitlines()[0],
            "options": {one.name.replace("_", "-"): one.default for one in fields(cls)},
            "presets": [family for family, order in passes.PRESETS.items() if any(type(one) is cls for one in order)],
        }
        for name, cls in passes.names().items()
    ]


def run(source: Path, out: Path, recipe: Recipe, skipped: dict[str, str], *, emit: Emit) -> Report:
    """Runs the passes from file to file (in a worker).

    Raises:
        UsageError: the recipe names an unknown pass or option.
        BuildFailed: no valid graph came out, or a pass failed and the recipe is strict.
    """
    from . import reference, storage
    from .frontends.onnx import read
    from .graph import size

    emit("stage", "optimize")
    reader = partial(storage.load if recipe.own else read, source, shapes=recipe.trusted)
    chosen, model = chosen_passes(replace(recipe, keep_origin=True)), reader()
    before, origins, loads = size(model), _origins(model), chain([model], repeat(None))
    stated = [value.shape.copy() if value.shape is not None else None for value in model.graph.outputs]

    def load() -> "ir.Model":
        fresh = next(loads) or reader()
        for value in fresh.graph.outputs if not recipe.trusted else ():
            value.shape = None
        return fresh

    for thorough in (False, True):  # the full check after each pass only where the result is not valid
        model, done, left_out = apply(
            load,
            chosen,
            skipped=skipped,
            strict=recipe.strict,
            thorough=thorough,
            explain=recipe.explain,
            emit=emit,
        )
        near = {one["name"]: one.pop("near_misses") for one in done if "near_misses" in one}
        emit("stage", "write")
        modules = _by_module({**origins, **_origins(model)})
        if not recipe.keep_origin:
            _strip(model, chosen)
        for value, shape in zip(model.graph.outputs, stated, strict=True):
            value.shape = _restated(value.shape, shape)
        with files.telling(out.parent):
            write(model, out, embed=recipe.embed)
        failure = None if recipe.own else reference.refusal(out)
        if failure is None:
            return Report(before, size(model), done, left_out, explained=near, modules=modules)
    raise BuildFailed(f"ONNX Runtime cannot load the optimized graph: {failure}") from failure


def _origins(model: "ir.Model") -> dict[str, str]:
    """Returns the path of the PyTorch module by name of each node, and of each value.

    A value is of the product that it comes from, through what runtimes fuse into products: they name those after it.
    """
    from ..passes import ORIGIN

    found: dict[str, str] = {}
    products: dict[ir.Node, str] = {}
    for node in model.graph.all_nodes():
        own = node.metadata_props.get(ORIGIN, "")
        makers = [value.producer() for value in node.inputs if value is not None and len(value.uses()) == 1]
        fused = (products[one] for one in makers if one in products) if node.op_type in _FUSED else iter(())
        made = own if node.op_type in _PRODUCTS else next(fused, "")
        if made:
            products[node] = made
        found |= {value.name: made or own for value in node.outputs if value.name}
        if node.name:
            found[node.name] = own
    return {name: origin for name, origin in found.items() if origin}


def _by_module(origins: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, origin in origins.items():
        found.setdefault(origin, []).append(name)
    return found


def _strip(model: "ir.Model", chosen: "Sequence[Pass]") -> None:
    """Removes the origins, where the notes were to be removed."""
    from ..passes import StripMetadata

    if any(isinstance(one, StripMetadata) for one in chosen):
        StripMetadata()(model)


def _restated(found: "ir.Shape | None", stated: "ir.Shape | None") -> "ir.Shape | None":
    """Returns an output's shape as found, under the names that the source gives its sizes."""
    import onnx_ir as ir

    if found is None or stated is None or len(found) != len(stated):
        return stated if found is None else found
    pairs = zip(found, stated, strict=True)
    return ir.Shape(
        [have if isinstance(have, int) or isinstance(want, int) or not want.value else want for have, want in pairs]
    )


def apply(
    load: "Callable[[], ir.Model]",
    chosen: "Sequence[Pass]",
    *,
    skipped: Mapping[str, str] = MappingProxyType({}),
    strict: bool = False,
    thorough: bool = False,
    explain: Sequence[str] = (),
    emit: Emit = lambda _kind, _value: None,
) -> "tuple[ir.Model, list[dict[str, Any]], dict[str, str]]":
    """Runs passes on a graph; after a failure, again from the start without the one that failed.

    Args:
        load: gives the graph anew.
        chosen: passes in order.
        skipped: names that do not run, with the reason.
        strict: whether a failure is an error.
        thorough: whether the ONNX checker looks at the graph after each pass.
        explain: names of passes after which their near misses are collected.
        emit: receives the stages.

    Returns:
        The graph, what each pass did, and the passes left out with the reason.

    Raises:
        BuildFailed: a pass failed and `strict` is set.
    """
    left_out = dict(skipped)
    while True:
        model = load()
        done, failed = _apply(model, [one for one in chosen if one.name not in left_out], thorough, explain, emit)
        if failed is None:
            return model, done, left_out
        name, reason = failed
        if strict:
            raise BuildFailed(f"pass {name}: {reason}", hint=f"Leave it out with --skip {name}, or drop --strict")
        emit("note", f"left out the pass {name}: {reason}")
        left_out[name] = reason


def _apply(
    model: "ir.Model", chosen: "Sequence[Pass]", thorough: bool, explain: Sequence[str], emit: Emit
) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    """Runs the passes in place; returns what each did, and the name and reason of the first that failed."""
    from ..passes import all_graphs, check, signature

    wanted, total = signature(model), sum(map(len, all_graphs(model)))
    done: list[dict[str, Any]] = []
    for one in chosen:
        emit("stage", f"{_STAGE}{one.name}")
        emit("within", PASS_SECONDS)
        start, nodes = time.perf_counter(), len(model.graph)
        try:
            modified = bool(one(model).modified) or len(model.graph) != nodes
            if modified:
                total = sum(map(len, all_graphs(model)))
                check(model, wanted)
                if thorough:
                    _check_fully(model)
        except Exception as error:
            return done, (one.name, named(error))
        done.append(
            {
                "name": one.name,
                "modified": modified,
                "nodes": total,
                "seconds": round(time.perf_counter() - start, 3),
            }
        )
        if one.name in explain:
            try:
                done[-1]["near_misses"] = _near_misses(one, model.clone())
            except Exception as error:  # it costs the explanation, not the pass
                emit("note", f"the pass {one.name} cannot be explained: {named(error)}")
    return done, None


def _near_misses(one: "Pass", model: "ir.Model") -> list[dict[str, str]]:
    from ..passes import ORIGIN

    return [
        {"node": node.name or "", "origin": node.metadata_props.get(ORIGIN, ""), "op": node.op_type, "reason": reason}
        for node, reason in one.near_misses(model)
    ]


def _check_fully(model: "ir.Model") -> None:
    import onnx_ir as ir
    import onnx_ir.passes.common as common

    without = [value for value in model.graph.outputs if value.shape is None]
    for value in without:  # the checker wants a shape, whichever: no pass is to blame that none was inferred
        value.shape = ir.Shape([])
    try:
        common.CheckerPass()(model)
    finally:
        for value in without:
            value.shape = None


def write(model: "ir.Model", out: Path, *, embed: bool) -> None:
    """Writes a graph that says planc made it.

    Args:
        model: the graph.
        out: the .onnx.
        embed: whether weights go into the file. Beyond 1.8 GB they go beside it all the same, under a name of their
            own content, so that an older file never finds the data of a newer one.
    """
    from . import storage
    from .graph import size

    model.producer_name, model.producer_version = _PRODUCER, None
    if not embed:
        storage.save(model, out)
    elif size(model)["weights_bytes"] > MOST_EMBEDDED_BYTES:
        storage.save_named_by_content(model, out)
    else:
        storage.save_whole(model, out)

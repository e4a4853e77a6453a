"""From planc.toml to jobs: models x targets x precisions, each with its gates, its place and its own configuration."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from . import files, recipe, schema, toml
from .errors import Unavailable, UsageError, did_you_mean
from .gates import Gates
from .target import Precision, Target, resolve

NAME = "planc.toml"
_TEMPLATE = Path(__file__).parent / NAME
_SCHEMA = schema.PLANC.name
_FILES = (".onnx", ".pt2", ".pt", ".pth")
_SCALES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SECONDS = {"s": 1, "min": 60, "h": 3600}
_LOWER_ONLY = {
    "calibration", "samples", "method", "ranges", "allow_random_calibration", "dynamic", "exclude", "smoothing", "eval",
}  # fmt: skip
"""Keys of a model that fp32 does not depend on."""
_KEYS = {
    "--input": "inputs", "--dim": "dims", "--weights": "weights", "--inputs": "real_inputs", "-p": "precisions",
    "--trust-pickle": "trust_pickle = true", "--calibration": "calibration", "--samples": "samples", "-t": "targets",
    "--method": "method", "--ranges": "ranges", "--allow-random-calibration": "allow_random_calibration",
    "--dynamic": "dynamic = true", "--exclude": "exclude", "--smoothing": "smoothing", "--eval": "eval",
    "--max-drop": "gates.max_drop", "--tolerance": "tolerance", "-O": "options", "--memory-limit": "limits.memory",
}  # fmt: skip
"""What the command line calls a thing -> its key."""
_FLAG = re.compile(r"(?<!\S)(--?[A-Za-z][a-z-]*)(?: '([^'=]+)=([^']*)'| ([\w.-]+)=(\S*?)(?=[:,.]?(?:\s|$)))?")


@dataclass(frozen=True)
class Entry:
    """A job of planc.toml.

    Attributes:
        job: what is built.
        gates: what the artifact must hold; bounds on the loss of accuracy are the guard's where the graph is lowered.
        resources: what a cluster's worker must have.
        memory: most memory that building it takes, in bytes, where planc.toml says so.
        out: folder of the artifact.
        resolved: this job's configuration with all defaults, for its manifest: JSON-able, without absolute paths.
        skipped: why it cannot be built on this machine; empty where it can.
    """

    job: recipe.Job
    gates: Gates
    resources: Mapping[str, float]
    memory: int | None
    out: Path
    resolved: Mapping[str, Any]
    skipped: str = ""

    @property
    def rival(self) -> recipe.Job | None:
        """The same model for the same target in fp32, where a gate compares with it."""
        if self.gates.min_speedup is None:
            return None
        how = recipe.Quantization()
        return replace(self.job, precision=Precision.FP32, quantization=how, tolerance=(), objective="")

    @property
    def id(self) -> str:
        """Such as `minilm-openvino-cpu-int8`."""
        return self.job.id


@dataclass(frozen=True)
class Project:
    """What planc.toml says.

    Attributes:
        file: planc.toml.
        jobs: in its order.
        cache: URL of the remote cache; empty without one.
        seconds: longest time of a worker process.
        memory: most memory of a worker process, as `recipe.limits` takes it.
    """

    file: Path
    jobs: tuple[Entry, ...]
    cache: str = ""
    seconds: float = 3600.0
    memory: str | None = None


@dataclass(frozen=True)
class _Part:
    """One model in one [[build]].

    Attributes:
        file: planc.toml.
        name: of the model.
        model: its table.
        build: the table of the build.
        index: number of the build.
        own: the project's targets.
    """

    file: Path
    name: str
    model: Mapping[str, Any]
    build: Mapping[str, Any]
    index: int
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder that paths are relative to."""
        return self.file.parent


def load(path: Path, *, overrides: Sequence[str] = ()) -> Project:
    """Reads planc.toml. Jobs that this machine cannot build are there, with the reason in `skipped`.

    Args:
        path: the file; paths in it are relative to its folder.
        overrides: such as "model.net.dims.batch=1..8": what replaces or adds a key.

    Raises:
        UsageError: it is no TOML, has an unknown key or a wrong value, or names what is not there.
    """
    document = _document(path, overrides)
    if not document.get("build"):
        raise UsageError(f"{path}: no [[build]], so there is nothing to build", hint='Add [[build]] targets = ["cpu"]')
    jobs = tuple(entry for part in _parts(path, document) for entry in _entries(part, document["output"]))
    _require_apart(path, jobs)
    limits = document.get("limits", {})
    with _within(f"{path}: [limits] memory:"):
        recipe.bytes_of(limits.get("memory", "1GiB"))
    return Project(
        path,
        jobs,
        cache=document.get("cache", {}).get("url", ""),
        seconds=_number(limits["time"], _SECONDS) if "time" in limits else Project.seconds,
        memory=limits.get("memory"),
    )


def select(
    entries: Sequence[Entry], only: Sequence[str] = (), skip: Sequence[str] = (), require: Sequence[str] = ()
) -> tuple[Entry, ...]:
    """Returns the entries whose ids match one of `only` (all without it) and none of `skip`, all of them globs.

    Raises:
        UsageError: one of `only` or `require` matches nothing, or nothing is left.
        Unavailable: what one of `require` matches cannot be built here.
    """
    ids = [entry.id for entry in entries]
    for glob in only:
        if not any(fnmatchcase(one, glob) for one in ids):
            raise UsageError(f"--only {glob}: no such job", hint=did_you_mean(glob, ids))
    found = tuple(
        entry for entry in entries if (not only or _matches(entry, only)) and not _matches(entry, skip)
    )  # fmt: skip
    for glob in require:
        wanted = [entry for entry in found if _matches(entry, [glob])]
        if not wanted:
            raise UsageError(f"--require {glob}: no such job", hint=did_you_mean(glob, [entry.id for entry in found]))
        for entry in wanted:
            if entry.skipped:
                raise Unavailable(f"--require {glob}: {entry.id}: {entry.skipped}", hint="See planc doctor")
    if not found:
        raise UsageError("--only and --skip leave no job", hint=f"There are {', '.join(ids[:8])}")
    return found


def for_others(entries: Sequence[Entry]) -> list[Entry]:
    """Returns the entries for other machines, which say themselves what they cannot build."""
    return [replace(entry, skipped="") for entry in entries]


def init(folder: Path) -> list[Path]:
    """Writes a commented planc.toml for the first model file of `folder`, and its schema, which editors read.

    Raises:
        UsageError: there is a planc.toml, or no such folder.
        IOFailed: the place cannot be written to.
    """
    made = folder / NAME
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}", hint=f"mkdir -p {folder}")
    if made.exists() or made.is_symlink():
        raise UsageError(f"{made} exists", hint="Edit it, or move it away first")
    text = _TEMPLATE.read_text(encoding="utf-8")
    models = sorted(one.name for one in folder.iterdir() if one.suffix in (".onnx", ".pt2") and one.is_file())
    if models:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(models[0]).stem).strip("-") or "net"
        text = text.replace("[model.net]", f"[model.{name}]").replace('"net.onnx"', toml.text(models[0]))
    written = {made: text, folder / _SCHEMA: schema.PLANC.read_text(encoding="utf-8")}
    for path, content in written.items():
        if not path.exists():
            files.write_text(path, content)
    return list(written)


def _document(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The checked document, with the defaults of the schema; says whether the file or an override is wrong."""
    known, document = schema.read(), toml.read(path)
    for text in overrides:
        toml.override(document, text)
    try:
        schema.check(document, known)
    except UsageError as error:
        with _within(f"{path}:"):
            schema.check(toml.read(path), known)
        raise UsageError(f"--set {' '.join(overrides)}: {error.what}", hint=error.hint) from None
    filled: dict[str, Any] = schema.filled(document, known)
    return filled


def _parts(path: Path, document: Mapping[str, Any]) -> Iterator[_Part]:
    """Each model of each [[build]], in the file's order."""
    models, own = document.get("model", {}), document.get("target", {})
    for index, build in enumerate(document["build"]):
        if not models:
            raise UsageError(f"{path}: no model", hint='Add [model.net] source = "net.py:net"')
        for name in build.get("models", models):
            if name not in models:
                place = schema.where(("build", index, "models"))
                raise UsageError(f"{path}: {place}: no model {name!r}", hint=did_you_mean(name, models))
            yield _Part(path, name, models[name], build, index, own)


def _entries(part: _Part, output: str) -> Iterator[Entry]:
    """The jobs of a model in a [[build]]: its targets x its precisions."""
    model, build = part.model, part.build
    place = part.root / build.get("output", output)
    with _within(f"{part.file}: {schema.where(('model', part.name))}:"):
        source = _source(part)
        recipe.tolerances(_words(model["tolerance"]))
    with _within(f"{part.file}: {schema.where(('build', part.index))}:"):
        recipe.tolerances(_words(build["tolerance"]))
        recipe.quantization(max_drop=_bounds(part))
    words = _words({**model["tolerance"], **build["tolerance"]})
    targets = [_target(part, name) for name in build["targets"]]
    both = any(
        _is_lowered(recipe.draft(source, target, precision, name=part.name))
        for target in targets for precision in build["precisions"]
        if precision in (Precision.FP16, Precision.BF16)
    )  # fmt: skip
    quantization = cache(lambda precision: _quantization(part, precision, both))
    for target in targets:
        own = part.own.get(target.name, {})
        for precision in build["precisions"]:
            job, skipped = _job(part, source, target, precision, words, quantization)
            whole = replace(job, source=replace(job.source, brief=False))  # one export serves every precision
            yield Entry(
                whole,
                _gates(part, job),
                own.get("resources", {}),
                _bytes(part, ("target", target.name, "memory"), own.get("memory")),
                place / job.id,
                _resolved(part, target, precision),
                skipped,
            )


def _source(part: _Part) -> recipe.Source:
    model, text = part.model, part.model["source"]
    is_module = ":" in text and ".py:" not in text and not text.endswith(_FILES)
    weights, data = model.get("weights"), model.get("real_inputs")
    source = recipe.source(
        text if is_module else _at(part.root, text),
        inputs=_words(model["inputs"]),
        dims=_words(model["dims"]),
        weights=None if weights is None else part.root / weights,
        data=None if data is None else part.root / data,
        trust_pickle=model["trust_pickle"],
    )
    return replace(source, root=part.root) if is_module else source


def _is_lowered(job: recipe.Job) -> bool:
    return recipe.lowered(recipe.alternatives(job))


def _quantization(part: _Part, precision: str, both: bool) -> recipe.Quantization:
    """What a lowered graph is made from: ranges for 16 bits too, where there is real data; `both` want one table."""
    model, int8 = part.model, precision in (Precision.INT8, recipe.AUTO)
    data, table = model.get("calibration", ""), model.get("ranges")
    with _within(f"{part.file}: {schema.where(('model', part.name))}:"):
        made = recipe.quantization(
            data=_at(part.root, data),
            samples=model.get("samples"),
            method=model["method"],
            table=None if table is None else part.root / table,
            random=model["allow_random_calibration"] and int8,
            keep=[f"@{part.root / one[1:]}" if one.startswith("@") else one for one in model["exclude"]],
            smoothing=model["smoothing"],
            max_drop=_bounds(part),
            evaluation=_at(part.root, model.get("eval", "")),
            dynamic=model["dynamic"] and precision == Precision.INT8,
        )
        if model["shards"] > 1 and not data:
            raise UsageError("shards goes with calibration", hint="Add calibration, or leave shards out")
    both = both and bool(data or table)
    return replace(made, calibration=replace(made.calibration, everything=both, shards=model["shards"]))


def _target(part: _Part, name: str) -> Target:
    place = ("target", name) if name in part.own else ("build", part.index, "targets")
    with _within(f"{part.file}: {schema.where(place)}:"):
        return resolve(name, part.own)


def _job(
    part: _Part,
    source: recipe.Source,
    target: Target,
    precision: str,
    tolerance: Sequence[str],
    quantization: Callable[[str], recipe.Quantization],
) -> tuple[recipe.Job, str]:
    """The job, and why it cannot be built here; empty where it can."""
    bare = recipe.draft(source, target, precision, name=part.name)
    lowered = precision == recipe.AUTO or (precision != Precision.FP32 and _is_lowered(bare))
    objective = part.build["optimize"] if precision == recipe.AUTO else ""
    how = quantization(precision) if lowered else recipe.Quantization()
    paths = recipe.path_options(bare)
    given = _words(_rooted(part, part.build["options"], paths))
    target = replace(target, options=_rooted(part, target.options, paths))
    with _within(f"{part.file}: {schema.where(('build', part.index))} {part.name} on {target.name}:"):
        job = recipe.draft(
            source,
            target,
            precision,
            options=given,
            tolerance=tolerance,
            quantization=how,
            objective=objective,
            name=part.name,
        )
        try:
            recipe.require_buildable(job)
        except Unavailable as error:
            return job, error.what
        return job, ""


def _gates(part: _Part, job: recipe.Job) -> Gates:
    gates = part.build["gates"]
    p99, speed, growth = (gates.get(one) for one in ("max_p99", "min_speedup", "max_regression"))
    size, rss = (gates.get(one) for one in ("max_size", "max_rss"))
    fp32 = job.precision is Precision.FP32 and not job.objective
    return Gates(
        max_p99_ms=None if p99 is None else _number(p99, _SCALES),
        min_speedup=None if speed is None or fp32 else _number(speed, {"x": 1}),
        max_slowdown=None if growth is None else 1 + _number(growth, {"%": 0.01}),
        max_size_bytes=_bytes(part, ("build", part.index, "gates", "max_size"), size),
        max_rss_bytes=_bytes(part, ("build", part.index, "gates", "max_rss"), rss),
        max_drop=() if fp32 or job.objective or _is_lowered(job) else _bounds(part),
    )


def _bytes(part: _Part, place: schema.Place, text: str | None) -> int | None:
    with _within(f"{part.file}: {schema.where(place)}:"):
        return None if text is None else recipe.bytes_of(text)


def _bounds(part: _Part) -> tuple[str, ...]:
    """The bounds of `max_drop`; metrics of the user's own are files beside planc.toml."""
    given = part.build["gates"].get("max_drop", {})
    return tuple(_words({_at(part.root, name) if ".py:" in name else name: value for name, value in given.items()}))


def _resolved(part: _Part, target: Target, precision: str) -> Mapping[str, Any]:
    fp32 = precision == Precision.FP32
    unused = {"description", "shards", *(_LOWER_ONLY if fp32 else ())}
    gates = {name: one for name, one in part.build["gates"].items() if not (fp32 and name == "max_drop")}
    resolved: Mapping[str, Any] = _portable(
        {
            "model": {"name": part.name, **{name: one for name, one in part.model.items() if name not in unused}},
            "target": {
                "name": target.name,
                "backend": target.backend or list(target.candidates),
                "arch": list(target.arch),
                "options": dict(target.options),
            },
            "precision": precision,
            **({"optimize": part.build["optimize"]} if precision == recipe.AUTO else {}),
            "options": part.build["options"],
            "tolerance": {**part.model["tolerance"], **part.build["tolerance"]},
            "gates": gates,
        },
        part.root.resolve(),
    )
    return resolved


def _portable(value: Any, root: Path) -> Any:
    """A copy without absolute paths: relative to `root` where they are within, else the name of the file."""
    if isinstance(value, Mapping):
        return {_portable(name, root): _portable(one, root) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(one, root) for one in value]
    if not isinstance(value, str) or not value.removeprefix("@").startswith("/"):
        return value
    path = Path(value.removeprefix("@"))
    short = str(path.relative_to(root)) if path.is_relative_to(root) else path.name
    return f"@{short}" if value.startswith("@") else short


def _require_apart(path: Path, jobs: Sequence[Entry]) -> None:
    """Checks that no two jobs have one id, and that no artifact lies within another."""
    places: dict[str, Path] = {}
    for entry in jobs:
        if entry.id in places:
            raise UsageError(
                f"{path}: the job {entry.id} is there twice", hint="Name each model, target and precision once"
            )
        places[entry.id] = entry.out
    outs = set(places.values())
    for name, out in places.items():
        if inner := outs.intersection(out.parents):
            raise UsageError(
                f"{path}: the artifact of {name} would lie in that of {inner.pop().name}", hint="Change output"
            )


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Puts a place before what is wrong in the block, in the words of planc.toml."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{place} {_in_keys(error.what)}", hint=_in_keys(error.hint)) from error


def _in_keys(text: str) -> str:
    """`Write --dim batch=1..8` -> `Write dims.batch = "1..8"`."""

    def key(match: re.Match[str]) -> str:
        flag, name, value = match[1], match[2] or match[4], match[3] or match[5]
        if flag not in _KEYS:
            return match[0]
        return _KEYS[flag] if name is None else f"{_KEYS[flag]}.{toml.key(name)} = {toml.text(toml.value(value))}"

    return _FLAG.sub(key, text)


def _matches(entry: Entry, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(entry.id, glob) for glob in globs)


def _words(pairs: Mapping[str, Any]) -> list[str]:
    """`{"a": True}` -> ["a=true"], as the command line has it."""
    return [f"{name}={str(one).lower() if isinstance(one, bool) else one}" for name, one in pairs.items()]


def _at(root: Path, text: str) -> str:
    return str(root / text) if text else ""


def _rooted(part: _Part, options: Mapping[str, Any], paths: set[str]) -> dict[str, Any]:
    """Options whose paths are relative to planc.toml."""
    return {
        name: _at(part.root, str(value)) if name.replace("-", "_") in paths else value
        for name, value in options.items()
    }


def _number(value: Any, units: Mapping[str, float]) -> float:
    """A number, or one with a unit: its factor is applied."""
    if not isinstance(value, str):
        return float(value)
    number = value.rstrip("abcdefghijklmnopqrstuvwxyz% ")
    return float(number) * units[value[len(number) :].strip()]

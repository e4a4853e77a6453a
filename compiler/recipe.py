"""From what a user typed to a Job: everything is checked here, before any work."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from . import exclusions, host, shapes
from .errors import Unavailable, UsageError, did_you_mean
from .shapes import Dim, TensorSpec
from .target import Precision, Target, find_precision, find_target
from .worker import Limits

_MODULE = re.compile(r"\w+(\.\w+)*:\w+")
NO_DATA = "Add --calibration DATA (.npz, folder or file.py:callable), or --dynamic for onnxruntime-cpu without data"
AUTO = "auto"
"""The precision that `choose` finds."""
OBJECTIVES = ("latency", "throughput", "size")
_DYNAMIC = ("onnxruntime", "null")
_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        text: `file.py:callable`, `pkg.mod:callable`, or the path of a .onnx, .pt2 or .pt file.
        inputs: specs of the inputs; empty where the model tells them itself.
        dims: sizes of the named dimensions.
        weights: state dict that is loaded into the module (.pt, .pth, .safetensors).
        data: .npz with real inputs; its arrays take the place of random ones at the point "opt", and at each point
            where the graph is lowered.
        trust_pickle: whether files may run code when they are read.
        brief: whether an ONNX file's reference runs at the point "opt" only, since real samples will run at all.
        root: folder that `pkg.mod:callable` is imported from.
    """

    text: str
    inputs: tuple[TensorSpec, ...] = ()
    dims: tuple[Dim, ...] = ()
    weights: Path | None = None
    data: Path | None = None
    trust_pickle: bool = False
    brief: bool = False
    root: Path = Path()

    @property
    def frontend(self) -> str:
        """Name of the file in `frontends/` that reads it."""
        return "onnx" if self.text.endswith(".onnx") else "torch"

    @property
    def name(self) -> str:
        """Short name: the callable's, or the file's stem."""
        path, colon, function = self.text.rpartition(":")
        return function if colon and path else Path(self.text).stem


@dataclass(frozen=True)
class Calibration:
    """Where the ranges of activations come from.

    Attributes:
        data: an .npz, a folder of .npz or .npy files, or `file.py:callable` that yields dicts; empty for none.
        samples: how many of them are used; None for all.
        method: file in `calibration/`.
        table: a ready ranges.json.
        random: whether random data may take the place of real data.
        everything: whether all float32 tensors are watched, as 16 bits need, and not only those that INT8 does: one
            table then serves both.
        shards: parts of the data that are observed apart, as tasks of a build; the table is the same.
    """

    data: str = ""
    samples: int | None = None
    method: str = "mse"
    table: Path | None = None
    random: bool = False
    everything: bool = False
    shards: int = 1

    @property
    def given(self) -> bool:
        """Whether there is anything to take ranges from."""
        return bool(self.data or self.table or self.random)


@dataclass(frozen=True)
class Guard:
    """Which loss of accuracy is allowed, and on which data.

    Attributes:
        bounds: such as "top1=0.5pp", see `calibration/metrics.py`.
        data: as `Calibration.data`; empty for the calibration data.
        state: file that keeps what was measured, for a search that goes on later.
        listing: file that gets the names of the layers that were found, see `exclusions`.
        budget: most graphs that are built and measured.
    """

    bounds: tuple[str, ...] = ()
    data: str = ""
    state: Path | None = None
    listing: Path | None = None
    budget: int = 200


@dataclass(frozen=True)
class Quantization:
    """How a model gets to a low precision.

    Attributes:
        calibration: of INT8 activations, or of ranges that FP16 must hold.
        keep: names, PyTorch module paths or globs of nodes that stay in float32.
        smoothing: share of the activations' outliers that weights take, 0 for none.
        guard: the accuracy that must be left.
        dynamic: whether each activation is quantized by the range that it has when it comes, without calibration.
        files: what all this was read from, but for what a Python file imports.
    """

    calibration: Calibration = Calibration()
    keep: tuple[str, ...] = ()
    smoothing: float = 0.7
    guard: Guard = Guard()
    dynamic: bool = False
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Job:
    """One model for one target in one precision.

    Attributes:
        source: the model.
        target: where it will run.
        precision: what the user asks for.
        options: options of the target's backend, as (name, text); checked by `backend_options`.
        tolerance: bounds that replace the defaults of `tolerance.TOLERANCES`, by name.
        quantization: how the model gets to the precision.
        chosen_for: the target that this one is a candidate of, such as "cpu"; empty where the user named it.
        model: the model's name in planc.toml; empty for the source's own.
        objective: "latency", "throughput" or "size", which planc is to choose precision and threads for; empty where
            the user did.
    """

    source: Source
    target: Target
    precision: Precision
    options: tuple[tuple[str, str], ...] = ()
    tolerance: tuple[tuple[str, float], ...] = ()
    quantization: Quantization = Quantization()
    chosen_for: str = ""
    model: str = ""
    objective: str = ""

    @property
    def id(self) -> str:
        """Such as `resnet50-openvino-cpu-fp32`; a candidate has the id of the target that it is chosen for."""
        target = self.chosen_for or self.target.name
        precision = AUTO if self.objective else self.precision
        return f"{self.model or self.source.name}-{target.replace(':', '-')}-{precision}"


def source(
    model: str,
    *,
    inputs: Sequence[str] = (),
    dims: Sequence[str] = (),
    weights: Path | None = None,
    data: Path | None = None,
    trust_pickle: bool = False,
) -> Source:
    """Checks the words that name a model and its shapes.

    Raises:
        UsageError: the form is unknown, a file is missing, a shape does not parse or a dimension has no sizes.
    """
    from .files import require_file

    path, colon, function = model.rpartition(":")
    if model.endswith((".onnx", ".pt2", ".pt", ".pth")):
        require_file(Path(model))
    elif colon and path.endswith(".py"):
        require_file(Path(path))
    elif not colon or not path or not all(part.isidentifier() for part in (*path.split("."), function)):
        raise UsageError(
            f"cannot tell what kind of model {model!r} is",
            hint="Give file.py:callable, pkg.mod:callable, model.onnx or model.pt2",
        )
    if model.endswith((".pt", ".pth")) and not trust_pickle:
        raise UsageError(
            f"{model} is a pickle: reading it runs code from it",
            hint="Export it with torch.export to a .pt2, or add --trust-pickle if you trust its author",
        )
    if weights is not None and ":" not in model and not model.endswith((".pt", ".pth")):
        raise UsageError(f"--weights does not go with {model}, which has weights", hint="Leave --weights out")
    if weights is not None:
        require_file(weights)
    known = onnx_source(model, inputs=inputs, dims=dims, data=data)
    for symbol in (symbol for spec in known.inputs for symbol in spec.symbols if known.frontend == "torch"):
        if not symbol.isidentifier():
            raise UsageError(f"--input: torch takes no dimension called {symbol!r}", hint="Write a word, such as batch")
    if known.inputs and known.frontend != "onnx":  # an ONNX file has inputs beside those that are named
        shapes.check_dims(known.inputs, known.dims)
    return replace(known, weights=weights, trust_pickle=trust_pickle)


def onnx_source(path: str, *, inputs: Sequence[str] = (), dims: Sequence[str] = (), data: Path | None = None) -> Source:
    """Checks the words that say what an ONNX file, whatever its name, runs on.

    Raises:
        UsageError: a shape does not parse, or the data is missing.
    """
    from .files import require_file

    parsed = tuple(shapes.parse_input(text) for text in inputs)
    sizes = tuple(shapes.parse_dim(text) for text in dims)
    if data is not None:
        require_file(data)
    return Source(path, parsed, sizes, data=data)


def job(
    model: Source,
    target: str | Target,
    precision: str,
    *,
    options: Sequence[str] = (),
    tolerance: Sequence[str] = (),
    quantization: Quantization = Quantization(),
    objective: str = "",
    name: str = "",
) -> Job:
    """Checks target, precision, backend options and tolerances, and puts them together.

    Args:
        model: the model.
        target: where it will run.
        precision: "auto" chooses by measuring.
        options: of the backend, such as "threads=2".
        tolerance: bounds, such as "cosine=0.99".
        quantization: how it gets to the precision.
        objective: of OBJECTIVES, for "auto"; empty for the latency.
        name: of the model in planc.toml.

    Raises:
        UsageError: an unknown name or a value that does not parse.
        Unavailable: the target cannot do the precision, or not on this machine.
    """
    made = draft(
        model, target, precision, options=options, tolerance=tolerance, quantization=quantization,
        objective=objective, name=name,
    )  # fmt: skip
    require_buildable(made)
    return made


def draft(
    model: Source,
    target: str | Target,
    precision: str,
    *,
    options: Sequence[str] = (),
    tolerance: Sequence[str] = (),
    quantization: Quantization = Quantization(),
    objective: str = "",
    name: str = "",
) -> Job:
    """Returns what `job` returns, without asking whether it can be built, here or at all.

    Raises:
        UsageError: an unknown name or a value that does not parse.
    """
    pairs = tuple(_pair("-O", text) for text in options)
    model = replace(
        model,
        brief=bool(quantization.calibration.data or quantization.guard.data)
        and model.frontend == "onnx"
        and precision != AUTO,
    )
    one = find_target(target) if isinstance(target, str) else target
    wanted = _objective(precision, objective)
    known = Precision.FP32 if wanted else find_precision(precision)
    return Job(model, one, known, pairs, tolerances(tolerance), quantization, model=name, objective=wanted)


def _objective(precision: str, objective: str) -> str:
    """What `auto` chooses for; empty for another precision."""
    if objective and objective not in OBJECTIVES:
        raise UsageError(f"--optimize {objective}: unknown objective", hint=did_you_mean(objective, OBJECTIVES))
    if objective and precision != AUTO:
        raise UsageError(f"--optimize {objective} goes with -p auto, not with {precision}", hint="Add -p auto")
    return (objective or OBJECTIVES[0]) if precision == AUTO else ""


def require_buildable(job: Job) -> None:
    """Checks that this machine can build a job, and that all that was given for it has an effect.

    Raises:
        UsageError: INT8 has no ranges to come from, or something does nothing for this precision.
        Unavailable: the target cannot do the precision, or not on this machine.
    """
    asked, quantization = job.precision, job.quantization
    if job.objective:
        _require_measurable(job)
        return
    if asked is Precision.INT8:
        require_data(quantization, job.source)
    elif asked is not Precision.FP32 and quantization != Quantization() and not lowered(candidates(job)):
        raise UsageError(
            f"{job.target.name} gets {asked.upper()} from its own compiler: "
            "calibration, bounds and --exclude do nothing there",
            hint="Leave them out, or lower the graph yourself: planc quantize -t null",
        )
    elif quantization.dynamic:
        raise UsageError(f"--dynamic goes with -p int8, not with {asked.upper()}", hint="Add -p int8")
    elif asked is Precision.FP32 and quantization != Quantization():
        raise UsageError("calibration and accuracy bounds go with lower precisions, not with FP32", hint="Add -p int8")
    for candidate in candidates(job):
        backend_options(candidate)


def lowered(jobs: Sequence[Job]) -> bool:
    """Whether the precision is laid down in the graph before the backend sees it, by the backend of each job."""
    from . import plugins

    return all(one.precision in plugins.load("backends", one.target.backend).LOWERED for one in jobs)


def quantization(
    *,
    data: str = "",
    samples: int | None = None,
    method: str = Calibration.method,
    table: Path | None = None,
    random: bool = False,
    keep: Sequence[str] = (),
    smoothing: float = Quantization.smoothing,
    max_drop: Sequence[str] = (),
    evaluation: str = "",
    state: Path | None = None,
    listing: Path | None = None,
    dynamic: bool = False,
) -> Quantization:
    """Checks the words that say how to quantize.

    Raises:
        UsageError: a file is missing, a method or metric unknown, or a number out of bounds.
    """
    from ..calibration import METHODS
    from .files import require_file

    for option, text in (("--calibration", data), ("--eval", evaluation)):
        if ".py:" in text:
            _require_callable(option, text)
        elif text and not (place := Path(text)).is_dir():
            if _MODULE.fullmatch(text) and not place.exists():
                module, _, name = text.partition(":")
                path = f"{module.replace('.', '/')}.py"
                raise UsageError(f"{option} {text}: data are given as a file", hint=f"Write {path}:{name}")
            require_file(place)
            if place.suffix not in (".npz", ".npy"):
                raise UsageError(
                    f"{option} {text}: not data", hint="Give an .npz, a folder of them or file.py:callable"
                )
    if table is not None:
        require_file(table)
    if samples is not None and samples < 1:
        raise UsageError(f"--samples {samples} is not positive", hint="Give a number such as --samples 64")
    if method not in METHODS:
        raise UsageError(f"--method {method}: unknown method", hint=did_you_mean(method, METHODS))
    if not 0 <= smoothing <= 1:
        raise UsageError(
            f"--smoothing {smoothing:g} is not between 0 and 1", hint="Give --smoothing 0.5, or 0 for none"
        )
    if sum(map(bool, (data, table, random))) > 1:
        raise UsageError(
            "--calibration, --ranges and --allow-random-calibration exclude each other", hint="Give one of them"
        )
    if table is not None and (samples or method != Calibration.method):
        raise UsageError("--ranges has samples and a method of its own", hint="Leave --samples and --method out")
    if dynamic and (data or table or random or samples):
        raise UsageError("--dynamic takes no calibration: activations are measured when they come", hint="Drop one")
    for option, file in (("--state", state), ("--write-exclude", listing)):
        if file is not None and not max_drop:
            raise UsageError(f"{option} goes with a search", hint="Add --max-drop METRIC=VALUE")
    if listing is not None:
        exclusions.require_replaceable(listing)
    bounds = tuple(_drop(text) for text in max_drop)
    kept = tuple(name for one in keep for name in _names(one))
    files = {file for text in (data, evaluation, *max_drop) for file in data_files(text)}
    files |= {Path(one[1:]) for one in keep if one.startswith("@")} | ({table} if table else set())
    return Quantization(
        Calibration(data, samples, method, table, random),
        kept,
        smoothing,
        Guard(bounds, evaluation, state, listing),
        dynamic,
        tuple(sorted(files)),
    )


def data_files(text: str) -> list[Path]:
    """The files that `data.npz`, a folder, `file.py:callable` or `file.py:callable=0.1` names."""
    if ".py:" in text:
        return [Path(text.partition(".py:")[0] + ".py")]
    place = Path(text)
    if text and place.is_dir():
        return sorted(path for path in place.iterdir() if path.suffix in (".npz", ".npy"))
    return [place] if text and place.is_file() else []


def require_data(quantization: Quantization, model: Source) -> None:
    """Checks that INT8 has ranges to come from; an ONNX file may bring them as Q/DQ of its own.

    Raises:
        UsageError: it has none.
    """
    if not quantization.dynamic and not quantization.calibration.given and model.frontend != "onnx":
        raise UsageError("INT8 needs calibration data", hint=NO_DATA)


def _drop(text: str) -> str:
    from ..calibration.bounds import parse

    if ".py:" in text:
        place, _, limit = text.rpartition("=")
        _number("--max-drop", place, limit)
        _require_callable("--max-drop", place)
        return text
    try:
        parse(text)
    except ValueError as error:
        raise UsageError(str(error), hint="Write --max-drop top1=0.5pp or cosine=0.005") from error
    return text


def _require_callable(option: str, text: str) -> None:
    from .user_code import require

    require(option, text)


def _names(text: str) -> list[str]:
    """The names of one --exclude: a file of them, or one name or glob."""
    return exclusions.read(Path(text[1:])) if text.startswith("@") else [text]


def tolerances(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Parses `cosine=0.999`.

    Raises:
        UsageError: there is no such bound, or the value is no number.
    """
    known = ("cosine", "sqnr_db", "relative", "atol", "mismatch")
    bounds = []
    for name, value in (_pair("--tolerance", text) for text in texts):
        if name not in known:
            raise UsageError(f"--tolerance {name}: unknown bound", hint=did_you_mean(name, known))
        bounds.append((name, _number("--tolerance", name, value)))
    return tuple(bounds)


def limits(model: Source | None, seconds: float, memory: str | None) -> Limits:
    """Returns the limits of a worker.

    Python code gets nine tenths of the machine's memory. A graph is data that nobody vouched for: it starts with
    768 MiB beside eight times its own size, and gets more where its inferred shapes show the need.

    Raises:
        UsageError: the memory is no size, or the time is not positive.
    """
    if not seconds > 0:  # NaN too
        raise UsageError(f"--time-limit {seconds:g} is not positive", hint="Give seconds, such as --time-limit 600")
    if memory is not None:
        return Limits(seconds, bytes_of(memory), bytes_of(memory))
    most = host.memory_bytes() * 9 // 10
    if model is None or model.frontend != "onnx":
        return Limits(seconds, most, most)
    return Limits(seconds, min(most, (768 << 20) + 8 * Path(model.text).stat().st_size), most)


def _require_measurable(job: Job) -> None:
    """Checks that what `auto` chooses among can be measured here."""
    from . import plugins

    if job.quantization.dynamic:
        raise UsageError("-p auto tries dynamic quantization by itself", hint="Leave --dynamic out")
    for one in alternatives(job):
        backend_options(one)
        if reason := plugins.load("backends", one.target.backend).unverifiable(one.target):
            raise Unavailable(f"-p auto measures, and {one.target.name} does not run here: {reason}", hint="Give -p")


def candidates(job: Job) -> list[Job]:
    """Returns the job for each backend that can do it here: itself, or one per candidate of its target.

    Raises:
        Unavailable: no backend can, with each one's reason.
    """
    jobs = alternatives(job)
    reasons = {one.target.name: _why_not(one) for one in jobs}
    able = [one for one in jobs if reasons[one.target.name] is None]
    if not able:
        several = len(reasons) > 1
        told = "; ".join(f"{name}: {reason}" if several else str(reason) for name, reason in reasons.items())
        raise Unavailable(
            f"{job.target.name} cannot build {job.precision.upper()} here: {told}", hint="See planc doctor"
        )
    return able


def alternatives(job: Job) -> list[Job]:
    """Returns the job for each backend that its target names: itself, or one per candidate with its own options."""
    if not job.target.candidates:
        return [job]
    targets = map(find_target, job.target.candidates)
    return [
        replace(job, target=replace(one, options={**one.options, **job.target.options}), chosen_for=job.target.name)
        for one in targets
    ]


def _why_not(job: Job) -> str | None:
    """Why the job's backend cannot do it, by itself or with these options; those of an unable one are not read."""
    from . import plugins

    backend = plugins.load("backends", job.target.backend)
    if reason := backend.why_not(job.target, job.precision, backend.Options()):
        return str(reason)
    return backend.why_not(job.target, job.precision, backend_options(job)) or _why_not_dynamic(job)


def _why_not_dynamic(job: Job) -> str | None:
    if not job.quantization.dynamic or job.target.backend in _DYNAMIC:
        return None
    return f"{job.target.name} runs dynamically quantized products in float32; it needs --calibration DATA"


def backend_options(job: Job) -> Any:
    """Returns the options of the job's backend: its defaults < the target's < the user's.

    Raises:
        UsageError: an unknown option, or a value that does not parse.
    """
    from . import plugins

    cls = plugins.load("backends", job.target.backend).Options
    known = {field.name: field.type for field in fields(cls)}
    values: dict[str, Any] = {}
    given: Mapping[str, object] = {**job.target.options, **dict(job.options)}
    for name, value in given.items():
        if name not in known:
            raise UsageError(
                f"-O {name}: {job.target.name} has no such option", hint=did_you_mean(name, known) or "Leave it out"
            )
        values[name] = _typed(name, str(known[name]), str(value))
    return cls(**values)


def on_all_cores(job: Job) -> Job:
    """Returns the job without a number of threads: for what is decided by results, which do not depend on it."""
    target = replace(job.target, options={name: one for name, one in job.target.options.items() if name != "threads"})
    return replace(job, target=target, options=tuple(pair for pair in job.options if pair[0] != "threads"))


def path_options(job: Job) -> set[str]:
    """Returns the options of the job's backends that are paths."""
    from . import plugins

    classes = (plugins.load("backends", one.target.backend).Options for one in alternatives(job))
    return {field.name for cls in classes for field in fields(cls) if "Path" in str(field.type)}


def request(job: Job, graph: Path, folder: Path, *, inputs: Sequence[TensorSpec] = (), dims: Sequence[Dim] = ()) -> Any:
    """Returns what the job's backend is asked to build from the ONNX file `graph` in `folder`."""
    from .backends import Request

    return Request(graph, job.precision, backend_options(job), folder, job.target, tuple(inputs), tuple(dims))


def bytes_of(text: str) -> int:
    """Parses `8GiB`, `500MB` or a number of bytes.

    Raises:
        UsageError: it is not of that form.
    """
    number = text.strip().rstrip("BbGgIiKkMm")
    unit = text.strip()[len(number) :].lower()
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"{text!r} is not a size", hint="Write it like 8GiB or 500MB")
    return size


def _pair(flag: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{flag} {text!r} is not of the form NAME=VALUE", hint=f"Write {flag} {name or 'NAME'}=VALUE")
    return name.strip().replace("-", "_"), value.strip()


def _number(flag: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):  # a bound that is NaN would hold always
        raise UsageError(f"{flag} {name}={value}: not a number", hint=f"Write {flag} {name}=0.999")
    return number


def _typed(name: str, kind: str, text: str) -> Any:
    kind = kind.removeprefix("<class '").removesuffix("'>")
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and text.isdecimal() and text.isascii():
        return int(text)
    if kind == "str":
        return text
    if kind.startswith(("pathlib.Path", "Path")):
        return Path(text)
    raise UsageError(
        f"-O {name}={text}: not of type {kind}", hint=f"Write -O {name}={'true' if kind == 'bool' else '1'}"
    )

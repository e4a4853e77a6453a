"""TensorRT and TensorRT-RTX plans. Both take precision from the graph; RTX builds on machines without a GPU."""

import hashlib
import json
import math
import re
import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files, protos, recipe
from ..artifact import LOG, Runner
from ..errors import BuildFailed, Unavailable, UsageError, did_you_mean, one_line
from ..shapes import Dim, TensorSpec
from ..target import Precision, Target
from . import Built, Layer, Request, _flavours, _networks
from ._flavours import FLAVOURS, Flavour

if TYPE_CHECKING:
    import numpy as np
    import tensorrt as trt

LOWERED = frozenset({Precision.FP16, Precision.BF16, Precision.INT8})
TRIALS = False
RUNS = True
LOCAL = False
STEADY = True
ORIGINS = True
PAYLOAD = "model.plan"
WIDE = {
    Precision.FP16: ("Celu", "MeanVarianceNormalization"),
    Precision.BF16: ("Celu", "HardSwish", "LpNormalization", "MeanVarianceNormalization", "Mish", "Shrink"),
}
"""Operators that the parser takes in float32 and not in these."""
WEIGHTS = "weights.onnx"
_CHOICES = {
    "around": ("", "fp32", "fp16", "bf16"),
    "hardware_compatibility": ("none", "ampere_plus", "same_compute_capability"),
    "profiling_verbosity": ("layer_names_only", "detailed", "none"),
}
_WANTED = {Precision.FP16: "float16", Precision.BF16: "bfloat16", Precision.INT8: "int8"}
_MOST_PROFILES = 32
_MOST_STREAMS = 64
_AMPERE_PLUS, _AMPERE = "ampere_plus", 80
_NO_GEMM = "FP32 GEMM is not supported"
_INNER_NAMES = re.compile(r"[\w./]+")
_WARM_UP = 3

Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Input -> its shapes at min, opt and max."""


@dataclass(frozen=True)
class Options:
    """Options of TensorRT and TensorRT-RTX; those that are not given are left to the library.

    Attributes:
        around: INT8: what the rest computes in, "fp32", "fp16" or "bf16"; empty for fp32, on sm75 for fp16.
        builder_optimization_level: 0 to 5: how long the builder searches.
        workspace: most GPU memory for intermediate results, such as 2GiB.
        max_aux_streams: most streams beside the main one on which parts run at the same time.
        strip_weights: leaves the weights out of the plan; they are put in when it is loaded. Needs a GPU.
        refit: makes a plan whose weights can be changed. Needs a GPU.
        weight_streaming: makes a plan that can keep its weights in the memory of the host.
        profiling_verbosity: "layer_names_only", "detailed" or "none": what the plan tells of its layers.
        tf32: whether products in float32 may round their operands to 10 bits of mantissa.
        cuda_graphs: TensorRT-RTX: captures the kernels of an inference when it is loaded.
        version_compatible: TensorRT: a plan that later versions run.
        hardware_compatibility: TensorRT: "ampere_plus" or "same_compute_capability", a plan for more than this GPU.
        timing_cache: TensorRT: a file that keeps what was measured, for the next build.
    """

    around: str = ""
    builder_optimization_level: int = -1
    workspace: str = ""
    max_aux_streams: int = -1
    strip_weights: bool = False
    refit: bool = False
    weight_streaming: bool = False
    profiling_verbosity: str = "layer_names_only"
    tf32: bool = False
    cuda_graphs: bool = False
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        """Checks words and sizes.

        Raises:
            UsageError: a value is not one of its choices, or no size.
        """
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UsageError(f"-O {name}={value}: unknown value", hint=did_you_mean(value, filter(None, choices)))
        if self.builder_optimization_level > 5:
            raise UsageError(
                f"-O builder_optimization_level={self.builder_optimization_level} is not one of 0 to 5",
                hint="Write -O builder_optimization_level=5 for the longest search",
            )
        if self.max_aux_streams > _MOST_STREAMS:
            raise UsageError(f"-O max_aux_streams={self.max_aux_streams} is above {_MOST_STREAMS}", hint="Write fewer")
        if self.workspace and recipe.bytes_of(self.workspace) >= 1 << 63:
            raise UsageError(f"-O workspace={self.workspace} is too much", hint="Write -O workspace=2GiB")
        if self.timing_cache is not None and not self.timing_cache.name:
            raise UsageError("-O timing_cache names no file", hint="Write -O timing_cache=timing.cache")


def why_not(target: Target, precision: Precision, options: Options) -> str | None:
    """Returns why no flavour can build the precision here; None where one can.

    Raises:
        UsageError: `around` is given for another precision than INT8.
    """
    if options.around and precision is not Precision.INT8:
        raise UsageError(f"-O around={options.around} goes with -p int8, not with {precision}", hint="Leave it out")
    if options.around in ("fp32", "bf16") and "sm75" in target.arch:
        return f"sm75 has no products in {options.around.upper()}"
    if (target.precisions and precision not in target.precisions) or (
        precision is Precision.BF16 and "sm75" in target.arch
    ):
        return f"{'+'.join(target.arch)} has no {precision.upper()}"
    return _choose(target, options)[1] or None


def unverifiable(target: Target) -> str | None:
    """Returns why a plan for the target cannot be executed here; None where it can."""
    here = _flavours.architectures()
    if not here:
        return "no GPU"
    if target.arch and not set(here) & set(target.arch):
        return f"the GPU is {', '.join(here)}"
    return None


def fingerprint() -> dict[str, str]:
    """Versions of the libraries that are installed."""
    versions = {flavour.module: flavour.version() for flavour in FLAVOURS.values()}
    return {name: version for name, version in versions.items() if version}


def around(target: Target, options: Options) -> Precision:
    """Returns what the rest of an INT8 graph computes in: sm75 has no products in float32."""
    return Precision(options.around or ("fp16" if "sm75" in target.arch else "fp32"))


def build(request: Request) -> Built:
    """Builds one plan for all compute capabilities of the target, with an optimization profile per choice of sizes.

    Raises:
        BuildFailed: the parser or the builder refuses the graph, or the precision had no effect.
    """
    flavour = _flavour(request)
    library = flavour.load()
    with (request.folder / LOG).open("w") as file:
        log = _log(library, file, request.folder.parent)
        network = _networks.parse(library, log, request.model)
        if not isinstance(network, _networks.Network):
            raise _refusal(flavour, _networks.refused(library, log, request.model, request.folder.parent, network))
        effective = _networks.precisions(network.definition)
        _prove(request.precision, effective)
        names = _borders(flavour, network, request.model)
        profiles = _named_profiles(request, names[0])
        config = _config(library, flavour, network, request, profiles)
        (request.folder / PAYLOAD).write_bytes(_plan(flavour, network, config, request, log))
        timings = _keep_timings(config, request.options) if request.options.timing_cache else ""
    if request.options.strip_weights:
        from .. import storage

        storage.save(storage.load(request.model), request.folder / WEIGHTS)
    session = {
        "flavour": next(name for name, one in FLAVOURS.items() if one is flavour),
        "arch": list(request.target.arch),
        "hardware_compatibility": request.options.hardware_compatibility,
        "version_compatible": request.options.version_compatible,
        "cuda_graphs": request.options.cuda_graphs,
        "inputs": list(names[0].values()),
        "outputs": list(names[1].values()),
        "profiles": [{name: list(map(list, shapes)) for name, shapes in one.items()} for one in profiles],
        **({"timing_cache_sha256": timings} if timings else {}),
    }
    digest = _digest(request, session, flavour)
    return Built(session=session, effective_precision=effective, semantic_sha256={PAYLOAD: digest})


def unsupported(request: Request) -> list["_networks.Refused"]:
    """Returns all nodes that the parser refuses, or else what the builder says; empty where a plan can be made.

    The builder is asked only where it needs no GPU, and so measures nothing: it takes about as long as the parser.
    Nothing is kept of what it makes.
    """
    flavour = _flavour(request)
    library = flavour.load()
    with (request.folder / LOG).open("w") as file:
        log = _log(library, file, request.folder)
        network = _networks.parse(library, log, request.model)
        if not isinstance(network, _networks.Network):
            return _networks.refused(library, log, request.model, request.folder, network)
        if not flavour.archs:
            return []
        try:
            profiles = _named_profiles(request, _borders(flavour, network, request.model)[0])
            _plan(flavour, network, _config(library, flavour, network, request, profiles), request, log)
        except BuildFailed as error:
            return [_networks.Refused("", "", str(error), "")]
    return []


def load(folder: Path, session: Mapping[str, Any]) -> Runner:
    """Loads a plan through Polygraphy's runner.

    Raises:
        Unavailable: no GPU, not the one that the plan is for, or a library is absent.
        BuildFailed: the library refuses the plan.
    """
    return _activate(folder, session)[1]


def provider(session: Mapping[str, Any]) -> str:
    """Returns who runs all layers."""
    return FLAVOURS[session["flavour"]].name


def profile(folder: Path, session: Mapping[str, Any], arrays: "Sequence[np.ndarray]", runs: int) -> list[Layer]:
    """Returns the times of the layers, as the library's profiler tells them; kinds and types it tells in names only.

    Raises:
        Unavailable: as `load`.
        BuildFailed: as `load`.
    """
    context, run = _activate(folder, {**session, "cuda_graphs": False})  # a captured graph tells of no layers
    times: dict[str, list[float]] = {}
    _listen(FLAVOURS[session["flavour"]].load(), context, times)
    for _ in range(_WARM_UP + runs):
        run(arrays)
    made = provider(session)
    return [
        Layer(
            names=(name, *_INNER_NAMES.findall(name)), op="", kernel="", provider=made, precision="",
            ms=statistics.median(some[_WARM_UP:] or some), product=False, conversion=name.startswith("Reformatting"),
        )
        for name, some in times.items()
    ]  # fmt: skip


def _listen(library: Any, context: Any, times: dict[str, list[float]]) -> None:
    """Lets the context tell the ms of each layer after each call."""

    class Listener(library.IProfiler):  # type: ignore[misc]  # of the library that is imported late
        def __init__(self) -> None:
            library.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    context.profiler = Listener()


def _activate(folder: Path, session: Mapping[str, Any]) -> tuple[Any, Runner]:
    """Returns the execution context of a plan, and a function that runs it."""
    flavour = FLAVOURS[session["flavour"]]
    here = _flavours.architectures()
    arch = session["arch"]
    hint = "Copy it to a machine with one: planc verify, run and bench work there"
    wide = session["hardware_compatibility"] == _AMPERE_PLUS and any(int(one[2:]) >= _AMPERE for one in here)
    if not here or (arch and not wide and not set(arch) & set(here)):
        raise Unavailable(
            f"{folder} runs on a GPU of {'+'.join(arch) or flavour.name}, and there is none here", hint=hint
        )
    if flavour.version() is None:
        raise Unavailable(f"{flavour.name} is not installed", hint=flavour.install)
    from polygraphy import config

    config.USE_TENSORRT_RTX = flavour.module == "tensorrt_rtx"  # it reads this when it imports one of the two
    from polygraphy.backend.trt import TrtRunner

    context = _context(flavour, folder, session)
    runner = TrtRunner(context)
    runner.activate()
    profiles = session["profiles"]
    inputs, outputs = session["inputs"], session["outputs"]
    turn = threading.Lock()  # an execution context runs one call at a time

    def run(arrays: "Sequence[np.ndarray]") -> "Sequence[np.ndarray]":
        feeds = dict(zip(inputs, arrays, strict=True))
        with turn:
            if len(profiles) > 1:
                runner.set_profile(_profile_of(profiles, feeds))
            results = runner.infer(feeds, copy_outputs_to_host=True)
            return [results[name].copy() for name in outputs]

    return context, run


def _digest(request: Request, session: Mapping[str, Any], flavour: Flavour) -> str:
    """SHA-256 of all that a plan is made of.

    The builder numbers its inner tensors in the order of their addresses, so that two plans of one graph differ in
    names. A worker with fixed addresses gives the same bytes; not every container lets a process fix them.
    """
    weights = sorted(protos.data_files(request.model))
    options = asdict(replace(request.options, timing_cache=None))
    facts = [*map(files.digest, (request.model, *weights)), session, options, flavour.module, flavour.version()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _flavour(request: Request) -> Flavour:
    """The library that `why_not` found."""
    flavour, reason = _choose(request.target, request.options)
    if flavour is None:
        raise Unavailable(f"{request.target.name} cannot be built here: {reason}", hint="See planc doctor")
    return flavour


def _choose(target: Target, options: Options) -> tuple[Flavour | None, str]:
    """The first library that can do all that is asked, or what each one lacks."""
    wide = options.hardware_compatibility == _AMPERE_PLUS and all(int(one[2:]) >= _AMPERE for one in target.arch)
    return _flavours.find(target.flavours, () if wide else target.arch, lambda flavour: _lacks(flavour, options))


def _lacks(flavour: Flavour, options: Options) -> str | None:
    for name in ("strip_weights", "refit"):
        if getattr(options, name) and not _flavours.architectures():
            return f"{flavour.name} needs a GPU for -O {name}=true, and there is none here"
    for name, able in (
        ("version_compatible", flavour.lean),
        ("hardware_compatibility", flavour.compatibility),
        ("timing_cache", flavour.timing_cache),
        ("cuda_graphs", not flavour.compatibility),
    ):
        if not able and getattr(options, name) != getattr(Options, name):
            return f"-O {name} does nothing in {flavour.name}"
    return None


def _log(library: Any, file: Any, folder: Path) -> Any:
    """A logger that writes to a file, where paths begin at `folder`, and keeps the errors."""

    class Log(library.ILogger):  # type: ignore[misc]  # of the library that is imported late
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.INFO:
                file.write(f"{severity.name}: {message.replace(f'{folder}/', '')}\n")
                file.flush()
            if severity <= library.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Log()


def _config(
    library: Any, flavour: Flavour, network: "_networks.Network", request: Request, profiles: list[Profile]
) -> "trt.IBuilderConfig":
    """Puts options, compute capabilities and profiles into a configuration of the builder.

    Raises:
        BuildFailed: a profile is refused, or the values of an input that are sizes have no bounds.
    """
    options: Options = request.options
    config = network.builder.create_builder_config()
    if options.builder_optimization_level >= 0:
        config.builder_optimization_level = options.builder_optimization_level
    if options.workspace:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, recipe.bytes_of(options.workspace))
    if options.max_aux_streams >= 0:
        config.max_aux_streams = options.max_aux_streams
    config.profiling_verbosity = getattr(library.ProfilingVerbosity, options.profiling_verbosity.upper())
    if not options.tf32:
        config.clear_flag(library.BuilderFlag.TF32)
    for name, flag in (
        ("strip_weights", "STRIP_PLAN"),
        ("refit", "REFIT"),
        ("weight_streaming", "WEIGHT_STREAMING"),
        ("version_compatible", "VERSION_COMPATIBLE"),
    ):
        if getattr(options, name):
            config.set_flag(getattr(library.BuilderFlag, flag))
    if options.hardware_compatibility != Options.hardware_compatibility:
        level = getattr(library.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
    if options.timing_cache:
        _read_timings(config, options.timing_cache)
    if flavour.archs and request.target.arch:
        _set_architectures(config, library, request.target.arch)
    sizes = dict(_sizes(flavour, network, request.inputs))
    for one in profiles or ([{}] if sizes else []):
        profile: Any = network.builder.create_optimization_profile()  # the stubs want trt.Dims, not tuples
        for name, shapes in one.items():
            profile.set_shape(name, *shapes)
        for name, values in sizes.items():
            profile.set_shape_input(name, *values)
        if config.add_optimization_profile(profile) < 0:
            raise BuildFailed(f"{flavour.name} refuses the optimization profile {one}")
    return config


def _set_architectures(config: Any, library: Any, arch: tuple[str, ...]) -> None:
    """States what a plan of TensorRT-RTX is for; TensorRT has no such call."""
    config.num_compute_capabilities = len(arch)
    for number, one in enumerate(arch):
        config.set_compute_capability(getattr(library.ComputeCapability, one.upper()), number)


def _profiles(inputs: Sequence[TensorSpec], dims: Sequence[Dim]) -> Iterator[Profile]:
    """One profile per combination of choices (`128|256`); ranges are in each of them. None for static inputs."""
    if not any(spec.symbols for spec in inputs):
        return
    ends = [[(size, size, size) for size in dim.sizes] if dim.choice else [(dim.min, dim.opt, dim.max)] for dim in dims]
    for number, chosen in enumerate(product(*ends)):
        if number == _MOST_PROFILES:
            raise UsageError(
                f"more than {_MOST_PROFILES} optimization profiles: every combination of choices is one",
                hint="Make some of the --dim ranges, such as batch=1..32@8",
            )
        sizes = [{dim.name: size[end] for dim, size in zip(dims, chosen, strict=True)} for end in range(3)]
        yield {spec.name: (spec.at(sizes[0]), spec.at(sizes[1]), spec.at(sizes[2])) for spec in inputs if spec.symbols}


def _named_profiles(request: Request, names: Mapping[str, str]) -> list[Profile]:
    """The profiles under the names that the network gives its inputs."""
    profiles = _profiles(request.inputs, request.dims)
    return [{names[name]: shapes for name, shapes in one.items()} for one in profiles]


def _sizes(
    flavour: Flavour, network: "_networks.Network", inputs: Sequence[TensorSpec]
) -> Iterator[tuple[str, tuple[list[int], list[int], list[int]]]]:
    """Inputs whose values are sizes of tensors: their values at min, opt and max, as the user bounds them.

    Raises:
        BuildFailed: the bounds of one are not known.
    """
    specs = {spec.name: spec for spec in inputs}
    for number in range(network.definition.num_inputs):
        tensor: Any = network.definition.get_input(number)
        if not tensor.is_shape_tensor:
            continue
        spec = specs.get(tensor.name)
        if spec is None or spec.low is None or spec.high is None:
            raise BuildFailed(
                f"the values of input {tensor.name!r} are sizes of tensors: {flavour.name} must know their bounds",
                hint=f"Bound them, as in --input '{spec or tensor.name}:1..8', or make them constants of the graph",
            )
        count = math.prod(tensor.shape)
        yield tensor.name, ([int(spec.low)] * count, [int(spec.high)] * count, [int(spec.high)] * count)


def _profile_of(profiles: Sequence[Mapping[str, Any]], feeds: "Mapping[str, np.ndarray]") -> int:
    """The first profile that holds the shapes."""
    for number, one in enumerate(profiles):
        if all(
            low <= size <= high
            for name, (least, _, most) in one.items()
            for size, low, high in zip(feeds[name].shape, least, most, strict=True)
        ):
            return number
    shapes = ", ".join(f"{name}={list(array.shape)}" for name, array in feeds.items())
    raise UsageError(f"no optimization profile holds {shapes}", hint="Compile it with these sizes in --dim")


def _borders(flavour: Flavour, network: "_networks.Network", model: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Names of the graph's inputs and outputs -> what the network calls them, in order.

    Raises:
        BuildFailed: the network has another type there: float64 becomes float32 on the way.
    """
    graph = protos.load_light(model)[0].graph
    weights = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in weights]
    definition = network.definition
    pairs = (
        (given, [definition.get_input(number) for number in range(definition.num_inputs)]),
        (graph.output, [definition.get_output(number) for number in range(definition.num_outputs)]),
    )
    for values, tensors in pairs:
        for value, tensor in zip(values, tensors, strict=True):
            wanted, found = protos.dtype_name(value), _networks.dtype_name(tensor)
            if wanted != found:
                raise BuildFailed(
                    f"{flavour.name} has {found} where {value.name!r} is {wanted}", hint="Export the model in float32"
                )
    inputs, outputs = ({str(value.name): tensor.name for value, tensor in zip(*pair, strict=True)} for pair in pairs)
    return inputs, outputs


def _prove(precision: Precision, effective: Mapping[str, Mapping[str, int]]) -> None:
    """Fails where the requested precision is not in the parsed network, or a lower one is, unasked."""
    layers, products = effective["layers"], effective["products"]
    wanted = _WANTED.get(precision)
    if wanted and not products.get(wanted) and (precision is Precision.INT8 or not layers.get(wanted)):
        raise BuildFailed(f"{precision.upper()} had no effect: no layer of the network computes in it: {layers}")
    low = set() if precision is Precision.INT8 else {"int8"} & products.keys()
    low |= {"float16", "bfloat16"} & layers.keys() if precision is Precision.FP32 else set()
    if low:
        raise BuildFailed(
            f"the model computes in {', '.join(sorted(low))} although {precision.upper()} was asked for",
            hint="Build it with -p int8" if "int8" in low else "Export the model in float32",
        )


def _refusal(flavour: Flavour, refused: Sequence["_networks.Refused"]) -> BuildFailed:
    if not any(one.operator for one in refused):
        return BuildFailed(f"{flavour.name} does not take the graph: {'; '.join(map(str, refused[:5]))}")
    told = "; ".join(map(str, refused[:5])) + (f"; and {len(refused) - 5} more" if len(refused) > 5 else "")
    count = "a node" if len(refused) == 1 else f"{len(refused)} nodes"
    foreign = [one for one in refused if one.reason in _networks.FOREIGN.values()]
    if foreign:
        return BuildFailed(
            f"the model was quantized for another runtime: {flavour.name} refuses {count}, such as {foreign[0]}",
            hint="Give the float model, with -p int8 --calibration DATA",
        )
    return BuildFailed(
        f"{flavour.name} refuses {count} of the graph: {told}", hint="planc doctor --model lists them all"
    )


def _plan(
    flavour: Flavour, network: "_networks.Network", config: "trt.IBuilderConfig", request: Request, log: Any
) -> memoryview:
    plan: Any = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise _no_plan(flavour, request, log.errors)
    return memoryview(plan)


def _no_plan(flavour: Flavour, request: Request, errors: Sequence[str]) -> BuildFailed:
    said = re.sub(r" In \w+ at /_src/\S+\)", ")", one_line(errors[-1])) if errors else "it said nothing"
    turing = any(_NO_GEMM in error for error in errors)
    hint = "sm75 multiplies no matrices in float32: build with -p fp16, or leave sm75 out" if turing else ""
    return BuildFailed(f"{flavour.name} made no plan for {request.target.name}: {said}", hint=hint)


def _read_timings(config: "trt.IBuilderConfig", path: Path) -> None:
    """Takes what was measured before on this GPU by this version.

    Raises:
        UsageError: the file is of another GPU or version.
    """
    known = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            f"-O timing_cache={path}: it is of another GPU, driver or version", hint="Remove it, or name another file"
        )


def _keep_timings(config: "trt.IBuilderConfig", options: Options) -> str:
    """Writes the timing cache for the next build; returns its SHA-256."""
    path = options.timing_cache
    assert path
    with files.staging(path) as folder:
        (folder / path.name).write_bytes(memoryview(config.get_timing_cache().serialize()))
        files.publish(folder / path.name, path)
    return files.digest(path)


def _context(flavour: Flavour, folder: Path, session: Mapping[str, Any]) -> Any:
    """Deserializes a plan, puts its weights in where it has none, and makes an execution context."""
    library = flavour.load()
    logger = library.Logger(library.Logger.ERROR)
    runtime = library.Runtime(logger)
    runtime.engine_host_code_allowed = bool(session["version_compatible"])  # such a plan brings its runtime
    engine = runtime.deserialize_cuda_engine((folder / PAYLOAD).read_bytes())
    if engine is None:
        raise BuildFailed(f"{flavour.name} {flavour.version()} cannot load {folder / PAYLOAD}", hint="Build it again")
    if (folder / WEIGHTS).exists():
        refitter = library.Refitter(engine, logger)
        known = library.OnnxParserRefitter(refitter, logger).refit_from_file(str(folder / WEIGHTS))
        if not known or not refitter.refit_cuda_engine():
            raise BuildFailed(f"{flavour.name} cannot put the weights into {folder / PAYLOAD}", hint="Build it again")
    if not session["cuda_graphs"]:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)

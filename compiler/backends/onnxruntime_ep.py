"""ONNX Runtime sessions on an execution provider: the lowered graph and the settings of the session.

No engine is built but for `-O ep_context=true`, so a machine without the provider builds what another one runs. The
nodes that the provider leaves to others are counted when a session opens, and are an error unless they are allowed.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .. import host
from .._ort import profile as profile_session
from .._ort import runner, runtime
from ..artifact import Runner
from ..errors import BuildFailed, Unavailable, UsageError, did_you_mean, one_line, words_of
from ..target import Precision, Target
from . import Built, Layer, Request

if TYPE_CHECKING:
    import numpy as np

LOWERED = frozenset({Precision.FP16, Precision.BF16, Precision.INT8})
TRIALS = False  # the provider may be missing
RUNS = True
LOCAL = True
STEADY = False
ORIGINS = False
PAYLOAD = "model.onnx"
_LEVELS = {"all": "ENABLE_ALL", "extended": "ENABLE_EXTENDED", "basic": "ENABLE_BASIC", "disable": "DISABLE_ALL"}
_SHOWN = 5


@dataclass(frozen=True)
class Options:
    """Options of a session on an execution provider.

    Attributes:
        provider: key of `PROVIDERS`; the target sets it.
        threads: threads of one operator; 0 takes all cores of the machine that runs it.
        graph_optimization: "all", "extended", "basic" or "disable": what ONNX Runtime does to the graph first.
        arena: whether memory that the CPU gave is kept for the next inference.
        device_id: which of several devices of the provider's kind.
        ep_context: whether the provider compiles now, and the payload holds what it compiled.
        provider_options: more of the provider's own options, "NAME=VALUE;NAME=VALUE".
        allow_fallback: whether other providers may run what this one does not take; `--allow-fallback`.
    """

    provider: str = "cuda"
    threads: int = 0
    graph_optimization: str = "all"
    arena: bool = True
    device_id: int = 0
    ep_context: bool = False
    provider_options: str = ""
    allow_fallback: bool = False

    def __post_init__(self) -> None:
        """Refuses words that are not known.

        Raises:
            UsageError: one is not.
        """
        for name, word, known in (
            ("provider", self.provider, PROVIDERS),
            ("graph_optimization", self.graph_optimization, _LEVELS),
        ):
            if word not in known:
                raise UsageError(f"-O {name}={word}: unknown", hint=did_you_mean(word, known))
        self.own()
        provider = PROVIDERS[self.provider]
        if self.ep_context and not provider.compiles:
            raise UsageError(f"-O ep_context=true: {provider.name} compiles nothing", hint="Leave it out")

    def own(self) -> dict[str, str]:
        """Returns the parsed `provider_options`.

        Raises:
            UsageError: they are not of that form.
        """
        pairs = [one.partition("=") for one in self.provider_options.split(";") if one]
        if bad := next((name for name, equals, _ in pairs if not name or not equals), None):
            raise UsageError(
                f"-O provider_options: {bad!r} has no value", hint="Write -O 'provider_options=NAME=VALUE;NAME=VALUE'"
            )
        return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True)
class Provider:
    """What planc knows of an execution provider.

    Attributes:
        name: as ONNX Runtime calls it; a plugin may call itself otherwise from one version to the next.
        packages: distributions of which one brings it; the first is the one to install.
        install: what to type where it is missing.
        needs: the machine that it runs on.
        settings: its own options for a precision.
        refused: precisions that it does not run, with the reason.
        gpu: whether it runs on an NVIDIA GPU; else on the CPU.
        plugin: module with `get_ep_name()` and `get_library_path()`; empty where it is part of an ONNX Runtime.
        compiles: whether it can write what it compiled into the payload.
    """

    name: str
    packages: tuple[str, ...]
    install: str
    needs: str
    settings: Callable[[Precision, Options], Mapping[str, str]] = lambda _precision, _options: {}
    refused: Mapping[Precision, str] = field(default_factory=dict)
    gpu: bool = True
    plugin: str = ""
    compiles: bool = True


def _cuda(precision: Precision, options: Options) -> Mapping[str, str]:
    """FP32 is FP32: the default is TF32, with 10 bits of mantissa."""
    return {"device_id": str(options.device_id), "use_tf32": str(int(precision is not Precision.FP32))}


def _tensorrt(precision: Precision, options: Options) -> Mapping[str, str]:
    """Until TensorRT 11 a network with casts or Q/DQ needs the builder's flag as well."""
    flag = {} if precision is Precision.FP32 else {f"trt_{precision}_enable": "1"}
    return {"device_id": str(options.device_id), **flag}


def _openvino(_precision: Precision, options: Options) -> Mapping[str, str]:
    """Pins the execution precision: on a CPU with AMX it runs bf16 unasked."""
    threads = {"INFERENCE_NUM_THREADS": str(options.threads)} if options.threads else {}
    return {"load_config": json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "f32", **threads}})}


_OWN_RUNTIME = "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"  # both are one module

PROVIDERS: Mapping[str, Provider] = MappingProxyType({
    "cuda": Provider(
        name="CUDAExecutionProvider",
        packages=("onnxruntime-gpu",),
        install=_OWN_RUNTIME,
        needs="an NVIDIA GPU",
        settings=_cuda,
        refused={Precision.INT8: "it has no kernels for INT8 and would compute Q/DQ graphs in float32"},
        compiles=False,
    ),
    "tensorrt": Provider(
        name="TensorrtExecutionProvider",
        packages=("onnxruntime-gpu",),
        install=f"{_OWN_RUNTIME} tensorrt",
        needs="an NVIDIA GPU",
        settings=_tensorrt,
    ),
    "tensorrt-rtx": Provider(
        name="NvTensorRTRTXExecutionProvider",
        packages=("onnxruntime-ep-nv-tensorrt-rtx-cu12", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
        install="pip install 'planc[onnxruntime-tensorrt-rtx]'",
        needs="an NVIDIA RTX GPU",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
    "openvino": Provider(
        name="OpenVINOExecutionProvider",
        packages=("onnxruntime-ep-openvino",),
        install="pip install 'planc[onnxruntime-openvino]'",
        needs="an Intel CPU",
        settings=_openvino,
        refused={
            Precision.FP16: "its CPU kernels compute in float32; -t openvino-cpu stores the weights as fp16",
            Precision.BF16: "it takes bf16 as a hint only; -t openvino-cpu proves it",
        },
        gpu=False,
        plugin="onnxruntime_ep_openvino",
    ),
})  # fmt: skip


def why_not(target: Target, precision: Precision, options: Options) -> str | None:
    """Returns why this backend cannot do the precision; None where it can, be it for another machine."""
    provider = _provider(target)
    if reason := provider.refused.get(precision):
        return f"{provider.name} does not run {precision.upper()}: {reason}"
    if options.ep_context and (missing := _missing(provider)):
        return f"-O ep_context=true compiles on {provider.name}: {missing}. {_advice(provider)}"
    return None


def unverifiable(target: Target) -> str | None:
    """Returns why this machine cannot run what `build` writes; None where it can."""
    provider = _provider(target)
    missing = _missing(provider)
    return missing and f"{missing}. {_advice(provider)}"


def fingerprint() -> dict[str, str]:
    """Versions of the tools that touch the payload."""
    packages = ("onnxruntime", *sorted({name for one in PROVIDERS.values() for name in one.packages}))
    return {name: version for name in packages if (version := host.version(name))}


def build(request: Request) -> Built:
    """Writes the graph, or what the provider compiles from it.

    Raises:
        BuildFailed: the provider refuses the graph, or leaves nodes to others.
    """
    from .. import protos, storage
    from ..graph import precision_counts

    options: Options = request.options
    provider = PROVIDERS[options.provider]
    session = {
        "provider": options.provider,
        "provider_options": {**provider.settings(request.precision, options), **options.own()},
        "graph_optimization": options.graph_optimization,
        "threads": options.threads,
        "arena": options.arena,
        "device_id": options.device_id,
        "allow_fallback": options.allow_fallback,
    }
    payload = request.folder / PAYLOAD
    effective = precision_counts(protos.load_light(request.model)[0])
    if options.ep_context:
        placement = _placement(_compile(request.model, payload, session), provider)
    else:
        storage.save(storage.load(request.model), payload)
        placement = {} if _missing(provider) else _placement(_open(payload, session), provider)
    return Built(session=session, effective_precision=effective, placement=placement)


def load(folder: Path, session: Mapping[str, Any]) -> Runner:
    """Opens the session as it was verified.

    Raises:
        Unavailable: the provider is not here.
        BuildFailed: the provider refuses the graph, or leaves nodes to others.
    """
    provider = PROVIDERS[session["provider"]]
    if missing := _missing(provider):
        raise _unavailable(f"{folder} runs", provider, missing)
    return runner(_open(folder / PAYLOAD, session))


def provider(session: Mapping[str, Any]) -> str:
    """Returns who runs all layers, where nothing falls back."""
    return PROVIDERS[session["provider"]].name


def profile(folder: Path, session: Mapping[str, Any], arrays: "Sequence[np.ndarray]", runs: int) -> list[Layer]:
    """Returns the times of the nodes, as ONNX Runtime sees them: of what a provider took as a whole, one.

    Raises:
        Unavailable: the provider is not here.
        BuildFailed: the provider refuses the graph.
    """
    wanted = PROVIDERS[session["provider"]]
    if missing := _missing(wanted):
        raise _unavailable(f"{folder} runs", wanted, missing)
    settings = _settings(session, {})
    return profile_session(settings, lambda: _open(folder / PAYLOAD, session, settings=settings), arrays, runs)


def _provider(target: Target) -> Provider:
    return PROVIDERS[str(target.options["provider"])]


def _unavailable(what: str, provider: Provider, missing: str) -> Unavailable:
    return Unavailable(f"{what} on {provider.name}: {missing}", hint=_advice(provider))


def _advice(provider: Provider) -> str:
    return f"It needs {provider.needs}, and {provider.install}"


def _missing(provider: Provider) -> str | None:
    """Returns why this machine cannot run the provider; None where it can."""
    package = next((name for name in provider.packages if host.version(name)), None)
    if package is None:
        return f"{provider.packages[0]} is not installed"
    if provider.gpu and not host.gpus():
        return "there is no NVIDIA GPU here"
    try:
        offered = _devices(provider) if provider.plugin else provider.name in runtime().get_available_providers()
    except Exception as error:
        return f"ONNX Runtime cannot load {package}: {one_line(words_of(error))}"
    return None if offered else f"{package} offers no device on this machine ({host.cpu_name()})"


def _devices(provider: Provider) -> list[Any]:
    """Returns the devices of a plugin."""
    ort = runtime()
    name = _register(provider.plugin)
    kind = ort.OrtHardwareDeviceType.GPU if provider.gpu else ort.OrtHardwareDeviceType.CPU
    return [one for one in ort.get_ep_devices() if one.ep_name == name and one.device.type == kind]


@cache
def _register(plugin: str) -> str:
    """Loads a plugin's library, where a second time would be an error, and returns the name of its provider."""
    module = import_module(plugin)
    runtime().register_execution_provider_library(module.get_ep_name(), module.get_library_path())
    return str(module.get_ep_name())


def _compile(model: Path, payload: Path, session: Mapping[str, Any]) -> Any:
    """Lets the provider compile `model` and write the result as `payload`.

    The names inside are made from the model's path: seen from its own folder, it is the same in every build.
    """
    context = {"context_enable": "1", "context_embed_mode": "1", "context_file_path": str(payload.absolute())}
    with contextlib.chdir(model.parent):
        return _open(Path(model.name), session, {f"ep.{name}": value for name, value in context.items()})


def _open(
    model: Path, session: Mapping[str, Any], entries: Mapping[str, str] | None = None, *, settings: Any = None
) -> Any:
    """Opens a session in which the provider runs all nodes, or all that it can where that is allowed."""
    provider = PROVIDERS[session["provider"]]
    settings, own = settings or _settings(session, entries or {}), dict(session["provider_options"])
    providers = [] if provider.plugin else [(provider.name, own)]
    if provider.plugin:
        settings.add_provider_for_devices([_device(provider, session["device_id"])], own)
    elif provider.gpu:
        runtime().preload_dlls()  # CUDA and cuDNN where pip put them
    try:
        opened = runtime().InferenceSession(str(model), settings, providers=providers, enable_fallback=0)
    except Exception as error:
        raise BuildFailed(f"{provider.name} refuses the graph: {error}") from error
    if not provider.plugin and provider.name not in opened.get_providers():  # it goes on without, and only logs it
        raise _unavailable("a session opens", provider, "ONNX Runtime cannot start it")
    placement = _placement(opened, provider)
    if placement["fallback"] and not session["allow_fallback"]:
        raise BuildFailed(_told(placement), hint="Add --allow-fallback if other providers may run them")
    return opened


def _settings(session: Mapping[str, Any], entries: Mapping[str, str]) -> Any:
    ort = runtime()
    settings = ort.SessionOptions()
    level = f"ORT_{_LEVELS[session['graph_optimization']]}"
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    settings.intra_op_num_threads = session["threads"]
    settings.enable_cpu_mem_arena = session["arena"]
    for name, value in {"session.record_ep_graph_assignment_info": "1", **entries}.items():
        settings.add_session_config_entry(name, value)
    return settings


def _device(provider: Provider, index: int) -> Any:
    devices = _devices(provider)
    if index >= len(devices):
        raise Unavailable(
            f"-O device_id={index}: {provider.name} has {len(devices)} devices here", hint="They count from 0"
        )
    return devices[index]


def _placement(session: Any, provider: Provider) -> dict[str, Any]:
    """Counts the nodes of a session by the provider that runs them, and names those of other providers."""
    own = _register(provider.plugin) if provider.plugin else provider.name
    placed = [
        (group.ep_name, node) for group in session.get_provider_graph_assignment_info() for node in group.get_nodes()
    ]
    counts = Counter(name for name, _ in placed)
    return {
        "provider": own,
        "share": round(counts[own] / len(placed), 4) if placed else 1.0,
        "nodes": dict(sorted(counts.items())),
        "fallback": [{"name": node.name, "op": node.op_type, "provider": name} for name, node in placed if name != own],
    }


def _told(placement: Mapping[str, Any]) -> str:
    """Such as `XExecutionProvider leaves 1 of 3 nodes to others: d (Det, CPUExecutionProvider)`."""
    left = placement["fallback"]
    names = [f"{one['name']} ({one['op']}, {one['provider']})" for one in left[:_SHOWN]]
    more = [f"{len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
    total = sum(placement["nodes"].values())
    return f"{placement['provider']} leaves {len(left)} of {total} nodes to others: {', '.join(names + more)}"

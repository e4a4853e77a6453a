"""Where the time of a call goes: layers as the runtime's own profiler tells them, by the modules that they came from.

A profiler slows what it watches: shares say more than milliseconds, and latencies are measured without it.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._subject import Setting, Subject

if TYPE_CHECKING:
    import numpy as np

    from .backends import Layer

_RUNS = 20
_TOP = 10
FALLBACK = "fallback"
FLOAT = "float"
CONVERSION = "conversion"
_TOLD = {
    FALLBACK: "run on another provider than the one that was asked for",
    FLOAT: "products stay in floating point",
    CONVERSION: "layers only convert layouts or types",
}
"""Why a layer is worth a look, the gravest first."""


def take(subject: Subject, setting: Setting, inputs: "Mapping[str, np.ndarray]") -> dict[str, Any]:
    """Profiles a subject (in a process of its own) and returns what the document of `planc bench` says of it.

    Raises:
        PlancError: it cannot be loaded, or its runtime has no profiler.
    """
    if subject.kind == "artifact":
        return _artifact(subject, setting, inputs)
    if subject.kind == "onnx":
        from . import _ort

        settings = _ort.runtime().SessionOptions()
        settings.intra_op_num_threads = setting.threads
        layers = _ort.profile(settings, lambda: _ort.open_cpu(subject.source, settings), list(inputs.values()), _RUNS)
        return document(layers, {}, quantized=False, provider=_ort.CPU)
    return {"reason": "modules of PyTorch are not profiled: torch.profiler tells more of them"}


def _artifact(subject: Subject, setting: Setting, inputs: "Mapping[str, np.ndarray]") -> dict[str, Any]:
    from . import artifact, plugins

    made = artifact.read(subject.source)
    manifest = subject.settings(made.manifest, setting.threads)
    backend = plugins.load("backends", manifest["backend"])
    if not hasattr(backend, "profile"):
        return {"reason": f"{manifest['backend']} has no profiler"}
    arrays = artifact.check_arrays(made.inputs, inputs, made.dims)
    layers = backend.profile(made.path, manifest["session"], arrays, _RUNS)
    quantized = manifest["requested_precision"] == "int8"
    return document(layers, modules(made.path), quantized=quantized, provider=backend.provider(manifest["session"]))


def modules(folder: Path) -> dict[str, str]:
    """Returns the PyTorch module path by name of node or value, as report.json has them; empty without one."""
    from .artifact import REPORT

    try:
        named = json.loads((folder / REPORT).read_text()).get("modules", {})
    except (OSError, ValueError):
        return {}
    return {name: module for module, names in named.items() for name in names}


def document(
    layers: "Sequence[Layer]", known: Mapping[str, str], *, quantized: bool, provider: str
) -> dict[str, Any]:  # fmt: skip
    """Returns layers and modules by time, the slowest first.

    Args:
        layers: as a backend tells them.
        known: module path by name of node or value.
        quantized: whether INT8 was asked for.
        provider: which runs all layers, where nothing falls back.
    """
    whole = sum(one.ms for one in layers) or 1.0
    rows: list[dict[str, Any]] = [
        {
            "name": one.names[0],
            "module": next((known[name] for name in one.names if name in known), None),
            "op": one.op,
            "kernel": one.kernel,
            "provider": one.provider,
            "precision": one.precision,
            "note": _note(one, quantized, provider),
            "ms": one.ms,
            "share": one.ms / whole,
        }
        for one in layers
    ]
    rows.sort(key=lambda row: -row["ms"])
    times: dict[str | None, list[float]] = defaultdict(list)
    for row in rows:
        times[row["module"]].append(row["ms"])
    by_module = [
        {"module": name, "layers": len(some), "ms": sum(some), "share": sum(some) / whole}
        for name, some in sorted(times.items(), key=lambda pair: -sum(pair[1]))
    ]
    return {"reason": "", "runs": _RUNS, "sum_ms": sum(one.ms for one in layers), "layers": rows, "modules": by_module}


def _note(layer: "Layer", quantized: bool, provider: str) -> str:
    if layer.provider != provider:
        return FALLBACK
    if layer.conversion:
        return CONVERSION
    return FLOAT if quantized and layer.product and "int8" not in layer.precision else ""


def table(profile: Mapping[str, Any]) -> list[list[str]]:
    """Returns the slowest layers, by HEADERS."""
    return [
        [f"{row['ms']:.3g}", f"{row['share']:.1%}", row["module"] or "", row["op"], row["kernel"], row["precision"]]
        for row in profile["layers"][:_TOP]
    ]


HEADERS = ("ms", "share", "module", "operator", "kernel", "computes in")


def told(name: str, profile: Mapping[str, Any], latency_ms: float) -> Iterator[str]:
    """Yields the lines below the table: how much of a call the layers explain, and what was not fused or fell back."""
    if profile["reason"]:
        yield f"{name}: no profile: {profile['reason']}"
        return
    mapped = sum(row["share"] for row in profile["layers"] if row["module"])
    count = len(profile["layers"])
    yield (
        f"{name}: {count} layers take {profile['sum_ms']:.3g} ms under the profiler, a call {latency_ms:.3g} ms "
        f"without it; {mapped:.0%} of the time has a module"
    )
    for note, words in _TOLD.items():
        if some := [row for row in profile["layers"] if row["note"] == note]:
            kinds = sorted({row["op"] for row in some})
            share = sum(row["share"] for row in some)
            yield f"{name}: {len(some)} {words}, {share:.1%} of the time: {', '.join(kinds)}"

"""What each stage's key is made of: the one place that decides when a cached result is right.

A key holds the content of what a stage reads, the options that reach it, the versions of its tools and the facts of
this machine that it looks at; never a path, a time or a name that changes nothing. What user code reads besides is
seen while it runs (`observe`).
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from . import host, plugins, recipe
from .cache import Entry
from .recipe import Job
from .target import Precision
from .tolerance import tolerance

Done = Mapping[str, Entry]
"""Entries of the stages before, by name."""
Digest = Callable[[Path], str]

GOLDEN = "all.npz"
REAL = "real.npz"
RANGES = "ranges.json"
MODEL = "model.onnx"
OPTIMIZED = "model.opt.onnx"
LOWERED = "model.q.onnx"
PAYLOAD = "payload/"

_FASTER = {"timing_cache"}
"""Options that change how long a build takes."""
_PACKAGE = Path(__file__).resolve().parents[1]
_GRAPH_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxscript")
_FRONTEND_TOOLS = {
    "torch": ("torch", "safetensors", "sympy", *_GRAPH_TOOLS),
    "onnx": ("onnxruntime", *_GRAPH_TOOLS),
}


def components(stage: str, job: Job, done: Done, digest: Digest, skipped: Iterable[str] = ()) -> dict[str, Any]:
    """Returns what the key of a stage is made of, as JSON.

    Args:
        stage: its name.
        job: what is built.
        done: entries of the stages before it.
        digest: from a file to its SHA-256.
        skipped: passes that are left out because they killed a worker.

    Raises:
        OSError: a file cannot be read.
    """
    own = {
        "export": lambda: _export(job, digest),
        "optimize": lambda: _optimize(job, done, skipped),
        **dict.fromkeys(shards_of(job), lambda: _shard(job, done, digest)),
        "calibrate": lambda: _calibrate(job, done, digest),
        "lower": lambda: _lower(job, done, digest),
        "build": lambda: _build(job, done, digest),
        "verify": lambda: _verify(job, done, digest),
    }[stage]()
    plain: dict[str, Any] = json.loads(json.dumps({"stage": stage, "planc": own_digest(), **own}))
    return plain


def stages_of(job: Job) -> tuple[str, ...]:
    """Names of the stages that a job has."""
    lowered = ("calibrate", "lower") if is_lowered(job) else ()
    return ("export", "optimize", *lowered, "build", "verify")


def shards_of(job: Job) -> tuple[str, ...]:
    """Names of the stages that gather the statistics of the calibration apart, such as "shard 1/3", where it is so."""
    wanted = job.quantization.calibration
    count = wanted.shards if wanted.data and wanted.shards > 1 and is_lowered(job) else 0
    return tuple(f"shard {index + 1}/{count}" for index in range(count))


def is_lowered(job: Job) -> bool:
    """Whether the precision is laid down in the graph before the backend sees it."""
    return job.precision in backend(job).LOWERED


def backend(job: Job) -> Any:
    """The module of the job's backend."""
    return plugins.load("backends", job.target.backend)


def anchor(job: Job) -> Path:
    """The folder that the paths of what user code reads are relative to: a checkout may lie anywhere."""
    file = model_file(job)
    return file.resolve().parent if file else job.source.root.resolve()


def model_file(job: Job) -> Path | None:
    """The file that holds the model or makes it; None for `pkg.mod:callable`."""
    text = job.source.text
    if text.endswith((".onnx", ".pt2", ".pt", ".pth")):
        return Path(text)
    place = text.rpartition(":")[0]
    return Path(place) if place.endswith(".py") else None


def named_files(job: Job) -> set[Path]:
    """Files that the user named, whose content is in keys whatever their path."""
    wanted = (model_file(job), job.source.weights, job.source.data, *job.quantization.files)
    return {path.resolve() for path in wanted if path is not None}


def has_user_code(stage: str, job: Job) -> bool:
    """Whether a stage runs code of the user."""
    quantization = job.quantization
    if stage == "export":
        return job.source.frontend == "torch"
    data = [quantization.calibration.data, quantization.guard.data]
    if stage == "calibrate" or stage in shards_of(job):
        return any(".py:" in text for text in data)
    return stage in ("lower", "verify") and any(".py:" in text for text in (*data, *quantization.guard.bounds))


def graph(done: Done) -> dict[str, str]:
    """SHA-256 of the graph that the last stage left and of the weights beside it, by name of the file."""
    last = next(name for name in ("lower", "optimize", "export") if name in done)
    wanted = {"lower": LOWERED, "optimize": OPTIMIZED, "export": MODEL}[last]
    return {
        name: facts["sha256"]
        for stage in ("export", "optimize", "lower") if stage in done
        for name, facts in done[stage].outputs.items() if name == wanted or name.endswith(".data")
    }  # fmt: skip


def tools(job: Job) -> dict[str, str | None]:
    """Versions of all that touches a job, planc's own code among them."""
    return {
        "planc": f"{host.version('planc')}+{own_digest()[:12]}",
        "python": platform.python_version(),
        **_versions(*_FRONTEND_TOOLS[job.source.frontend], "onnxruntime"),
        **backend(job).fingerprint(),
    }


@cache
def own_digest() -> str:
    """SHA-256 of planc's own code and data: each change of planc builds anew."""
    whole = hashlib.sha256()
    for path in sorted(_own_files()):
        whole.update(f"{path.relative_to(_PACKAGE)}\n".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _own_files() -> list[Path]:
    folders = ("compiler", "passes", "calibration")
    found = [path for name in folders for path in (_PACKAGE / name).rglob("*") if path.suffix in (".py", ".toml")]
    return [*found, _PACKAGE / "__init__.py"]


def _export(job: Job, digest: Digest) -> dict[str, Any]:
    source = job.source
    file = model_file(job)
    return {
        "model": source.text.replace(str(file), file.name, 1) if file else source.text,
        "model_sha256": _file(file, digest),
        "inputs": [asdict(spec) for spec in source.inputs],
        "dims": [asdict(dim) for dim in source.dims],
        "brief": source.brief,
        "weights": _file(source.weights, digest),
        "data": _file(source.data, digest),
        "versions": _versions(*_FRONTEND_TOOLS[source.frontend]),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _optimize(job: Job, done: Done, skipped: Iterable[str]) -> dict[str, Any]:
    return {
        "graph": graph({"export": done["export"]}),
        "family": job.target.family,
        "keep_origin": keeps_origin(job),
        "trusted": job.source.frontend == "torch",
        "skipped": sorted(skipped),
        "versions": _versions(*_GRAPH_TOOLS),
    }


def keeps_origin(job: Job) -> bool:
    """Whether nodes keep the module path that they came from: layers are named after it."""
    return is_lowered(job) or bool(backend(job).ORIGINS)


def watches_everything(job: Job) -> bool:
    """Whether all float32 tensors are calibrated: for 16 bits, or to serve both with one table."""
    return job.precision is not Precision.INT8 or job.quantization.calibration.everything


def _shard(job: Job, done: Done, digest: Digest) -> dict[str, Any]:
    wanted = job.quantization.calibration
    return {
        "graph": graph({name: done[name] for name in ("export", "optimize")}),
        "inputs": done["export"].facts["inputs"],
        "dims": done["export"].facts["dims"],
        "everything": watches_everything(job),
        "data": _data(wanted.data, digest),
        "samples": wanted.samples,
        "versions": _versions("numpy", "onnx", "onnxruntime"),
    }


def _calibrate(job: Job, done: Done, digest: Digest) -> dict[str, Any]:
    wanted = job.quantization.calibration
    exported = done["export"]
    judged = not wanted.data and job.source.data is None
    return {
        "graph": graph({name: done[name] for name in ("export", "optimize")}),
        "exported": exported.outputs[MODEL]["sha256"],
        "golden": exported.outputs[GOLDEN]["sha256"],
        "inputs": exported.facts["inputs"],
        "dims": exported.facts["dims"],
        "everything": watches_everything(job),
        "dynamic": job.quantization.dynamic,
        "calibration": {
            "data": _data(wanted.data, digest),
            "samples": wanted.samples,
            "method": wanted.method,
            "table": _file(wanted.table, digest),
            "random": wanted.random,
        },
        "real": _file(job.source.data, digest),
        "judge": _data(job.quantization.guard.data, digest) if judged else None,
        "versions": _versions("numpy", "onnx", "onnxruntime"),
    }


def _lower(job: Job, done: Done, digest: Digest) -> dict[str, Any]:
    quantization, guard = job.quantization, job.quantization.guard
    table = done["calibrate"].outputs.get(RANGES)
    module, options = backend(job), recipe.backend_options(recipe.on_all_cores(job))
    found = {
        "graph": graph({name: done[name] for name in ("export", "optimize")}),
        "ranges": table["sha256"] if table else None,
        "dims": done["export"].facts["dims"],
        "backend": job.target.backend,
        "family": job.target.family,
        "precision": str(job.precision),
        "keep": list(quantization.keep),
        "smoothing": quantization.smoothing,
        "dynamic": quantization.dynamic,
        "around": str(module.around(job.target, options)) if hasattr(module, "around") else None,
        "vnni": host.has_vnni(),
        "versions": _versions(*_GRAPH_TOOLS),
    }
    if guard.bounds:
        found["guard"] = {
            **_judge(quantization, digest),
            "budget": guard.budget,
            "inputs": done["export"].facts["inputs"],
            "options": _options(options, digest),
            "arch": list(job.target.arch),
            **_here(job),
        }
        found["versions"] |= {**_versions("onnxruntime"), **module.fingerprint()}
    return found


def _build(job: Job, done: Done, digest: Digest) -> dict[str, Any]:
    return {
        "graph": graph(done),
        "backend": job.target.backend,
        "target": {
            "arch": list(job.target.arch),
            "flavours": list(job.target.flavours),
            "memory_gb": job.target.memory_gb,
        },
        "precision": str(job.precision),
        "options": _options(recipe.backend_options(job), digest),
        "inputs": done["export"].facts["inputs"],
        "dims": done["export"].facts["dims"],
        "int8_layers": done["lower"].facts["lowered"]["effect"].get("int8", {}).get("nodes", 0)
        if "lower" in done
        else 0,
        "versions": backend(job).fingerprint(),
        **_here(job),
    }


def _judge(quantization: recipe.Quantization, digest: Digest) -> dict[str, Any]:
    """Bounds of the guard, and the data that they are judged on."""
    guard, calibration = quantization.guard, quantization.calibration
    return {
        "bounds": [_bound(text, digest) for text in guard.bounds],
        "data": _data(guard.data or calibration.data, digest),
        "samples": calibration.samples,
    }


def _verify(job: Job, done: Done, digest: Digest) -> dict[str, Any]:
    real = done["calibrate"].outputs.get(REAL) if "calibrate" in done else None
    golden = real or done["export"].outputs[GOLDEN]
    return {
        "graph": graph(done),
        "payload": _outputs(done["build"]),
        "session": done["build"].facts["built"]["session"],
        "golden": golden["sha256"],
        "reference": done["export"].facts["reference"],
        "precision": str(job.precision),
        "bounds": asdict(tolerance(job.precision, job.tolerance)),
        "loosened": bool(job.tolerance),
        "guard": _judge(job.quantization, digest) if "lower" in done and job.quantization.guard.bounds else None,
        "backend": job.target.backend,
        "versions": {**_versions("numpy", "onnxruntime"), **backend(job).fingerprint()},
        **_here(job, executes=True),
    }


def machine(stage: str) -> dict[str, Any]:
    """Components of the key of anything that is measured: planc and this machine."""
    return {
        "stage": stage,
        "planc": own_digest(),
        "cpu": host.cpu_name(),
        "cpu_flags": sorted(host.cpu_flags()),
        "cores": host.cores(),
        "gpus": list(host.gpus()),
    }


def _outputs(entry: Entry) -> dict[str, str]:
    return {name: facts["sha256"] for name, facts in entry.outputs.items()}


def _here(job: Job, *, executes: bool = False) -> dict[str, Any]:
    """Facts of this machine that a backend looks at."""
    module = backend(job)
    if not module.LOCAL and not executes:
        return {}
    gpu = bool(job.target.arch) or job.target.backend in ("onnxruntime_ep", "tensorrt")
    return {"cpu_flags": sorted(host.cpu_flags()), **({"gpus": list(host.gpus())} if gpu else {})}


def _versions(*packages: str) -> dict[str, str | None]:
    return {name: host.version(name) for name in packages}


def _file(path: Path | None, digest: Digest) -> str | None:
    return None if path is None else digest(path)


def _data(text: str, digest: Digest) -> dict[str, Any] | None:
    """Data by its content: that of a file, of the files of a folder by their names, or of a Python file."""
    if not text:
        return None
    place, colon, function = text.rpartition(".py:")
    if colon:
        path = Path(f"{place}.py")
        return {"code": f"{path.name}:{function}", "sha256": digest(path)}
    path = Path(text)
    if path.is_dir():
        return {"name": path.name, "files": {file.name: digest(file) for file in recipe.data_files(text)}}
    return {"name": path.name, "sha256": digest(path)}


def _bound(text: str, digest: Digest) -> Any:
    place, equals, value = text.rpartition("=")
    return [_data(place, digest), value] if ".py:" in place and equals else text


def _options(options: Any, digest: Digest) -> dict[str, Any]:
    found = {}
    for name, value in vars(options).items():
        if name in _FASTER:
            continue
        there = isinstance(value, Path) and value.is_file()
        found[name] = digest(value) if there else os.fspath(value) if isinstance(value, Path) else value
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]

"""planc.lock: digests of what planc.toml names, and versions of the tools that build it.

    models.net.files      digest of each file that is named, by its path from planc.toml; a folder of data has one
    models.net.external   the same of what an ONNX file keeps beside it
    tools                 version of each tool of the jobs that can be built on the machine that locked

A check reads the lock and digests files; it imports no tool. What Python files import is not in it: it is code, and
version control pins that.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import files, keys, recipe, worker
from .cache import key_of
from .errors import GateFailed, UsageError
from .project import Entry
from .recipe import Job
from .worker import Emit, Limits

SCHEMA = 1
_SECONDS = 600.0

Digest = Callable[[Path], str]


def path_of(file: Path) -> Path:
    """The lock of a planc.toml: `planc.lock` beside it."""
    return file.with_suffix(".lock")


def write(file: Path, jobs: Sequence[Entry], digest: Digest) -> str:
    """Writes the lock; returns "built", "replaced" or "unchanged".

    Args:
        file: planc.toml.
        jobs: all of its jobs.
        digest: from a file to its SHA-256.

    Raises:
        UsageError: an ONNX file cannot be read.
        IOFailed: the place cannot be written to.
    """
    models = _models(file.parent, jobs, digest)
    for entry in jobs:
        model = keys.model_file(entry.job)
        if model is not None and model.suffix == ".onnx":
            beside = worker.call(external_files, model, limits=Limits(_SECONDS))
            named = {_name(model.parent / one, file.parent): digest(model.parent / one) for one in beside}
            models[entry.job.model]["external"] = named
    document = {"schema_version": SCHEMA, "models": models, "tools": _tools(jobs)}
    path, text = path_of(file), json.dumps(document, indent=2, sort_keys=True) + "\n"
    there = path.exists()
    if there and path.read_text(encoding="utf-8", errors="replace") == text:
        return "unchanged"
    files.write_text(path, text)
    return "replaced" if there else "built"


def require(file: Path, entries: Sequence[Entry], digest: Digest) -> None:
    """Checks that what jobs are built from is as it was locked.

    Args:
        file: planc.toml.
        entries: the jobs.
        digest: from a file to its SHA-256.

    Raises:
        GateFailed: something is another than then.
        UsageError: there is no lock, or it cannot be read.
    """
    path = path_of(file)
    drifts = list(_drifts(_read(path), file.parent, entries, digest))
    if drifts:
        more = f" (and {len(drifts) - 1} more)" if len(drifts) > 1 else ""
        raise GateFailed(f"{path}: {drifts[0]}{more}", hint="If that is meant, run planc lock")


def external_files(model: Path, *, emit: Emit) -> list[str]:
    """Names of the files that an ONNX file keeps weights in, relative to its folder (in a worker)."""
    from . import protos
    from .frontends import onnx

    emit("stage", "lock")
    onnx.read(model)
    return sorted(str(path.relative_to(model.parent)) for path in protos.data_files(model))


def _drifts(locked: Mapping[str, Any], root: Path, entries: Sequence[Entry], digest: Digest) -> Iterator[str]:
    """Yields one line for each thing that is not as it was locked."""
    for name, found in _models(root, entries, digest).items():
        kept = locked["models"].get(name)
        if kept is None:
            yield f"model {name} is not in it"
            continue
        wanted = {**found["files"], **{one: _digest(root / one, digest) for one in kept["external"]}}
        known = {**kept["files"], **kept["external"]}
        for one, sha256 in wanted.items():
            if one not in known:
                yield f"model {name}: {one} is not in it"
            elif sha256 != known[one]:
                yield f"model {name}: {one} {'changed' if sha256 else 'is gone'}"
    for tool, version in _tools(entries).items():
        before = locked["tools"].get(tool)
        if before != version:
            yield f"{tool} {before} -> {version}" if before else f"{tool} {version} is not in it"


def _read(path: Path) -> dict[str, Any]:
    again = "planc lock writes it"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--locked: no such file: {path}", hint=again) from None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}", hint=again) from None
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA:
        raise UsageError(f"{path} is no lock of this planc", hint=again)
    return document


def _models(root: Path, entries: Sequence[Entry], digest: Digest) -> dict[str, dict[str, dict[str, str]]]:
    """The named files of each model, from all of its jobs; none for those that imports lead to."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for entry in entries:
        kept = found.setdefault(entry.job.model, {"files": {}, "external": {}})
        for path in sorted(_paths(entry.job)):
            name = _name(path, root) + ("/" if path.is_dir() else "")
            if name not in kept["files"]:
                kept["files"][name] = _digest(path, digest)
    return found


def _paths(job: Job) -> set[Path]:
    """Files that a job names, and folders of data."""
    data = (job.quantization.calibration.data, job.quantization.guard.data)
    folders = {Path(text).resolve() for text in data if text and Path(text).is_dir()}
    inside = {path.resolve() for folder in folders for path in recipe.data_files(str(folder))}
    return (keys.named_files(job) - inside) | folders | _module(job)


def _module(job: Job) -> set[Path]:
    """The file of `pkg.mod:callable`, where it lies in the project."""
    if keys.model_file(job) is not None:
        return set()
    place = job.source.root.joinpath(*job.source.text.partition(":")[0].split("."))
    known = (place.with_suffix(".py"), place / "__init__.py")
    return {path.resolve() for path in known if path.is_file()}


def _digest(path: Path, digest: Digest) -> str:
    """SHA-256 of a file, or of a folder's files by their names; empty where it is gone."""
    try:
        if path.is_dir():
            return key_of({one.name: digest(one) for one in recipe.data_files(str(path))})
        return digest(path)
    except FileNotFoundError:
        return ""


def _tools(entries: Sequence[Entry]) -> dict[str, str]:
    """Versions of what touches the jobs that can be built here."""
    found: dict[str, str | None] = {}
    for entry in entries:
        for job in recipe.candidates(entry.job) if not entry.skipped else ():
            found |= keys.tools(job)
    return {name: version for name, version in sorted(found.items()) if version}


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path.resolve(), root.resolve())).as_posix()

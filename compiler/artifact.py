"""An artifact is a folder: payload, `manifest.json`, `golden.npz`, reports. `load(path)` gives a session.

A deployed process begins here: what only a build needs is imported elsewhere, see `manifest`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import host, plugins
from .errors import IOFailed, Unavailable, UsageError, did_you_mean
from .shapes import Dim, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from .worker import Emit

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
RANGES = "ranges.json"
REPORT = "report.json"
LOG = "build.log"
UNSEALED = (MANIFEST, REPORT, LOG)
"""Files that the manifest does not vouch for: they tell of the build. Only some backends write a log."""

_KEYS = {"backend", "files", "inputs", "job", "outputs", "requested_precision", "requires", "session", "verification"}

Runner = Callable[["Sequence[np.ndarray]"], "Sequence[np.ndarray]"]
"""What a backend's `load` returns: arrays in the order of the inputs -> arrays in the order of the outputs."""


@dataclass(frozen=True)
class Artifact:
    """A built model on disk.

    Attributes:
        path: its folder.
        manifest: content of `manifest.json`.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Specs of the inputs, in order."""
        return _specs(self.manifest["inputs"])

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Specs of the outputs, in order."""
        return _specs(self.manifest["outputs"])

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Sizes of the named dimensions."""
        dims = self.manifest["job"]["dims"]
        return tuple(
            Dim(name, tuple(facts["sizes"]), facts["opt"], facts.get("choice", False)) for name, facts in dims.items()
        )

    def damage(self, digest: Callable[[Path], str] | None = None) -> list[str]:
        """Returns one line for each file that is missing or differs from the manifest; empty where all is well."""
        from . import files

        digest, lines = digest or files.digest, []
        for name, facts in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                lines.append(f"{name} is missing")
            elif file.stat().st_size != facts["bytes"] or digest(file) != facts["sha256"]:
                lines.append(f"{name} is not the file that was built")
        return lines


@dataclass
class Session:
    """A loaded artifact: `session(x=array) -> {"y": array}`.

    Attributes:
        inputs: specs of the inputs, in order.
        outputs: specs of the outputs, in order.
        dims: the sizes that the artifact is verified for, by dimension.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...]
    _runner: Runner = field(repr=False)

    def __call__(self, /, *unnamed: object, **arrays: "np.ndarray") -> "dict[str, np.ndarray]":
        """Runs the model.

        Args:
            *unnamed: there are none.
            **arrays: one array per input, by name, of the dtype and shape that `inputs` states.

        Raises:
            UsageError: a name, dtype or shape does not fit.
        """
        if unnamed:
            names = ", ".join(f"{spec.name}=array" for spec in self.inputs)
            raise UsageError("inputs are given by name", hint=f"Write session({names})")
        ordered = check_arrays(self.inputs, arrays, self.dims)
        return {spec.name: array for spec, array in zip(self.outputs, self._runner(ordered), strict=True)}


def read(path: str | Path) -> Artifact:
    """Reads the manifest of the artifact at `path`.

    Raises:
        UsageError: there is none, or it is not one that this version reads.
    """
    folder = Path(path)
    if not folder.exists():
        raise UsageError(
            f"no such artifact: {folder}", hint="planc compile MODEL -t TARGET -p PRECISION -o DIR makes one"
        )
    if folder.suffix == ".onnx" and folder.is_file():
        raise UsageError(
            f"{folder} is a model, not an artifact",
            hint=f"planc compile {folder} -t TARGET -o DIR makes one; planc inspect and bench take the model",
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder} is not an artifact: no readable {MANIFEST}",
            hint="Give the folder that planc compile wrote",
        ) from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{folder}/{MANIFEST} has another schema version than {SCHEMA_VERSION}",
            hint="Build it again with this planc",
        )
    if missing := _KEYS - manifest.keys():
        raise UsageError(f"{folder}/{MANIFEST} has no {min(missing)!r}", hint="Build it again")
    return Artifact(folder, manifest)


def load(path: str | Path) -> Session:
    """Loads an artifact for running, with the session settings that it was verified with. Needs no torch.

    Args:
        path: folder that `planc compile` wrote.

    Raises:
        UsageError: it is no artifact.
        IOFailed: a payload file is missing or cut short.
        Unavailable: this machine cannot run it.
    """
    return session(read(path))


def session(artifact: Artifact) -> Session:
    """Returns a session of an artifact that is already read; see `load`."""
    manifest = artifact.manifest
    for name, facts in manifest["files"].items():
        file = artifact.path / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            raise IOFailed(f"{file} is missing or cut short", hint="Build the artifact again")
    flag = manifest["requires"].get("cpu_flag")
    if flag == "bf16" and not host.has_bf16():
        raise Unavailable(
            f"{artifact.path} computes in bf16, which this CPU has not", hint="Build it with -p fp32 here"
        )
    needed = manifest["requires"].get("vector_width")
    if needed and needed != host.vector_width():
        raise Unavailable(
            f"{artifact.path} has {needed} layouts and this CPU has {host.vector_width()}",
            hint="Compile it on such a CPU, or with -O portable=true for every CPU",
        )
    backend = plugins.load("backends", manifest["backend"])
    return Session(artifact.inputs, artifact.outputs, artifact.dims, backend.load(artifact.path, manifest["session"]))


def run_file(path: Path, inputs: Path, out: Path | None, *, emit: "Emit") -> list[dict[str, Any]]:
    """Runs an artifact on the arrays of an .npz and describes its outputs; writes them to `out` (in a worker).

    Raises:
        UsageError: the arrays do not fit the inputs, or `out` is a file of another kind.
        PlancError: the artifact cannot be loaded here.
    """
    from . import files

    emit("stage", "run")
    if out is not None and out.exists() and inputs.exists() and out.samefile(inputs):
        raise UsageError(f"-o {out} is the inputs themselves", hint="Give another name, such as outputs.npz")
    if out is not None and out.exists() and out.stat().st_size and not _holds_arrays(out):
        raise UsageError(f"-o {out} exists and is no .npz", hint="Give another name, such as outputs.npz")
    session = load(path)
    results = session(**read_inputs(inputs, session.inputs, session.dims))
    if out is not None:
        with files.staging(out) as folder:
            files.save_arrays(folder / out.name, results)
            files.publish(folder / out.name, out)
    return [
        {
            "name": name,
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "first": array.reshape(-1)[:6].tolist(),
        }
        for name, array in results.items()
    ]


def _holds_arrays(path: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def describe_graph(path: Path, *, emit: "Emit") -> dict[str, Any]:
    """Returns the facts of an ONNX file (in a worker); here, so that the command line need not load graph libraries.

    Raises:
        UsageError: it is not a valid ONNX model.
    """
    from . import graph

    emit("stage", "inspect")
    return graph.describe(path)


def describe_nodes(path: Path, *, emit: "Emit") -> list[dict[str, Any]]:
    """Returns the nodes of an ONNX file (in a worker), see `graph.nodes`.

    Raises:
        UsageError: it is not a valid ONNX model.
    """
    from . import graph

    emit("stage", "inspect")
    return graph.nodes(path)


def complete(artifact: Artifact, result: Mapping[str, Any]) -> None:
    """Adds to the manifest that the payload was executed after all, and where.

    Args:
        artifact: that was built on a machine that could not execute it.
        result: of its verification on this one.
    """
    from . import files

    said = artifact.manifest["verification"]
    left = {name: said[name] for name in ("reference", "graph", "golden_points") if name in said}
    where = {"cpu": host.cpu_name(), "gpus": host.gpus()}
    manifest = {**artifact.manifest, "verification": {**left, **result, "executed_on": where}}
    with files.staging(artifact.path / MANIFEST) as folder:
        (folder / MANIFEST).write_text(as_text(manifest))
        (folder / MANIFEST).replace(artifact.path / MANIFEST)


def require_replaceable(final: Path) -> None:
    """Checks, before any work, that `final` is free or holds an artifact of planc.

    Raises:
        UsageError: it holds something that planc did not make.
    """
    if final.name in ("", ".."):
        raise UsageError(f"-o {final} names no folder of its own", hint="Write -o out/NAME")
    if final.is_symlink() or (final.exists() and not _is_empty(final) and not _is_ours(final)):
        raise UsageError(f"{final} exists and is not an artifact of planc", hint="Give another -o, or remove it first")


def as_text(document: Mapping[str, Any]) -> str:
    """Returns a document as planc writes it."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _is_ours(folder: Path) -> bool:
    """Whether the folder holds an artifact and nothing else: what planc replaces, it deletes."""
    try:
        made = read(folder)
    except UsageError:
        return False
    return {file.name for file in folder.iterdir()} <= {
        *made.manifest["files"],
        MANIFEST,
        REPORT,
        made.manifest.get("log"),
    }


def same_content(old: Path, new: Mapping[str, Any], digest: Callable[[Path], str] | None = None) -> bool:
    """Whether the artifact at `old` is whole and equals the manifest `new`, measured figures apart.

    Args:
        old: its folder.
        new: what would be written.
        digest: from a file to its SHA-256.
    """
    try:
        artifact = read(old)
    except UsageError:
        return False
    return _content(artifact.manifest) == _content(json.loads(as_text(new))) and not artifact.damage(digest)


def read_inputs(path: Path, specs: Sequence[TensorSpec], dims: Sequence[Dim] = ()) -> "dict[str, np.ndarray]":
    """Reads the arrays of an .npz that fit the inputs.

    Raises:
        UsageError: it is no .npz, or a name, dtype or shape does not fit.
    """
    from . import files

    arrays = files.load_arrays(path)
    try:
        ordered = check_arrays(specs, arrays, dims)
    except UsageError as error:
        raise UsageError(f"--inputs {path}: {error.what}", hint=error.hint) from error
    return dict(zip([spec.name for spec in specs], ordered, strict=True))


def check_arrays(
    specs: Sequence[TensorSpec], arrays: "Mapping[str, np.ndarray]", dims: Sequence[Dim] = ()
) -> "list[np.ndarray]":
    """Returns the arrays in the order of `specs`.

    Raises:
        UsageError: a name, dtype or shape does not fit.
    """
    if len(arrays) != len(specs) or any(spec.name not in arrays for spec in specs):
        raise _wrong_names(specs, arrays)
    sizes: dict[str, int] = {}
    for spec in specs:
        array = arrays[spec.name]
        fits = str(array.dtype) == spec.dtype and len(array.shape) == len(spec.shape)
        if not fits or not all(_fits(want, have, sizes) for want, have in zip(spec.shape, array.shape, strict=True)):
            got = f"{array.dtype}[{','.join(map(str, array.shape))}]"
            known = ", ".join(f"{name}={size}" for name, size in sizes.items() if name in spec.symbols)
            raise UsageError(f"input {spec.name!r} is {got}", hint=f"Give {spec}{f' with {known}' if known else ''}")
    for dim in dims:
        if not dim.min <= sizes.get(dim.name, dim.min) <= dim.max:
            raise UsageError(
                f"dimension {dim.name!r} is {sizes[dim.name]}; the artifact is verified for {dim.min}..{dim.max}",
                hint=f"Compile it with a wider --dim {dim.name}=...",
            )
    return [arrays[spec.name] for spec in specs]


def _fits(want: int | str, have: int, sizes: dict[str, int]) -> bool:
    return have > 0 and sizes.setdefault(want, have) == have if isinstance(want, str) else want == have


def _wrong_names(specs: Sequence[TensorSpec], arrays: Mapping[str, object]) -> UsageError:
    names = [spec.name for spec in specs]
    extra = sorted(set(arrays) - set(names))
    if extra:
        return UsageError(f"there is no input {extra[0]!r}", hint=did_you_mean(extra[0], names))
    missing = next(spec for spec in specs if spec.name not in arrays)
    return UsageError(f"input {missing.name!r} is missing", hint=f"Give {missing}")


def _specs(entries: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in entries)


def _content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    measured = {"complete_with", "executed_on", "failures", "graph", "held_by", "passed", "points", "reason"}
    said = manifest["verification"]
    if "held_by" in said:
        measured.add("tolerance")
    verification = {key: value for key, value in said.items() if key not in measured}
    named = manifest.get("semantic_sha256", {})
    sealed = {name: named.get(name) or facts for name, facts in manifest["files"].items()}
    return {**manifest, "verification": verification, "files": sealed}


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None

"""What `planc bench` runs: an artifact, a bare ONNX file or a PyTorch module, and the inputs that all of them get."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import artifact, host
from ._subject import THREADS, Subject
from .errors import UsageError, did_you_mean
from .shapes import Dim, TensorSpec

if TYPE_CHECKING:
    import numpy as np

_NOT_DEPLOYED = (artifact.GOLDEN, artifact.RANGES)
_KINDS = ("torch",)


@dataclass(frozen=True)
class Signature:
    """Inputs of a subject, and the sizes that they may have."""

    inputs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...]


def find(texts: Sequence[str], against: str = "") -> tuple[Subject, ...]:
    """Returns the subjects that the user names, the one that the others are compared with last.

    Raises:
        UsageError: there is no such file, it is neither artifact nor ONNX, or two have one name.
    """
    words = [*texts, *([against] if against else [])]
    found = _distinct([Subject(text if text.startswith("torch:") else Path(text).name, *_kind(text)) for text in words])
    for subject in found[: len(texts)]:
        if subject.kind == "torch":
            raise UsageError(
                f"{subject.name} has no shapes of its own", hint=f"planc bench ART --against {subject.name}"
            )
    return found


def _kind(text: str) -> tuple[str, str]:
    scheme, colon, rest = text.partition(":")
    if scheme == "torch" and colon:
        if not re.fullmatch(r".+:\w+", rest):
            raise UsageError(f"{text!r} is not of the form torch:file.py:callable", hint="Write torch:net.py:net")
        if rest.rpartition(":")[0].endswith(".py"):
            from .files import require_file

            require_file(Path(rest.rpartition(":")[0]))
        return "torch", rest
    if colon and not Path(text).exists():
        guess = did_you_mean(scheme, _KINDS)
        hint = f"Write torch:{text}" if scheme.endswith(".py") else guess or "Write torch:file.py:callable"
        raise UsageError(f"{text!r} is neither an artifact nor an ONNX file", hint=hint)
    path = Path(text)
    if path.is_dir() or not path.exists():
        artifact.read(path)
        return "artifact", text
    from .files import require_file

    require_file(path)
    return "onnx", text


def _distinct(subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    """Gives subjects of one name longer ones: their whole source, and a number where that is the same, too."""
    names = [subject.name for subject in subjects]
    longer = [one.source if names.count(one.name) > 1 else one.name for one in subjects]
    seen: dict[str, int] = {}
    made = []
    for subject, name in zip(subjects, longer, strict=True):
        seen[name] = seen.get(name, 0) + 1
        made.append(Subject(name if seen[name] == 1 else f"{name}#{seen[name]}", subject.kind, subject.source))
    return tuple(made)


def require_threads(found: Sequence[Subject], threads: int) -> None:
    """Checks that each artifact's backend takes a number of threads.

    Raises:
        UsageError: one does not.
    """
    for subject in found:
        if threads and subject.kind == "artifact":
            manifest = artifact.read(subject.source).manifest
            if not set(THREADS) & set(manifest["session"]):
                kind = f"{subject.name} is for {manifest['backend']}"
                raise UsageError(
                    f"--threads {threads}: {kind}, which takes no number of threads", hint="Leave --threads out"
                )


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """Parses `1,2,4`, each of them once.

    Raises:
        UsageError: it is not of that form.
    """
    words = text.split(",") if text else []
    if not all(word.strip().isdecimal() for word in words):
        raise UsageError(f"{flag} {text!r} is not of the form 1,2", hint=f"Write {flag} 1,2")
    return tuple(dict.fromkeys(map(int, words)))


def facts(subject: Subject) -> dict[str, Any]:
    """Returns what is known of a subject without running it: target, precision, bytes to deploy, versions of tools."""
    if subject.kind == "torch":
        return {"size_bytes": None, "target": "torch", "precision": "fp32", "versions": _versions("torch")}
    if subject.kind == "onnx":
        path = Path(subject.source)
        data = sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*.data"))
        size = path.stat().st_size + data
        return {"size_bytes": size, "target": "onnxruntime", "precision": None, "versions": _versions("onnxruntime")}
    manifest = artifact.read(subject.source).manifest
    return {
        "size_bytes": deployed_bytes(manifest),
        "target": manifest["job"]["target"],
        "precision": manifest["requested_precision"],
        "versions": manifest.get("versions", {}),
    }


def deployed_bytes(manifest: Mapping[str, Any]) -> int:
    """Returns the bytes of the files that are needed to run an artifact."""
    return sum(one["bytes"] for name, one in manifest["files"].items() if name not in _NOT_DEPLOYED)


def _versions(*names: str) -> dict[str, str]:
    return {name: host.version(name) or "" for name in names}


def signature(subject: Subject) -> Signature:
    """Returns the inputs of an artifact or of an ONNX file, whose dimensions have no sizes."""
    if subject.kind == "artifact":
        made = artifact.read(subject.source)
        return Signature(made.inputs, made.dims)
    from .frontends._graph import input_specs
    from .frontends.onnx import read

    return Signature(input_specs(read(Path(subject.source))), ())


def inputs(
    subjects: Sequence[Subject], dims: Sequence[Dim], data: Path | None
) -> "tuple[dict[str, np.ndarray], str, Signature]":
    """Returns the arrays that all subjects get, where they come from, and the signature that they keep to.

    Real ones of `data`; else the golden ones of the first artifact; else drawn ones at the sizes `dims`.

    Raises:
        UsageError: they do not fit one of the subjects, or no sizes are known.
    """
    from . import golden
    from .files import load_arrays

    artifacts = [one for one in subjects if one.kind == "artifact"]
    first = (artifacts or [one for one in subjects if one.kind == "onnx"])[0]
    kept = signature(first)
    if dims and (artifacts or data is not None):
        raise UsageError(
            f"--dim {dims[0]}: the inputs come from {data or artifact.GOLDEN}",
            hint="Leave --dim out; --batch gives sizes",
        )
    if data is not None:
        arrays, origin = load_arrays(data), str(data)
    elif artifacts:
        arrays = dict(golden.load(Path(first.source) / artifact.GOLDEN)[0].inputs)
        origin = f"{artifact.GOLDEN} of {first.name}"
    else:
        from .shapes import Point, check_dims

        check_dims(kept.inputs, dims)
        arrays = golden.draw(kept.inputs, Point("opt", {dim.name: dim.opt for dim in dims}))
        kept, origin = Signature(kept.inputs, tuple(dims)), "drawn"
    for subject in subjects:
        if subject.kind != "torch":
            theirs = signature(subject) if subject is not first else kept
            _check(subject, theirs, arrays)
    return arrays, origin, kept


def _check(subject: Subject, theirs: Signature, arrays: "Mapping[str, np.ndarray]") -> None:
    try:
        artifact.check_arrays(theirs.inputs, arrays, theirs.dims)
    except UsageError as error:
        raise UsageError(f"{subject.name}: {error.what}", hint=error.hint or "Give --inputs that fit all") from error


def resized(kept: Signature, arrays: "Mapping[str, np.ndarray]", dimension: str, size: int) -> "dict[str, np.ndarray]":
    """Returns the arrays with another size of one dimension: longer axes repeat them, shorter ones cut them."""
    from . import golden

    sizes = {
        symbol: length
        for spec in kept.inputs
        for symbol, length in zip(spec.shape, arrays[spec.name].shape, strict=True)
        if isinstance(symbol, str)
    }
    return golden.resized(arrays, kept.inputs, {**sizes, dimension: size})


def sweep(text: str, kept: Signature) -> tuple[str, tuple[int, ...]]:
    """Parses `--batch 1,4,8` or `--batch seq=32,64`: the dimension "batch", or the only one, where none is named.

    Raises:
        UsageError: no such dimension, or a size that the artifact is not verified for.
    """
    named, equals, rest = text.partition("=")
    symbols = sorted({symbol for spec in kept.inputs for symbol in spec.symbols})
    if not symbols:
        raise UsageError(f"--batch {text}: all dimensions are fixed", hint="Compile it with --dim batch=1..8")
    known = ("batch" if "batch" in symbols else symbols[0]) if not equals else named.strip()
    if known not in symbols:
        raise UsageError(f"--batch {text}: there is no dimension {known!r}", hint=did_you_mean(known, symbols))
    words = (rest if equals else named).split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--batch {text!r} is not of the form 1,4,8", hint=f"Write --batch {known}=1,4,8")
    sizes = tuple(dict.fromkeys(map(int, words)))
    for dim in kept.dims:
        if dim.name == known:
            for size in sizes:
                if not dim.min <= size <= dim.max or (dim.choice and size not in dim.sizes):
                    told = "|".join(map(str, dim.sizes)) if dim.choice else f"{dim.min}..{dim.max}"
                    raise UsageError(
                        f"--batch {known}={size}: the artifact is verified for {told}",
                        hint=f"Give sizes of these, or compile it with a wider --dim {known}=...",
                    )
    return known, sizes

"""What a job builds for: precision and target. A target is a TOML file in `targets/`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from .errors import UsageError, did_you_mean

TARGETS = Path(__file__).parent / "targets"
_KEYS = {"description", "backend", "family", "candidates", "options", "arch", "flavours", "memory_gb", "precisions"}
COMPUTE_CAPABILITIES = (
    "sm75", "sm80", "sm86", "sm87", "sm89", "sm90", "sm100", "sm103", "sm110", "sm120", "sm121",
)  # fmt: skip
"""Of the GPUs that TensorRT 10.13 and later and TensorRT-RTX 1.7 know."""


class Precision(StrEnum):
    """Precision that a user asks for; what really runs is the manifest's `effective_precision`."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class Target:
    """A place to run a model.

    Attributes:
        name: what a user types.
        description: one line for `planc targets`.
        backend: file in `backends/`; empty where planc chooses among `candidates`.
        family: key of the ordered pass list in `planc.passes.PRESETS`.
        candidates: names of targets that are built and measured; the fastest is kept.
        options: defaults of the backend's options.
        arch: compute capabilities such as "sm89"; empty for what the library takes by itself, and for CPUs.
        flavours: libraries that may build for it, the first that can is taken; empty where the backend is one library.
        memory_gb: memory of the device in GB; 0 where it is not one device.
        precisions: what its hardware computes in; empty for what its backend says.
    """

    name: str
    description: str
    backend: str = ""
    family: str = "onnx"
    candidates: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    arch: tuple[str, ...] = ()
    flavours: tuple[str, ...] = ()
    memory_gb: int = 0
    precisions: tuple[str, ...] = ()


def target_names() -> list[str]:
    """Returns the names of all targets, sorted."""
    return sorted(path.stem for path in TARGETS.glob("*.toml"))


def find_target(name: str) -> Target:
    """Reads the target called `name`: that of a file, or with compute capabilities, as in `tensorrt-rtx:sm86+sm89`.

    Raises:
        UsageError: there is no such target or compute capability.
    """
    import tomllib

    stem, colon, arch = name.partition(":")
    if stem not in target_names():
        raise UsageError(
            f"unknown target {name!r}",
            hint=f"{did_you_mean(stem, target_names())} `planc targets` lists them",
        )
    facts = tomllib.loads((TARGETS / f"{stem}.toml").read_text())
    if unknown := sorted(facts.keys() - _KEYS):
        raise UsageError(f"target {stem}: unknown key {unknown[0]!r}", hint=did_you_mean(unknown[0], _KEYS))
    if colon and (not facts.get("flavours") or "arch" in facts):
        raise UsageError(f"target {stem} takes no {arch!r}", hint=f"Write -t {stem}")
    facts["arch"] = _architectures(arch if colon else facts.get("arch", ""), name)
    name = f"{stem}:{'+'.join(facts['arch'])}" if colon else stem
    facts |= {key: tuple(facts.get(key, ())) for key in ("candidates", "flavours", "precisions")}
    return Target(name=name, **facts)


def resolve(name: str, own: Mapping[str, Mapping[str, Any]]) -> Target:
    """Returns the target called `name`: a `[target.NAME]` of the project's own, or one that `find_target` reads.

    Args:
        name: what a user types.
        own: name -> its table, with `backend` (a built-in target or a backend), and `arch`, `options`, `description`.

    Raises:
        UsageError: there is no such target, backend or compute capability, or one of this name is built in.
    """
    known = target_names()
    if name not in own:
        if (stem := name.partition(":")[0]) not in known:
            hint = f"{did_you_mean(stem, [*known, *own])} `planc targets` lists them"
            raise UsageError(f"unknown target {name!r}", hint=hint)
        return find_target(name)
    if name in known:
        raise UsageError(f"target {name}: planc has one of this name", hint="Choose another name")
    facts = own[name]
    like = find_target(base := _base(name, str(facts["backend"])))
    if "arch" in facts:
        if like.arch or not like.flavours:
            raise UsageError(f"target {name}: {base} takes no arch", hint="Leave arch out")
        like = find_target(f"{base}:{facts['arch']}")
    options = {**like.options, **facts.get("options", {})}
    return replace(like, name=name, description=facts.get("description", like.description), options=options)


def _base(name: str, backend: str) -> str:
    """The built-in target that a target of the project's own is like: the one that it names, or its backend's only."""
    stem = backend.partition(":")[0]
    if stem in (known := target_names()):
        return backend
    users = [one for one in known if stem and find_target(one).backend == stem]
    if len(users) != 1:
        raise UsageError(f"target {name}: unknown backend {backend!r}", hint=did_you_mean(stem, users or known))
    return users[0]


def _architectures(text: str, name: str) -> tuple[str, ...]:
    """Parses `sm86+sm89`.

    Raises:
        UsageError: there is no such compute capability.
    """
    found = tuple(dict.fromkeys(text.split("+"))) if text or name.endswith(":") else ()
    for one in found:
        if one not in COMPUTE_CAPABILITIES:
            hint = f"Known: {', '.join(COMPUTE_CAPABILITIES)}"
            if one in target_names() and (own := find_target(one).arch):  # the name of a GPU
                hint = f"Write -t {one}, or {name.partition(':')[0]}:{'+'.join(own)}"
            raise UsageError(f"target {name!r}: unknown compute capability {one!r}", hint=hint)
    return tuple(sorted(found, key=lambda one: int(one[2:])))


def find_precision(name: str) -> Precision:
    """Returns the precision called `name`.

    Raises:
        UsageError: there is no such precision.
    """
    try:
        return Precision(name)
    except ValueError:
        raise UsageError(
            f"unknown precision {name!r}", hint=did_you_mean(name, [str(one) for one in Precision])
        ) from None

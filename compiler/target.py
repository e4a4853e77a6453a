"""What a job builds for: precision and target. A target is a TOML file in `targets/`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from .errors import UsageError, did_you_mean

TARGETS = Path(__file__).parent / "targets"
_KEYS = {"description", "backend", "family", "candidates", "options"}


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
    """

    name: str
    description: str
    backend: str = ""
    family: str = "onnx"
    candidates: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)


def target_names() -> list[str]:
    """Returns the names of all targets, sorted."""
    return sorted(path.stem for path in TARGETS.glob("*.toml"))


def find_target(name: str) -> Target:
    """Reads the target called `name`.

    Raises:
        UsageError: there is no such target.
    """
    if name not in target_names():
        raise UsageError(
            f"unknown target {name!r}",
            hint=f"{did_you_mean(name, target_names())} `planc targets` lists them",
        )
    facts = tomllib.loads((TARGETS / f"{name}.toml").read_text())
    if unknown := sorted(facts.keys() - _KEYS):
        raise UsageError(f"target {name}: unknown key {unknown[0]!r}", hint=did_you_mean(unknown[0], _KEYS))
    return Target(name=name, candidates=tuple(facts.pop("candidates", ())), **facts)


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

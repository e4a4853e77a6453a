"""TensorRT and TensorRT-RTX: one builder API, and a table of where they differ."""

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .. import host


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries.

    Attributes:
        name: as its maker writes it.
        module: the Python package.
        distributions: what `pip` calls it, by CUDA version.
        least: first version that planc speaks to.
        archs: compute capabilities that it builds for without such a GPU; empty where it builds for the one it is on.
        lean: whether it has the lean runtime, which runs plans of other versions.
        compatibility: whether a plan can be made for more than the GPU that it is built on.
        timing_cache: whether it times kernels when it builds, and keeps what it found.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    least: tuple[int, int]
    archs: tuple[str, ...]
    lean: bool
    compatibility: bool
    timing_cache: bool

    @property
    def install(self) -> str:
        """What to type where it is absent."""
        return f"pip install 'planc[{self.module.replace('_', '-')}]'"

    def version(self) -> str | None:
        """Version that is installed, or None."""
        return next(filter(None, map(host.version, self.distributions)), None)

    def load(self) -> Any:
        """Imports the library: tens of milliseconds and 200 MB of address space."""
        return importlib.import_module(self.module)


FLAVOURS = {
    "tensorrt-rtx": Flavour(
        name="TensorRT-RTX",
        module="tensorrt_rtx",
        distributions=("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx"),
        least=(1, 7),
        archs=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
        lean=False,
        compatibility=False,
        timing_cache=False,
    ),
    "tensorrt": Flavour(
        name="TensorRT",
        module="tensorrt",
        distributions=("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
        least=(10, 13),
        archs=(),
        lean=True,
        compatibility=True,
        timing_cache=True,
    ),
}
"""Name in a target -> library. Between TensorRT 10.13 and 11 the calls that planc makes differ in one: 11 always is
strongly typed and has no flag for it (`strongly_typed`)."""


def strongly_typed(trt: Any) -> int:
    """Flags of a network whose precision is that of the graph."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def architectures() -> list[str]:
    """Compute capabilities of the GPUs here, such as "sm89"; empty without one."""
    found = (re.search(r",\s*(\d+)\.(\d)\s*,", line) for line in host.gpus())
    return sorted({f"sm{one[1]}{one[2]}" for one in found if one})


def find(
    names: Iterable[str], arch: tuple[str, ...], lacks: Callable[[Flavour], str | None] = lambda _flavour: None
) -> tuple[Flavour | None, str]:
    """Returns the first library that can build for all of `arch` here, or None and what each one lacks."""
    reasons = []
    for flavour in map(FLAVOURS.__getitem__, names):
        if (reason := _why_not(flavour, arch) or lacks(flavour)) is None:
            return flavour, ""
        reasons.append(reason)
    return None, "; ".join(reasons)


def _why_not(flavour: Flavour, arch: tuple[str, ...]) -> str | None:
    if flavour.archs and (foreign := [one for one in arch if one not in flavour.archs]):
        built = ", ".join(flavour.archs)
        return f"{flavour.name} builds for {built}, not for {', '.join(foreign)}"
    version = flavour.version()
    if version is None:
        return f"{flavour.name} is not installed: {flavour.install}"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < flavour.least:
        return f"{flavour.name} {version} is older than {'.'.join(map(str, flavour.least))}: {flavour.install}"
    if not flavour.archs:
        here = architectures()
        if not here:
            return f"{flavour.name} builds on the GPU that it is for, and there is none here"
        if foreign := [one for one in arch if one not in here]:
            return f"{flavour.name} builds for the GPU here ({', '.join(here)}), not for {', '.join(foreign)}"
    return None

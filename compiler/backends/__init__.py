"""One file per backend, with `Options`, `why_not`, `fingerprint`, `build` and `load`: see CONTRIBUTING.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Built:
    """What a backend says of the payload that it wrote.

    Attributes:
        session: settings that `load` takes; they are part of the artifact.
        effective_precision: counted from the graph or the engine.
        requires: facts of a machine without which the payload must not run.
    """

    session: Mapping[str, Any]
    effective_precision: Mapping[str, Any]
    requires: Mapping[str, str] = field(default_factory=dict)

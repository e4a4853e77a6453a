"""One file per backend: `Options` and functions that tell, build and load. See CONTRIBUTING.md."""

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
        placement: where a runtime hands nodes to providers, which of them run where; empty where it was not loaded.
    """

    session: Mapping[str, Any]
    effective_precision: Mapping[str, Any]
    requires: Mapping[str, str] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)

"""What a player is asked to load. Alone in a file that imports nothing: it is part of the cold start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

THREADS = ("intra_op_num_threads", "inference_num_threads", "threads")
"""What the backends call the number of threads in the session's settings."""


@dataclass(frozen=True)
class Setting:
    """How a subject is loaded.

    Attributes:
        threads: of one inference; 0 leaves the artifact's own setting, and all cores to what has none.
        cores: the only ones that its process may use; empty for all.
        streams: sessions that run at once.
    """

    threads: int = 0
    cores: tuple[int, ...] = ()
    streams: int = 1


@dataclass(frozen=True)
class Subject:
    """Something that can be run.

    Attributes:
        name: what the user typed, without what all have in common.
        kind: "artifact", "onnx" or "torch".
        source: path, or `file.py:callable`.
    """

    name: str
    kind: str
    source: str

    def settings(self, manifest: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """Returns the manifest with another number of threads in the session's settings, where its backend has one."""
        session = manifest["session"]
        own = {name: threads for name in THREADS if name in session and threads}
        return {**manifest, "session": {**session, **own}}

"""Waits until something that a build depends on is saved."""

import time
from contextlib import suppress
from pathlib import Path

from .errors import Unavailable
from .sources import Sources

_LOOK_MS = 1000  # between looks at the files' times, where the system tells nothing, as of network drives


def require() -> None:
    """Checks that files can be watched.

    Raises:
        Unavailable: watchfiles is not installed.
    """
    try:
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise Unavailable("--watch needs watchfiles", hint="pip install 'planc[watch]'") from error


def wait(sources: Sources, since: int) -> list[str]:
    """Returns the names of what was saved, when something was: since a time, so that nothing is lost during a build.

    A Python file that comes or changes beside a source counts: an import may find it.

    Args:
        sources: what is watched.
        since: in nanoseconds, as `time.time_ns`.
    """
    import watchfiles

    def concerns(_change: watchfiles.Change, place: str) -> bool:
        path = Path(place)
        return path in sources.files or path.parent in sources.folders or path.suffix == ".py"

    folders = {*sources.folders, *(path.parent for path in sources.files)}
    for found in watchfiles.watch(
        *(folder for folder in sorted(folders) if folder.is_dir()),
        watch_filter=concerns,
        recursive=False,
        yield_on_timeout=True,
        rust_timeout=_LOOK_MS,
    ):
        if names := sorted({Path(place).name for _, place in found} or _newer(sources, since)):
            return names
    raise KeyboardInterrupt  # the watch ends by itself only where it was told to


def _newer(sources: Sources, since: int) -> set[str]:
    """Names of the files whose time is later; a time to come says nothing."""
    names = set()
    for path in sources.files:
        with suppress(OSError):
            if since < path.stat().st_mtime_ns <= time.time_ns():
                names.add(path.name)
    return names

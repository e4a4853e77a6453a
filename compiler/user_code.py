"""The user's Python files: finding a callable in one, and saying where it failed."""

import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from . import host
from .errors import UsageError, did_you_mean, words_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_PLANC = __name__.partition(".")[0]


def find(text: str, root: Path = Path()) -> Callable[..., Any]:
    """Imports `file.py:callable`, or `pkg.mod:callable` from the folder `root`, and returns the callable.

    Nothing is written beside the user's files: this process makes no `__pycache__` from here on.

    Raises:
        UsageError: importing it raises, or it has no such name.
    """
    sys.dont_write_bytecode = True
    place, _, name = text.rpartition(":")
    if place.endswith(".py"):
        path = Path(place).resolve()
        sys.path.insert(0, str(path.parent))
        own = path.stem if path.stem not in sys.modules else f"{path.stem}_user"  # a file may be called json.py
        spec = importlib.util.spec_from_file_location(own, path)
        assert spec and spec.loader
        module, loader = importlib.util.module_from_spec(spec), spec.loader
        sys.modules[own] = module
        guard(text, "importing", lambda: loader.exec_module(module))
    else:
        sys.path.insert(0, str(root.resolve()))
        module = guard(text, "importing", lambda: importlib.import_module(place))
    if not hasattr(module, name):
        public = [word for word in vars(module) if not word.startswith("_") and callable(getattr(module, word))]
        raise UsageError(f"{place} has no {name!r}", hint=did_you_mean(name, public))
    found: Callable[..., Any] = getattr(module, name)
    return found


def guard(text: str, doing: str, action: Callable[[], T]) -> T:
    """Runs the user's code; what it raises becomes one line with the place in the user's file.

    Raises:
        UsageError: it raised.
    """
    try:
        return action()
    except (Exception, SystemExit) as error:
        detail = traceback.format_exc()
        log.debug("%s", detail)
        raise UsageError(
            f"{doing} {text} raised {type(error).__name__}: {words_of(error)}{where(error)}",
            hint="Mend it; --debug shows its traceback",
        ) from error


def where(error: BaseException) -> str:
    """Returns " at FILE:LINE" of the deepest frame outside the installed packages."""
    own = (*_places(), str(Path(__file__).parent))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(("<", *own))
    ]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def modules(before: Collection[str]) -> dict[str, Path]:
    """Returns the files of the modules that were imported since `before`, but those of installed packages."""
    outside = tuple(f"{folder}/" for folder in installed())
    found = {}
    for name in set(sys.modules) - set(before):
        file = getattr(sys.modules[name], "__file__", None)
        if file and name.partition(".")[0] != _PLANC and not str(Path(file).resolve()).startswith(outside):
            found[name] = Path(file).absolute()
    return found


def packages(before: Collection[str]) -> set[str]:
    """Returns the installed distributions of which something was imported since `before`."""
    known = {name.partition(".")[0] for name in before} | sys.stdlib_module_names | {_PLANC, *modules(before)}
    fresh = {name.partition(".")[0] for name in set(sys.modules) - set(before)} - known
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in fresh}
    found = {name for name in files if host.version(name)}
    if any(files[name] for name in fresh - found):
        owners = importlib.metadata.packages_distributions()  # reads the records of all: a quarter of a second
        found |= {distribution for name in fresh - found for distribution in owners.get(name, ())}
    return found


def installed() -> tuple[Path, ...]:
    """Folders of installed packages and of Python's own modules."""
    return tuple(Path(name).resolve() for name in _places())


def _places() -> tuple[str, ...]:
    return tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))

"""The user's Python files: finding a callable in one, and saying where it failed."""

import ast
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from . import host
from .errors import UsageError, did_you_mean, words_of
from .files import require_file

log = logging.getLogger(__name__)

T = TypeVar("T")

_BINDS_MORE = {"*", "__dict__", "__getattr__", "exec", "globals", "locals", "modules", "setattr", "vars"}
"""What gives a module names that its text does not show."""

_PLANC = __name__.partition(".")[0]
_ROOT = Path(__file__).parents[1]


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
        sys.path[:0] = dict.fromkeys(map(str, (path.parent, _above_packages(path), root.resolve())))
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


def _above_packages(path: Path) -> Path:
    """The folder that the packages around a file are imported from."""
    folder = path.parent
    while (folder / "__init__.py").exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def require(option: str, text: str) -> None:
    """Checks that `file.py:callable` is there without running it, so that a slip is told before the work begins.

    Raises:
        UsageError: there is no such file, it is not Python, or its top level has no such name.
    """
    place, _, name = text.rpartition(":")
    require_file(Path(place))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = _top_names(ast.parse(Path(place).read_bytes(), filename=place))
    except (SyntaxError, ValueError) as error:
        spot = f"{place}:{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else place
        raise UsageError(f"{option} {spot} is not Python: {error}", hint="Mend it") from error
    except (MemoryError, RecursionError):  # then running it tells
        return
    if names is not None and name not in names:
        raise UsageError(f"{option}: {place} has no {name!r}", hint=did_you_mean(name, names))


def _top_names(tree: ast.Module) -> set[str] | None:
    """Names that the statements of a module bind; None where only running it tells."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global) or _spelled(node) & _BINDS_MORE:
            return None
    names: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    for node in pending:  # it grows
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.add(node.rest)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending.extend(ast.iter_child_nodes(node))
    return names


def _spelled(node: ast.AST) -> set[str]:
    """Names that a node has in its text."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    return {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()


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
        hint = "Mend it; --debug shows its traceback"
        if isinstance(error, ImportError) and "relative import" in words_of(error):
            place, _, name = text.rpartition(":")
            path = Path(place).resolve()
            module = ".".join(path.with_suffix("").relative_to(_above_packages(path)).parts)
            hint = f"A module of a package is given as {module}:{name}"
        raise UsageError(
            f"{doing} {text} raised {type(error).__name__}: {words_of(error)}{where(error)}", hint=hint
        ) from error


def where(error: BaseException) -> str:
    """Returns " at FILE:LINE" of the deepest frame outside the installed packages."""
    own = (*_places(), *(str(_ROOT / name) for name in ("calibration", "compiler")))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(("<", *own))
    ]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def modules(before: Collection[str]) -> dict[str, Path]:
    """Returns the files of the modules that were imported since `before`, but those of installed packages.

    Some name a file that is not there, such as torch.classes.
    """
    outside = tuple(f"{folder}/" for folder in installed())
    found = {}
    for name in set(sys.modules) - set(before):
        file = getattr(sys.modules[name], "__file__", None)
        if file and name.partition(".")[0] != _PLANC and not str(Path(file).resolve()).startswith(outside):
            found[name] = Path(file).absolute()
    return {name: path for name, path in found.items() if path.is_file()}


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

"""What user code reads: files that it opens, folders that it lists, modules and packages that it imports.

A Python model depends on more than its own file. What was read at one build is looked at again before the next: the
stage's result is the same where all of it is. Processes that it forks are watched with it, such as the workers of a
DataLoader, and libraries that open files by themselves as far as `readers` and the maps of memory tell. Not seen: the
network, the clock, the environment, whether a file that was looked for and not found is there now, and what other
programs read, of which the user is told.
"""

import importlib.machinery
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from . import host, readers, user_code

_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", f"{sys.prefix}/", f"{sys.base_prefix}/")
_IMPORTING = "importlib"
_STARTERS = {"asyncio", "os", "subprocess"}
_SPAWNING = {"multiprocessing.popen_spawn_posix", "multiprocessing.popen_forkserver"}
_EVENTS = {"open", "os.listdir", "os.scandir", "sqlite3.connect", "subprocess.Popen"}
_PACKAGE = Path(__file__).resolve().parents[1]
_OWN = [_PACKAGE / name for name in ("cli", "compiler", "passes", "calibration", "__init__.py")]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Seen:
    """What was seen; complete after the block.

    Attributes:
        files: that were read, outside of installed packages.
        folders: that were listed there.
        modules: name -> file of the modules imported from such files.
        packages: installed distributions that were imported.
        programs: names of other programs that the user's own code has started.
    """

    files: set[Path] = field(default_factory=set)
    folders: set[Path] = field(default_factory=set)
    modules: dict[str, Path] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)
    programs: set[str] = field(default_factory=set)

    def reads(self, anchor: Path, digest: Callable[[Path], str]) -> dict[str, Any]:
        """Returns it as JSON, paths relative to `anchor`; empty where nothing was seen.

        Args:
            anchor: folder of the user's project.
            digest: from a file to its SHA-256.
        """
        modules = {name: _relative(path, anchor) for name, path in sorted(self.modules.items())}
        found = {
            "files": {_relative(path, anchor): digest(path) for path in sorted({*self.files, *self.modules.values()})},
            "folders": {_relative(path, anchor): _listing(path) for path in sorted(self.folders)},
            "modules": modules,
            "packages": {name: host.version(name) for name in sorted(self.packages)},
        }
        return found if any(found.values()) else {}


@contextmanager
def watching(ignored: Collection[Path] = ()) -> Iterator[Seen]:
    """Watches what Python code reads in the block.

    Args:
        ignored: folders of planc's own.
    """
    seen, notes, active = Seen(), _Notes(), True

    def hook(event: str, args: tuple[Any, ...]) -> None:  # hooks stay for the life of the process
        if not active or event not in _EVENTS or not args:
            return
        with suppress(Exception):
            if event == "subprocess.Popen":
                if _is_of_users_code(sys._getframe(1)):
                    notes.add("program", Path(os.fsdecode(args[0])).name)
                return
            place = os.path.abspath(os.fsdecode(args[0] if args[0] is not None else "."))  # noqa: PTH100  links are kept
            if event in ("open", "sqlite3.connect"):
                notes.add("written" if event == "open" and _is_write(args) else "read", place)
            elif _IMPORTING not in sys._getframe(1).f_code.co_filename:
                notes.add("listed", place)

    sys.addaudithook(hook)
    before, mapped_before = set(sys.modules), _mapped()
    try:
        with readers.telling(lambda place: notes.add("read", os.path.abspath(place))):  # noqa: PTH100
            yield seen
    finally:
        active = False
        noted = notes.gather()
        no = (*_SYSTEM, *(f"{Path(one).resolve()}/" for one in (*user_code.installed(), *_OWN, *ignored)))
        opened = {Path(place) for place in noted["read"] - noted["written"]} | (_mapped() - mapped_before)
        seen.files |= {path for path in opened if _is_data(path) and not _within(path, no)}
        seen.folders |= {path for path in map(Path, noted["listed"]) if path.is_dir() and not _within(path, no)}
        seen.modules |= user_code.modules(before)
        seen.packages |= user_code.packages(before)
        seen.programs |= noted["program"]
        if _SPAWNING & (set(sys.modules) - before):
            seen.programs.add("python, by multiprocessing")


class _Notes:
    """What was seen, by kind. Forked children write theirs into a file that they have, too."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str]] = defaultdict(set)
        self.owner, self.others = os.getpid(), tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, kind: str, what: str) -> None:
        """Notes one thing, in whichever process."""
        if os.getpid() == self.owner:
            self.seen[kind].add(what)
        else:
            os.write(self.others.fileno(), f"{kind} {what}\0".encode(errors="surrogateescape"))

    def gather(self) -> dict[str, set[str]]:
        """Returns all that was noted; nothing can be added any more."""
        with self.others as file:
            file.seek(0)
            for line in filter(None, file.read().decode(errors="surrogateescape").split("\0")):
                kind, _, what = line.partition(" ")
                self.seen[kind].add(what)
        return self.seen


def _is_of_users_code(frame: FrameType | None) -> bool:
    """Whether the user's own files started a program: packages, and Python's platform, ask uname and ldconfig."""
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _STARTERS:
        frame = frame.f_back
    places = tuple(f"{place}/" for place in user_code.installed())
    return frame is not None and not str(Path(frame.f_code.co_filename).resolve()).startswith(places)


def holds(reads: Mapping[str, Any], anchor: Path, digest: Callable[[Path], str]) -> bool:
    """Whether user code that read all this would read the same today."""
    return next(changes(reads, anchor, digest), None) is None


def changes(reads: Mapping[str, Any], anchor: Path, digest: Callable[[Path], str]) -> Iterator[str]:
    """Yields one line for each thing that has changed since it was read, see `Seen.reads`."""
    for name, sha256 in reads["files"].items():
        path = anchor / name
        try:
            if digest(path) != sha256:
                yield f"{name} changed"
        except OSError:
            yield f"{name} is gone"
    for name, listing in reads["folders"].items():
        if _listing(anchor / name) != listing:
            yield f"the files in {name}/ are others"
    for name, file in reads["modules"].items():
        if "." not in name and (now := _module_file(name, anchor)) not in (None, (anchor / file).resolve()):
            yield f"module {name} is {now.name if now else ''} now"
    for name, version in reads["packages"].items():
        if (now_version := host.version(name)) != version:
            yield f"{name} {version} -> {now_version}"


def union(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what was read at two times, while nothing of it has changed."""
    return {kind: {**one.get(kind, {}), **other.get(kind, {})} for kind in {**one, **other}}


def sources(reads: Mapping[str, Any], anchor: Path) -> list[Path]:
    """Returns the files that were read."""
    return [Path(os.path.normpath(anchor / name)) for name in reads.get("files", {})]


def _module_file(name: str, anchor: Path) -> Path | None:
    """The file that the import of a module finds in the user's folder; None where it finds none there."""
    spec = importlib.machinery.PathFinder.find_spec(name, [str(anchor)])
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None


def _is_write(args: tuple[Any, ...]) -> bool:
    mode, flags = (*args, None, None)[1:3]
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & _WRITES)


def _mapped() -> set[Path]:
    """Files mapped into this process: so libraries that are not written in Python read weights (Linux)."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {Path(line.split(maxsplit=5)[-1]) for line in lines if "/" in line}
    return set()


def _is_data(path: Path) -> bool:
    """Whether it is a file that is there, and neither a library nor compiled Python."""
    return path.suffix not in (".pyc", ".so") and ".so." not in path.name and path.is_file()


def _within(path: Path, folders: tuple[str, ...]) -> bool:
    return f"{path}/".startswith(folders) or f"{path.resolve()}/".startswith(folders)


def _relative(path: Path, anchor: Path) -> str:
    return os.path.relpath(path, anchor)


def _listing(folder: Path) -> list[str] | None:
    try:
        return sorted(name for name in os.listdir(folder) if name != "__pycache__")  # noqa: PTH208  as user code sees it
    except OSError:
        return None

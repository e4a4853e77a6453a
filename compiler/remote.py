"""A cache that runners share: a local store, and a place named by an fsspec URL (`s3://...`, `file://...`) behind it.

    entries/<base>/<key>.json   as in the local store; a base has a key for each time that user code read other files
    blobs/<sha256>              file contents

An entry says itself what it was made of, so there is no list of keys that two runners could overwrite for each other.
Blobs are there before the entry that names them. All that comes from there is digested and belongs to what was asked
for, or it is refused and made again. A place that fails is told once and left alone from then on: a build needs it for
nothing. Worker processes know the local store only: user code runs in them.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from . import files
from .cache import Entry, Store, default_root, key_of, sealed, unsealed
from .errors import PlancError, Unavailable, UsageError, named, plain

log = logging.getLogger(__name__)

T = TypeVar("T")

_SECONDS = 8.0  # for an answer; a file has more, by its size
_SLOWEST = 1 << 20  # bytes per second
_MOST_ENTRIES = 32
_OPTIONS: dict[str, dict[str, Any]] = {
    "file": {"auto_mkdir": True},
    "s3": {
        "config_kwargs": {"connect_timeout": 3, "read_timeout": 6, "retries": {"max_attempts": 1}},
        "use_listings_cache": False,
    },
}
_DIGEST = re.compile("[0-9a-f]{64}")
_WHEN = ("LastModified", "mtime", "created", "updated", "last_modified")


def open_store(place: str | None, url: str = "") -> Store:
    """Returns the store at a folder or URL.

    Args:
        place: what the user names; None for the default folder, and `url` behind it.
        url: what planc.toml names; may be empty.
    """
    if place is not None and "://" not in place:
        return Store(Path(place))
    far = place or url
    return Shared(default_root(), url=far) if far else Store(default_root())


class Remote:
    """The place. Nothing here raises for a place that does not work.

    Attributes:
        url: of the place.
        refused: keys of entries whose files are missing or damaged there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.refused: set[str] = set()
        self._bad: set[str] = set()
        self._put: set[str] = set()
        self._known: dict[str, list[Entry]] = {}
        self._lost = False
        self._read_only = False
        self._place: tuple[Any, str] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Remote"], tuple[str]]:
        """A copy in another process begins anew."""
        return Remote, (self.url,)

    def entries(self, base: str) -> list[Entry]:
        """Returns the entries of a base that are whole, the newest first; each base is asked for once."""
        if base not in self._known:
            texts: dict[str, bytes] = self._ask(lambda fs, root: _read_newest(fs, f"{root}/entries/{base}")) or {}
            found = [(name, _entry(text, base)) for name, text in texts.items()]
            for name, _ in (pair for pair in found if pair[1] is None):
                log.warning("planc: %s: %s is damaged there, and not used", plain(self.url), name)
            self._known[base] = [entry for _, entry in found if entry is not None]
        return [entry for entry in self._known[base] if entry.key not in self.refused]

    def get(self, sha256: str, size: int, path: Path) -> bool:
        """Downloads a blob; returns whether it is there, and whole."""
        name = f"blobs/{sha256}"
        got = self._ask(lambda fs, root: _download(fs, f"{root}/{name}", path), size)
        if got and files.digest(path) == sha256:
            return True
        if got:
            self._bad.add(sha256)
            log.warning("planc: %s: %s is damaged there, and not used", plain(self.url), name)
        return False

    def put(self, entry: Entry, blob: Callable[[str], Path]) -> None:
        """Uploads an entry, after the blobs that are not there yet; once, but for what was damaged there."""
        shas = {str(one["sha256"]) for one in entry.outputs.values()}
        if entry.key in self._put - self.refused and not shas & self._bad:
            return
        for one in entry.outputs.values():
            sha256, size = str(one["sha256"]), int(one["bytes"])
            upload = partial(_upload, path=blob(sha256), name=f"blobs/{sha256}", anew=sha256 in self._bad)
            if not self._ask(upload, size, writes=True):
                return
            self._bad.discard(sha256)
        base = key_of(entry.components)
        text = sealed(asdict(entry)).encode()
        place = f"entries/{base}/{entry.key}.json"
        self._ask(lambda fs, root: fs.pipe_file(f"{root}/{place}", text), len(text), writes=True)
        self._put.add(entry.key)

    def _ask(self, what: Callable[[Any, str], T], size: int = 0, *, writes: bool = False) -> T | None:
        """Does something at the place within its time; None where that fails, or failed before."""
        if self._lost or (writes and self._read_only):
            return None
        try:
            fs, root = self._open()
            return _within(_SECONDS + size / _SLOWEST, lambda: what(fs, root))
        except PlancError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not writes:
                return None
            self._lose(error, writes=writes and isinstance(error, PermissionError | NotImplementedError))
            return None

    def _open(self) -> tuple[Any, str]:
        """The file system of the URL, and the path in it. fsspec is imported here: it takes a tenth of a second.

        Raises:
            Unavailable: it is not installed, or what it needs for the URL.
            UsageError: there is no such protocol.
        """
        with self._lock:
            if self._place is None:
                protocol, shown = self.url.partition("://")[0], plain(self.url)
                try:
                    from fsspec.core import url_to_fs

                    fs, root = url_to_fs(self.url, **_OPTIONS.get(protocol, {}))
                except ImportError as error:
                    hint = "pip install 'planc[s3]'" if protocol in ("s3", "file") else "Install it with pip"
                    raise Unavailable(f"--cache {shown}: {self._plain(error)}", hint=hint) from error
                except ValueError as error:
                    hint = "Write s3://bucket/prefix or file:///folder"
                    raise UsageError(f"--cache {shown}: {self._plain(error)}", hint=hint) from error
                self._place = fs, root.rstrip("/")
            return self._place

    def _lose(self, error: Exception, *, writes: bool) -> None:
        with self._lock:
            first = not self._lost and not (writes and self._read_only)
            self._lost, self._read_only = self._lost or not writes, self._read_only or writes
        if first:
            words = "it does not answer" if isinstance(error, TimeoutError) else self._plain(error)
            left = "nothing is written there" if writes else "this build goes on without it"
            log.warning("planc: the shared cache %s: %s; %s", plain(self.url), words, left)

    def _plain(self, error: Exception) -> str:
        """Words of an error, without what the URL keeps secret; they may quote a part of it."""
        words = plain(named(error))
        rest = self.url.partition("://")[2]
        for secret in (rest.rpartition("@")[0], rest.partition("?")[2]):
            words = words.replace(secret, "...") if secret else words
        return words


@dataclass(frozen=True)
class Shared(Store):
    """A local store with a place behind it.

    Attributes:
        url: of the place.
    """

    url: str = field(default="", repr=False)
    _remote: Remote = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_remote", Remote(self.url))

    @property
    def local(self) -> Store:
        """The local store alone."""
        return Store(self.root, _seen=self._seen)

    def find(self, base: str, holds: Callable[[Mapping[str, Any]], bool]) -> Entry | None:
        """Returns the entry of a stage, or None; one that is at the place only is known here from then on."""
        if found := super().find(base, holds):
            return found
        for entry in self._remote.entries(base):
            if not entry.reads or holds(entry.reads):
                with self._telling():
                    self._note(entry)
                return entry
        return None

    def save(self, entry: Entry, made: Mapping[str, Path]) -> Entry:
        """Keeps the files that a stage made, here and at the place."""
        whole = super().save(entry, made)
        self.share(whole)
        return whole

    def share(self, entry: Entry) -> None:
        """Uploads an entry that was saved here."""
        self._remote.put(entry, lambda sha256: self._path("blobs", sha256))

    def fetch(self, entry: Entry, only: Collection[str] | None = None) -> None:
        """Downloads the blobs of an entry that are not here; where one cannot be had, the entry is forgotten."""
        for name, facts in entry.outputs.items():
            if (only is None or name in only) and not self._fetch(facts["sha256"], int(facts["bytes"])):
                self._remote.refused.add(entry.key)
                self._path("entries", f"{entry.key}.json").unlink(missing_ok=True)
                return

    def restore(
        self, entry: Entry, place: Callable[[str], Path], *, only: Collection[str] | None = None, copied: bool = False
    ) -> None:
        """Puts the files of an entry where `place` wants them, after what must be fetched."""
        self.fetch(entry, only)
        super().restore(entry, place, only=only, copied=copied)

    def _fetch(self, sha256: str, size: int) -> bool:
        """Whether a blob is here, now; what several jobs want is downloaded once."""
        blob = self._path("blobs", sha256)
        if blob.exists():
            return True
        with self.lock(f"blob-{sha256}", lambda: None), self._telling():
            if not blob.exists():
                blob.parent.mkdir(parents=True, exist_ok=True)
                with self._temporary(blob) as fresh:
                    if self._remote.get(sha256, size, fresh):
                        self._adopt(fresh, blob)
        return blob.exists()


def _entry(text: bytes, base: str) -> Entry | None:
    """The entry that a text holds, where it is whole and belongs to the base; None otherwise."""
    said = unsealed(text)
    entry = Entry(**{**said, "notes": tuple(said["notes"])}) if said else None
    if entry is None or key_of(entry.components) != base:
        return None
    key = key_of({"base": base, "reads": entry.reads}) if entry.reads else base
    inside = all(".." not in PurePosixPath(name).parts and not name.startswith("/") for name in entry.outputs)
    digests = all(_DIGEST.fullmatch(one["sha256"]) for one in entry.outputs.values())
    return entry if entry.key == key and inside and digests else None


def _read_newest(fs: Any, folder: str) -> dict[str, bytes]:
    """Contents of the newest files of a folder, by their names."""
    rows = [row for row in fs.ls(folder, detail=True) if row["name"].endswith(".json")]
    rows.sort(key=lambda row: next((str(row[word]) for word in _WHEN if word in row), ""), reverse=True)
    names = [row["name"] for row in rows[:_MOST_ENTRIES]]
    found = fs.cat(names, on_error="return") if names else {}
    for failure in found.values():
        if isinstance(failure, Exception) and not isinstance(failure, FileNotFoundError):
            raise failure
    return {name: text for name, text in found.items() if isinstance(text, bytes)}


def _download(fs: Any, source: str, path: Path) -> bool:
    fs.get_file(source, os.fspath(path))
    return True


def _upload(fs: Any, root: str, *, path: Path, name: str, anew: bool) -> bool:
    """Uploads a file, where it is not there yet."""
    if not anew:
        with suppress(FileNotFoundError):
            if fs.info(f"{root}/{name}")["size"] == path.stat().st_size:
                return True
    fs.put_file(os.fspath(path), f"{root}/{name}")
    return True


def _within(seconds: float, function: Callable[[], T]) -> T:
    """Calls a function that may hang, as a folder of a lost server does, in a thread that nobody waits for at the end.

    Raises:
        TimeoutError: it takes longer.
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future.result(seconds)

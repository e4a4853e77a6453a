"""Content-addressed store of what stages made: an entry per key, a blob per content.

    entries/<key>.json   stage, components of the key, outputs by SHA-256, facts; sealed by a digest of itself
    traces/<base>.json   what user code was seen to read, for each time: the keys that a stage may have
    blobs/<sha256>       file contents, read-only
    digests/<path>.json  SHA-256 of a file that has not changed since, by size, times and inode
    lasts/<job>.json     components of the last build of a job's stage: to say what changed
    locks/<base>         held while a stage is made: two builds at once make it once

Files get their names when they are whole, so that a killed build leaves nothing to trust. Each blob is digested when it
is loaded; a damaged one is removed and made again. Standard library only: a build with nothing to do imports no more.
The split of keys into what is known before and what was seen to be read is that of ccache's direct mode.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import files
from .errors import IOFailed, UsageError

SCHEMA = 1
_MOST_RECORDS = 32
_RACY_NS = 2_000_000_000
_READ_ONLY = 0o444
_YOUNG_SECONDS = 600.0  # a blob of a stage that is just being kept has no entry yet


@dataclass(frozen=True)
class Entry:
    """What one run of a stage left.

    Attributes:
        stage: its name.
        key: of all that it was made of.
        components: what the key is made of, but for `reads`.
        reads: what user code was seen to read, see `observe.Reads`.
        outputs: SHA-256 and bytes of each file, by its name in the folder of the job.
        facts: what else it found; part of later keys only where a stage names it.
        notes: what it told the user.
        seconds: wall time that it took.
    """

    stage: str
    key: str
    components: Mapping[str, Any]
    reads: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Bytes of all outputs."""
        return sum(int(one["bytes"]) for one in self.outputs.values())


class Damaged(Exception):
    """A blob is missing, or is not what its name says."""


@dataclass(frozen=True)
class Store:
    """A cache folder.

    Attributes:
        root: the folder.
        private: whether it is thrown away with the job that it was made for: its files may then be linked.
    """

    root: Path
    private: bool = False
    _seen: dict[tuple[str, int, int, int, int], str] = field(default_factory=dict, compare=False, repr=False)

    def find(self, base: str, holds: Callable[[Mapping[str, Any]], bool]) -> Entry | None:
        """Returns the entry of a stage, or None.

        Args:
            base: key of what is known before the stage runs, see `key_of`.
            holds: whether user code would read today what it was seen to read.
        """
        for record in self._records(base):
            if (not record["reads"] or holds(record["reads"])) and (entry := self._entry(record["key"])):
                with suppress(OSError):
                    os.utime(self._path("entries", f"{entry.key}.json"))  # `prune` keeps what was used last
                return entry
        return None

    def save(self, entry: Entry, made: Mapping[str, Path]) -> Entry:
        """Keeps the files that a stage made, and returns its entry with their digests and its key.

        Raises:
            IOFailed: the folder cannot be written to.
        """
        with self._telling():
            outputs = {name: self._keep(path) for name, path in sorted(made.items())}
            base = key_of(entry.components)
            key = key_of({"base": base, "reads": entry.reads}) if entry.reads else base
            whole = replace(entry, key=key, outputs=outputs)
            self._note(whole)
        return whole

    @property
    def local(self) -> "Store":
        """What worker processes get of it: the folder, see `remote`."""
        return self

    def share(self, entry: Entry) -> None:
        """Gives an entry that was saved by a worker to others; there are none."""

    def fetch(self, entry: Entry, only: Collection[str] | None = None) -> None:
        """Brings the files of an entry to this machine; they are here."""

    def restore(
        self, entry: Entry, place: Callable[[str], Path], *, only: Collection[str] | None = None, copied: bool = False
    ) -> None:
        """Puts the files of an entry where `place` wants them, each one digested.

        Args:
            entry: the entry.
            place: from name to path; the file must not exist.
            only: names of the files that are wanted; None for all.
            copied: whether the files are the user's from now on, and so no links.

        Raises:
            Damaged: a blob is; the entry is forgotten.
            OSError: the system refuses to read or write.
        """
        for name, facts in entry.outputs.items():
            if only is not None and name not in only:
                continue
            path = place(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._bring(facts["sha256"], path, linked=self.private or not copied):
                continue
            blob = self._path("blobs", facts["sha256"])
            how = "is damaged" if blob.exists() else "has a gap"
            for bad in (blob, self._path("entries", f"{entry.key}.json")):
                with suppress(OSError):
                    bad.unlink()
            raise Damaged(f"the cache {how}, {entry.stage} {entry.key[:12]} {name}")

    def digest(self, path: Path) -> str:
        """Returns the SHA-256 of a file; one that has not changed since it was read is not read again.

        Raises:
            OSError: it cannot be read.
        """
        facts = path.stat()
        known = (os.fspath(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
        if known in self._seen:
            return self._seen[known]
        memo = self._path("digests", f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json")
        said = _read_sealed(memo)
        if said is None or said["file"] != list(known[1:]):
            said = {"file": list(known[1:]), "sha256": files.digest(path), "path": str(path.absolute())}
            if time.time_ns() - max(known[2], known[3]) > _RACY_NS:  # a later write in the same tick would not show
                with suppress(OSError):
                    self._write(f"digests/{memo.name}", sealed(said))
        self._seen[known] = said["sha256"]
        return str(said["sha256"])

    @contextmanager
    def lock(self, base: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Holds the lock of a stage for the time of the block; the system frees it where the process dies.

        Args:
            base: see `find`.
            on_wait: is called where another build holds it.
        """
        with self._telling():
            path = self._path("locks", base)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def note_last(self, name: str, entry: Entry) -> None:
        """Keeps what a job's stage was made of, for `last`."""
        with suppress(OSError):
            path = f"lasts/{_short(f'{name} {entry.stage}')}.json"
            if (known := _read_sealed(self.root / path)) is None or known["key"] != entry.key:
                said = {"key": entry.key, "components": entry.components, "reads": entry.reads}
                self._write(path, sealed(said))

    def last(self, name: str, stage: str) -> dict[str, Any] | None:
        """Returns key, components and reads of the last build of a job's stage, or None."""
        return _read_sealed(self._path("lasts", f"{_short(f'{name} {stage}')}.json"))

    def named(self, start: str) -> Entry:
        """Returns the entry whose key begins with `start`.

        Raises:
            UsageError: there is none, or several.
        """
        found = [path.stem for path in (self.root / "entries").glob("*.json") if path.stem.startswith(start)]
        entry = self._entry(found[0]) if len(found) == 1 else None
        if entry is None:
            raise UsageError(f"{len(found)} entries have keys that begin with {start!r}", hint="See planc cache ls")
        return entry

    def listing(self) -> list[dict[str, Any]]:
        """Returns stage, key, bytes, seconds and last use of each entry, the oldest use first."""
        rows = []
        for path in (self.root / "entries").glob("*.json"):
            if (entry := self._entry(path.stem)) is not None:
                used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime))
                row = {"key": entry.key, "stage": entry.stage, "bytes": entry.bytes, "seconds": entry.seconds}
                rows.append((path.stat().st_mtime_ns, row | {"used": used}))
        return [row for _, row in sorted(rows, key=lambda pair: pair[0])]

    def bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(path.stat().st_size for path in self._blobs())

    def prune(self, most: int) -> tuple[int, int]:
        """Removes entries, the longest unused first, until blobs have `most` bytes.

        Returns:
            How many entries are gone, and how many bytes.
        """
        before, removed = self.bytes(), 0
        outputs = {row["key"]: self._outputs(row["key"]) for row in self.listing()}
        uses = Counter(name for names in outputs.values() for name in names)
        sizes = {path.name: path.stat().st_size for path in self._blobs()}
        left = sum(size for name, size in sizes.items() if uses[name])
        for key, names in outputs.items():
            if left <= most:
                break
            self._path("entries", f"{key}.json").unlink(missing_ok=True)
            removed += 1
            uses.subtract(names)
            left -= sum(sizes.get(name, 0) for name in names if not uses[name])
        for path in self._blobs():
            if not uses[path.name] and (path.name in uses or time.time() - path.stat().st_mtime > _YOUNG_SECONDS):
                path.unlink(missing_ok=True)
        return removed, before - self.bytes()

    def verify(self) -> tuple[int, list[str]]:
        """Digests all blobs, reads all entries and removes what is damaged; returns how many are whole, and those."""
        whole = 0
        damaged: list[str] = []
        for path in self._blobs():
            good = files.digest(path) == path.name
            whole, damaged = whole + good, damaged if good else [*damaged, f"blobs/{path.name}"]
        for kind in ("entries", "traces", "lasts", "digests"):
            for path in sorted((self.root / kind).glob("*.json")):
                good = _read_sealed(path) is not None
                whole, damaged = whole + good, damaged if good else [*damaged, f"{kind}/{path.name}"]
        for name in damaged:
            (self.root / name).unlink(missing_ok=True)
        return whole, damaged

    def _outputs(self, key: str) -> set[str]:
        entry = self._entry(key)
        return {str(one["sha256"]) for one in entry.outputs.values()} if entry else set()

    def _blobs(self) -> list[Path]:
        return sorted(path for path in (self.root / "blobs").glob("*") if not path.name.startswith("."))

    def _path(self, kind: str, name: str) -> Path:
        return self.root / kind / name

    def _records(self, base: str) -> list[dict[str, Any]]:
        said = _read_sealed(self._path("traces", f"{base}.json"))
        return list(said["records"]) if said else []

    def _entry(self, key: str) -> Entry | None:
        said = _read_sealed(self._path("entries", f"{key}.json"))
        return Entry(**{**said, "notes": tuple(said["notes"])}) if said else None

    def _note(self, entry: Entry) -> None:
        """Writes an entry, and then that its base has it."""
        base = key_of(entry.components)
        self._write(f"entries/{entry.key}.json", sealed(asdict(entry)))
        known = [one for one in self._records(base) if one["key"] != entry.key]
        records = [{"key": entry.key, "reads": entry.reads}, *known][:_MOST_RECORDS]
        self._write(f"traces/{base}.json", sealed({"records": records}))

    def _keep(self, path: Path) -> dict[str, Any]:
        """Makes a blob of a file, also where there is one: it may be damaged. The file becomes read-only with it."""
        sha256, size = files.digest(path), path.stat().st_size
        blob = self._path("blobs", sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self._temporary(blob) as fresh:
            link_or_copy(path, fresh)
            self._adopt(fresh, blob)
        return {"sha256": sha256, "bytes": size}

    def _adopt(self, fresh: Path, blob: Path) -> None:
        """Makes a whole file a blob."""
        fresh.chmod(_READ_ONLY)
        fresh.replace(blob)

    def _bring(self, sha256: str, path: Path, *, linked: bool) -> bool:
        """Puts a blob at `path`; returns whether it is there and whole."""
        blob = self._path("blobs", sha256)
        if not blob.exists():
            return False
        if linked:
            link_or_copy(blob, path)
        else:
            shutil.copyfile(blob, path)
        if files.digest(path) == sha256:
            return True
        path.unlink()
        return False

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._temporary(path) as fresh:
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)

    @contextmanager
    def _temporary(self, path: Path) -> Iterator[Path]:
        """Yields a name beside `path` that no one else uses; nothing is left under it."""
        descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        os.close(descriptor)
        fresh = Path(name)
        fresh.unlink()
        try:
            yield fresh
        finally:
            with suppress(OSError):
                fresh.unlink()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            failure = files.io_failure(error, self.root)
            raise IOFailed(f"cache: {failure.what}", hint="Give --cache DIR elsewhere, or --no-cache") from error


def key_of(components: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(components, sort_keys=True, allow_nan=True).encode()).hexdigest()


def sealed(document: Mapping[str, Any]) -> str:
    """Returns a JSON document with a digest of itself: a damaged file is no entry."""
    return json.dumps({"schema": SCHEMA, "sealed": key_of(document), "content": document})


def unsealed(text: str | bytes) -> dict[str, Any] | None:
    """Returns what was `sealed`, or None where it is damaged or of another schema."""
    try:
        document = json.loads(text)
        content: dict[str, Any] = document["content"]
        return content if document["schema"] == SCHEMA and document["sealed"] == key_of(content) else None
    except (ValueError, KeyError, TypeError):
        return None


def link_or_copy(source: Path, final: Path) -> None:
    """Gives a file a second name where the two are on one disk, else copies it."""
    try:
        os.link(source, final)
    except OSError:
        shutil.copyfile(source, final)


def default_root() -> Path:
    """Returns `PLANC_CACHE_DIR`, or else planc's folder in the user's cache folder."""
    if given := os.environ.get("PLANC_CACHE_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "planc"


def _read_sealed(path: Path) -> dict[str, Any] | None:
    try:
        return unsealed(path.read_bytes())
    except OSError:
        return None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

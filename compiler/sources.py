"""What an artifact was made from, by name: for depfiles, and for a build that watches it.

It comes from the store, so it is as complete where nothing was made. Of a job that failed it is what its last builds
have read, and what the one that failed had read when it did.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import artifact, choose, files, keys, observe, recipe, stages
from .cache import Store
from .project import Entry
from .recipe import Job


@dataclass(frozen=True)
class Sources:
    """What an artifact depends on.

    Attributes:
        files: each once, absolute.
        folders: whose files were listed, absolute.
    """

    files: frozenset[Path]
    folders: frozenset[Path]


def of(entry: Entry, store: Store, failed: Collection[str] = ()) -> Sources:
    """Returns the sources of a job.

    Args:
        entry: the job.
        store: has what was read for it.
        failed: what user code had read when it failed.
    """
    job = entry.job
    data = (job.quantization.calibration.data, job.quantization.guard.data)
    found = keys.named_files(job) | {
        path.resolve() for text in entry.gates.max_drop for path in recipe.data_files(text)
    }
    folders = {Path(text).resolve() for text in data if text and Path(text).is_dir()}
    for one in (*choose.candidates(job, here=False), *([entry.rival] if entry.rival else [])):
        for reads in _reads(one, store):
            found |= {path.resolve() for path in observe.sources(reads, keys.anchor(one))}
            folders |= {(keys.anchor(one) / name).resolve() for name in reads.get("folders", {})}
    return Sources(frozenset({*found, *map(Path, failed)}), frozenset(folders))


def _reads(job: Job, store: Store) -> Iterator[Mapping[str, Any]]:
    """What each stage has read: for what is in the store, else when it was last made here."""
    done: Mapping[str, Any] = {}
    with suppress(OSError):  # a file is gone
        done = stages.trail(job, store)[0]
    yield from (one.reads for one in done.values())
    for name in keys.stages_of(job):
        if name not in done and (last := store.last(str(job.id), name)):
            yield last["reads"]


def together(file: Path, found: Collection[Sources]) -> Sources:
    """The sources of a whole build.

    Args:
        file: planc.toml.
        found: the sources of each job.
    """
    every = frozenset().union(*(one.files for one in found))
    return Sources(every | {file.resolve()}, frozenset().union(*(one.folders for one in found)))


def write_depfile(path: Path, file: Path, found: Mapping[Path, Sources]) -> None:
    """Writes a depfile with a rule for the manifest of each artifact.

    Args:
        path: the depfile.
        file: planc.toml.
        found: folder of the artifact -> its sources.

    Raises:
        IOFailed: the place cannot be written to.
    """
    rules = {out / artifact.MANIFEST: sorted(together(file, [one]).files) for out, one in found.items()}
    files.write_depfile(path, rules)

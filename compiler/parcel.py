"""A task on its way to another machine: what it reads and what it makes travel through the store, by content.

    pack     here    files become blobs; the parcel has their names below the folder that they have in common
    run      there   they lie there as they lay here, the task names them there, and leaves what it makes in the store
    land     here    an artifact that was made there gets its name

What a job names travels, the external data of an ONNX file, all Python files in the folder of a Python file, and what
user code was seen to read at the last build that this store knows of. Other files that user code opens do not.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import artifact, choose, files, host, keys, observe, recipe
from .build import Build, Outcome, Share
from .cache import Damaged, Entry, Store, default_root, key_of
from .errors import Unavailable, UsageError
from .recipe import Job
from .worker import Emit, Limits

MOST_PYTHON = 5000
_INPUT = "input"
_ARTIFACT = "artifact"
_WITH_USER_CODE = ("export", "calibrate", "lower")
_NO_SOURCES = {"__pycache__", "node_modules", "site-packages"}


@dataclass(frozen=True)
class Parcel:
    """A task, and what it reads.

    Attributes:
        task: with the paths of the machine that it comes from.
        root: the folder that all files have in common.
        files: SHA-256 of each, by its name below `root`.
        links: symbolic links, and where they lead, both below `root`.
        planc: digest of planc's code: another one makes something else.
        own_limits: whether memory is bounded by the machine that runs the task, and not by the user.
    """

    task: Share | Build
    root: Path
    files: Mapping[str, str]
    links: Mapping[str, str]
    planc: str
    own_limits: bool

    @property
    def digest(self) -> str:
        """Of all files, their names and their content."""
        return key_of({"files": dict(self.files), "links": dict(self.links)})


@dataclass(frozen=True)
class Delivery:
    """What a task has made on another machine.

    Attributes:
        value: what it returned.
        artifact: SHA-256 of the files of the artifact; empty where it made none.
    """

    value: Any
    artifact: Mapping[str, str] = field(default_factory=dict)


def pack(task: Share | Build) -> Parcel:
    """Keeps the files that a task reads in its store, those that are not there yet.

    Raises:
        UsageError: a file cannot be read or changes, or there are too many Python files.
    """
    job, store = _job(task), task.store
    named = {_place(path) for path in _named(job)}
    wanted = named | {path.resolve() for path in _found(job, store)}
    if isinstance(task, Build) and task.entry.gates.given and task.entry.out.is_dir():
        wanted |= {_place(path) for path in task.entry.out.iterdir() if path.is_file()}
    root = Path(os.path.commonpath([path.parent.parent for one in wanted for path in (one, one.resolve())]))
    contents: dict[str, str] = {}
    for path in sorted({path.resolve() for path in wanted if path.is_file()}):
        try:
            contents[os.path.relpath(path, root)] = _keep(path, store)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Give planc a readable file") from error
    links = {
        os.path.relpath(path, root): os.path.relpath(path.resolve(), root) for path in wanted if path != path.resolve()
    }
    own = task.limits == recipe.limits(job.source, task.limits.seconds, None)
    return Parcel(_absolute(task), root, contents, links, keys.own_digest(), own)


def run(parcel: Parcel, folder: Path, emit: Emit, *, memory: int = 0) -> Delivery:
    """Runs a task on this machine.

    Args:
        parcel: the task.
        folder: of this machine, for files of many tasks.
        emit: receives the stages.
        memory: bytes that this machine's user grants; 0 for the machine's own.

    Raises:
        Damaged: a file of it is not in the store.
        PlancError: as the task raises.
    """
    if parcel.planc != keys.own_digest():
        raise Unavailable("another planc is installed there than here", hint="Install the same on all machines")
    task = parcel.task
    store = replace(task.store, root=default_root() if getattr(task.store, "url", "") else task.store.root)
    place = _unpack(parcel, folder, store)

    def move(path: Path) -> Path:
        return place / os.path.relpath(_place(path), parcel.root)

    job = moved(_job(task), move)
    limits = _limits(parcel, job, memory)
    if isinstance(task, Share):
        return Delivery(replace(task, job=job, limits=limits, store=store)(emit))
    try:
        choose.candidates(job)
    except Unavailable as error:
        return Delivery(Outcome(job.id, "skipped", reason=error.what))
    with TemporaryDirectory(prefix="planc-", dir=folder) as own:
        out = Path(own) / task.entry.out.name
        if (before := move(task.entry.out)).is_dir():
            shutil.copytree(before, out)
        entry = replace(task.entry, job=job, out=out)
        outcome = replace(task, entry=entry, limits=limits, store=store)(emit)
        made = {path.name: path for path in out.iterdir()}
        digests = {name: files.digest(path) for name, path in sorted(made.items())}
        store.save(Entry(_ARTIFACT, "", _components(digests), {}, {}, {}), made)
    return Delivery(outcome, digests)


def land(task: Share | Build, delivery: Delivery) -> Any:
    """Gives an artifact its name on this machine, and returns what the task would have returned here.

    Raises:
        Damaged: it is not in the store.
        PlancError: its place cannot be written to.
    """
    if isinstance(task, Share) or not delivery.artifact:
        value = delivery.value
        return replace(value, out=str(task.entry.out)) if isinstance(task, Build) else value
    out, store, outcome = task.entry.out, task.store, delivery.value
    artifact.require_replaceable(out)
    with files.staging(out) as folder:
        entry = store.find(key_of(_components(delivery.artifact)), lambda _: True)
        if entry is None:
            raise Damaged(f"the artifact of {outcome.id} is not in the cache")
        payload = folder / "artifact"
        store.restore(entry, lambda name: payload / name, copied=True)
        there = out.exists() and any(out.iterdir())
        if there and not task.overwrite and artifact.same_content(out, artifact.read(payload).manifest, store.digest):
            status = "built" if outcome.made else "cached"
        else:
            files.publish(payload, out)
            status = "built" if outcome.made or there else "cached"
    return replace(outcome, status=status, out=str(out))


def moved(job: Job, move: Callable[[Path], Path]) -> Job:
    """Returns a job whose files lie elsewhere."""

    def text(one: str) -> str:
        place, colon, function = one.partition(".py:")
        if colon:
            return f"{move(Path(f'{place}.py'))}:{function}"
        return str(move(Path(one))) if one else one

    def option(value: object) -> object:
        return str(move(Path(str(value)))) if Path(str(value)).is_file() else value

    source, wanted, file = job.source, job.quantization, keys.model_file(job)
    paths = recipe.path_options(job)
    return replace(
        job,
        source=replace(
            source,
            text=source.text.replace(str(file), str(move(file)), 1) if file else source.text,
            weights=source.weights and move(source.weights),
            data=source.data and move(source.data),
            root=source.root if file else move(source.root),
        ),
        target=replace(
            job.target,
            options={name: option(one) if _plain(name) in paths else one for name, one in job.target.options.items()},
        ),
        options=tuple((name, str(option(one)) if name in paths else one) for name, one in job.options),
        quantization=replace(
            wanted,
            calibration=replace(
                wanted.calibration,
                data=text(wanted.calibration.data),
                table=wanted.calibration.table and move(wanted.calibration.table),
            ),
            guard=replace(
                wanted.guard,
                data=text(wanted.guard.data),
                bounds=tuple(text(one) if ".py:" in one else one for one in wanted.guard.bounds),
            ),
            files=tuple(map(move, wanted.files)),
        ),
    )


def _job(task: Share | Build) -> Job:
    return task.job if isinstance(task, Share) else task.entry.job


def _absolute(task: Share | Build) -> Share | Build:
    """The task with whole paths, and without what only this process knows of its files."""
    store, job = replace(task.store, root=task.store.root.absolute(), _seen={}), moved(_job(task), _place)
    if isinstance(task, Share):
        return replace(task, job=job, store=store)
    return replace(task, entry=replace(task.entry, job=job, out=_place(task.entry.out)), store=store)


def _place(path: Path) -> Path:
    """Where a path lies when all folders on the way are real; it may be a link itself."""
    return path.parent.resolve() / path.name


def _named(job: Job) -> Iterator[Path]:
    """Yields the files and folders that a job names."""
    source, wanted = job.source, job.quantization
    file = keys.model_file(job)
    yield from (path for path in (file, source.weights, source.data, *wanted.files) if path is not None)
    for data in (wanted.calibration.data, wanted.guard.data):
        if data and Path(data).is_dir():
            yield Path(data)
    paths = recipe.path_options(job)
    for name, value in (*job.target.options.items(), *job.options):
        if _plain(name) in paths and Path(str(value)).is_file():
            yield Path(str(value))
    if file is None:
        yield source.root


def _found(job: Job, store: Store) -> Iterator[Path]:
    """Yields the files that belong to those that a job names."""
    file = keys.model_file(job)
    if file is not None and file.suffix == ".onnx":
        yield from _external(file)
    code = {path.resolve().parent for path in job.quantization.files if path.suffix == ".py"}
    if file is None or file.suffix == ".py":
        code.add(keys.anchor(job))
    for folder in sorted(code):
        yield from _python(folder)
    for stage in _WITH_USER_CODE:
        last = store.last(str(job.id), stage)
        if last and last["reads"]:
            yield from (path for path in observe.sources(last["reads"], keys.anchor(job)) if path.is_file())


def _python(folder: Path) -> Iterator[Path]:
    """Yields the Python files of a project, but those of environments."""
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            one for one in folders
            if not one.startswith(".") and one not in _NO_SOURCES and not (Path(place) / one / "pyvenv.cfg").exists()
        )  # fmt: skip
        for name in sorted(names):
            if name.endswith(".py"):
                count += 1
                yield Path(place) / name
        if count > MOST_PYTHON:
            raise UsageError(
                f"{folder}: more than {MOST_PYTHON} Python files lie there, and all would go to the cluster",
                hint="Move the model's files into a folder of their own",
            )


def _external(file: Path) -> Iterator[Path]:
    """Yields the files that hold weights of an ONNX file; one that is damaged tells so where it is read."""
    import onnx

    from . import protos

    try:
        proto, _ = protos.load_light(file)
    except Exception:
        return
    for tensor in protos.tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = next((one.value for one in tensor.external_data if one.key == "location"), "")
            path = file.parent.resolve() / where
            if where and ".." not in Path(where).parts and not Path(where).is_absolute() and path.is_file():
                yield path


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _input(sha256: str) -> dict[str, Any]:
    """Components of the key of a file that tasks read."""
    return {"stage": _INPUT, "sha256": sha256}


def _components(digests: Mapping[str, str]) -> dict[str, Any]:
    """Components of the key of an artifact that was made elsewhere."""
    return {"stage": _ARTIFACT, "files": dict(digests)}


def _keep(path: Path, store: Store) -> str:
    """Makes a blob of a copy of a file, and returns its digest."""
    sha256 = store.digest(path)
    known = store.find(key_of(_input(sha256)), lambda _: True)
    if known is not None:
        store.share(known)  # it may be here and not there
        return sha256
    store.root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".tmp-", dir=store.root) as place:
        copy = Path(place) / "file"
        shutil.copyfile(path, copy)  # the user's file stays as it is, and no blob
        kept = store.save(Entry(_INPUT, "", _input(sha256), {}, {}, {}), {"file": copy})
    if kept.outputs["file"]["sha256"] != sha256:
        raise UsageError(f"{path} changes while it is read", hint="Build again when it is written")
    return sha256


def _unpack(parcel: Parcel, folder: Path, store: Store) -> Path:
    """Puts the files of a parcel into a folder of their own, where they are not there yet."""
    place = folder / parcel.digest[:20]
    if place.is_dir():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="planc-", dir=folder) as own:
        fresh = Path(own) / "files"
        fresh.mkdir()
        for name, sha256 in parcel.files.items():
            entry = store.find(key_of(_input(sha256)), lambda _: True)
            if entry is None:
                raise Damaged(f"{name} is not in the cache {store.root}")
            store.restore(entry, lambda _, name=name: fresh / name)  # type: ignore[misc]
        for name, target in parcel.links.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).symlink_to(os.path.relpath(fresh / target, (fresh / name).parent))
        try:
            fresh.rename(place)
        except OSError:  # another task of this machine was faster
            if not place.is_dir():
                raise
    return place


def _limits(parcel: Parcel, job: Job, memory: int) -> Limits:
    """What a worker process may take on this machine."""
    limits = recipe.limits(job.source, parcel.task.limits.seconds, None) if parcel.own_limits else parcel.task.limits
    most = min(memory or host.memory_bytes(), host.memory_bytes())
    return replace(limits, memory=min(limits.memory, most), cap=min(limits.cap, most))

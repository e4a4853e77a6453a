"""Files that are whole or not there: staging folders, digests, reproducible archives."""

import errno
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import IOFailed, UsageError

if TYPE_CHECKING:
    import numpy as np

_MARK = ".planc-"
_SPARE_BYTES = 16 << 20


@contextmanager
def staging(final: Path) -> Iterator[Path]:
    """Makes a temporary folder beside `final` for the time of the block, and removes it afterwards.

    The place is tested before any work: it must be writable, with some free space. Folders left by killed runs
    for the same name are removed.

    Raises:
        IOFailed: the place cannot be written to, or the disk is full; also for such errors raised in the block.
    """
    made: list[Path] = []
    folder = final.parent / f".{final.name}{_MARK}{os.getpid()}"
    try:
        made = [folder for folder in (final.parent, *final.parent.parents) if not folder.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final)
        folder.mkdir()
        probe(folder)
        yield folder
    except OSError as error:
        raise io_failure(error, final.parent) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in made:
            try:
                empty.rmdir()
            except OSError:
                break


@contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Turns what fails in the block into one line about the place of the staging folder, where its disk is to blame.

    Raises:
        IOFailed: the system refused to write, or some library failed while the disk was full.
    """
    try:
        yield
    except OSError as error:
        raise io_failure(error, folder.parent) from error
    except Exception as error:
        if is_full(folder):  # the library did not say so
            raise io_failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), folder.parent) from error
        raise


def publish(staged: Path, final: Path) -> None:
    """Gives the staged file or folder its final name, in place of an older one.

    A file is replaced in one step. A folder is moved aside first: between two renames the name holds nothing.
    """
    if staged.is_dir() and final.is_dir():
        aside = staged.parent / "replaced"
        final.rename(aside)
        try:
            staged.rename(final)
        except BaseException:  # Ctrl-C too
            aside.rename(final)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        staged.replace(final)


def remove(place: Path) -> None:
    """Removes a folder and what is in it, if it is there."""
    shutil.rmtree(place, ignore_errors=True)


def require_ours(out: Path, overwrite: bool, source: str | Path = "") -> None:
    """Checks that an ONNX file called `out` may be written: what is there is planc's and not the source, or may go.

    Raises:
        UsageError: it is not, or is a folder.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder", hint=f"Name the file: -o {out / 'model.onnx'}")
    if out.exists() and not overwrite and source and Path(source).exists() and out.samefile(source):
        raise UsageError(f"-o {out} is the model itself", hint="Give another -o; --overwrite replaces the model")
    if out.exists() and not overwrite and not _is_ours(out):
        raise UsageError(f"{out} exists and was not made by planc", hint="Add --overwrite, or give another -o")


def require_table(out: Path, overwrite: bool) -> None:
    """Checks that a calibration table called `out` may be written: what is there is one, or may go.

    Raises:
        UsageError: it is not, or is a folder.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder", hint=f"Name the file: -o {out / 'ranges.json'}")
    if out.exists() and not overwrite and b'"model_digest"' not in out.read_bytes():
        raise UsageError(f"{out} exists and is no calibration table", hint="Add --overwrite, or give another -o")


def publish_same(staged: Path, out: Path) -> str:
    """Gives a file its final name unless it is there already; returns "built", "replaced" or "unchanged"."""
    if out.exists() and digest(out) == digest(staged):
        return "unchanged"
    status = "replaced" if out.exists() else "built"
    publish(staged, out)
    return status


def publish_onnx(staged: Path, out: Path, overwrite: bool) -> str:
    """Gives an ONNX file its final name, its external data first; returns "built", "replaced" or "unchanged"."""
    data_there = all((out.parent / data.name).exists() for data in staged.parent.glob("*.data"))
    if out.exists() and not overwrite and data_there and digest(out) == digest(staged):
        return "unchanged"
    status = "replaced" if out.exists() else "built"
    fresh = {data.name: data for data in staged.parent.glob(f"{glob.escape(out.name)}.*.data")}
    for name, data in fresh.items():
        publish(data, out.parent / name)
    publish(staged, out)
    for old in out.parent.glob(f"{glob.escape(out.name)}.*.data"):
        if old.name not in fresh and re.fullmatch(r".*\.[0-9a-f]{12}\.data", old.name):
            old.unlink()
    return status


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_arrays(path: Path, arrays: Mapping[str, "np.ndarray"]) -> None:
    """Writes an .npz whose bytes depend on the arrays only (NumPy's own stamps every member 1980-01-01)."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(path, "w") as archive:  # numpy.savez takes no array called "file"
        for name, array in sorted(arrays.items()):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def load_arrays(path: Path) -> "dict[str, np.ndarray]":
    """Reads an .npz; pickled objects are refused.

    Raises:
        UsageError: there is no such file, or it is no .npz of plain arrays.
    """
    import zipfile

    import numpy as np

    require_file(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise UsageError(
                f"{path} holds one array without a name",
                hint="Write it with numpy.savez(path, NAME=array)",
            )
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, OSError) as error:
        raise UsageError(
            f"{path} is not an .npz of plain arrays: {error}",
            hint="Write it with numpy.savez(path, NAME=array)",
        ) from error


def write_depfile(path: Path, rules: Mapping[Path, Sequence[Path]]) -> None:
    """Writes a depfile for Make or Ninja: a rule for each output; empty ones for sources, so that they may vanish.

    Args:
        path: the depfile.
        rules: output -> what it depends on; what lies below this folder is named relative to it.

    Raises:
        IOFailed: the place cannot be written to.
    """

    def escape(name: Path) -> str:
        shown = name.relative_to(here) if name.is_relative_to(here := Path.cwd()) else name
        return str(shown).replace("$", "$$").replace("#", "\\#").replace(" ", "\\ ")

    sources = dict.fromkeys(source for each in rules.values() for source in each)
    lines = [
        *(f"{escape(output)}: {' '.join(map(escape, each))}" for output, each in rules.items()),
        *(f"{escape(source)}:" for source in sources),
    ]
    write_text(path, "\n".join(lines) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all; through links, and into devices as they are.

    Raises:
        IOFailed: the place cannot be written to.
    """
    path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():  # such as /dev/stdout
        path.write_text(text, encoding="utf-8")
        return
    with staging(path) as folder:
        staged = folder / path.name
        staged.write_text(text, encoding="utf-8")
        publish(staged, path)


def require_text(option: str, out: Path | None, *begins: str, holds: str = "") -> None:
    """Checks that a text called `out` may be written: what is there is empty, or one of the kind.

    Args:
        option: that named it.
        out: the file; None for none.
        begins: how such a text begins.
        holds: what its first line has.

    Raises:
        UsageError: it is not, or is a folder.
    """
    if out is None or not out.exists():
        return
    if out.is_dir():
        raise UsageError(f"{option} {out} is a folder", hint="Name a file in it")
    if out.is_file() and out.stat().st_size:
        with out.open("rb") as file:
            first = file.read(4096).decode(errors="replace").lstrip().partition("\n")[0]
        if (begins and not first.startswith(begins)) or holds not in first:
            raise UsageError(f"{option} {out} exists and is no file of that kind", hint="Give another name")


def require_file(path: Path) -> None:
    """Checks that `path` is a readable, regular file that is not empty.

    Raises:
        UsageError: it is not.
    """
    if not path.exists():
        near = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        from .errors import did_you_mean

        guess = did_you_mean(path.name, near)
        raise UsageError(f"no such file: {path}", hint=guess if guess.startswith("Did") else "Check the path")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file", hint="Give the path of a file")
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty", hint="Write it again: the program that made it may have been stopped")
    if not os.access(path, os.R_OK):
        raise IOFailed(f"no permission to read {path}", hint=f"chmod +r {path}")


def io_failure(error: OSError, place: Path) -> IOFailed:
    """Turns the system's error into one line about `place`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(_existing(place)).free
        return IOFailed(
            f"no space left in {place} ({free / 2**20:.0f} MiB free)",
            hint="Free some space or give another -o",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return IOFailed(f"cannot write to {place}: {error.strerror}", hint="Give another -o or change its permissions")
    return IOFailed(f"{error.strerror or error}: {error.filename or place}", hint="Check the output place")


def is_full(place: Path) -> bool:
    """Whether the disk of `place` has no space left, for libraries that do not say so."""
    return shutil.disk_usage(_existing(place)).free < 1 << 16


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.absolute().parents) if folder.exists())


def probe(folder: Path) -> None:
    """Checks that `folder` takes a file and has space left.

    Raises:
        OSError: it does not.
    """
    probe = folder / "probe"
    probe.write_bytes(bytes(4096))
    probe.unlink()
    if shutil.disk_usage(folder).free < _SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _sweep(final: Path) -> None:
    for left in final.parent.glob(f".{glob.escape(final.name)}{_MARK}*"):
        owner = left.name.rpartition("-")[2]
        if not owner.isdigit() or not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _is_ours(path: Path) -> bool:
    """Whether an ONNX file names planc as its producer, in its first bytes."""
    with suppress(OSError), path.open("rb") as file:
        return b"\x12\x05planc" in file.read(64)
    return False

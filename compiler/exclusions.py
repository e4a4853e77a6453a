"""Lists of layers in floating point: `--write-exclude` writes what the guard found, `--exclude @FILE` reads it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import files
from .errors import UsageError

_HEADER = "# Layers in floating point, costliest first: planc quantize --exclude @FILE"
_COMMENT = re.compile(r"(?:^|\s)#")


def read(path: Path) -> list[str]:
    """Returns the names of a list: one a line, with a comment behind ` #`.

    Raises:
        UsageError: the file is missing, or no text.
    """
    files.require_file(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"--exclude @{path}: not a text", hint="Give a file with a name a line") from error
    names = (_COMMENT.split(line)[0].strip() for line in lines)
    return [name for name in names if name]


def write(path: Path, found: Sequence[Mapping[str, Any]], kept: Sequence[str]) -> None:
    """Writes a list that alone gives the same graph again, without a search.

    Args:
        path: the file.
        found: rows of the guard, with `name`, `origin` and `noise`.
        kept: what the user had excluded before.

    Raises:
        IOFailed: the place cannot be written to.
    """
    rows = sorted(found, key=lambda row: (-row["noise"], row["name"]))
    lines = [f"{row['name']}  # {', '.join(filter(None, (row['origin'], _cost(row))))}" for row in rows]
    files.write_text(path, "\n".join([_HEADER, *lines, *(f"{name}  # by --exclude" for name in kept)]) + "\n")


def require_replaceable(path: Path) -> None:
    """Checks that a list called `path` may be written.

    Raises:
        UsageError: what is there is something else.
    """
    files.require_text("--write-exclude", path, _HEADER)


def _cost(row: Mapping[str, Any]) -> str:
    return f"noise {row['noise']:.3g} alone"

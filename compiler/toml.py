"""TOML: read with the line of what is wrong, changed by `--set a.b=c`, and written in hints."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from .errors import UsageError

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SYNTAX = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read(path: Path) -> dict[str, Any]:
    """Reads a file.

    Raises:
        UsageError: it is missing, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}", hint="planc init writes one") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder", hint=f"Name the file: {path / 'planc.toml'}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text in UTF-8", hint="Save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # no TOML, or a number or nesting beyond all bounds
        said = str(error)
        found = _SYNTAX.search(said)
        place = "" if not found else f" line {found[1]}, column {found[2]}:" if found[1] else " end of file:"
        what = f"{path}:{place} {said[: found.start()] if found else said}"
        raise UsageError(what, hint='Texts are quoted in TOML: source = "net.py:net"') from None


def override(document: dict[str, Any], words: str) -> None:
    """Puts what `a.b=c` says into a document: `b` of table `a`, or of element `a` of a list; quoted keys may have dots.

    Raises:
        UsageError: it is not of that form, or leads through what is no table.
    """
    names, new = _split(words)
    place: Any = document
    for depth, name in enumerate(names[:-1]):
        index = _index(place, name, names[:depth], words)
        place = place[index] if isinstance(place, list) else place.setdefault(index, {})
    place[_index(place, names[-1], names[:-1], words)] = new


def value(words: str) -> Any:
    """Parses a value; what is none is a text."""
    try:
        found = tomllib.loads(f"value = {words}")
    except (ValueError, RecursionError):
        return words
    return found["value"] if len(found) == 1 else words


def key(name: str) -> str:
    """Returns a key as TOML has it: quoted where it must be."""
    return name if _BARE.fullmatch(name) else text(name)


def text(value: Any) -> str:
    """Returns a value as TOML has it, on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key(name)} = {text(one)}' for name, one in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)


def _index(place: Any, name: str, before: list[str], words: str) -> Any:
    """The key `name` of a table, or the number `name` of a list."""
    told = ".".join(map(key, before))
    if isinstance(place, dict):
        return name
    if not isinstance(place, list):
        raise UsageError(f"--set {words}: {told} is no table", hint="Leave out what follows it")
    if not (name.isdecimal() and name.isascii() and int(name) < len(place)):
        hint = f"Write --set {told}.0..., for the first of {len(place)}" if place else "It is empty: give all of it"
        raise UsageError(f"--set {words}: {told} is a list, and has no {name!r}", hint=hint)
    return int(name)


def _split(words: str) -> tuple[list[str], Any]:
    """`a."b=c"=1` -> ["a", "b=c"], 1."""
    for match in re.finditer("=", words):
        try:
            inner: Any = tomllib.loads(f"{words[: match.start()]} = 0")
        except (ValueError, RecursionError):
            continue
        names = []
        while isinstance(inner, dict) and len(inner) == 1:
            ((name, inner),) = inner.items()
            names.append(name)
        if inner == 0:
            return names, value(words[match.end() :])
    raise UsageError(f"--set {words!r} is not of the form KEY=VALUE", hint="Write --set model.net.dims.batch=1..8")

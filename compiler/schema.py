"""Checks a TOML document against a JSON Schema, and says in one line where it is wrong and what to write.

Of draft 2020-12 it knows what `planc.schema.json` uses: `_KNOWN`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import toml
from .errors import UsageError, did_you_mean

Schema = Mapping[str, Any]
Place = tuple[str | int, ...]

PLANC = Path(__file__).parent / "planc.schema.json"

_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "boolean": (bool, "true or false"),
    "integer": (int, "an integer"),
    "number": ((int, float), "a number"),
    "string": (str, "a text"),
    "array": (list, "a list"),
    "object": (dict, "a table"),
}
_KNOWN = {
    "type", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum", "minItems", "items", "required", "properties",
    "propertyNames", "additionalProperties", "$ref", "$defs", "$id", "$schema", "title", "description", "default",
    "examples",
}  # fmt: skip
_LONGEST = 60


def read(path: Path = PLANC) -> dict[str, Any]:
    """Reads a schema, with each `$ref` replaced by what it points to."""
    schema = json.loads(path.read_text(encoding="utf-8"))
    expanded: dict[str, Any] = _expanded(schema, schema["$defs"])
    return expanded


def check(value: Any, schema: Schema, place: Place = ()) -> None:
    """Checks `value`; the line of the error begins with its place, such as `[model.net] dims.batch`.

    Raises:
        UsageError: it does not fit, at the first place where it does not.
    """
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", ())
    if kinds and not any(_is(value, kind) for kind in kinds):
        wanted = " or ".join(_KINDS[kind][1] for kind in kinds)
        told = "" if isinstance(value, bool) else f"{_kind(value)}, "
        raise _wrong(f"{_short(value)} is {told}not {wanted}", schema, place)
    if "enum" in schema and value not in schema["enum"]:
        raise UsageError(f"{where(place)}: unknown {toml.text(value)}", hint=did_you_mean(str(value), schema["enum"]))
    if isinstance(value, str):
        if not _fits(value, schema.get("pattern", "")):
            raise _wrong(f"{toml.text(value)} is not of the right form", schema, place)
    elif isinstance(value, dict):
        _check_table(value, schema, place)
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            raise _wrong("nothing is listed", schema, place)
        items = {"examples": schema["examples"], **schema.get("items", {})} if "examples" in schema else {}
        for index, one in enumerate(value):
            check(one, items or schema.get("items", {}), (*place, index))
    elif kinds and not isinstance(value, bool):
        _check_number(value, schema, place)


def filled(value: Any, schema: Schema) -> Any:
    """Returns a copy with the schema's defaults where a key is left out."""
    if isinstance(value, list):
        return [filled(one, schema.get("items", {})) for one in value]
    if not isinstance(value, dict):
        return value
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    given = {name: one["default"] for name, one in known.items() if "default" in one} | value
    return {name: filled(one, known.get(name, more or {})) for name, one in given.items()}


def where(place: Place) -> str:
    """Returns a place as its TOML file has it: `[model.net] dims.batch`, or `[[build]] 2: targets` for the second."""
    match place:
        case ("model" | "target" as kind, name, *rest):
            head = f"[{kind}.{toml.key(str(name))}]"
        case ("build", int(index), *rest):
            head = f"[[build]] {index + 1}{':' if rest else ''}"
        case ("cache" | "limits" as kind, *rest):
            head = f"[{kind}]"
        case _:
            head, rest = "", list(place)
    path = ".".join(toml.key(one) for one in rest if isinstance(one, str))
    return " ".join(filter(None, (head, path))) or "top level"


def unknown(schema: Any) -> set[str]:
    """Returns the keywords of a schema that `check` does not know."""
    inner = [one for name in ("properties", "$defs") for one in schema.get(name, {}).values()]
    inner += [schema[name] for name in ("items", "propertyNames") if name in schema]
    inner += [schema["additionalProperties"]] if isinstance(schema.get("additionalProperties"), dict) else []
    return set(schema.keys() - _KNOWN).union(*map(unknown, inner))


def _check_table(value: Mapping[str, Any], schema: Schema, place: Place) -> None:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    pattern = schema.get("propertyNames", {}).get("pattern", "")
    for name, one in value.items():
        if not _fits(name, pattern):
            raise UsageError(
                f"{where(place)}: {toml.text(name)} cannot be a name",
                hint="Use letters, digits and '-', '_' or '.' in it",
            )
        if name not in known and more is False:
            raise UsageError(f"{where(place)}: unknown key {name!r}", hint=did_you_mean(name, known))
        check(one, known.get(name, more if isinstance(more, dict) else {}), (*place, name))
    for name in schema.get("required", ()):
        if name not in value:
            raise UsageError(f"{where(place)}: {name!r} is missing", hint=f"Add {_example(name, known[name])}")


def _check_number(value: float, schema: Schema, place: Place) -> None:
    least, most, above = (schema.get(one, None) for one in ("minimum", "maximum", "exclusiveMinimum"))
    if not math.isfinite(value):
        raise _wrong(f"{value} is no number", schema, place)
    if least is not None and value < least:
        raise _wrong(f"{value} is less than {least}", schema, place)
    if most is not None and value > most:
        raise _wrong(f"{value} is more than {most}", schema, place)
    if above is not None and value <= above:
        raise _wrong(f"{value} is not more than {above}", schema, place)


def _wrong(what: str, schema: Schema, place: Place) -> UsageError:
    names: Iterable[str] = (one for one in reversed(place) if isinstance(one, str))
    return UsageError(
        f"{where(place)}: {what}",
        hint=f"Write {_example(next(iter(names), ''), schema)}" if "examples" in schema else "",
    )


def _example(name: str, schema: Schema) -> str:
    if name == "build":
        return "[[build]]"
    return f"{toml.key(name)} = {toml.text(schema['examples'][0])}"


def _fits(value: str, pattern: str) -> bool:
    """Whether a text fits a pattern as JavaScript reads it: `$` is the end; no path or name has a NUL in it."""
    return "\0" not in value and bool(re.search(re.sub(r"\$$", r"\\Z", pattern), value))


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind][0]) and (kind == "boolean" or not isinstance(value, bool))


def _short(value: Any) -> str:
    text = toml.text(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _kind(value: Any) -> str:
    return next((words for kind, (_, words) in _KINDS.items() if _is(value, kind)), "a date or time")


def _expanded(schema: Any, defs: Mapping[str, Any]) -> Any:
    if not isinstance(schema, dict):
        return schema
    merged = {**defs[schema["$ref"].rpartition("/")[2]], **schema} if "$ref" in schema else schema
    return {
        name: one if name in ("default", "examples", "enum", "$defs") else _expanded(one, defs)
        for name, one in merged.items()
        if name != "$ref"
    }

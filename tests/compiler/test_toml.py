"""TOML: what is wrong in a file, `--set`, and values in hints."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from planc.compiler import toml
from planc.compiler.errors import UsageError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = \nb = 1\n", "planc.toml: line 1, column 5: Invalid value. Texts are quoted"),
        (b"a = 1\nb\n", "planc.toml: line 2, column 2: Expected '=' after a key"),
        (b"a = [1,", "planc.toml: end of file: "),
        (b"a = 1\na = 2\n", "planc.toml: line 2, column 6: Cannot overwrite a value"),
        (b"a = '\xff'", "planc.toml: not a text in UTF-8"),
        (b"a = " + b"[" * 10_000, "planc.toml: "),
        (b"a = " + b"9" * 5_000, "planc.toml: "),
    ],
)
def test_a_file_that_is_no_toml(content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("planc.toml").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        toml.read(Path("planc.toml"))
    assert str(caught.value).startswith(message)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*planc init writes one"):
        toml.read(tmp_path / "planc.toml")
    with pytest.raises(UsageError, match=r"is a folder. Name the file: .*planc\.toml"):
        toml.read(tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a.b=1..8", {"a": {"b": "1..8", "c.d": [1, 2]}}),
        ("a.b = 2", {"a": {"b": 2, "c.d": [1, 2]}}),
        ('a."c.d"=[3]', {"a": {"b": 1, "c.d": [3]}}),
        ("a.'c.d'.1=true", {"a": {"b": 1, "c.d": [1, True]}}),
        ('a."x=y"=0.5', {"a": {"b": 1, "c.d": [1, 2], "x=y": 0.5}}),
        ("a={ b = 'q' }", {"a": {"b": "q"}}),
        ("a.b=float32[n,3]", {"a": {"b": "float32[n,3]", "c.d": [1, 2]}}),
        ("a.b=", {"a": {"b": "", "c.d": [1, 2]}}),
        ("a.b=a=b", {"a": {"b": "a=b", "c.d": [1, 2]}}),
        ("a.b=1\nb = 2", {"a": {"b": "1\nb = 2", "c.d": [1, 2]}}),
        ("x.y.z=1", {"a": {"b": 1, "c.d": [1, 2]}, "x": {"y": {"z": 1}}}),
    ],
)
def test_override(words: str, expected: dict[str, Any]) -> None:
    document = {"a": {"b": 1, "c.d": [1, 2]}}
    toml.override(document, words)
    assert document == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.b", "is not of the form KEY=VALUE"),
        ("=1", "is not of the form KEY=VALUE"),
        ("a..b=1", "is not of the form KEY=VALUE"),
        ("[a]=1", "is not of the form KEY=VALUE"),
        ("a.b.c=1", "a.b is no table"),
        ('a."c.d".x=1', 'a."c.d" is a list, and has no \'x\'. Write --set a."c.d".0..., for the first of 2'),
        ('a."c.d".2=1', "is a list, and has no '2'"),
        ('a."c.d".-1=1', "is a list, and has no '-1'"),
    ],
)
def test_override_that_leads_nowhere(words: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        toml.override({"a": {"b": 1, "c.d": [1, 2]}}, words)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [{"a": [1, "x\n\"'"], "b c": {}}, True, 0.5, [], "ä", {"x.y": {"z": False}}])
def test_text_reads_back(value: Any) -> None:
    assert tomllib.loads(f"x = {toml.text(value)}")["x"] == value

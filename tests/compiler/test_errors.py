"""Errors: one class per exit code, one line each."""

import pytest

from planc.compiler import errors
from planc.compiler.errors import EXIT_CODES, PlancError, did_you_mean, one_line, plain


def test_every_class_has_an_exit_code_of_its_own() -> None:
    codes = {cls.__name__: cls.exit_code for cls in PlancError.__subclasses__()}
    assert codes == {"GateFailed": 1, "UsageError": 2, "Unavailable": 3, "BuildFailed": 4, "IOFailed": 5}
    assert set(codes.values()) | {0, PlancError.exit_code, 130} == set(EXIT_CODES)


def test_an_error_is_one_line_with_its_hint() -> None:
    error = errors.UsageError("first\n  second", hint="type\nthis")
    assert error.what == "first second"
    assert str(error) == "first second. type this"
    assert str(errors.UsageError("alone")) == "alone"


def test_one_line_is_cut_in_the_middle() -> None:
    text = one_line("a" * 500 + "b" * 500, limit=100)
    assert text == "a" * 50 + " ... " + "b" * 50
    assert one_line("x" * 600) == "x" * 600


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("opnvino-cpu", ["openvino-cpu", "null"], "Did you mean 'openvino-cpu'?"),
        ("zzz", ["b", "a"], "Known: a, b"),
        ("zzz", [], ""),
        ("z", [f"{index:03}" for index in range(60)], f"Known: {', '.join(f'{one:03}' for one in range(40))}, ..."),
        ("layer059", [f"layer{index:03}" for index in range(60)], "Did you mean 'layer059'?"),
        ("nett", ["Net", "net"], "Did you mean 'net'?"),
        ("L4", ["a10", "l4", "t4"], "Did you mean 'l4'?"),
    ],
)
def test_did_you_mean(word: str, known: list[str], said: str) -> None:
    assert did_you_mean(word, known) == said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("--cache 's3://key:sec/ret@bucket/a?token=x' -o out", "--cache 's3://bucket/a' -o out"),
        ('no answer of "https://user@host:99/b?list=2": two://k@c', 'no answer of "https://host:99/b": two://c'),
        ("a@b, c?d=e and n: 1..4@2", "a@b, c?d=e and n: 1..4@2"),
    ],
)
def test_what_urls_keep_secret_is_not_shown(text: str, shown: str) -> None:
    assert plain(text) == shown

"""Processes that wait for a request: what they cost to start, and how they end. More in test_worker.py."""

import os
from collections.abc import Callable

import pytest

from planc.compiler import process


def test_starting_one_imports_next_to_nothing(python: Callable[..., str]) -> None:
    code = """
import sys
import planc.compiler.process
print(*{"dataclasses", "inspect", "logging", "numpy", "typer"} & set(sys.modules))"""
    assert python(code).split() == []


@pytest.mark.parametrize("size", [7, 1 << 15])
def test_words_are_read_to_their_end(size: int) -> None:
    reader, writer = os.pipe()
    words = process.Words(os.fdopen(reader, "rb", buffering=0))
    words.read()
    assert words.text() == ""
    os.write(writer, b"x" * size)
    os.close(writer)
    words.close()
    assert words.text() == "x" * size


def test_a_mark_is_of_one_process_only() -> None:
    made = [process.Process() for _ in range(2)]
    try:
        assert len({one.mark for one in made}) == 2
        for one in made:
            with open(f"/proc/{one.popen.pid}/environ", "rb") as file:
                assert f"{process.MARK}={one.mark}".encode() in file.read().split(b"\0")
    finally:
        for one in made:
            one.popen.kill()
            one.popen.wait()
            one.words.close()
            os.close(one.reader)

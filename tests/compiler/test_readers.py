"""Functions of libraries that open files by themselves; what `observe` makes of them is in its own tests."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from planc.compiler import readers


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A library that is imported already, with a module that took its function."""
    module, inner = ModuleType("cv2"), ModuleType("cv2.data")
    module.imread = inner.imread = lambda path, flags=0: (path, flags)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv2", module)
    monkeypatch.setitem(sys.modules, "cv2.data", inner)
    return module


def test_calls_are_told_in_the_block_only(library: ModuleType) -> None:
    told: list[str] = []
    with readers.telling(told.append):
        assert library.imread(Path("a.png"), flags=3) == (Path("a.png"), 3)
        assert sys.modules["cv2.data"].imread("b.png") == ("b.png", 0)
        with readers.telling(told.append):
            library.imread("c.png")
    library.imread("d.png")
    assert told == ["a.png", "b.png", "c.png", "c.png"]


def test_a_function_that_a_library_lacks_is_no_matter(library: ModuleType) -> None:
    del library.imread
    with readers.telling(lambda _: None):
        assert not hasattr(library, "imread")


def test_classes_stay_classes(python: Callable[..., str]) -> None:
    code = """
from planc.compiler import readers
with readers.telling(lambda _: None):
    import onnxruntime, tokenizers
    assert isinstance(onnxruntime.InferenceSession, type) and isinstance(tokenizers.Tokenizer, type)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    print(isinstance(made, tokenizers.Tokenizer))
"""
    assert python(code).strip() == "True"

"""Libraries that open files without Python knowing: their functions are wrapped, so that `observe` sees these reads."""

import functools
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

READERS = {
    "cv2": ("imread",),
    "h5py": ("File.__init__",),
    "onnxruntime": ("InferenceSession.__init__",),
    "safetensors": ("safe_open",),
    "soundfile": ("SoundFile.__init__",),
    "tokenizers": ("Tokenizer.from_file",),
}
"""Module -> what in it takes the name of a file."""

_listeners: list[Callable[[str], None]] = []
_WRAPPED = "_planc_wrapped"


@contextmanager
def telling(listener: Callable[[str], None]) -> Iterator[None]:
    """Calls `listener` in the block with each text or path that such a function is given."""
    finder = _Finder()
    for name in READERS:
        if (module := sys.modules.get(name)) is not None:
            _wrap(module)
    sys.meta_path.insert(0, finder)
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        sys.meta_path.remove(finder)


class _Finder:
    """Finds these modules as usual; they are wrapped once their code has run."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> "importlib.machinery.ModuleSpec | None":
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name in READERS else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_wrap(module: ModuleType) -> None:
            run(module)
            _wrap(module)

        spec.loader.exec_module = run_and_wrap  # type: ignore[method-assign]
        return spec


def _wrap(module: ModuleType) -> None:
    for path in READERS[module.__name__]:
        owner: Any = module
        *outer, name = path.split(".")
        for one in outer:
            owner = getattr(owner, one, None)
        real = getattr(owner, name, None)
        if real is None or hasattr(real, _WRAPPED):
            continue
        wrapped = _told(real)
        setattr(owner, name, staticmethod(wrapped) if outer and name != "__init__" else wrapped)
        for other, inner in list(sys.modules.items()):  # safetensors.torch has taken safe_open already
            if other.startswith(f"{module.__name__}.") and vars(inner).get(name) is real:
                setattr(inner, name, wrapped)


def _told(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real, updated=())
    def wrapped(*args: Any, **words: Any) -> Any:
        for value in (*args, *words.values()):
            if isinstance(value, (str, os.PathLike)):
                for listener in list(_listeners):
                    listener(os.fsdecode(value))
        return real(*args, **words)

    setattr(wrapped, _WRAPPED, True)
    return wrapped

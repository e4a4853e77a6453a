"""The process that a worker's function runs in: it takes one request, and answers what the function emits."""

import faulthandler
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

_NO_MEMORY = ("bad_alloc", "Failed to allocate memory")


def main() -> None:
    """Entry point of the child: a request from stdin, answers to the file descriptor that is its first argument."""
    descriptor, parent, prepared, steady = sys.argv[1:]
    if steady:
        _fix_addresses()
    _die_with(int(parent))
    faulthandler.enable()
    put_off_imports()
    _remember_protocols()
    gc.set_threshold(200_000, 20, 50)  # a graph of 50,000 nodes is a million objects that live until the end
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no core file beside the user's model
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    pipe = open(int(descriptor), "wb", buffering=0)  # noqa: SIM115, PTH123  open until exit

    def emit(kind: str, value: Any) -> None:
        data = pickle.dumps((kind, value))
        message = memoryview(len(data).to_bytes(8, "little") + data)
        while message:
            message = message[pipe.write(message) :]

    try:
        if prepared:
            importlib.import_module(prepared)
        module, name, args, kwargs = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
        function = getattr(importlib.import_module(module), name)
        result = function(*args, emit=emit, **kwargs)
    except BaseException as error:
        _flush()
        emit("error", _describe(error))
    else:
        _flush()
        emit("done", result)
    os._exit(0)  # the result is out: third-party destructors have nothing to add but crashes


def put_off_imports() -> None:
    """Begins to put off what takes long to import and few models need."""
    sys.meta_path[:0] = [_Later()]


def _die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _describe(error: BaseException) -> tuple[str, str, str, str]:
    """Class, what, hint and traceback of what the function raised."""
    import traceback

    from . import errors

    trace = "".join(traceback.format_exception(error))
    if isinstance(error, errors.PlancError):
        return type(error).__name__, error.what, error.hint, trace
    if isinstance(error, OSError) and error.errno is not None:
        where = f" {error.filename!r}" if error.filename else ""
        return "IOFailed", f"{error.strerror}{where}", "Check free space and permissions", trace
    if isinstance(error, MemoryError) or any(word in errors.words_of(error) for word in _NO_MEMORY):
        return (
            "BuildFailed",
            f"out of memory: {error or 'an allocation failed'}",
            "Raise it with --memory-limit",
            trace,
        )
    return "", f"{type(error).__name__}: {errors.words_of(error)}", "", trace


class _Later(importlib.abc.MetaPathFinder):
    """Puts off what takes long and few models need: modules until their first use, the code of packages as below."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> "importlib.machinery.ModuleSpec | None":
        """Finds as usual, and puts off the loading."""
        loader = _LOADERS.get(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if loader else None
        if loader and spec is not None and spec.loader is not None:
            spec.loader = loader(spec.loader)
        return spec


class _LaterLoader(importlib.abc.Loader):
    """Leaves a package empty; see `_Package`."""

    def __init__(self, real: importlib.abc.Loader) -> None:
        self.real = real
        self.lock = threading.RLock()
        self.runs = False

    def exec_module(self, module: ModuleType) -> None:
        """Only says what becomes of names that the package lacks."""
        module.__class__ = _Package


class _Package(ModuleType):
    """A package whose code has not run yet: its modules are imported without it, until another name is wanted."""

    def __getattr__(self, name: str) -> Any:
        """Imports the module of that name; where there is none, runs the package's code."""
        own = self.__spec__
        assert own is not None
        loader = own.loader
        assert isinstance(loader, _LaterLoader)
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(name)  # what Python itself asks for
        if importlib.util.find_spec(f"{own.name}.{name}") is not None:
            return importlib.import_module(f"{own.name}.{name}")
        with loader.lock:
            if type(self) is _Package and not loader.runs:
                loader.runs = True
                loader.real.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment]
        if type(self) is ModuleType:
            return getattr(self, name)
        if name in vars(self):  # while its code runs
            return vars(self)[name]
        raise AttributeError(f"module {own.name!r} has no attribute {name!r}", name=name, obj=self)


_LOADERS: dict[str, Callable[[Any], importlib.abc.Loader]] = {
    "google.protobuf.json_format": importlib.util.LazyLoader,
    "google.protobuf.text_format": importlib.util.LazyLoader,
    "onnx.compose": importlib.util.LazyLoader,
    "onnx.gen_proto": importlib.util.LazyLoader,
    "onnx.utils": importlib.util.LazyLoader,
    "onnx_ir._symbolic_shapes": importlib.util.LazyLoader,
    "sympy": importlib.util.LazyLoader,  # 0.4 s, by onnx_ir
    "onnxscript": _LaterLoader,  # its language, 0.06 s, for who wants its constant folding
    "onnxscript.optimizer": _LaterLoader,
}


def _remember_protocols() -> None:
    """Keeps the names that a typing.Protocol asks for, as Python 3.12 does: onnx_ir asks isinstance at each tensor."""
    if sys.version_info < (3, 12):
        import functools
        import typing

        for name in ("_get_protocol_attrs", "_is_callable_members_only"):
            setattr(typing, name, functools.cache(getattr(typing, name)))


def _fix_addresses() -> None:
    """Starts this program anew without random addresses (Linux); goes on as it is where the system refuses that."""
    if sys.platform == "linux":
        import ctypes

        query, addr_no_randomize = 0xFFFFFFFF, 0x0040000
        personality = ctypes.CDLL(None).personality
        now = personality(query)
        if now >= 0 and not now & addr_no_randomize and personality(now | addr_no_randomize) >= 0:
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606  ourselves


def _flush() -> None:
    """Writes out what the function printed; user code may have closed the streams."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()

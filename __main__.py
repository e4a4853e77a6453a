"""The command `planc`, and `python -m planc`."""

import os
import sys
from contextlib import suppress

_ON_GRAPHS = ("bisect", "calibrate", "optimize", "passes", "quantize")
"""Verbs whose work is a worker's from the start, with the graph libraries."""


def main() -> None:
    """Starts the worker of such a verb, which imports for 0.2 s, before the command line does; then runs the verb."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: the file that is opened next would take its place
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115, PTH123
    if set(sys.argv[1:2]) & set(_ON_GRAPHS) and not {"-h", "--help"} & set(sys.argv):
        from .compiler import process

        process.prepare("planc.compiler.storage")
    from .cli import main as run

    code: object = 0
    try:
        run()
    except SystemExit as end:
        code = end.code
    _leave(code)


def _leave(code: object) -> None:
    """Ends the process without taking each imported module apart, which takes 0.03 s and does nothing for anybody."""
    import atexit

    with suppress(OSError):  # nobody reads: Python has its own way to end then
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        if code is None or isinstance(code, int):
            os._exit(code or 0)
    sys.exit(code)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

"""The command `planc`, and `python -m planc`."""

import sys

_ON_GRAPHS = ("bisect", "calibrate", "optimize", "passes", "quantize")
"""Verbs whose work is a worker's from the start, with the graph libraries."""


def main() -> None:
    """Starts the worker of such a verb, which imports for 0.2 s, before the command line does; then runs the verb."""
    if set(sys.argv[1:2]) & set(_ON_GRAPHS) and not {"-h", "--help"} & set(sys.argv):
        from .compiler import worker

        worker.prepare("planc.compiler.storage")
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()

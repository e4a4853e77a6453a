"""The command line: verbs, one per file, printing, and exit codes. Everything else lives in `compiler/`."""

import errno
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ..compiler.errors import EXIT_CODES, BuildFailed, PlancError, one_line, plain, sentences
from ._show import print_json

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
_INTERRUPTED = 130
_NOT_WRITTEN = (errno.EDQUOT, errno.EIO, errno.ENOSPC)
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_VERBS = (
    "compile", "init", "build", "plan", "lock", "cache", "export", "optimize", "calibrate", "quantize", "bisect",
    "passes", "verify", "run", "bench", "diff", "report", "inspect", "targets", "doctor",
)  # fmt: skip
"""In the order of `planc --help`; each is a file here with a `typer.Typer` called `app`."""


app = typer.Typer(
    name="planc",
    help="From a PyTorch or ONNX model to a verified, deployable artifact.",
    epilog=_EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Versions of planc and of all that touches a model.")
    ] = False,
) -> None:
    """Handle what belongs to no verb."""
    if version:
        from ..compiler.doctor import versions

        for name, number in versions().items():
            if number:
                print(f"{name} {number}")
        raise typer.Exit


def _add_verbs() -> None:
    """Adds the verb that the command line names, or all of them: a build with nothing to do waits for no other's."""
    for name in _VERBS if "_PLANC_COMPLETE" in os.environ else _verb() or _VERBS:
        own = import_module(f".{name}", __name__).app
        app.add_typer(own, name=name if own.info.help else None)


def _fail(code: int, what: str, hint: str = "") -> NoReturn:
    """Prints the one line (and the JSON document where it was asked for) and exits."""
    with suppress(BrokenPipeError):  # the exit code says it, too
        print(f"planc: {sentences(what, hint)}", file=sys.stderr, flush=True)
    words = sys.argv[1:]
    if "--format=json" in words or ("--format" in words and words[words.index("--format") + 1 :][:1] == ["json"]):
        print_json({"error": {"exit_code": code, "what": what, "hint": hint}})
    sys.stdout.flush()
    raise SystemExit(code)


def _crash(error: BaseException) -> NoReturn:
    """Writes a crash report and says where it is."""
    import json
    import platform
    import shlex
    import tempfile
    import traceback

    from ..compiler.doctor import versions

    report = "\n".join(
        [
            f"planc {shlex.join(sys.argv[1:])}",
            platform.platform(),
            json.dumps(versions()),
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    with tempfile.NamedTemporaryFile("w", prefix="planc-crash-", suffix=".txt", delete=False) as file:
        file.write(plain(report))
    _fail(
        70,
        f"a bug in planc: {one_line(f'{type(error).__name__}: {error}')}",
        f"Please report it with {file.name}",
    )


def main() -> None:
    """Runs the command line and maps what it raises to an exit code."""
    for number in _STOPS:
        signal.signal(number, _interrupt)
    _add_verbs()
    debug = "--debug" in sys.argv
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:  # typer's own answer to Ctrl-C
            raise KeyboardInterrupt
    except PlancError as error:
        if debug:
            _print_traceback()
        hint = error.hint
        if isinstance(error, BuildFailed) and not hint and not debug:
            import shlex

            hint = f"Repeat with its output: planc {plain(shlex.join(sys.argv[1:]))} --debug"
        _fail(error.exit_code, error.what, hint)
    except (KeyboardInterrupt, typer.Abort):
        _fail(
            _INTERRUPTED, f"interrupted: {'jobs that had ended stay' if 'build' in _verb() else 'nothing was written'}"
        )
    except BrokenPipeError:
        _stop_writing()
    except OSError as error:
        from ..compiler.files import io_failure

        if error.filename is None and error.errno in _NOT_WRITTEN:  # files are written where errors get a place
            _fail(5, f"standard output cannot be written: {error.strerror}", "Give it another place")
        failure = io_failure(error, Path(error.filename or "."))
        _fail(failure.exit_code, failure.what, failure.hint)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer makes it exit code 1
            _stop_writing()
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own usage errors; it vendors click, so they have no public name
            message = error.format_message()
            if message.startswith("Usage:"):  # a verb that wants one of its own
                print(message, file=sys.stderr)
                raise SystemExit(2) from None
            _fail(2, one_line(message).rstrip("."), f"See {' '.join(['planc', *_verb()])} --help")
        if debug:
            _print_traceback()
        _crash(error)
    raise SystemExit(code or 0)


def _interrupt(*_: object) -> NoReturn:
    """The first one counts: an impatient second one must not interrupt the cleaning up."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _stop_writing() -> NoReturn:
    """Ends well where the reader of stdout went away, as in `planc inspect ... | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(0) from None


def _verb() -> list[str]:
    return [word for word in sys.argv[1:2] if word in _VERBS]

"""One class per exit code; each error is one line that says what, where, and the next thing to type."""

import re
from collections.abc import Iterable

_SECRETS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s'\"]*@)?([^\s?'\"]*)(?:\?[^\s'\"]*)?")
_MOST_WORDS = 40


def sentences(what: str, hint: str) -> str:
    """Returns one line of both."""
    return f"{what}{' ' if what.endswith('?') else '. '}{hint}" if hint else what


class PlancError(Exception):
    """An error that a user can cause.

    Attributes:
        what: what happened and where, as one line.
        hint: the next thing to type; may be empty.
        exit_code: exit code of the process.
    """

    exit_code = 70

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = one_line(what).rstrip(". ")
        self.hint = one_line(hint)

    def __str__(self) -> str:
        return sentences(self.what, self.hint)


class GateFailed(PlancError):
    """A gate said no: accuracy, latency, mismatch with the reference."""

    exit_code = 1


class UsageError(PlancError):
    """Bad usage, bad configuration or a bad model."""

    exit_code = 2


class Unavailable(PlancError):
    """The target or a dependency is not available on this machine."""

    exit_code = 3


class BuildFailed(PlancError):
    """Export, a pass, calibration or a backend failed.

    Attributes:
        stage: what the worker was doing; empty where no worker ran.
    """

    exit_code = 4
    stage = ""


class WorkerDied(BuildFailed):
    """A worker was killed, crashed, or passed a limit: it could not say why."""


class IOFailed(PlancError):
    """Disk full, no permission, broken store."""

    exit_code = 5


EXIT_CODES = {
    0: "done, and the output exists",
    1: "a gate said no: accuracy, latency, mismatch",
    2: "bad usage, configuration or model",
    3: "target or dependency not available on this machine",
    4: "build failed: export, pass, backend",
    5: "input/output: disk full, no permission",
    70: "a bug in planc: a crash report is written",
    130: "interrupted",
}


def one_line(text: str, limit: int = 600) -> str:
    """Returns `text` on one line, cut in the middle where it is longer than `limit` characters."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    return f"{line[: limit // 2]} ... {line[-limit // 2 :]}"


def plain(text: str) -> str:
    """Returns `text` without what URLs in it may keep secret: `s3://key:secret@bucket/a?b` -> `s3://bucket/a`."""
    return _SECRETS.sub(r"\1\2", text)


def words_of(error: BaseException) -> str:
    """Returns an error's own words; user code may raise errors that cannot be shown."""
    try:
        return str(error)
    except Exception:
        return "an error without words"


def root_cause(error: BaseException) -> BaseException:
    """Returns the innermost of the errors that led to this one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def named(error: BaseException) -> str:
    """Returns the class and the words of an error's innermost cause, on one line."""
    cause = root_cause(error)
    return one_line(f"{type(cause).__name__}: {words_of(cause)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns "did you mean X?" for the nearest known word, else the list of the known ones."""
    import difflib

    words = sorted(known)
    near = difflib.get_close_matches(word.lower(), {one.lower() for one in words}, n=1, cutoff=0.5)
    if near:
        spelled = difflib.get_close_matches(word, [one for one in words if one.lower() == near[0]], n=1, cutoff=0)
        return f"Did you mean {spelled[0]!r}?"
    more = ", ..." if len(words) > _MOST_WORDS else ""
    return f"Known: {', '.join(words[:_MOST_WORDS])}{more}" if words else ""

"""How rows of results are written for other programs: JUnit XML, a Markdown table, annotations of GitHub Actions."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass

STATUSES = ("passed", "failed", "skipped", "error")
"""failed: what was checked said no. error: it could not be checked."""
_SIGNS = {"passed": "✅", "failed": "❌", "skipped": "⚪", "error": "💥"}


@dataclass(frozen=True)
class Row:
    """One thing that was checked or made.

    Attributes:
        name: unique among the rows.
        status: one of STATUSES.
        seconds: that it took; 0 where that means nothing.
        message: one line; may be empty.
    """

    name: str
    status: str
    seconds: float = 0.0
    message: str = ""


def junit(suite: str, rows: Sequence[Row]) -> str:
    """Returns JUnit XML: one test case per row."""
    count = {status: sum(row.status == status for row in rows) for status in STATUSES}
    top = ElementTree.Element(
        "testsuite", name=suite, tests=str(len(rows)), failures=str(count["failed"]), errors=str(count["error"]),
        skipped=str(count["skipped"]), time=f"{sum(row.seconds for row in rows):.3f}",
    )  # fmt: skip
    tags = {"failed": "failure", "error": "error", "skipped": "skipped"}
    for row in rows:
        case = ElementTree.SubElement(
            top, "testcase", classname=suite, name=_printable(row.name), time=f"{row.seconds:.3f}"
        )
        if row.status in tags:
            ElementTree.SubElement(case, tags[row.status], message=_printable(row.message))
        elif row.message:
            ElementTree.SubElement(case, "system-out").text = _printable(row.message)
    ElementTree.indent(top)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(top, encoding="unicode") + "\n"


def markdown(title: str, headers: Sequence[str], table: Sequence[Sequence[str]], rows: Sequence[Row]) -> str:
    """Returns a Markdown section: a table of figures, names to the left, and a list of the rows."""
    lines = [f"### {_cell(title)}", ""]
    if table:
        lines += [f"| {' | '.join(map(_cell, headers))} |", f"|---|{'--:|' * (len(headers) - 1)}"]
        lines += [f"| {' | '.join(map(_cell, line))} |" for line in table]
        lines += [""]
    lines += [
        f"- {_SIGNS[row.status]} {_cell(row.name)}{': ' if row.message else ''}{_cell(row.message)}" for row in rows
    ]
    return "\n".join(lines).rstrip() + "\n"


def annotations(title: str, rows: Sequence[Row]) -> list[str]:
    """Returns the workflow commands that make GitHub show what failed or could not be checked, one line per row.

    It shows ten of a kind per step: what passed is not among them.
    """
    kinds = {"failed": "error", "error": "error", "skipped": "warning"}
    return [
        f"::{kinds[row.status]} title={_property(f'{title}: {row.name}')}::{_data(row.message or row.status)}"
        for row in rows
        if row.status in kinds
    ]


def _printable(text: str) -> str:
    """XML 1.0 has no place for control characters."""
    return "".join(letter if letter in "\t\n" or ord(letter) >= 32 else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

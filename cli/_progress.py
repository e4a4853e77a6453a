"""Tells on stderr how work goes."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..compiler.build import Outcome
    from ..compiler.worker import Emit


def _tell(line: str) -> None:
    """Prints a line; nobody may read, as behind `2>&1 | head`, which is no reason to stop working."""
    with suppress(BrokenPipeError):
        print(f"planc: {line}", file=sys.stderr, flush=True)


class Progress:
    """Tells on stderr which stage runs: a spinner on a terminal, plain lines elsewhere."""

    def __enter__(self) -> "Emit":
        import logging

        self._status = None
        self._last = ""
        if sys.stderr.isatty() and not logging.getLogger("planc").isEnabledFor(logging.DEBUG):
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def _tell(self, kind: str, value: Any) -> None:
        if kind not in ("stage", "note") or str(value).startswith("pass "):
            return
        if self._status and kind == "stage":
            self._status.update(str(value))
        elif value != self._last:
            self._last = str(value)
            _tell(str(value))


class Board:
    """Tells on stderr how a build goes: a table that lives on a terminal, plain lines elsewhere."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = 0
        self.now: dict[str, str] = {}
        self.live: Any = None

    def __enter__(self) -> "Board":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def event(self, name: str, kind: str, value: Any) -> None:
        """Takes what a worker tells of the job called `name`."""
        if kind == "note":
            self._print(f"{name}: {value}")
        elif kind == "stage":
            self.now[name] = str(value)
            self._draw()

    def row(self, row: "Outcome") -> None:
        """Takes the end of a job."""
        self.done += 1
        self.now.pop(row.id, None)
        self._print(f"{row.id}: {row.status}{f': {row.reason}' if row.reason else ''} ({self.done}/{self.count})")
        self._draw()

    def _print(self, line: str) -> None:
        if self.live:
            self.live.console.print(f"planc: {line}", markup=False, highlight=False)
        else:
            _tell(line)

    def _draw(self) -> None:
        if self.live:
            from rich.table import Table

            table = Table("job", "stage", box=None)
            for name, stage in list(self.now.items()):
                table.add_row(name, stage)
            self.live.update(table)

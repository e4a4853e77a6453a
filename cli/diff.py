"""`planc diff`: compare two artifacts; exit code 1 where they differ."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Format, limits_of, set_up
from ._show import print_json

app = typer.Typer()


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="A", help="An artifact's folder.")],
    new: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Compare two artifacts: graph, precision, size, latency, accuracy, tools. Exit code 1 where they differ."""
    set_up(output_format, debug)
    from ..compiler import difference, worker

    found = worker.call(difference.compare, old, new, limits=limits_of(None, 600, None))
    if output_format == "json":
        print_json(found)
    else:
        for line in difference.lines(found):
            print(line)
    if not found["same"]:
        print(f"planc: {old} and {new} differ in {', '.join(found['differs'])}", file=sys.stderr)
        raise typer.Exit(1)

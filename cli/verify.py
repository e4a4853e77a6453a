"""`planc verify`: check an artifact's files and its outputs against its golden data."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Format, MemoryLimit, TimeLimit, Tolerances, limits_of, set_up
from ._progress import Progress
from ._show import print_json, verification_lines

app = typer.Typer()


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(metavar="ART", help="Folder that planc compile wrote.")],
    tolerance: Tolerances = [],  # noqa: B006
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Check an artifact's files and its outputs against its golden data."""
    set_up(output_format, debug)
    from ..compiler import recipe, worker
    from ..compiler.verify import verify_artifact

    with Progress() as progress:
        bounds = recipe.tolerances(tolerance)
        result = worker.call(
            verify_artifact,
            artifact,
            bounds,
            limits=limits_of(None, time_limit, memory_limit),
            on_event=progress,
        )
    if output_format == "json":
        print_json(result)
    else:
        for line in verification_lines(result):
            print(line)
    if not result["passed"]:
        reasons = "; ".join(result["failures"][:3])
        print(
            f"planc: {artifact} differs from its reference: {reasons}. Build it again on this machine", file=sys.stderr
        )
        raise typer.Exit(1)

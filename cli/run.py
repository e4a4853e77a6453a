"""`planc run`: run an artifact on inputs from a file."""

from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Format, MemoryLimit, TimeLimit, limits_of, set_up
from ._progress import Progress
from ._show import print_json

app = typer.Typer()


@app.command()
def run(
    artifact: Annotated[Path, typer.Argument(metavar="ART", help="Folder that planc compile wrote.")],
    data: Annotated[Path, typer.Option("--inputs", metavar="FILE.npz", help="One array per input, by name.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.npz", help="Where the outputs go.")
    ] = None,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Run an artifact on inputs from a file."""
    set_up(output_format, debug)
    from ..compiler import worker
    from ..compiler.artifact import run_file

    with Progress() as progress:
        results = worker.call(
            run_file, artifact, data, out, limits=limits_of(None, time_limit, memory_limit), on_event=progress
        )
    if output_format == "json":
        print_json({"outputs": results})
        return
    for result in results:
        shape = ",".join(map(str, result["shape"]))
        first = " ".join(f"{value:.6g}" for value in result["first"])
        print(f"{result['name']}={result['dtype']}[{shape}] {first}{' ...' if len(result['first']) == 6 else ''}")

"""`planc passes`: list the graph passes with their options."""

import typer

from ._options import Debug, Format, limits_of, set_up
from ._show import print_json

app = typer.Typer()


@app.command()
def passes(output_format: Format = "text", debug: Debug = False) -> None:
    """List the graph passes with their options."""
    set_up(output_format, debug)
    from ..compiler import worker
    from ..compiler.optimize import describe_passes

    found = worker.call(describe_passes, limits=limits_of(None, 600, None))
    if output_format == "json":
        print_json({"passes": found})
        return
    for one in found:
        options = ",".join(f"{name}={value}" for name, value in one["options"].items())
        print(f"{one['name']}{f'{{{options}}}' if options else ''}: {one['description']}")

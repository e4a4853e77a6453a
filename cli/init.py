"""`planc init`: write a commented planc.toml, and its schema for editors."""

from pathlib import Path
from typing import Annotated

import typer

from ._options import Debug, Format, set_up
from ._show import print_json

app = typer.Typer()


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the project.")] = Path(),
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Write a commented planc.toml, and its schema for editors."""
    set_up(output_format, debug)
    from ..compiler import project

    made = [str(path) for path in project.init(folder)]
    if output_format == "json":
        print_json({"status": "built", "files": made})
    else:
        print(f"built {made[0]}, and {made[1]} for editors")

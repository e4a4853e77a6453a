"""`planc targets`: list the targets and what can be built for them here."""

import typer

from ._options import Debug, Format, set_up
from ._show import print_json

app = typer.Typer()


@app.command()
def targets(output_format: Format = "text", debug: Debug = False) -> None:
    """List the targets and what can be built for them here."""
    set_up(output_format, debug)
    from ..compiler import doctor as examiner
    from ..compiler.target import find_target, target_names

    facts = {name: examiner.describe(find_target(name)) for name in target_names()}
    if output_format == "json":
        print_json({"targets": facts})
        return
    for name, one in facts.items():
        print(f"{name:24} {' '.join(one['buildable']) or '-':20} {one['description']}")

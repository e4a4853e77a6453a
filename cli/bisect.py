"""`planc bisect`: find the first graph pass that changes the outputs, and the nodes on which it does."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ._options import (
    Data,
    Debug,
    Dims,
    Format,
    Inputs,
    MemoryLimit,
    Only,
    OnnxFile,
    Preset,
    Skip,
    TimeLimit,
    Tolerances,
    check_of,
    limits_of,
    set_up,
)
from ._progress import Progress
from ._show import print_json

app = typer.Typer()


@app.command()
def bisect(
    source: OnnxFile,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Where the smallest repro goes.")
    ] = None,
    family: Preset = "onnx",
    only: Only = [],  # noqa: B006
    skip: Skip = [],  # noqa: B006
    inputs: Inputs = [],  # noqa: B006
    dims: Dims = [],  # noqa: B006
    data: Data = None,
    tolerance: Tolerances = [],  # noqa: B006
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Find the first graph pass that changes the outputs, and the nodes on which it does."""
    set_up(output_format, debug)
    from ..compiler import single
    from ..compiler.optimize import Recipe

    recipe = Recipe(family, tuple(only), tuple(skip))
    wanted = check_of(source, inputs, dims, data, tolerance)
    limits = limits_of(None, time_limit, memory_limit)
    with Progress() as progress:
        fault, facts = single.bisect_file(source, out, recipe, wanted, limits=limits, on_event=progress)
    if output_format == "json":
        print_json({"fault": vars(fault) if fault else None, **facts, "output": str(out) if out else None})
    elif fault is None:
        print(f"no pass changes the outputs: {facts['passes']} passes at {'; '.join(facts['points'])}")
    else:
        print(f"pass {fault.name or 'none'}\n  {fault.kind}: {fault.reason}")
        for node in fault.nodes:
            print(f"  {node['operator']} {node['name']!r}" + (f" of {node['origin']}" if node["origin"] else ""))
        if out and fault.command:
            print(f"see it again in {out}: {fault.command}")
    if fault is not None:
        what = f"pass {fault.name} {fault.kind}" if fault.name else "reading and writing changes the outputs"
        hint = f"Leave it out with --skip {fault.name}" if fault.name else "Please report it with the file"
        print(f"planc: {source}: {what}. {hint}", file=sys.stderr)
        raise typer.Exit(1)

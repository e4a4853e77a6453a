"""`planc export`: export a model to ONNX, held against the model itself in ONNX Runtime."""

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
    Model,
    Overwrite,
    TimeLimit,
    TrustPickle,
    Weights,
    limits_of,
    set_up,
)
from ._progress import Progress
from ._show import print_json, size_of, write_depfile

app = typer.Typer()


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.onnx", help="The ONNX file.")],
    inputs: Inputs = [],  # noqa: B006
    dims: Dims = [],  # noqa: B006
    data: Data = None,
    weights: Weights = None,
    depfile: Annotated[Path | None, typer.Option("--depfile", metavar="FILE", help="Write a Make depfile.")] = None,
    overwrite: Overwrite = False,
    trust_pickle: TrustPickle = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Export a model to ONNX, held against the model itself in ONNX Runtime."""
    set_up(output_format, debug)
    from ..compiler import recipe, single

    source = recipe.source(model, inputs=inputs, dims=dims, weights=weights, data=data, trust_pickle=trust_pickle)
    with Progress() as progress:
        made = single.export_file(
            source,
            out,
            limits=limits_of(source, time_limit, memory_limit),
            overwrite=overwrite,
            on_event=progress,
        )
    if depfile is not None:
        write_depfile(depfile, out, made["sources"])
    if output_format == "json":
        print_json({**made, "output": str(out)})
    else:
        size = size_of(out.stat().st_size)
        print(f"{made['status']} {out}: {made['facts']['nodes']} nodes, {size}, verified against {made['reference']}")

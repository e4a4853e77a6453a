"""`planc calibrate`: run a model on real data and write the ranges of its tensors: one table for every target."""

from pathlib import Path
from typing import Annotated

import typer

from ._options import (
    METHOD,
    AllowRandom,
    Cache,
    CalibrationData,
    Debug,
    Dims,
    Format,
    Inputs,
    MemoryLimit,
    Method,
    Model,
    NoCache,
    Overwrite,
    Samples,
    TimeLimit,
    TrustPickle,
    Weights,
    limits_of,
    open_store,
    set_up,
)
from ._progress import Progress
from ._show import print_json

app = typer.Typer()


@app.command()
def calibrate(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="RANGES.json", help="The calibration table.")],
    calibration: CalibrationData = "",
    samples: Samples = None,
    method: Method = METHOD,
    allow_random: AllowRandom = False,
    inputs: Inputs = [],  # noqa: B006
    dims: Dims = [],  # noqa: B006
    weights: Weights = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    overwrite: Overwrite = False,
    trust_pickle: TrustPickle = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Run a model on real data and write the ranges of its tensors: one table for every target."""
    set_up(output_format, debug)
    from ..compiler import recipe, single

    source = recipe.source(model, inputs=inputs, dims=dims, weights=weights, trust_pickle=trust_pickle)
    quantization = recipe.quantization(data=calibration, samples=samples, method=method, random=allow_random)
    job = recipe.job(source, "null", "int8", quantization=quantization)
    with Progress() as progress:
        made = single.calibrate_file(
            job,
            out,
            limits=limits_of(source, time_limit, memory_limit),
            store=open_store(cache, no_cache),
            overwrite=overwrite,
            on_event=progress,
        )
    if output_format == "json":
        print_json({**made, "output": str(out)})
    else:
        told = f"{made['tensors']} tensors, {made['samples']} samples of {made['data']}, method {made['method']}"
        print(f"{made['status']} {out}: {told}")

"""`planc quantize`: lower a model to INT8, FP16 or BF16: an ONNX file with Q/DQ or casts for a target's kernels."""

from pathlib import Path
from typing import Annotated

import typer

from ._options import (
    METHOD,
    SMOOTHING,
    AllowRandom,
    Cache,
    CalibrationData,
    Data,
    Debug,
    Dims,
    Dynamic,
    Evaluation,
    Exclude,
    Format,
    Inputs,
    MaxDrop,
    MemoryLimit,
    Method,
    Model,
    NoCache,
    Overwrite,
    Ranges,
    Samples,
    Smoothing,
    State,
    Target,
    TimeLimit,
    Tolerances,
    TrustPickle,
    Weights,
    WriteExclude,
    limits_of,
    open_store,
    precision_names,
    require_bound,
    set_up,
)
from ._progress import Progress
from ._show import print_guard, print_json, print_layers, print_products, size_of

app = typer.Typer()


@app.command()
def quantize(
    model: Model,
    target: Target,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The ONNX file with Q/DQ.")],
    precision: Annotated[
        str, typer.Option("-p", "--precision", help="int8, fp16, bf16.", autocompletion=precision_names)
    ] = "int8",
    calibration: CalibrationData = "",
    samples: Samples = None,
    method: Method = METHOD,
    ranges: Ranges = None,
    allow_random: AllowRandom = False,
    dynamic: Dynamic = False,
    exclude: Exclude = [],  # noqa: B006
    smoothing: Smoothing = SMOOTHING,
    max_drop: MaxDrop = [],  # noqa: B006
    evaluation: Evaluation = "",
    state: State = None,
    write_exclude: WriteExclude = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print a row for each layer.")] = False,
    inputs: Inputs = [],  # noqa: B006
    dims: Dims = [],  # noqa: B006
    data: Data = None,
    weights: Weights = None,
    tolerance: Tolerances = [],  # noqa: B006
    cache: Cache = None,
    no_cache: NoCache = False,
    overwrite: Overwrite = False,
    trust_pickle: TrustPickle = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Lower a model to INT8, FP16 or BF16: an ONNX file with Q/DQ or casts for a target's kernels."""
    set_up(output_format, debug)
    from ..compiler import recipe, single

    source = recipe.source(model, inputs=inputs, dims=dims, weights=weights, data=data, trust_pickle=trust_pickle)
    require_bound(evaluation, calibration, max_drop)
    quantization = recipe.quantization(
        data=calibration, samples=samples, method=method, table=ranges, random=allow_random, keep=exclude,
        smoothing=smoothing, max_drop=max_drop, evaluation=evaluation, state=state, listing=write_exclude,
        dynamic=dynamic,
    )  # fmt: skip
    job = recipe.job(source, target, precision, tolerance=tolerance, quantization=quantization)
    with Progress() as progress:
        made = single.quantize_file(
            job,
            out,
            limits=limits_of(source, time_limit, memory_limit),
            store=open_store(cache, no_cache),
            overwrite=overwrite,
            on_event=progress,
        )
    if output_format == "json":
        print_json({**made, "output": str(out)})
        return
    print(f"{made['status']} {out}: {size_of(out.stat().st_size)}")
    print_products(made["products"])
    print_guard(made["guard"])
    if explain:
        print_layers(made["layers"])

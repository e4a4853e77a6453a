"""`planc compile`: compile a model to a verified artifact."""

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
from ._show import (
    effective,
    print_candidates,
    print_guard,
    print_json,
    print_products,
    size_of,
    verification_lines,
    write_depfile,
)

app = typer.Typer()


@app.command("compile")
def compile_(
    model: Model,
    target: Target,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the artifact.")],
    precision: Annotated[
        str, typer.Option("-p", "--precision", help="fp32, fp16, bf16, int8, auto.", autocompletion=precision_names)
    ] = "fp32",
    objective: Annotated[
        str, typer.Option("--optimize", metavar="latency|throughput|size", help="What -p auto chooses for.")
    ] = "",
    inputs: Inputs = [],  # noqa: B006  typer's way
    dims: Dims = [],  # noqa: B006
    data: Data = None,
    weights: Weights = None,
    option: Annotated[
        list[str], typer.Option("-O", "--option", metavar="NAME=VALUE", help="Option of the backend.")
    ] = [],  # noqa: B006
    tolerance: Tolerances = [],  # noqa: B006
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
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Let other execution providers run what the target's does not.")
    ] = False,
    write_exclude: WriteExclude = None,
    depfile: Annotated[Path | None, typer.Option("--depfile", metavar="FILE", help="Write a Make depfile.")] = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    overwrite: Overwrite = False,
    trust_pickle: TrustPickle = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Compile a model to a verified artifact."""
    set_up(output_format, debug)
    from ..compiler import files, pipeline, recipe

    files.require_text("--depfile", depfile, holds="manifest.json:")

    source = recipe.source(model, inputs=inputs, dims=dims, weights=weights, data=data, trust_pickle=trust_pickle)
    require_bound(evaluation, calibration, max_drop)
    quantization = recipe.quantization(
        data=calibration, samples=samples, method=method, table=ranges, random=allow_random, keep=exclude,
        smoothing=smoothing, max_drop=max_drop, evaluation=evaluation, state=state, listing=write_exclude,
        dynamic=dynamic,
    )  # fmt: skip
    options = [*option, "allow_fallback=true"] if allow_fallback else option
    job = recipe.job(
        source, target, precision, options=options, tolerance=tolerance, quantization=quantization, objective=objective
    )
    with Progress() as progress:
        result = pipeline.run(
            job,
            out,
            limits=limits_of(source, time_limit, memory_limit),
            store=open_store(cache, no_cache),
            overwrite=overwrite,
            on_event=progress,
        )
    manifest = result.artifact.manifest
    if depfile is not None:
        write_depfile(depfile, out / "manifest.json", result.sources)
    if output_format == "json":
        print_json({"status": result.status, "output": str(out), "manifest": manifest, "report": result.report})
        return
    sizes = {name: facts["bytes"] for name, facts in manifest["files"].items()}
    golden = sizes.pop("golden.npz", 0)
    seconds = result.report["seconds"]["total"]
    print(f"{result.status} {out}: {manifest['job']['id']}, {size_of(sum(sizes.values()))} to deploy, {seconds:.1f} s")
    print_candidates(result.report["candidates"])
    print(f"  golden data for planc verify: {size_of(golden)}")
    print(f"  precision: {effective(manifest['effective_precision'])}")
    if placement := manifest["placement"]:
        print(f"  {placement['share']:.1%} of {sum(placement['nodes'].values())} nodes on {placement['provider']}")
    if manifest["quantization"]:
        print_products(manifest["quantization"]["products"])
        print_guard(manifest["quantization"]["guard"])
    for line in verification_lines(manifest["verification"]):
        print(f"  {line}")

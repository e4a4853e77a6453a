"""The command line: verbs, printing, and exit codes. Everything else lives in `compiler/`."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .compiler.errors import EXIT_CODES, BuildFailed, PlancError, UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .compiler.build import Outcome
    from .compiler.cache import Store
    from .compiler.parity import Check
    from .compiler.recipe import Source
    from .compiler.results import Row
    from .compiler.worker import Emit, Limits

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
_MODEL_HELP = (
    "file.py:callable, pkg.mod:callable (returning an nn.Module, or (module, example_inputs)), model.onnx or model.pt2."
)

_METHOD = "mse"
_SMOOTHING = 0.7
_INTERRUPTED = 130
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

app = typer.Typer(
    name="planc",
    help="From a PyTorch or ONNX model to a verified, deployable artifact.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _target_names(incomplete: str) -> list[str]:
    from .compiler.target import target_names

    return [name for name in target_names() if name.startswith(incomplete)]


def _precision_names(incomplete: str) -> list[str]:
    from .compiler.target import Precision

    return [name for name in Precision if name.startswith(incomplete)]


Model = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP)]
Inputs = Annotated[
    list[str],
    typer.Option("--input", metavar="SPEC", help="'x=float32[batch,3,224,224]'; ':0..99' bounds drawn values."),
]
Dims = Annotated[list[str], typer.Option("--dim", metavar="SPEC", help="batch=1..32@8, seq=128|256 or batch=8.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="State dict to load: .safetensors, .pt.")
]
Data = Annotated[Path | None, typer.Option("--inputs", metavar="FILE.npz", help="Real inputs to verify with.")]
TrustPickle = Annotated[bool, typer.Option("--trust-pickle", help="Read pickles, which can run code.")]
TimeLimit = Annotated[float, typer.Option("--time-limit", metavar="SECONDS", help="For each worker process.")]
MemoryLimit = Annotated[
    str | None, typer.Option("--memory-limit", metavar="SIZE", help="For each worker process, such as 8GiB.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Tolerances = Annotated[
    list[str],
    typer.Option("--tolerance", metavar="NAME=VALUE", help="cosine, sqnr_db, relative, atol, mismatch."),
]
Format = Annotated[str, typer.Option("--format", metavar="text|json", help="What stdout carries.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks and worker output.")]
Target = Annotated[str, typer.Option("-t", "--target", help="See `planc targets`.", autocompletion=_target_names)]
CalibrationData = Annotated[
    str, typer.Option("--calibration", metavar="DATA", help="Real inputs: .npz, folder or file.py:callable.")
]
Samples = Annotated[int | None, typer.Option("--samples", metavar="N", help="Use the first N only.")]
Method = Annotated[str, typer.Option("--method", help="From statistics to ranges: minmax, percentile, entropy, ...")]
Ranges = Annotated[Path | None, typer.Option("--ranges", metavar="FILE.json", help="What planc calibrate wrote.")]
AllowRandom = Annotated[bool, typer.Option("--allow-random-calibration", help="Calibrate on random data.")]
Dynamic = Annotated[
    bool, typer.Option("--dynamic", help="INT8 without data: each activation's range is measured when it comes.")
]
Exclude = Annotated[
    list[str], typer.Option("--exclude", metavar="NAME", help="Layer, module or glob kept in float; @FILE lists them.")
]
Smoothing = Annotated[float, typer.Option("--smoothing", help="Share of outliers that weights take, 0 for none.")]
MaxDrop = Annotated[
    list[str], typer.Option("--max-drop", metavar="METRIC=VALUE", help="top1=0.5pp, cosine=0.005, sqnr=20, mse=0.01.")
]
Evaluation = Annotated[
    str, typer.Option("--eval", metavar="DATA", help="Judge and verify by this data; it may hold `labels`.")
]
State = Annotated[Path | None, typer.Option("--state", metavar="FILE.json", help="Go on with a stopped search.")]
WriteExclude = Annotated[
    Path | None, typer.Option("--write-exclude", metavar="FILE", help="List what the search keeps in float.")
]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Where stages are kept; PLANC_CACHE_DIR by default.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Make every stage, and keep none.")]
ProjectFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="The project's file.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="model.net.dims.batch=1..8")]
OnlyJobs = Annotated[list[str], typer.Option("--only", metavar="GLOB", help="Jobs by id.")]
SkipJobs = Annotated[list[str], typer.Option("--skip", metavar="GLOB", help="Jobs that are left out.")]
RequireJobs = Annotated[
    list[str], typer.Option("--require", metavar="GLOB", help="Jobs that must be there, and buildable here.")
]
OnnxFile = Annotated[Path, typer.Argument(metavar="IN.onnx", help="The ONNX file.")]
Preset = Annotated[str, typer.Option("--preset", help="List of passes, by target family.")]
Only = Annotated[list[str], typer.Option("--pass", metavar="NAME{OPTION=VALUE}", help="Run these instead.")]
Skip = Annotated[list[str], typer.Option("--skip", metavar="NAME", help="Leave a pass out.")]


@app.command("compile")
def compile_(
    model: Model,
    target: Target,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the artifact.")],
    precision: Annotated[
        str, typer.Option("-p", "--precision", help="fp32, fp16, bf16, int8.", autocompletion=_precision_names)
    ] = "fp32",
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
    method: Method = _METHOD,
    ranges: Ranges = None,
    allow_random: AllowRandom = False,
    dynamic: Dynamic = False,
    exclude: Exclude = [],  # noqa: B006
    smoothing: Smoothing = _SMOOTHING,
    max_drop: MaxDrop = [],  # noqa: B006
    evaluation: Evaluation = "",
    state: State = None,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Let other execution providers run what the target's does not.")
    ] = False,
    write_exclude: WriteExclude = None,
    depfile: Annotated[Path | None, typer.Option("--depfile", metavar="FILE", help="Write a Make depfile.")] = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    overwrite: Overwrite = False,
    trust_pickle: TrustPickle = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Compile a model to a verified artifact."""
    _set_up(output_format, debug)
    from .compiler import pipeline, recipe

    source = recipe.source(model, inputs=inputs, dims=dims, weights=weights, data=data, trust_pickle=trust_pickle)
    quantization = recipe.quantization(
        data=calibration, samples=samples, method=method, table=ranges, random=allow_random, keep=exclude,
        smoothing=smoothing, max_drop=max_drop, evaluation=evaluation, state=state, listing=write_exclude,
        dynamic=dynamic,
    )  # fmt: skip
    options = [*option, "allow_fallback=true"] if allow_fallback else option
    job = recipe.job(source, target, precision, options=options, tolerance=tolerance, quantization=quantization)
    with _Progress() as progress:
        result = pipeline.run(
            job,
            out,
            limits=_limits(source, time_limit, memory_limit),
            store=_store(cache, no_cache),
            overwrite=overwrite,
            on_event=progress,
        )
    manifest = result.artifact.manifest
    if depfile is not None:
        _write_depfile(depfile, out / "manifest.json", result.sources)
    if output_format == "json":
        _print_json({"status": result.status, "output": str(out), "manifest": manifest, "report": result.report})
        return
    sizes = {name: facts["bytes"] for name, facts in manifest["files"].items()}
    golden = sizes.pop("golden.npz", 0)
    seconds = result.report["seconds"]["total"]
    print(f"{result.status} {out}: {manifest['job']['id']}, {_size(sum(sizes.values()))} to deploy, {seconds:.1f} s")
    for name, reason in result.report["failed_candidates"].items():
        print(f"  not {name}: {reason}")
    for name, figures in result.report["latency"].items():
        print(f"  {name}: {figures['latency_p50_ms']:.2f} ms (median)")
    print(f"  golden data for planc verify: {_size(golden)}")
    print(f"  precision: {_effective(manifest['effective_precision'])}")
    if placement := manifest["placement"]:
        print(f"  {placement['share']:.1%} of {sum(placement['nodes'].values())} nodes on {placement['provider']}")
    if manifest["quantization"]:
        _print_products(manifest["quantization"]["products"])
        _print_guard(manifest["quantization"]["guard"])
    for line in _verification_lines(manifest["verification"]):
        print(f"  {line}")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the project.")] = Path(),
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Write a commented planc.toml, and its schema for editors."""
    _set_up(output_format, debug)
    from .compiler import project

    made = [str(path) for path in project.init(folder)]
    if output_format == "json":
        _print_json({"status": "built", "files": made})
    else:
        print(f"built {made[0]}, and {made[1]} for editors")


@app.command()
def build(
    file: ProjectFile = Path("planc.toml"),
    overrides: Overrides = [],  # noqa: B006
    only: OnlyJobs = [],  # noqa: B006
    skip: SkipJobs = [],  # noqa: B006
    require: RequireJobs = [],  # noqa: B006
    jobs: Annotated[int, typer.Option("-j", "--jobs", metavar="N", help="Jobs at once; 0 for one per core.")] = 0,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Begin no more jobs after one has failed.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE.xml", help="Jobs as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE.md", help="A summary.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Annotations and job summary of GitHub Actions.")] = False,
    cache: CacheFolder = None,
    overwrite: Overwrite = False,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Build the jobs of planc.toml: models x targets x precisions, cached and in parallel."""
    _set_up(output_format, debug)
    from .compiler import build as builder
    from .compiler import host, project
    from .compiler.executors import local

    if jobs < 0:
        raise UsageError(f"--jobs {jobs} is negative", hint="Give a number such as -j 4, or 0 for one per core")
    read = project.load(file, overrides=overrides)
    entries = project.select(read.jobs, only, skip, require)
    store = _store(cache, no_cache=False)
    assert store
    with _Board(len(entries)) as board:
        rows = builder.run(
            read,
            entries,
            store=store,
            executor=local.create(jobs or host.cores()),
            overwrite=overwrite,
            fail_fast=fail_fast,
            on_row=board.row,
            on_event=board.event,
        )
    code = builder.exit_code(rows)
    _write_results("planc build", builder.results(rows), junit, markdown, github, builder.HEADERS, builder.table(rows))
    if output_format == "json":
        _print_json({"jobs": [vars(row) for row in rows], "exit_code": code})
    else:
        _print_rows(rows)
    raise typer.Exit(code)


@app.command()
def plan(
    file: ProjectFile = Path("planc.toml"),
    overrides: Overrides = [],  # noqa: B006
    only: OnlyJobs = [],  # noqa: B006
    skip: SkipJobs = [],  # noqa: B006
    require: RequireJobs = [],  # noqa: B006
    cache: CacheFolder = None,
    output_format: Annotated[
        str, typer.Option("--format", metavar="text|json|dot|mermaid", help="What stdout carries.")
    ] = "text",
    debug: Debug = False,
) -> None:
    """Show what planc build would do: each stage, cached or to build and why."""
    _set_up("text" if output_format in ("dot", "mermaid") else output_format, debug)
    from .compiler import build as builder
    from .compiler import project

    store = _store(cache, no_cache=False)
    assert store
    planned = builder.plan(project.select(project.load(file, overrides=overrides).jobs, only, skip, require), store)
    if output_format == "json":
        _print_json({"jobs": planned})
        return
    if output_format in ("dot", "mermaid"):
        print(builder.drawn(planned, output_format))
        return
    for one in planned:
        todo = [row for row in one["stages"] if row["state"] == "build"]
        said = (
            f"skipped: {one['skipped']}" if one["skipped"] else f"{len(todo)} of {len(one['stages'])} stages to build"
        )
        print(f"{one['job']}: {said}")
        for row in one["stages"]:
            why = f": {row['why']}" if row["why"] else ""
            print(f"  {row['state']:6} {row['stage']:10} {row['key'][:12]:12} {row['target']}{why}")


cache_app = typer.Typer(no_args_is_help=True, help="Look at the stage cache, and keep it small.", rich_markup_mode=None)
app.add_typer(cache_app, name="cache")


@cache_app.command("ls")
def cache_ls(cache: CacheFolder = None, output_format: Format = "text", debug: Debug = False) -> None:
    """List what the cache has, the oldest use first."""
    _set_up(output_format, debug)
    store = _store(cache, no_cache=False)
    assert store
    rows = store.listing()
    if output_format == "json":
        _print_json({"root": str(store.root), "entries": rows, "bytes": store.bytes()})
        return
    for row in rows:
        print(f"{row['used']} {row['key'][:12]} {row['stage']:10} {_size(row['bytes']):>10} {row['seconds']:8.1f} s")
    print(f"{len(rows)} entries, {_size(store.bytes())} in {store.root}")


@cache_app.command("explain")
def cache_explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="First characters of a key, see planc cache ls.")],
    cache: CacheFolder = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Show what an entry's key is made of; planc plan says why a stage of a job misses."""
    _set_up(output_format, debug)
    store = _store(cache, no_cache=False)
    assert store
    entry = store.named(key)
    facts = {"stage": entry.stage, "key": entry.key, "components": entry.components, "reads": entry.reads}
    if output_format == "json":
        _print_json({**facts, "outputs": entry.outputs})
    else:
        _print_tree({**facts, "outputs": entry.outputs})


@cache_app.command("prune")
def cache_prune(
    max_size: Annotated[str, typer.Option("--max-size", metavar="SIZE", help="What may stay, such as 5GB.")],
    cache: CacheFolder = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Remove what was not used for longest, until the rest is small enough."""
    _set_up(output_format, debug)
    from .compiler.recipe import bytes_of

    store = _store(cache, no_cache=False)
    assert store
    removed, freed = store.prune(bytes_of(max_size))
    if output_format == "json":
        _print_json({"removed": removed, "freed_bytes": freed, "bytes": store.bytes()})
    else:
        print(f"removed {removed} entries, {_size(freed)}; {_size(store.bytes())} left in {store.root}")


@cache_app.command("verify")
def cache_verify(cache: CacheFolder = None, output_format: Format = "text", debug: Debug = False) -> None:
    """Digest every file of the cache; what is damaged is removed, and the exit code is 1."""
    _set_up(output_format, debug)
    store = _store(cache, no_cache=False)
    assert store
    whole, damaged = store.verify()
    if output_format == "json":
        _print_json({"whole": whole, "damaged": damaged})
    else:
        for name in damaged:
            print(f"damaged, and removed: {name}")
        print(f"{whole} files are whole, {len(damaged)} were damaged, in {store.root}")
    raise typer.Exit(1 if damaged else 0)


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
    _set_up(output_format, debug)
    from .compiler import recipe, single

    source = recipe.source(model, inputs=inputs, dims=dims, weights=weights, data=data, trust_pickle=trust_pickle)
    with _Progress() as progress:
        made = single.export_file(
            source,
            out,
            limits=_limits(source, time_limit, memory_limit),
            overwrite=overwrite,
            on_event=progress,
        )
    if depfile is not None:
        _write_depfile(depfile, out, made["sources"])
    if output_format == "json":
        _print_json({**made, "output": str(out)})
    else:
        size = _size(out.stat().st_size)
        print(f"{made['status']} {out}: {made['facts']['nodes']} nodes, {size}, verified against {made['reference']}")


@app.command()
def optimize(
    source: OnnxFile,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The optimized ONNX file.")],
    family: Preset = "onnx",
    only: Only = [],  # noqa: B006
    skip: Skip = [],  # noqa: B006
    strict: Annotated[bool, typer.Option("--strict", help="A pass that fails fails the build.")] = False,
    keep_origin: Annotated[bool, typer.Option("--keep-origin", help="Nodes keep their PyTorch module path.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Run IN and OUT; leave out each pass that changes the outputs.")
    ] = False,
    inputs: Inputs = [],  # noqa: B006
    dims: Dims = [],  # noqa: B006
    data: Data = None,
    tolerance: Tolerances = [],  # noqa: B006
    explain: Annotated[
        list[str], typer.Option("--explain", metavar="NAME", help="Say where a pass did not match.")
    ] = [],  # noqa: B006
    overwrite: Overwrite = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Run graph passes: folding, clean-up, fusion."""
    _set_up(output_format, debug)
    from .compiler import single
    from .compiler.optimize import Recipe

    recipe = Recipe(family, tuple(only), tuple(skip), strict, keep_origin, embed=True, explain=tuple(explain))
    if not check and (inputs or dims or data or tolerance):
        raise UsageError("--input, --dim, --inputs and --tolerance say how to check", hint="Add --check")
    wanted = _check(source, inputs, dims, data, tolerance) if check else None
    with _Progress() as progress:
        status, report = single.optimize_file(
            source,
            out,
            recipe,
            limits=_limits(None, time_limit, memory_limit),
            check=wanted,
            overwrite=overwrite,
            on_event=progress,
        )
    if output_format == "json":
        _print_json({"status": status, "output": str(out), **vars(report)})
        return
    print(f"{status} {out}")
    _print_change("nodes", report.before["nodes"], report.after["nodes"])
    _print_change("weights", _size(report.before["weights_bytes"]), _size(report.after["weights_bytes"]))
    before, after = report.before["operators"], report.after["operators"]
    for name in sorted(before | after, key=lambda one: (-before.get(one, 0), one)):
        if before.get(name, 0) != after.get(name, 0):
            _print_change(name, before.get(name, 0), after.get(name, 0))
    print(f"changed by: {', '.join(dict.fromkeys(report.changed_by)) or 'no pass'}")
    for name, reason in report.skipped.items():
        print(f"left out {name}: {reason}")
    for name in explain:
        for one in report.explained.get(name, ()):
            print(f"{name}: no match at {one['origin'] or one['node']} ({one['op']}): {one['reason']}")
        if name in report.explained and not report.explained[name]:
            print(f"{name}: nothing left to match")
        if name not in report.explained:
            print(f"{name}: {'not explained' if any(one['name'] == name for one in report.passes) else 'did not run'}")
    if report.checked:
        print(f"checked at {'; '.join(report.checked['points'])}: off by {report.checked['max_abs']:.3g} at most")


@app.command()
def calibrate(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="RANGES.json", help="The calibration table.")],
    calibration: CalibrationData = "",
    samples: Samples = None,
    method: Method = _METHOD,
    allow_random: AllowRandom = False,
    inputs: Inputs = [],  # noqa: B006
    dims: Dims = [],  # noqa: B006
    weights: Weights = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    overwrite: Overwrite = False,
    trust_pickle: TrustPickle = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Run a model on real data and write the ranges of its tensors: one table for every target."""
    _set_up(output_format, debug)
    from .compiler import recipe, single

    source = recipe.source(model, inputs=inputs, dims=dims, weights=weights, trust_pickle=trust_pickle)
    quantization = recipe.quantization(data=calibration, samples=samples, method=method, random=allow_random)
    job = recipe.job(source, "null", "int8", quantization=quantization)
    with _Progress() as progress:
        made = single.calibrate_file(
            job,
            out,
            limits=_limits(source, time_limit, memory_limit),
            store=_store(cache, no_cache),
            overwrite=overwrite,
            on_event=progress,
        )
    if output_format == "json":
        _print_json({**made, "output": str(out)})
    else:
        told = f"{made['tensors']} tensors, {made['samples']} samples of {made['data']}, method {made['method']}"
        print(f"{made['status']} {out}: {told}")


@app.command()
def quantize(
    model: Model,
    target: Target,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The ONNX file with Q/DQ.")],
    precision: Annotated[
        str, typer.Option("-p", "--precision", help="int8, fp16, bf16.", autocompletion=_precision_names)
    ] = "int8",
    calibration: CalibrationData = "",
    samples: Samples = None,
    method: Method = _METHOD,
    ranges: Ranges = None,
    allow_random: AllowRandom = False,
    dynamic: Dynamic = False,
    exclude: Exclude = [],  # noqa: B006
    smoothing: Smoothing = _SMOOTHING,
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
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    overwrite: Overwrite = False,
    trust_pickle: TrustPickle = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Lower a model to INT8, FP16 or BF16: an ONNX file with Q/DQ or casts for a target's kernels."""
    _set_up(output_format, debug)
    from .compiler import recipe, single

    source = recipe.source(model, inputs=inputs, dims=dims, weights=weights, data=data, trust_pickle=trust_pickle)
    quantization = recipe.quantization(
        data=calibration, samples=samples, method=method, table=ranges, random=allow_random, keep=exclude,
        smoothing=smoothing, max_drop=max_drop, evaluation=evaluation, state=state, listing=write_exclude,
        dynamic=dynamic,
    )  # fmt: skip
    job = recipe.job(source, target, precision, tolerance=tolerance, quantization=quantization)
    with _Progress() as progress:
        made = single.quantize_file(
            job,
            out,
            limits=_limits(source, time_limit, memory_limit),
            store=_store(cache, no_cache),
            overwrite=overwrite,
            on_event=progress,
        )
    if output_format == "json":
        _print_json({**made, "output": str(out)})
        return
    print(f"{made['status']} {out}: {_size(out.stat().st_size)}")
    _print_products(made["products"])
    _print_guard(made["guard"])
    if explain:
        _print_layers(made["layers"])


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
    _set_up(output_format, debug)
    from .compiler import single
    from .compiler.optimize import Recipe

    recipe = Recipe(family, tuple(only), tuple(skip))
    wanted = _check(source, inputs, dims, data, tolerance)
    limits = _limits(None, time_limit, memory_limit)
    with _Progress() as progress:
        fault, facts = single.bisect_file(source, out, recipe, wanted, limits=limits, on_event=progress)
    if output_format == "json":
        _print_json({"fault": vars(fault) if fault else None, **facts, "output": str(out) if out else None})
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


@app.command()
def passes(output_format: Format = "text", debug: Debug = False) -> None:
    """List the graph passes with their options."""
    _set_up(output_format, debug)
    from .compiler import worker
    from .compiler.optimize import describe_passes

    found = worker.call(describe_passes, limits=_limits(None, 600, None))
    if output_format == "json":
        _print_json({"passes": found})
        return
    for one in found:
        options = ",".join(f"{name}={value}" for name, value in one["options"].items())
        print(f"{one['name']}{f'{{{options}}}' if options else ''}: {one['description']}")


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
    _set_up(output_format, debug)
    from .compiler import recipe, worker
    from .compiler.verify import verify_artifact

    with _Progress() as progress:
        bounds = recipe.tolerances(tolerance)
        result = worker.call(
            verify_artifact,
            artifact,
            bounds,
            limits=_limits(None, time_limit, memory_limit),
            on_event=progress,
        )
    if output_format == "json":
        _print_json(result)
    else:
        for line in _verification_lines(result):
            print(line)
    if not result["passed"]:
        reasons = "; ".join(result["failures"][:3])
        print(
            f"planc: {artifact} differs from its reference: {reasons}. Build it again on this machine", file=sys.stderr
        )
        raise typer.Exit(1)


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
    _set_up(output_format, debug)
    from .compiler import worker
    from .compiler.artifact import run_file

    with _Progress() as progress:
        results = worker.call(
            run_file, artifact, data, out, limits=_limits(None, time_limit, memory_limit), on_event=progress
        )
    if output_format == "json":
        _print_json({"outputs": results})
        return
    for result in results:
        shape = ",".join(map(str, result["shape"]))
        first = " ".join(f"{value:.6g}" for value in result["first"])
        print(f"{result['name']}={result['dtype']}[{shape}] {first}{' ...' if len(result['first']) == 6 else ''}")


@app.command()
def bench(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="ART|ONNX...", help="Artifacts and ONNX files, measured in turns.")
    ] = None,
    against: Annotated[
        str, typer.Option("--against", metavar="WHAT", help="An artifact, ONNX file or torch:file.py:callable.")
    ] = "",
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE.json", help="An earlier result to compare with.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--inputs", metavar="FILE.npz", help="Inputs, in place of golden.npz.")
    ] = None,
    dims: Dims = [],  # noqa: B006
    batch: Annotated[
        str, typer.Option("--batch", metavar="SIZES", help="Throughput at 1,4,8 of batch, or at seq=32,64.")
    ] = "",
    streams: Annotated[
        str, typer.Option("--streams", metavar="NUMBERS", help="Throughput of 1,2,... sessions at once.")
    ] = "",
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="Threads of each inference.")] = 0,
    pin: Annotated[str, typer.Option("--pin", metavar="CORES", help="Use these cores only, such as 0,1.")] = "",
    seconds: Annotated[float, typer.Option("--seconds", help="For the rounds of latency, starts apart.")] = 10.0,
    processes: Annotated[int, typer.Option("--processes", metavar="N", help="New processes of each.")] = 10,
    confidence: Annotated[str, typer.Option("--confidence", help="Of intervals, and so of gates.")] = "99%",
    price: Annotated[
        float | None, typer.Option("--price", metavar="AMOUNT", help="Of the machine per hour: cost per 1,000.")
    ] = None,
    max_p99: Annotated[str, typer.Option("--max-p99", metavar="TIME", help="Gate: 5ms.")] = "",
    min_speedup: Annotated[str, typer.Option("--min-speedup", metavar="FACTOR", help="Gate: 2x.")] = "",
    max_regression: Annotated[str, typer.Option("--max-regression", metavar="SHARE", help="Gate: 5%.")] = "",
    max_size: Annotated[str, typer.Option("--max-size", metavar="SIZE", help="Gate on the files: 20MB.")] = "",
    max_rss: Annotated[str, typer.Option("--max-rss", metavar="SIZE", help="Gate on the peak memory: 500MB.")] = "",
    max_drop: Annotated[
        list[str], typer.Option("--max-drop", metavar="METRIC=VALUE", help="Gate on golden data: cosine=0.005.")
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.json", help="Write the JSON document, too.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE.xml", help="Gates as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE.md", help="A summary.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Annotations and job summary of GitHub Actions.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the result.")] = False,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Measure artifacts side by side: latency, throughput, cold start, memory; gates for CI."""
    _set_up(output_format, debug)
    from .compiler import bench as benchmark
    from .compiler import figures, gates

    if schema:
        print(benchmark.SCHEMA.read_text(), end="")
        return
    if not models:
        raise UsageError(
            "nothing to measure", hint="planc bench out/net, or planc bench a b --against torch:net.py:net"
        )
    bounds = gates.gates(
        max_p99=max_p99, min_speedup=min_speedup, max_regression=max_regression, max_size=max_size, max_rss=max_rss,
        max_drop=max_drop,
    )  # fmt: skip
    plan = benchmark.plan(
        models, gates=bounds, against=against, baseline=baseline, dims=dims, data=data, batch=batch, streams=streams,
        threads=threads, pin=pin, seconds=seconds, processes=processes, confidence=confidence, price=price,
    )  # fmt: skip
    with _Progress() as progress:
        limits = _limits(None, time_limit, memory_limit)
        document = benchmark.run(plan, limits=limits, on_event=progress)
    if out is not None:
        benchmark.write(out, document)
    if output_format == "json":
        _print_json(document)
    else:
        _print_table(figures.HEADERS, figures.table(document))
        for line in figures.told(document):
            print(line)
    rows = figures.rows(document)
    _write_results("planc bench", rows, junit, markdown, github, figures.HEADERS, figures.table(document))
    _fail_gates([f"{row.name}: {row.message}" for row in rows if row.status == "failed"])


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="A", help="An artifact's folder.")],
    new: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Compare two artifacts: graph, precision, size, latency, accuracy, tools. Exit code 1 where they differ."""
    _set_up(output_format, debug)
    from .compiler import difference, worker

    found = worker.call(difference.compare, old, new, limits=_limits(None, 600, None))
    if output_format == "json":
        _print_json(found)
    else:
        for line in difference.lines(found):
            print(line)
    if not found["same"]:
        print(f"planc: {old} and {new} differ in {', '.join(found['differs'])}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="ART|ONNX", help="An artifact's folder or an ONNX file.")],
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Show inputs, outputs, operators, size and precision of an artifact or an ONNX file."""
    _set_up(output_format, debug)
    from .compiler import artifact, worker
    from .compiler.files import require_file

    if path.is_dir():
        facts = dict(artifact.read(path).manifest)
        payload = path / "model.onnx"
    else:
        require_file(path)
        facts, payload = {}, path
    if payload.exists():
        graph_facts = worker.call(artifact.describe_graph, payload, limits=_limits(None, 600, None))
        facts = {**facts, "graph": graph_facts} if facts else graph_facts
    if output_format == "json":
        _print_json(facts)
    else:
        _print_tree(facts)


@app.command()
def targets(output_format: Format = "text", debug: Debug = False) -> None:
    """List the targets and what can be built for them here."""
    _set_up(output_format, debug)
    from .compiler import doctor as examiner
    from .compiler.target import find_target, target_names

    facts = {name: examiner.describe(find_target(name)) for name in target_names()}
    if output_format == "json":
        _print_json({"targets": facts})
        return
    for name, one in facts.items():
        print(f"{name:24} {' '.join(one['buildable']) or '-':20} {one['description']}")


@app.command()
def doctor(
    model: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL.onnx", help="Ask TARGET's parser which nodes it refuses.")
    ] = None,
    target: Target = "",
    dims: Dims = [],  # noqa: B006
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Show what is installed and what this machine can build and run, or whether a target takes a model."""
    _set_up(output_format, debug)
    from .compiler import doctor as examiner
    from .compiler import shapes

    if bool(model) != bool(target):
        raise UsageError("--model and --target go together", hint="planc doctor --model m.onnx -t tensorrt-rtx:sm89")
    if model:
        with _Progress() as progress:
            limits = _limits(None, time_limit, memory_limit)
            answer = examiner.check(model, target, list(map(shapes.parse_dim, dims)), limits=limits, on_event=progress)
        _print_answer(model, answer, output_format)
        raise typer.Exit(0 if answer["supported"] else 1)
    facts = examiner.examine()
    if output_format == "json":
        _print_json(facts)
        return
    for name, version in facts["versions"].items():
        print(f"{name:24} {version or '-'}")
    machine = facts["host"]
    flags = " ".join(machine["cpu_flags"])
    print(f"{'cpu':24} {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB: {flags}")
    print(f"{'gpu':24} {'; '.join(machine['gpus']) or 'none found (nvidia-smi)'}")
    for name, one in facts["targets"].items():
        runs = "runs here" if one["runnable"] else f"does not run here: {one['why_not_run']}"
        print(f"{name:24} builds {' '.join(one['buildable']) or 'nothing'}; {runs}")
        for precision, reason in one["why_not"].items():
            print(f"{'':24} not {precision}: {reason}")


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Versions of planc and of all that touches a model.")
    ] = False,
) -> None:
    """Handle what belongs to no verb."""
    if version:
        from .compiler.doctor import versions

        for name, number in versions().items():
            if number:
                print(f"{name} {number}")
        raise typer.Exit


def _print_answer(model: Path, answer: dict[str, Any], output_format: str) -> None:
    if output_format == "json":
        _print_json(answer)
        return
    count = len(answer["refused"])
    print(f"{answer['target']} takes {model}" if not count else f"{answer['target']} does not take {model}")
    for one in answer["refused"]:
        origin = f" (from {one['origin']})" if one["origin"] else ""
        print(
            f"  {one['operator']} {one['name']!r}{origin}: {one['reason']}" if one["operator"] else f"  {one['reason']}"
        )


class _Progress:
    """Tells on stderr which stage runs: a spinner on a terminal, plain lines elsewhere."""

    def __enter__(self) -> "Emit":
        import logging

        self._status = None
        self._last = ""
        if sys.stderr.isatty() and not logging.getLogger("planc").isEnabledFor(logging.DEBUG):
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def _tell(self, kind: str, value: Any) -> None:
        if kind not in ("stage", "note") or str(value).startswith("pass "):
            return
        if self._status and kind == "stage":
            self._status.update(str(value))
        elif value != self._last:
            self._last = str(value)
            print(f"planc: {value}", file=sys.stderr, flush=True)


class _Board:
    """Tells on stderr how a build goes: a table that lives on a terminal, plain lines elsewhere."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = 0
        self.now: dict[str, str] = {}
        self.live: Any = None

    def __enter__(self) -> "_Board":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def event(self, name: str, kind: str, value: Any) -> None:
        """Takes what a worker tells of the job called `name`."""
        if kind == "note":
            self._print(f"{name}: {value}")
        elif kind == "stage":
            self.now[name] = str(value)
            self._draw()

    def row(self, row: "Outcome") -> None:
        """Takes the end of a job."""
        self.done += 1
        self.now.pop(row.id, None)
        self._print(f"{row.id}: {row.status}{f': {row.reason}' if row.reason else ''} ({self.done}/{self.count})")
        self._draw()

    def _print(self, line: str) -> None:
        if self.live:
            self.live.console.print(f"planc: {line}", markup=False, highlight=False)
        else:
            print(f"planc: {line}", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self.live:
            from rich.table import Table

            table = Table("job", "stage", box=None)
            for name, stage in list(self.now.items()):
                table.add_row(name, stage)
            self.live.update(table)


def _print_rows(rows: "list[Outcome]") -> None:
    wide = max((len(row.id) for row in rows), default=0)
    for row in rows:
        told = f"{row.seconds:8.2f} s {_size(row.bytes):>10}  {_effective(dict(row.precision))}" if row.bytes else ""
        speed = f"  {row.latency_p50_ms:.2f} ms" if row.latency_p50_ms is not None else ""
        print(f"{row.id:{wide}}  {row.status:7} {told}{speed}{row.reason}".rstrip())
    counts = {name: sum(row.status == name for row in rows) for name in ("built", "cached", "skipped", "failed")}
    print(f"{len(rows)} jobs: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}")


def _set_up(output_format: str, debug: bool) -> None:
    if output_format not in ("text", "json"):
        raise UsageError(f"--format {output_format!r} is unknown", hint="Write --format text or --format json")
    import logging

    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    if debug:
        logging.getLogger("planc").setLevel(logging.DEBUG)


def _store(folder: Path | None, no_cache: bool) -> "Store | None":
    from .compiler.cache import Store, default_root

    if no_cache and folder is not None:
        raise UsageError("--cache and --no-cache exclude each other", hint="Drop one")
    return None if no_cache else Store(folder or default_root())


def _limits(source: "Source | None", seconds: float, memory: str | None) -> "Limits":
    from .compiler import recipe

    return recipe.limits(source, seconds, memory)


def _check(source: Path, inputs: list[str], dims: list[str], data: Path | None, tolerance: list[str]) -> "Check":
    from .compiler import recipe
    from .compiler.parity import Check

    return Check(recipe.onnx_source(str(source), inputs=inputs, dims=dims, data=data), recipe.tolerances(tolerance))


def _print_json(document: dict[str, Any]) -> None:
    import json

    print(json.dumps({"schema_version": 1, **document}, indent=2))


def _print_tree(facts: Any, indent: str = "") -> None:
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}:")
            _print_tree(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{indent}{key}:")
            for entry in value:
                print(f"{indent}  " + ", ".join(f"{name} {one}" for name, one in entry.items()))
        else:
            print(f"{indent}{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _print_products(products: dict[str, Any]) -> None:
    for name, share in products.items():
        known = share["macs_share"] is not None
        figures = (
            f"{share['nodes']} layers, {share['macs_share']:.1%} of the multiplications"
            if known
            else f"{share['nodes']} layers"
        )
        print(f"  {name}: {figures}, {_size(share['weights_bytes'])} of weights")


def _print_guard(guard: dict[str, Any] | None) -> None:
    if guard is None:
        return
    kind = "labelled samples" if guard["labelled"] else "samples"
    for bound, loss in guard["loss"].items():
        print(f"  {bound}: {loss:.4g} on {guard['samples']} {kind}")
    for one in guard["excluded"]:
        origin = f" ({one['origin']})" if one["origin"] else ""
        print(f"  in float: {one['name']}{origin}, noise {one['noise']:.3g} alone")


def _print_layers(layers: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "operator", "method", "range", "scale", "SQNR dB", "saturated", "MACs", "decision", box=None)
    for one in layers:
        known = bool(one["method"])
        table.add_row(
            f"{one['origin'] or one['name']}",
            one["op"],
            one["method"],
            f"{one['low']:.4g}..{one['high']:.4g}" if known else "",
            f"{one['scale']:.4g}" if known else "",
            f"{one['sqnr_db']:.1f}" if one["sqnr_db"] is not None else "",
            f"{one['saturated']:.4%}" if one["saturated"] is not None else "",
            f"{one['macs']:.3g}" if one["macs"] is not None else "",
            f"{one['decision']}{': ' if one['reason'] else ''}{one['reason']}",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _print_table(headers: "Sequence[str]", rows: "Sequence[Sequence[str]]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(headers[0], box=box.SIMPLE_HEAD)
    for header in headers[1:]:
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(table)


def _write_results(
    title: str,
    rows: "Sequence[Row]",
    junit: Path | None,
    markdown: Path | None,
    github: bool,
    headers: "Sequence[str]" = (),
    table: "Sequence[Sequence[str]]" = (),
) -> None:
    """Writes rows as other programs want them; annotations go to stderr, which GitHub reads, too."""
    from .compiler import results
    from .compiler.files import write_text

    summary = results.markdown(title, headers, table, rows)
    if junit is not None:
        write_text(junit, results.junit(title, rows))
    if markdown is not None:
        write_text(markdown, summary)
    if github:
        for line in results.annotations(title, rows):
            print(line, file=sys.stderr)
        if place := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(summary)


def _fail_gates(reasons: list[str]) -> None:
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        print(f"planc: {one_line(reasons[0])}{more}", file=sys.stderr)
        raise typer.Exit(1)


def _print_change(name: str, before: object, after: object) -> None:
    print(f"  {name:24} {before:>10} -> {after}")


def _verification_lines(result: dict[str, Any]) -> list[str]:
    if result["passed"] is None:
        more = f". To complete it: {result['complete_with']}" if "complete_with" in result else ""
        told = [f"{result['reason']}{more}"]
        return told + [f"  its graph, in ONNX Runtime: {line}" for line in _verification_lines(result["graph"])]
    lines = [f"verified against {result['reference']}" if result["passed"] else f"differs from {result['reference']}"]
    for label, outputs in result["points"].items():
        for name, metrics in outputs.items():
            figures = ", ".join(f"{key} {_figure(value)}" for key, value in metrics.items())
            lines.append(f"  {label:6} {name}: {figures}")
    return lines


def _figure(value: Any) -> str:
    return "inf" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _effective(counts: dict[str, Any]) -> str:
    parts = []
    for kind, numbers in counts.items():
        shown = ", ".join(f"{name} {_size(number) if 'bytes' in kind else number}" for name, number in numbers.items())
        parts.append(f"{kind.removesuffix('_bytes')} {shown}")
    return "; ".join(parts)


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def _write_depfile(depfile: Path, output: Path, sources: list[str]) -> None:
    from .compiler.files import write_depfile

    write_depfile(depfile, output, [Path(source) for source in sources])


def _fail(code: int, what: str, hint: str = "") -> NoReturn:
    """Prints the one line (and the JSON document where it was asked for) and exits."""
    line = f"{what}. {hint}" if hint else what
    print(f"planc: {line}", file=sys.stderr)
    words = sys.argv[1:]
    if "--format=json" in words or ("--format" in words and words[words.index("--format") + 1 :][:1] == ["json"]):
        _print_json({"error": {"exit_code": code, "what": what, "hint": hint}})
    sys.stdout.flush()
    raise SystemExit(code)


def _crash(error: BaseException) -> NoReturn:
    """Writes a crash report and says where it is."""
    import json
    import platform
    import shlex
    import tempfile
    import traceback

    from .compiler.doctor import versions

    report = "\n".join(
        [
            f"planc {shlex.join(sys.argv[1:])}",
            platform.platform(),
            json.dumps(versions()),
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    with tempfile.NamedTemporaryFile("w", prefix="planc-crash-", suffix=".txt", delete=False) as file:
        file.write(report)
    _fail(
        70,
        f"a bug in planc: {one_line(f'{type(error).__name__}: {error}')}",
        f"Please report it with {file.name}",
    )


def main() -> None:
    """Runs the command line and maps what it raises to an exit code."""
    for number in _STOPS:
        signal.signal(number, _interrupt)
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:  # typer's own answer to Ctrl-C
            raise KeyboardInterrupt
    except PlancError as error:
        if debug:
            _print_traceback()
        hint = error.hint
        if isinstance(error, BuildFailed) and not hint and not debug:
            import shlex

            hint = f"Repeat with its output: planc {shlex.join(sys.argv[1:])} --debug"
        _fail(error.exit_code, error.what, hint)
    except (KeyboardInterrupt, typer.Abort):
        _fail(_INTERRUPTED, "interrupted: nothing was written")
    except BrokenPipeError:
        _stop_writing()
    except OSError as error:
        from .compiler.files import io_failure

        failure = io_failure(error, Path(error.filename or "."))
        _fail(failure.exit_code, failure.what, failure.hint)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer makes it exit code 1
            _stop_writing()
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own usage errors; it vendors click, so they have no public name
            _fail(2, one_line(error.format_message()), f"See {' '.join(['planc', *_verb()])} --help")
        if debug:
            _print_traceback()
        _crash(error)
    raise SystemExit(code or 0)


def _interrupt(*_: object) -> NoReturn:
    """The first one counts: an impatient second one must not interrupt the cleaning up."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _stop_writing() -> NoReturn:
    """Ends well where the reader of stdout went away, as in `planc inspect ... | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(0) from None


def _verb() -> list[str]:
    return [word for word in sys.argv[1:2] if not word.startswith("-")]


if __name__ == "__main__":
    main()

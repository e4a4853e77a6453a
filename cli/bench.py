"""`planc bench`: measure artifacts side by side: latency, throughput, cold start, memory; gates for CI."""

from pathlib import Path
from typing import Annotated

import typer

from ..compiler.errors import UsageError
from ._options import Debug, Dims, Format, MemoryLimit, TimeLimit, limits_of, set_up
from ._progress import Progress
from ._show import fail_gates, print_json, print_table, write_results

app = typer.Typer()


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
    profile: Annotated[
        bool, typer.Option("--profile", help="Time layers, too, by the runtime's own profiler.")
    ] = False,
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
    set_up(output_format, debug)
    from ..compiler import bench as benchmark
    from ..compiler import figures, files, gates
    from ..compiler import profile as profiles

    if schema:
        print(benchmark.SCHEMA.read_text(), end="")
        return
    if not models:
        raise UsageError(
            "nothing to measure", hint="planc bench out/net, or planc bench a b --against torch:net.py:net"
        )
    files.require_text("--output", out, "{")
    files.require_text("--junit", junit, "<?xml", "<testsuite")
    bounds = gates.gates(
        max_p99=max_p99, min_speedup=min_speedup, max_regression=max_regression, max_size=max_size, max_rss=max_rss,
        max_drop=max_drop,
    )  # fmt: skip
    plan = benchmark.plan(
        models, gates=bounds, against=against, baseline=baseline, dims=dims, data=data, batch=batch, streams=streams,
        threads=threads, pin=pin, seconds=seconds, processes=processes, confidence=confidence, price=price,
        profile=profile,
    )  # fmt: skip
    with Progress() as progress:
        limits = limits_of(None, time_limit, memory_limit)
        document = benchmark.run(plan, limits=limits, on_event=progress)
    if out is not None:
        benchmark.write(out, document)
    if output_format == "json":
        print_json(document)
    else:
        print_table(figures.HEADERS, figures.table(document))
        for line in figures.told(document):
            print(line)
        for one in document["subjects"] if profile else ():
            print()
            print_table(profiles.HEADERS, profiles.table(one["profile"]))
            for line in profiles.told(one["name"], one["profile"], one["latency_p50_ms"]):
                print(line)
    rows = figures.rows(document)
    write_results("planc bench", rows, junit, markdown, github, figures.HEADERS, figures.table(document))
    fail_gates([f"{row.name}: {row.message}" for row in rows if row.status == "failed"])

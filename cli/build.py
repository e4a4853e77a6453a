"""`planc build`: build the jobs of planc.toml: models x targets x precisions, cached and in parallel."""

from pathlib import Path
from typing import Annotated

import typer

from ..compiler.errors import UsageError
from ._options import (
    CacheFolder,
    Debug,
    Format,
    OnlyJobs,
    Overrides,
    Overwrite,
    ProjectFile,
    RequireJobs,
    SkipJobs,
    open_store,
    set_up,
)
from ._progress import Board
from ._show import print_jobs, print_json, write_results

app = typer.Typer()


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
    executor: Annotated[
        str, typer.Option("--executor", metavar="local|dask", help="Where jobs run: here, or on dask.distributed.")
    ] = "local",
    address: Annotated[
        str, typer.Option("--address", metavar="tcp://HOST:PORT", help="Of the cluster's scheduler; one here without.")
    ] = "",
    cache: CacheFolder = None,
    overwrite: Overwrite = False,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Build the jobs of planc.toml: models x targets x precisions, cached and in parallel."""
    set_up(output_format, debug)
    from ..compiler import build as builder
    from ..compiler import executors, project

    if jobs < 0:
        raise UsageError(f"--jobs {jobs} is negative", hint="Give a number such as -j 4, or 0 for one per core")
    read = project.load(file, overrides=overrides)
    module = executors.find(executor)
    known = project.for_others(read.jobs) if module.ELSEWHERE else read.jobs
    entries = project.select(known, only, skip, require)
    store = open_store(cache, no_cache=False)
    assert store
    with Board(len(entries)) as board:
        rows = builder.run(
            read,
            entries,
            store=store,
            executor=module.create(jobs, address=address),
            overwrite=overwrite,
            fail_fast=fail_fast,
            on_row=board.row,
            on_event=board.event,
        )
    rows = builder.require(rows, require)
    code = builder.exit_code(rows)
    write_results("planc build", builder.results(rows), junit, markdown, github, builder.HEADERS, builder.table(rows))
    if output_format == "json":
        print_json({"jobs": [vars(row) for row in rows], "exit_code": code})
    else:
        print_jobs(rows)
    raise typer.Exit(code)

"""`planc build`: build the jobs of planc.toml: models x targets x precisions, cached and in parallel."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..compiler.errors import PlancError, UsageError
from ._options import (
    Cache,
    Debug,
    Format,
    Locked,
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

if TYPE_CHECKING:
    from ..compiler.jobserver import Jobserver
    from ..compiler.sources import Sources

app = typer.Typer()


@app.command()
def build(
    file: ProjectFile = Path("planc.toml"),
    overrides: Overrides = [],  # noqa: B006
    only: OnlyJobs = [],  # noqa: B006
    skip: SkipJobs = [],  # noqa: B006
    require: RequireJobs = [],  # noqa: B006
    jobs: Annotated[
        int | None,
        typer.Option("-j", "--jobs", metavar="N", help="Jobs at once; 0 for one per core, the default but under make."),
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Begin no more jobs after one has failed.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE.xml", help="Jobs as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE.md", help="A summary.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Annotations and job summary of GitHub Actions.")] = False,
    depfile: Annotated[
        Path | None, typer.Option("--depfile", metavar="FILE", help="A rule per artifact, for Make or Ninja.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Build again whenever a source is saved.")] = False,
    executor: Annotated[
        str, typer.Option("--executor", metavar="local|dask", help="Where jobs run: here, or on dask.distributed.")
    ] = "local",
    address: Annotated[
        str, typer.Option("--address", metavar="tcp://HOST:PORT", help="Of the cluster's scheduler; one here without.")
    ] = "",
    locked: Locked = False,
    cache: Cache = None,
    overwrite: Overwrite = False,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Build the jobs of planc.toml: models x targets x precisions, cached and in parallel."""
    set_up(output_format, debug)
    from ..compiler import build as builder
    from ..compiler import executors, files, lock, project, sources

    if jobs is not None and jobs < 0:
        raise UsageError(f"--jobs {jobs} is negative", hint="Give a number such as -j 4, or 0 for one per core")
    if watch and output_format == "json":
        raise UsageError("--watch does not end with one document", hint="Drop --format json, or take --junit FILE.xml")
    files.require_text("--depfile", depfile, holds="manifest.json:")
    files.require_text("--junit", junit, "<?xml", "<testsuite")
    module = executors.find(executor)
    server = _jobserver() if jobs is None and not module.ELSEWHERE else None
    tokens = {"jobserver": server} if server else {}

    def once() -> "tuple[int, Sources]":
        read = project.load(file, overrides=overrides)
        listed = project.for_others(read.jobs) if module.ELSEWHERE else read.jobs
        entries = project.select(listed, only, skip, require)
        store = open_store(cache, no_cache=False, url=read.cache)
        assert store
        if locked:
            lock.require(file, entries, store.digest)
        failed: dict[str, list[str]] = defaultdict(list)
        with Board(len(entries)) as board:

            def on_event(name: str, kind: str, value: Any) -> None:
                if kind == "read":
                    failed[name] += value
                board.event(name, kind, value)

            rows = builder.run(
                read,
                entries,
                store=store,
                executor=module.create(len(entries) if server else jobs or 0, address=address, **tokens),
                overwrite=overwrite,
                fail_fast=fail_fast,
                on_row=board.row,
                on_event=on_event,
            )
        rows = builder.require(rows, require)
        known = {one.out: sources.of(one, store, failed[one.id]) for one in entries if wanted and not one.skipped}
        if depfile is not None:
            sources.write_depfile(depfile, file, known)
        code = builder.exit_code(rows)
        table = builder.table(rows)
        write_results("planc build", builder.results(rows), junit, markdown, github, builder.HEADERS, table)
        if output_format == "json":
            print_json({"jobs": [vars(row) for row in rows], "exit_code": code})
        else:
            print_jobs(rows)
        return code, sources.together(file, known.values())

    wanted = watch or depfile is not None
    if watch:
        _watch(file, once)
    raise typer.Exit(once()[0])


def _jobserver() -> "Jobserver | None":
    """The jobserver of the make that runs this, where one does."""
    from ..compiler import jobserver

    server = jobserver.connect(os.environ.get("MAKEFLAGS", ""))
    if server and server.note:
        print(f"planc: {server.note}", file=sys.stderr)
    return server


def _watch(file: Path, build: "Callable[[], tuple[int, Sources]]") -> NoReturn:
    """Builds again whenever a source is saved, until Ctrl-C; what fails is told, and does not end it."""
    import time

    from ..compiler import sources, watch

    watch.require()
    known = sources.together(file, [])
    while True:
        since = time.time_ns()
        try:
            _, known = build()
        except PlancError as error:
            print(f"planc: {error}", file=sys.stderr)
        sys.stdout.flush()
        try:
            print(f"planc: watching {len(known.files)} files, until Ctrl-C", file=sys.stderr, flush=True)
            saved = watch.wait(known, since)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None
        print(f"planc: saved: {', '.join(saved)}", file=sys.stderr, flush=True)

"""`planc plan`: show what planc build would do: each stage, cached or to build and why."""

from pathlib import Path
from typing import Annotated

import typer

from ._options import Cache, Debug, Locked, OnlyJobs, Overrides, ProjectFile, RequireJobs, SkipJobs, open_store, set_up
from ._show import print_json

app = typer.Typer()


@app.command()
def plan(
    file: ProjectFile = Path("planc.toml"),
    overrides: Overrides = [],  # noqa: B006
    only: OnlyJobs = [],  # noqa: B006
    skip: SkipJobs = [],  # noqa: B006
    require: RequireJobs = [],  # noqa: B006
    locked: Locked = False,
    cache: Cache = None,
    output_format: Annotated[
        str, typer.Option("--format", metavar="text|json|dot|mermaid", help="What stdout carries.")
    ] = "text",
    debug: Debug = False,
) -> None:
    """Show what planc build would do: each stage, cached or to build and why."""
    set_up("text" if output_format in ("dot", "mermaid") else output_format, debug)
    from ..compiler import build as builder
    from ..compiler import lock, project

    read = project.load(file, overrides=overrides)
    entries = project.select(read.jobs, only, skip, require)
    store = open_store(cache, no_cache=False, url=read.cache)
    assert store
    if locked:
        lock.require(file, entries, store.digest)
    planned = builder.plan(entries, store)
    if output_format == "json":
        print_json({"jobs": planned})
        return
    if output_format in ("dot", "mermaid"):
        print(builder.drawn(planned, output_format))
        return
    for one in planned:
        todo = [row for row in one["stages"] if row["state"] == "build"]
        said = (
            f"skipped: {one['skipped']}" if one["skipped"] else f"{len(todo)} of {len(one['stages'])} stages to build"
        )
        lost = not todo and one["artifact"] in ("damaged", "missing")
        restored = f", the artifact is {one['artifact']} and comes from the cache" if lost else ""
        print(f"{one['job']}: {said}{restored}")
        for row in one["stages"]:
            why = f": {row['why']}" if row["why"] else ""
            print(f"  {row['state']:6} {row['stage']:10} {row['key'][:12]:12} {row['target']}{why}")

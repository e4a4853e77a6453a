"""`planc lock`: pin data, weights and tools in planc.lock, for `planc build --locked`."""

from pathlib import Path

import typer

from ._options import Cache, Debug, Format, Overrides, ProjectFile, open_store, set_up
from ._show import print_json

app = typer.Typer()


@app.command()
def lock(
    file: ProjectFile = Path("planc.toml"),
    overrides: Overrides = [],  # noqa: B006
    cache: Cache = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Pin data, weights and tools in planc.lock: planc build --locked stops where one is another."""
    set_up(output_format, debug)
    from ..compiler import lock as locks
    from ..compiler import project

    read = project.load(file, overrides=overrides)
    store = open_store(cache, no_cache=False, url=read.cache)
    assert store
    status = locks.write(file, read.jobs, store.digest)
    if output_format == "json":
        print_json({"status": status, "file": str(locks.path_of(file))})
    else:
        print(f"{status} {locks.path_of(file)}")

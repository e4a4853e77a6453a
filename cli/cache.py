"""`planc cache`: look at the stage cache, and keep it small."""

from typing import Annotated

import typer

from ._options import Cache, Debug, Format, open_store, set_up
from ._show import print_json, print_tree, size_of

app = typer.Typer(no_args_is_help=True, help="Look at the stage cache, and keep it small.", rich_markup_mode=None)


@app.command("ls")
def cache_ls(cache: Cache = None, output_format: Format = "text", debug: Debug = False) -> None:
    """List what the cache has, the oldest use first."""
    set_up(output_format, debug)
    store = open_store(cache, no_cache=False)
    assert store
    rows = store.listing()
    if output_format == "json":
        print_json({"root": str(store.root), "entries": rows, "bytes": store.bytes()})
        return
    for row in rows:
        print(f"{row['used']} {row['key'][:12]} {row['stage']:10} {size_of(row['bytes']):>10} {row['seconds']:8.1f} s")
    print(f"{len(rows)} entries, {size_of(store.bytes())} in {store.root}")


@app.command("explain")
def cache_explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="First characters of a key, see planc cache ls.")],
    cache: Cache = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Show what an entry's key is made of; planc plan says why a stage of a job misses."""
    set_up(output_format, debug)
    store = open_store(cache, no_cache=False)
    assert store
    entry = store.named(key)
    facts = {"stage": entry.stage, "key": entry.key, "components": entry.components, "reads": entry.reads}
    if output_format == "json":
        print_json({**facts, "outputs": entry.outputs})
    else:
        print_tree({**facts, "outputs": entry.outputs})


@app.command("prune")
def cache_prune(
    max_size: Annotated[str, typer.Option("--max-size", metavar="SIZE", help="What may stay, such as 5GB.")],
    cache: Cache = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Remove what was not used for longest, until the rest is small enough."""
    set_up(output_format, debug)
    from ..compiler.recipe import bytes_of

    store = open_store(cache, no_cache=False)
    assert store
    removed, freed = store.prune(bytes_of(max_size))
    if output_format == "json":
        print_json({"removed": removed, "freed_bytes": freed, "bytes": store.bytes()})
    else:
        print(f"removed {removed} entries, {size_of(freed)}; {size_of(store.bytes())} left in {store.root}")


@app.command("verify")
def cache_verify(cache: Cache = None, output_format: Format = "text", debug: Debug = False) -> None:
    """Digest every file of the cache; what is damaged is removed, and the exit code is 1."""
    set_up(output_format, debug)
    store = open_store(cache, no_cache=False)
    assert store
    whole, damaged = store.verify()
    if output_format == "json":
        print_json({"whole": whole, "damaged": damaged})
    else:
        for name in damaged:
            print(f"damaged, and removed: {name}")
        print(f"{whole} files are whole, {len(damaged)} were damaged, in {store.root}")
    raise typer.Exit(1 if damaged else 0)

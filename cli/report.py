"""`planc report`: artifacts on one page of HTML: latency, accuracy, size, precision, provenance."""

from pathlib import Path
from typing import Annotated

import typer

from ..compiler.errors import UsageError
from ._options import Debug, Format, MemoryLimit, TimeLimit, limits_of, set_up
from ._progress import Progress
from ._show import print_json

app = typer.Typer()


@app.command()
def report(
    places: Annotated[list[Path], typer.Argument(metavar="ART|BUILD...", help="Artifacts, or folders of them.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.html", help="The page.")],
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Leave latencies unknown.")] = False,
    document: Annotated[
        Path | None, typer.Option("--bench", metavar="FILE.json", help="Latencies that planc bench -o wrote.")
    ] = None,
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Show artifacts on one page that needs no network: latency, accuracy, size, precision, provenance."""
    set_up(output_format, debug)
    from ..compiler import files, html
    from ..compiler import report as reports

    if no_measure and document is not None:
        raise UsageError("--bench and --no-measure exclude each other", hint="Drop one")
    files.require_text("--output", out, *html.BEGINS)
    items = reports.find(places)
    if document is not None:
        items = reports.with_document(items, document)
    html.require(*reports.PACKAGES)
    limits = limits_of(None, time_limit, memory_limit)
    if document is None and not no_measure:
        with Progress() as progress:
            items = reports.measured(items, limits=limits, on_event=progress)
    page = reports.page(reports.with_nodes(items, limits=limits))
    files.write_text(out, page)
    if output_format == "json":
        print_json({"status": "built", "output": str(out), "artifacts": [item.name for item in items]})
    else:
        print(f"built {out}: {len(items)} artifact{'s' if len(items) > 1 else ''}, {len(page.encode()) / 1e3:.0f} kB")

"""`planc inspect`: show inputs, outputs, operators, size and precision of an artifact or an ONNX file."""

from pathlib import Path
from typing import Annotated

import typer

from ..compiler.errors import UsageError
from ._options import Debug, Format, limits_of, set_up
from ._show import print_json, print_tree

app = typer.Typer()


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="ART|ONNX", help="An artifact's folder or an ONNX file.")],
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Draw the graph of an ONNX payload on a page.")
    ] = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Show inputs, outputs, operators, size and precision of an artifact or an ONNX file."""
    set_up(output_format, debug)
    from ..compiler import artifact, worker
    from ..compiler.files import require_file

    if path.is_dir():
        facts = dict(artifact.read(path).manifest)
        payload = path / "model.onnx"
    else:
        require_file(path)
        facts, payload = {}, path
    if page is not None:
        _draw(payload, path.resolve().name, page)
    if payload.exists():
        graph_facts = worker.call(artifact.describe_graph, payload, limits=limits_of(None, 600, None))
        facts = {**facts, "graph": graph_facts} if facts else graph_facts
    if output_format == "json":
        print_json(facts)
    else:
        print_tree(facts)


def _draw(payload: Path, title: str, page: Path) -> None:
    from ..compiler import artifact, drawing, files, html, worker

    if not payload.exists():
        raise UsageError(
            f"{payload.parent} holds no ONNX graph to draw", hint=f"planc report {payload.parent} shows it"
        )
    files.require_text("--html", page, *html.BEGINS)
    html.require("jinja2")
    rows = worker.call(artifact.describe_nodes, payload, limits=limits_of(None, 600, None))
    files.write_text(page, drawing.page(title, rows))

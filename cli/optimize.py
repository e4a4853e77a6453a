"""`planc optimize`: run graph passes: folding, clean-up, fusion."""

from pathlib import Path
from typing import Annotated

import typer

from ..compiler.errors import UsageError
from ._options import (
    Data,
    Debug,
    Dims,
    Format,
    Inputs,
    MemoryLimit,
    Only,
    OnnxFile,
    Overwrite,
    Preset,
    Skip,
    TimeLimit,
    Tolerances,
    check_of,
    limits_of,
    set_up,
)
from ._progress import Progress
from ._show import print_change, print_json, size_of

app = typer.Typer()


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
    set_up(output_format, debug)
    from ..compiler import single
    from ..compiler.optimize import Recipe

    recipe = Recipe(family, tuple(only), tuple(skip), strict, keep_origin, embed=True, explain=tuple(explain))
    if not check and (inputs or dims or data or tolerance):
        raise UsageError("--input, --dim, --inputs and --tolerance say how to check", hint="Add --check")
    wanted = check_of(source, inputs, dims, data, tolerance) if check else None
    with Progress() as progress:
        status, report = single.optimize_file(
            source,
            out,
            recipe,
            limits=limits_of(None, time_limit, memory_limit),
            check=wanted,
            overwrite=overwrite,
            on_event=progress,
        )
    if output_format == "json":
        print_json(
            {
                "status": status,
                "output": str(out),
                **{name: fact for name, fact in vars(report).items() if name != "modules"},
            }
        )
        return
    print(f"{status} {out}")
    print_change("nodes", report.before["nodes"], report.after["nodes"])
    print_change("weights", size_of(report.before["weights_bytes"]), size_of(report.after["weights_bytes"]))
    before, after = report.before["operators"], report.after["operators"]
    for name in sorted(before | after, key=lambda one: (-before.get(one, 0), one)):
        if before.get(name, 0) != after.get(name, 0):
            print_change(name, before.get(name, 0), after.get(name, 0))
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

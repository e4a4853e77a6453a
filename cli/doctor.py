"""`planc doctor`: show what is installed and what this machine can build and run, or whether a target takes a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..compiler.errors import UsageError
from ._options import Debug, Dims, Format, MemoryLimit, Target, TimeLimit, limits_of, set_up
from ._progress import Progress
from ._show import print_json

app = typer.Typer()


@app.command()
def doctor(
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="MODEL.onnx", help="Ask the target's parser which nodes it refuses."),
    ] = None,
    target: Target = "",
    dims: Dims = [],  # noqa: B006
    time_limit: TimeLimit = 3600,
    memory_limit: MemoryLimit = None,
    output_format: Format = "text",
    debug: Debug = False,
) -> None:
    """Show what is installed and what this machine can build and run, or whether a target takes a model."""
    set_up(output_format, debug)
    from ..compiler import doctor as examiner
    from ..compiler import shapes
    from ..compiler.target import find_target

    if model and not target:
        raise UsageError("--model is asked of a target", hint="planc doctor --model m.onnx -t tensorrt-rtx:sm89")
    if model:
        with Progress() as progress:
            limits = limits_of(None, time_limit, memory_limit)
            answer = examiner.check(model, target, list(map(shapes.parse_dim, dims)), limits=limits, on_event=progress)
        _print_answer(model, answer, output_format)
        raise typer.Exit(0 if answer["supported"] else 1)
    facts = examiner.examine(find_target(target) if target else None)
    if output_format == "json":
        print_json(facts)
        return
    for name, version in facts["versions"].items() if not target else ():
        print(f"{name:24} {version or '-'}")
    machine = facts["host"]
    flags = " ".join(machine["cpu_flags"])
    print(f"{'cpu':24} {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB: {flags}")
    print(f"{'gpu':24} {'; '.join(machine['gpus']) or 'none found (nvidia-smi)'}")
    for name, one in facts["targets"].items():
        runs = "runs here" if one["runnable"] else f"does not run here: {one['why_not_run']}"
        print(f"{name:24} builds {' '.join(one['buildable']) or 'nothing'}; {runs}")
        for reason in dict.fromkeys(one["why_not"].values()):
            names = " ".join(name for name, why in one["why_not"].items() if why == reason)
            print(f"{'':24} not {names}: {reason}")
    if target and not any(one["buildable"] for one in facts["targets"].values()):
        raise typer.Exit(3)


def _print_answer(model: Path, answer: dict[str, Any], output_format: str) -> None:
    if output_format == "json":
        print_json(answer)
        return
    count = len(answer["refused"])
    print(f"{answer['target']} takes {model}" if not count else f"{answer['target']} does not take {model}")
    for one in answer["refused"]:
        origin = f" (from {one['origin']})" if one["origin"] else ""
        print(
            f"  {one['operator']} {one['name']!r}{origin}: {one['reason']}" if one["operator"] else f"  {one['reason']}"
        )

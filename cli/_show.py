"""Prints results on stdout."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..compiler.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..compiler.build import Outcome
    from ..compiler.results import Row


def print_json(document: dict[str, Any]) -> None:
    import json

    print(json.dumps({"schema_version": 1, **document}, indent=2))


def print_tree(facts: Any, indent: str = "") -> None:
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}:")
            print_tree(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{indent}{key}:")
            for entry in value:
                print(f"{indent}  " + ", ".join(f"{name} {one}" for name, one in entry.items()))
        else:
            print(f"{indent}{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def print_products(products: dict[str, Any]) -> None:
    for name, share in products.items():
        known = share["macs_share"] is not None
        figures = (
            f"{number_of(share['nodes'], 'layer')}, {share['macs_share']:.1%} of the multiplications"
            if known
            else number_of(share["nodes"], "layer")
        )
        print(f"  {name}: {figures}, {size_of(share['weights_bytes'])} of weights")


def print_guard(guard: dict[str, Any] | None) -> None:
    if guard is None:
        return
    kind = "labelled samples" if guard["labelled"] else "samples"
    for bound, loss in guard["loss"].items():
        print(f"  {bound}: {loss:.4g} on {guard['samples']} {kind}")
    for one in guard["excluded"]:
        origin = f" ({one['origin']})" if one["origin"] else ""
        print(f"  in float: {one['name']}{origin}, noise {one['noise']:.3g} alone")


def print_candidates(rows: list[dict[str, Any]]) -> None:
    """Prints what was chosen among, a line each."""
    for row in rows:
        if "reason" in row:
            print(f"  {row['status']:10} {row['name']}: {row['reason']}")
            continue
        times = f"{row['times_fastest']:.3g}x the fastest of heat {row['heat']}"
        spread = f"{row['latency_p50_ms']:.3g} ms ({row['latency_p50_ms_low']:.3g} to {row['latency_p50_ms_high']:.3g})"
        cosine = "" if row["cosine"] is None else f", cosine {row['cosine']:.6f}"
        rate = f"{row['throughput_per_s']:.4g} per s"
        print(f"  {row['status']:10} {row['name']}: {times}, {spread}, {rate}, {size_of(row['size_bytes'])}{cosine}")


def print_layers(layers: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "operator", "method", "range", "scale", "SQNR dB", "saturated", "MACs", "decision", box=None)
    for one in layers:
        known = bool(one["method"])
        table.add_row(
            f"{one['origin'] or one['name']}",
            one["op"],
            one["method"],
            f"{one['low']:.4g}..{one['high']:.4g}" if known else "",
            f"{one['scale']:.4g}" if known else "",
            f"{one['sqnr_db']:.1f}" if one["sqnr_db"] is not None else "",
            f"{one['saturated']:.4%}" if one["saturated"] is not None else "",
            f"{one['macs']:.3g}" if one["macs"] is not None else "",
            f"{one['decision']}{': ' if one['reason'] else ''}{one['reason']}",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_table(headers: "Sequence[str]", rows: "Sequence[Sequence[str]]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(headers[0], box=box.SIMPLE_HEAD)
    for header in headers[1:]:
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(table)


def print_jobs(rows: "list[Outcome]") -> None:
    wide = max((len(row.id) for row in rows), default=0)
    for row in rows:
        told = f"{row.seconds:8.2f} s {size_of(row.bytes):>10}  {effective(dict(row.precision))}" if row.bytes else ""
        speed = f"  {row.latency_p50_ms:.2f} ms" if row.latency_p50_ms is not None else ""
        print(f"{row.id:{wide}}  {row.status:7} {told}{speed}{row.reason}".rstrip())
    counts = {name: sum(row.status == name for row in rows) for name in ("built", "cached", "skipped", "failed")}
    print(f"{number_of(len(rows), 'job')}: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}")


def write_results(
    title: str,
    rows: "Sequence[Row]",
    junit: Path | None,
    markdown: Path | None,
    github: bool,
    headers: "Sequence[str]" = (),
    table: "Sequence[Sequence[str]]" = (),
) -> None:
    """Writes rows as other programs want them; annotations go to stderr, which GitHub reads, too."""
    from ..compiler import results
    from ..compiler.files import write_text

    summary = results.markdown(title, headers, table, rows)
    if junit is not None:
        write_text(junit, results.junit(title, rows))
    if markdown is not None:
        write_text(markdown, summary)
    if github:
        for line in results.annotations(title, rows):
            print(line, file=sys.stderr)
        if place := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(summary)


def fail_gates(reasons: list[str]) -> None:
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        print(f"planc: {one_line(reasons[0])}{more}", file=sys.stderr)
        raise typer.Exit(1)


def print_change(name: str, before: object, after: object) -> None:
    print(f"  {name:24} {before:>10} -> {after}")


def verification_lines(result: dict[str, Any]) -> list[str]:
    if result["passed"] is None:
        more = f". To complete it: {result['complete_with']}" if "complete_with" in result else ""
        told = [f"{result['reason']}{more}"]
        return told + [f"  its graph, in ONNX Runtime: {line}" for line in verification_lines(result["graph"])]
    lines = [f"verified against {result['reference']}" if result["passed"] else f"differs from {result['reference']}"]
    if held := result.get("held_by"):
        losses = ", ".join(f"{bound}: {figure(loss)}" for bound, loss in held["loss"].items())
        lines[0] += f": by --max-drop on {held['samples']} samples ({losses}), where golden data alone miss the bounds"
    if loosened := result.get("loosened_by"):
        lines[0] += f": within bounds that --max-drop loosened at build, on {loosened['samples']} samples"
    for label, outputs in result["points"].items():
        for name, metrics in outputs.items():
            figures = ", ".join(f"{key} {figure(value)}" for key, value in metrics.items())
            lines.append(f"  {label:6} {name}: {figures}")
    return lines


def figure(value: Any) -> str:
    return "inf" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def effective(counts: dict[str, Any]) -> str:
    parts = []
    for kind, numbers in counts.items():
        shown = ", ".join(
            f"{name} {size_of(number) if 'bytes' in kind else number}" for name, number in numbers.items()
        )
        parts.append(f"{kind.removesuffix('_bytes')} {shown}")
    return "; ".join(parts)


def number_of(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def size_of(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def write_depfile(depfile: Path, output: Path, sources: list[str]) -> None:
    from ..compiler.files import write_depfile

    write_depfile(depfile, {output: [Path(source) for source in sources]})

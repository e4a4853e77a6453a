"""What several verbs take, and what they begin with."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..compiler.errors import UsageError

if TYPE_CHECKING:
    from ..compiler.cache import Store
    from ..compiler.parity import Check
    from ..compiler.recipe import Source
    from ..compiler.worker import Limits

_MODEL_HELP = (
    "file.py:callable, pkg.mod:callable (returning an nn.Module, or (module, example_inputs)), model.onnx or model.pt2."
)


METHOD = "mse"


SMOOTHING = 0.7


def target_names(incomplete: str) -> list[str]:
    from ..compiler.target import target_names

    return [name for name in target_names() if name.startswith(incomplete)]


def precision_names(incomplete: str) -> list[str]:
    from ..compiler.target import Precision

    return [name for name in Precision if name.startswith(incomplete)]


Model = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP)]


Inputs = Annotated[
    list[str],
    typer.Option("--input", metavar="SPEC", help="'x=float32[batch,3,224,224]'; ':0..99' bounds drawn values."),
]


Dims = Annotated[list[str], typer.Option("--dim", metavar="SPEC", help="batch=1..32@8, seq=128|256 or batch=8.")]


Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="State dict to load: .safetensors, .pt.")
]


Data = Annotated[Path | None, typer.Option("--inputs", metavar="FILE.npz", help="Real inputs to verify with.")]


TrustPickle = Annotated[bool, typer.Option("--trust-pickle", help="Read pickles, which can run code.")]


TimeLimit = Annotated[float, typer.Option("--time-limit", metavar="SECONDS", help="For each worker process.")]


MemoryLimit = Annotated[
    str | None, typer.Option("--memory-limit", metavar="SIZE", help="For each worker process, such as 8GiB.")
]


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


Tolerances = Annotated[
    list[str],
    typer.Option("--tolerance", metavar="NAME=VALUE", help="cosine, sqnr_db, relative, atol, mismatch."),
]


Format = Annotated[str, typer.Option("--format", metavar="text|json", help="What stdout carries.")]


Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks and worker output.")]


Target = Annotated[str, typer.Option("-t", "--target", help="See `planc targets`.", autocompletion=target_names)]


CalibrationData = Annotated[
    str, typer.Option("--calibration", metavar="DATA", help="Real inputs: .npz, folder or file.py:callable.")
]


Samples = Annotated[int | None, typer.Option("--samples", metavar="N", help="Use the first N only.")]


Method = Annotated[str, typer.Option("--method", help="From statistics to ranges: minmax, percentile, entropy, ...")]


Ranges = Annotated[Path | None, typer.Option("--ranges", metavar="FILE.json", help="What planc calibrate wrote.")]


AllowRandom = Annotated[bool, typer.Option("--allow-random-calibration", help="Calibrate on random data.")]


Dynamic = Annotated[
    bool, typer.Option("--dynamic", help="INT8 without data: each activation's range is measured when it comes.")
]


Exclude = Annotated[
    list[str], typer.Option("--exclude", metavar="NAME", help="Layer, module or glob kept in float; @FILE lists them.")
]


Smoothing = Annotated[float, typer.Option("--smoothing", help="Share of outliers that weights take, 0 for none.")]


MaxDrop = Annotated[
    list[str], typer.Option("--max-drop", metavar="METRIC=VALUE", help="top1=0.5pp, cosine=0.005, sqnr=20, mse=0.01.")
]


Evaluation = Annotated[
    str, typer.Option("--eval", metavar="DATA", help="Judge and verify by this data; it may hold `labels`.")
]


State = Annotated[Path | None, typer.Option("--state", metavar="FILE.json", help="Go on with a stopped search.")]


WriteExclude = Annotated[
    Path | None, typer.Option("--write-exclude", metavar="FILE", help="List what the search keeps in float.")
]


Cache = Annotated[
    str | None,
    typer.Option("--cache", metavar="DIR|URL", help="Where stages are kept, or s3://... to share them as well."),
]


Locked = Annotated[bool, typer.Option("--locked", help="Check data, weights and tools against planc.lock first.")]


NoCache = Annotated[bool, typer.Option("--no-cache", help="Make every stage, and keep none.")]


ProjectFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="The project's file.")]


Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="model.net.dims.batch=1..8")]


OnlyJobs = Annotated[list[str], typer.Option("--only", metavar="GLOB", help="Jobs by id.")]


SkipJobs = Annotated[list[str], typer.Option("--skip", metavar="GLOB", help="Jobs that are left out.")]


RequireJobs = Annotated[
    list[str], typer.Option("--require", metavar="GLOB", help="Jobs that must be there, and buildable here.")
]


OnnxFile = Annotated[Path, typer.Argument(metavar="IN.onnx", help="The ONNX file.")]


Preset = Annotated[str, typer.Option("--preset", help="List of passes, by target family.")]


Only = Annotated[list[str], typer.Option("--pass", metavar="NAME{OPTION=VALUE}", help="Run these instead.")]


Skip = Annotated[list[str], typer.Option("--skip", metavar="NAME", help="Leave a pass out.")]


def set_up(output_format: str, debug: bool) -> None:
    if output_format not in ("text", "json"):
        raise UsageError(f"--format {output_format!r} is unknown", hint="Write --format text or --format json")
    import logging

    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    if debug:
        logging.getLogger("planc").setLevel(logging.DEBUG)


def open_store(place: str | None, no_cache: bool, url: str = "") -> "Store | None":
    """The store at a folder or URL; `url` is what planc.toml names, for where the user names none."""
    from ..compiler import remote

    if no_cache and place is not None:
        raise UsageError("--cache and --no-cache exclude each other", hint="Drop one")
    return None if no_cache else remote.open_store(place, url)


def limits_of(source: "Source | None", seconds: float, memory: str | None) -> "Limits":
    from ..compiler import recipe

    return recipe.limits(source, seconds, memory)


def require_bound(evaluation: str, calibration: str, max_drop: list[str]) -> None:
    """Checks that data to judge by is not given in vain.

    Raises:
        UsageError: no bound is given, and the data is not needed for anything else.
    """
    if evaluation and calibration and not max_drop:
        raise UsageError(
            "--eval is data to judge by", hint="Add --max-drop METRIC=VALUE, such as --max-drop cosine=0.01"
        )


def check_of(source: Path, inputs: list[str], dims: list[str], data: Path | None, tolerance: list[str]) -> "Check":
    from ..compiler import recipe
    from ..compiler.parity import Check

    return Check(recipe.onnx_source(str(source), inputs=inputs, dims=dims, data=data), recipe.tolerances(tolerance))

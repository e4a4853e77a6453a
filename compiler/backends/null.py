"""The optimized ONNX itself, executed nowhere: for dry runs and tests of the pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact import Runner
from ..errors import Unavailable
from ..target import Precision, Target
from . import Built, Request

LOWERED = frozenset({Precision.FP16, Precision.BF16, Precision.INT8})
TRIALS = False
RUNS = False
LOCAL = False
STEADY = False
ORIGINS = False


@dataclass(frozen=True)
class Options:
    """The null backend has no options."""


def why_not(_target: Target, _precision: Precision, _options: Options) -> str | None:
    """Returns why this backend cannot do the precision; None where it can."""
    return None


def unverifiable(_target: Target) -> str | None:
    """Returns why no payload is executed here."""
    return "the null target executes nothing"


def fingerprint() -> dict[str, str]:
    """Versions of the tools that touch the payload."""
    return {}


def build(request: Request) -> Built:
    """Copies the graph into the folder as `model.onnx`."""
    from .. import protos, storage
    from ..graph import precision_counts

    payload = request.folder / "model.onnx"
    storage.save(storage.load(request.model), payload)
    return Built(session={}, effective_precision=precision_counts(protos.load_light(payload)[0]))


def load(folder: Path, _session: Mapping[str, Any]) -> Runner:
    """Refuses: nothing runs a null artifact.

    Raises:
        Unavailable: always.
    """
    raise Unavailable(
        f"{folder} was built for the null target, which runs nowhere",
        hint="Build it with -t onnxruntime-cpu or -t openvino-cpu",
    )

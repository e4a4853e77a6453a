"""One file per kind of model: `export(source, folder, emit) -> Exported` writes `model.onnx` into the folder."""

from dataclasses import dataclass
from pathlib import Path

from ..golden import Golden
from ..shapes import Dim, TensorSpec


@dataclass(frozen=True)
class Exported:
    """A model as ONNX, with what its reference computes.

    Attributes:
        path: the .onnx, weights beside it.
        inputs: specs of the inputs, in order.
        outputs: specs of the outputs, in order.
        dims: sizes of the named dimensions.
        goldens: inputs and reference outputs at each point.
        reference: what made the goldens, such as "torch 2.13.0 eager".
        sources: files that the model depends on.
        versions: tools that touched it.
        seconds: time by step.
        needs: bytes of memory that running it is estimated to take; 0 where the limit is generous anyway.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...]
    goldens: tuple[Golden, ...]
    reference: str
    sources: tuple[Path, ...]
    versions: dict[str, str]
    seconds: dict[str, float]
    needs: int = 0

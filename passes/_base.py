"""What every pass of planc is: a frozen dataclass whose fields are its options, named after its class."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ._names import make_unique

ORIGIN = "planc.origin"
"""Key of a node's metadata: path of the PyTorch module that it came from, such as `layers.3.attention`."""


class Miss(Exception):
    """Why a pattern that begins at a node does not match there."""


@dataclass(frozen=True)
class Pass(ir.passes.InPlacePass):
    """A pass that changes the model it is given."""

    @property
    def name(self) -> str:
        """Name on the command line and of the file: FoldConstants -> fold-constants."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    def __call__(self, model_or_result: ir.Model | ir.passes.PassResult, /) -> ir.passes.PassResult:
        """Runs the pass; the names of what it made are unique afterwards."""
        result = super().__call__(model_or_result)
        if result.modified:
            make_unique(result.model)
        return result

    def near_misses(self, _model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields each node where a pattern of this pass begins, and why it does not match there."""
        yield from ()

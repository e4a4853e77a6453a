"""Removes notes that must not ship: stack traces, absolute paths, doc strings."""

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ._base import ORIGIN, Pass
from ._shapes import forget_made_up_names
from ._walk import all_graphs, all_nodes, all_tensors, all_values


@dataclass(frozen=True)
class StripMetadata(Pass):
    """Removes doc strings and notes of nodes, values and graphs; the model's own key-value pairs are kept.

    torch.onnx writes a stack trace with absolute paths into every node, so that two checkouts give two files.

    The names that shape inference made up for sizes go, too: where two sizes have one such name, ONNX Runtime makes
    SkipLayerNormalization of Add and LayerNormalization, whose kernel takes three times as long on a CPU.

    Attributes:
        keep_origin: whether nodes keep the path of the PyTorch module that they came from.
    """

    keep_origin: bool = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Strips in place; names of sizes alone do not count as a modification."""
        modified = False
        for thing in (*all_graphs(model), *all_nodes(model), *all_values(model), *all_tensors(model)):
            modified |= _strip(thing, self.keep_origin)
        forget_made_up_names(model)
        for key in [key for key in model.metadata_props if key.startswith("pkg.torch")]:
            del model.metadata_props[key]
            modified = True
        if model.doc_string:
            model.doc_string = None
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _strip(thing: Any, keep_origin: bool) -> bool:
    kept = {ORIGIN: thing.metadata_props[ORIGIN]} if keep_origin and ORIGIN in thing.metadata_props else {}
    if dict(thing.metadata_props) == kept and not thing.doc_string:
        return False
    thing.metadata_props.clear()
    thing.metadata_props.update(kept)
    if isinstance(thing, ir.serde.TensorProtoTensor):  # it is written as it was read
        thing.raw.ClearField("metadata_props")
        thing.raw.ClearField("doc_string")
    else:
        thing.doc_string = None
    return True

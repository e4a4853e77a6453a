"""Raises an old opset to one that the fusions and every backend speak."""

from dataclasses import dataclass

import onnx_ir as ir

from ._base import Pass
from ._walk import all_nodes

OLDEST = 9
"""Older operators mean other things, such as the batches of Scan: such a model stays as it is."""
_CHANGED = {"Hardmax": 13, "Resize": 11, "Upsample": 10}
"""Operators that mean something else since that opset, which the converter does not know: such a model stays."""
_WIDENED_FROM, _WIDENED_TO = 13, 20
_WIDENED = frozenset((
    "Add", "Cast", "CastLike", "Constant", "ConstantOfShape", "CumSum", "DequantizeLinear", "Div", "Equal",
    "GreaterOrEqual", "Identity", "If", "IsInf", "IsNaN", "LeakyRelu", "LessOrEqual", "Loop", "Mul", "PRelu", "Pad",
    "Pow", "QuantizeLinear", "Relu", "Reshape", "Scan", "Shape", "Size", "Split", "Sub", "Where",
))  # fmt: skip
"""Operators whose newer versions take more dtypes, or more inputs and attributes that may be absent, between these two.

By the schemas of onnx 1.23.
"""
_SPLIT_COUNTED = 18
"""Since this opset a Split that is not told the sizes must be told their number."""


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Upgrades the default domain: opset 9 -> opset 20.

    Attributes:
        least: models at this opset or above are left alone.
    """

    least: int = 20

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Converts in place; the converter of the ONNX project does the steps below 18."""
        have = model.opset_imports.get("", self.least)
        if have >= self.least or have < OLDEST or any(_means_other(node, have) for node in all_nodes(model)):
            return ir.passes.PassResult(model, modified=False)
        if _is_same(model, have, self.least):
            if have < _SPLIT_COUNTED <= self.least:
                _count_parts(model)
            model.opset_imports[""] = self.least
            return ir.passes.PassResult(model, modified=True)
        from onnxscript.version_converter import ConvertVersionPass  # 0.2 s, which newer models do without

        stated = [value.shape.copy() if value.shape is not None else None for value in model.graph.outputs]
        ConvertVersionPass(self.least, fallback=True)(model)
        if any(value.is_graph_input() for value in model.graph.initializers.values()):
            for node in all_nodes(model):  # the converter infers shapes from defaults that the caller may replace
                for value in node.outputs:
                    value.shape = None
            for value, shape in zip(model.graph.outputs, stated, strict=True):
                value.shape = shape
        return ir.passes.PassResult(model, modified=model.opset_imports.get("") != have)


def _is_same(model: ir.Model, have: int, wanted: int) -> bool:
    """Whether each operator is what it was: only the number changes, and nothing has to be converted."""
    import onnx

    if not _WIDENED_FROM <= have <= wanted <= _WIDENED_TO or model.functions:
        return False
    nodes = [node for node in all_nodes(model) if node.domain == ""]
    names = {node.op_type for node in nodes} - _WIDENED
    try:
        return all(
            onnx.defs.get_schema(name, have).since_version == onnx.defs.get_schema(name, wanted).since_version
            for name in names
        )
    except onnx.defs.SchemaError:
        return False


def _count_parts(model: ir.Model) -> None:
    for node in all_nodes(model):
        if (node.domain, node.op_type) == ("", "Split") and (len(node.inputs) < 2 or node.inputs[1] is None):
            node.resize_inputs(1)
            node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _means_other(node: ir.Node, opset: int) -> bool:
    """Whether the converter takes the operator for what its name means in a later opset."""
    nearest = node.op_type == "Upsample" and node.attributes.get_string("mode", "nearest") == "nearest"
    return node.domain == "" and opset < _CHANGED.get(node.op_type, 0) and not nearest

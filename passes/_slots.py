"""Which inputs and outputs of an operator may be 16 bits wide, as the standard's schemas say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from ._base import Miss
from ._halves import Half
from ._match import text
from ._walk import subgraphs

if TYPE_CHECKING:
    from onnx.defs import OpSchema

_FLOAT = "tensor(float)"
_FIXED = frozenset({
    ("Dropout", "T1"), ("EyeLike", "T2"), ("LayerNormalization", "U"), ("OneHot", "T1"), ("OneHot", "T2"),
    ("RandomNormal", "T"), ("RandomNormalLike", "T2"), ("RandomUniform", "T"), ("RandomUniformLike", "T2"),
    ("Resize", "T2"),
})  # fmt: skip
"""Operators and type variables that stay float32: ratios, statistics, indices, and what ONNX Runtime cannot make."""
FREE = frozenset({"Cast", "CastLike", "EyeLike", "RandomNormalLike", "RandomUniformLike", "Shape", "Size"})
"""Operators that take their first input as it comes: no Cast is put before them."""
GENERATORS = frozenset({"Cast", "CastLike", "ConstantOfShape"})
"""Operators whose result may have any type: it becomes what all of its users want."""
DTYPES = {
    "Bernoulli": "dtype", "Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomNormalLike": "dtype",
    "RandomUniform": "dtype", "RandomUniformLike": "dtype",
}  # fmt: skip
"""Operators whose attribute says the type of the result."""

OURS = "planc.cast"
"""Key of the metadata of a Cast that the conversion has put in."""


@dataclass(frozen=True)
class Slots:
    """Positions that change from float32 to 16 bits; `free` ones take both."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    free: frozenset[int] = frozenset()


def touches_float(node: ir.Node) -> bool:
    """Whether a node has to do with float32, as tensors or within sequences."""
    return any(value is not None and value.dtype is ir.DataType.FLOAT for value in (*node.inputs, *node.outputs))


def slots_of(node: ir.Node, opset: int, half: Half) -> Slots:
    """Returns what of a node may become 16 bits wide.

    Args:
        node: the node; the types of its values are known.
        opset: of the node's domain, in the model.
        half: the type.

    Raises:
        Miss: nothing may; the reason says why.
    """
    if node.domain != "":
        raise Miss(f"{node.domain}.{node.op_type} is not in the default domain")
    if node.op_type == "BitCast":
        raise Miss("its bits are those of float32")
    if subgraphs(node):
        raise Miss("what crosses the border of a subgraph stays float32")
    schema = _schema(node, opset)
    inputs = _of(node, node.inputs, schema.inputs, schema, half)
    outputs = _of(node, node.outputs, schema.outputs, schema, half)
    first = node.inputs[0] if node.inputs else None
    follows = node.op_type in FREE and first is not None
    free = frozenset({0} if follows and half.tensor in _allowed(schema, schema.inputs[0].type_str) else ())
    stated = node.attributes.get_int("output_dtype", 0)
    if node.op_type == "DequantizeLinear" and stated:
        outputs = frozenset()
    if _stays_as_cast(node):
        outputs = frozenset()
    is_done = any(value is not None and value.dtype is half.dtype for value in (*node.inputs, *node.outputs))
    if not inputs and not outputs and not free and not is_done:
        raise Miss(_why_not(node, opset, half))
    return Slots(inputs - free, outputs, free)


def _why_not(node: ir.Node, opset: int, half: Half) -> str:
    """Names the opset that has the operator for the type, if there is one."""
    from onnx import defs

    newest = defs.get_schema(node.op_type, node.domain)
    later = any(half.tensor in one.allowed_type_strs for one in newest.type_constraints)
    if later and newest.since_version > opset:
        return f"{node.op_type} takes {half.text} from opset {newest.since_version} on, the graph is of {opset}"
    return f"{node.op_type} of opset {opset} does not take {half.text} there"


def _stays_as_cast(node: ir.Node) -> bool:
    """Whether a node casts from 16 bits up to float32: whoever wrote that wanted float32."""
    wide = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return node.op_type in ("Cast", "CastLike") and node.inputs[0] is not None and node.inputs[0].dtype in wide


def _schema(node: ir.Node, opset: int) -> "OpSchema":
    from onnx import defs

    try:
        return defs.get_schema(node.op_type, opset, node.domain)
    except defs.SchemaError:
        raise Miss(f"{node.op_type} is not an operator of opset {opset}") from None


def _of(
    node: ir.Node,
    values: Sequence[ir.Value | None],
    formal: "Sequence[OpSchema.FormalParameter]",
    schema: "OpSchema",
    half: Half,
) -> frozenset[int]:
    found = set()
    for index, value in enumerate(values):
        if value is None or (not value.name and not value.uses()):
            continue
        variable = formal[min(index, len(formal) - 1)].type_str
        allowed = _allowed(schema, variable)
        if value.type is None or value.dtype in (None, ir.DataType.UNDEFINED):
            if _FLOAT in allowed:
                raise Miss(f"the type of {text(value)} is not known")
            continue
        if value.dtype is not ir.DataType.FLOAT:
            continue
        if not isinstance(value.type, ir.TensorType):
            raise Miss(f"{text(value)} is no tensor: sequences and optional values stay float32")
        if half.tensor in allowed and (node.op_type, variable) not in _FIXED:
            found.add(index)
    return frozenset(found)


def _allowed(schema: "OpSchema", variable: str) -> frozenset[str]:
    for constraint in schema.type_constraints:
        if constraint.type_param_str == variable:
            return frozenset(constraint.allowed_type_strs)
    return frozenset({variable})

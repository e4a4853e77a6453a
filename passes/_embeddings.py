"""Rows of a table of integers: what Gather picks becomes floating point again, and nothing else of the table does."""

import numpy as np
import onnx_ir as ir

from ._base import ORIGIN
from ._constants import free_constant
from ._regions import is_kept


def is_lookup(node: ir.Node, graph: ir.Graph) -> bool:
    """Whether a node of the main graph picks rows of a float matrix."""
    table = node.inputs[0] if node.inputs else None
    if node.domain != "" or node.op_type != "Gather" or node.graph is not graph or table is None:
        return False
    return table.dtype is ir.DataType.FLOAT and rank(table) == 2 and node.attributes.get_int("axis", 0) in (0, -2)


def lookups(table: ir.Value, graph: ir.Graph, keep: tuple[str, ...]) -> list[ir.Node]:
    """Returns what picks rows of a table whose integers a product has, and may pick from them."""
    nodes = dict.fromkeys(use.node for use in table.uses() if is_lookup(use.node, graph) and use.idx == 0)
    known = [node for node in nodes if node.inputs[1] is not None and rank(node.inputs[1]) is not None]
    return [node for node in known if not is_kept(node, keep)]


def rank(value: ir.Value) -> int | None:
    """Number of dimensions, None where it is unknown."""
    return len(value.shape) if value.shape is not None else None


def look_up(node: ir.Node, table: ir.Value, scales: ir.Value, *, columns: bool = False) -> None:
    """Replaces Gather(float table, ids) by Cast(Gather(table, ids)) * Gather(scales, ids).

    Args:
        node: the Gather.
        table: int8 [rows, width]; [width, rows] with `columns`.
        scales: float32 [rows, 1]; [rows] with `columns`.
        columns: whether a product shares the table, which wants its output channels on the last axis.
    """
    ids, output = node.inputs[1], node.outputs[0]
    name, graph = output.name, node.graph
    assert isinstance(graph, ir.Graph)
    picked = ir.node("Gather", [table, ids], attributes={"axis": int(columns)}, name=f"{name}_quantized_Gather")
    scale = ir.node("Gather", [scales, ids], attributes={"axis": 0}, name=f"{name}_scale_Gather")
    made, whole, step = [picked, scale], picked.outputs[0], scale.outputs[0]
    if columns:
        count = rank(ids) if ids is not None else None
        assert count is not None
        order = [*range(1, count + 1), 0]
        last = free_constant(f"{name}_last", np.array([-1]))
        graph.register_initializer(last)
        made.append(ir.node("Transpose", [whole], attributes={"perm": order}, name=f"{name}_Transpose"))
        made.append(ir.node("Unsqueeze", [step, last], name=f"{name}_Unsqueeze"))
        whole, step = made[-2].outputs[0], made[-1].outputs[0]
    cast = ir.node("Cast", [whole], attributes={"to": ir.DataType.FLOAT}, name=f"{name}_Cast")
    result = ir.node("Mul", [cast.outputs[0], step], name=f"{name}_Mul")
    for one in (*made, cast, result):
        integer = one is picked or one.op_type == "Transpose"
        value = one.outputs[0]
        value.name, value.type = f"{one.name}_output", ir.TensorType(ir.DataType.INT8 if integer else ir.DataType.FLOAT)
        if origin := node.metadata_props.get(ORIGIN):
            one.metadata_props[ORIGIN] = origin
    cast.outputs[0].shape = result.outputs[0].shape = output.shape
    graph.insert_before(node, [*made, cast, result])
    output.replace_all_uses_with(result.outputs[0], replace_graph_outputs=True)
    output.name, result.outputs[0].name = None, name
    graph.remove(node, safe=True)

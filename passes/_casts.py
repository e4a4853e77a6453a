"""Gives values their new types, with one Cast per value and direction."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from ._constants import new_constant
from ._halves import clamped, constant_tensor, halved
from ._precision import Plan, body_graphs
from ._slots import DTYPES, GENERATORS, OURS

_SMALL = 1024  # bytes of a constant that is stored in both types where both are needed
_CAST = 13  # opset of Cast from and to both types
_FREE_INITIALIZERS = 4  # version of the IR since which an initializer need not be a graph input
Uses = list[tuple[ir.Node, int]]


def apply(model: ir.Model, plan: Plan) -> bool:
    """Converts what the plan says; returns whether that is anything."""
    values = _float_values(model)
    if not any(node not in plan.generators for node in plan.slots) and not _has_io(plan):
        return False
    for node in plan.slots:
        _set_attributes(node, plan)
    for node, _ in plan.free:
        _keep_type(node, plan)
    for node, index in plan.fills:
        _clamp(node, index, plan)
    model.opset_imports.setdefault("", _CAST)
    model.ir_version = max(model.ir_version, _FREE_INITIALIZERS)
    outputs = _outputs(model)
    for value in values:
        _convert(value, plan, outputs.get(value, []))
    for node in [node for graph in body_graphs(model) for node in graph]:
        _drop_cast(node, plan)
    return True


def _has_io(plan: Plan) -> bool:
    values = (*plan.graph.inputs, *plan.graph.outputs)
    return plan.io and any(_is_float(value) for value in values)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is ir.DataType.FLOAT and isinstance(value.type, ir.TensorType)


def _float_values(model: ir.Model) -> list[ir.Value]:
    found: dict[ir.Value, None] = {}
    for graph in body_graphs(model):
        found.update(dict.fromkeys([*graph.inputs, *graph.initializers.values()]))
        found.update((value, None) for node in graph for value in node.outputs)
    return [value for value in found if _is_float(value)]


def _outputs(model: ir.Model) -> dict[ir.Value, list[tuple[ir.Graph, int]]]:
    """Graphs and positions where a value is given out."""
    found: dict[ir.Value, list[tuple[ir.Graph, int]]] = {}
    for graph in body_graphs(model):
        for index, value in enumerate(graph.outputs):
            found.setdefault(value, []).append((graph, index))
    return found


def _set_attributes(node: ir.Node, plan: Plan) -> None:
    """States the type of what a node gives, where an attribute does that."""
    if not plan.slots[node].outputs:
        return
    name = DTYPES.get(node.op_type)
    if name is not None:
        node.attributes[name] = ir.AttrInt64(name, plan.half.dtype.value)
    if node.op_type == "ConstantOfShape":
        given = node.attributes.get("value")
        tensor = given.as_tensor() if given is not None else ir.tensor(np.zeros(1, np.float32))
        node.attributes["value"] = ir.AttrTensor("value", halved(tensor, plan.half, tensor.name))


def _keep_type(node: ir.Node, plan: Plan) -> None:
    """States float32 where a node gives what it takes, and that changes."""
    name, first = DTYPES.get(node.op_type), node.inputs[0]
    changes = node not in plan.slots and first is not None and plan.gives_half(first)
    if changes and node.op_type in GENERATORS:
        node.metadata_props[OURS] = "convert-precision"  # it was a Cast from float32, and nobody's purpose
    if changes and name is not None and name not in node.attributes and _is_float(node.outputs[0]):
        node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)


def _clamp(node: ir.Node, index: int, plan: Plan) -> None:
    """Brings minus infinity into the range, where a node that stays float32 makes a mask of it."""
    value = node.inputs[index]
    tensor = constant_tensor(value)
    assert value is not None and tensor is not None
    new = new_constant(plan.graph, f"{value.name}_{plan.half.text}", clamped(tensor.numpy(), plan.half))
    node.replace_input_with(index, new)


def _convert(value: ir.Value, plan: Plan, outputs: list[tuple[ir.Graph, int]]) -> None:
    """Gives a float32 value its type, and those that want the other one a Cast."""
    wide: Uses = []
    narrow: Uses = []
    for use in value.uses():
        if (use.node, use.idx) not in plan.free:
            (narrow if plan.wants_half(use.node, use.idx) else wide).append((use.node, use.idx))
    wide_out = [one for one in outputs if not plan.out_half(one[0])]
    narrow_out = [one for one in outputs if plan.out_half(one[0])]
    tensor = constant_tensor(value)
    if tensor is not None and narrow and not narrow_out:
        _convert_constant(value, tensor, plan, narrow, stays=bool(wide or wide_out))
    elif plan.gives_half(value):
        value.type = ir.TensorType(plan.half.dtype)
        if value.const_value is not None:
            value.const_value = halved(value.const_value, plan.half, value.name)
        if wide or wide_out:
            _cast(value, ir.DataType.FLOAT, wide, wide_out)
    elif narrow or narrow_out:
        _cast(value, plan.half.dtype, narrow, narrow_out)


def _convert_constant(value: ir.Value, tensor: ir.TensorProtocol, plan: Plan, narrow: Uses, *, stays: bool) -> None:
    """Converts a constant where it is if nothing needs it in float32."""
    if stays and tensor.nbytes > _SMALL:
        _cast(value, plan.half.dtype, narrow, [])
        return
    if value.producer() is None and not stays:
        value.const_value, value.type = halved(tensor, plan.half, value.name), ir.TensorType(plan.half.dtype)
        return
    tensor = halved(tensor, plan.half, None)
    node, graph = value.producer(), value.graph
    home = graph if isinstance(graph, ir.Graph) else plan.graph
    new = ir.Value(name=_free_name(home, f"{value.name}_{plan.half.text}"), type=ir.TensorType(plan.half.dtype))
    new.shape, new.const_value = ir.Shape(tensor.shape.numpy()), tensor
    tensor.name = new.name
    home.register_initializer(new)
    _replace(narrow, new)
    if node is not None and not stays and not value.uses():
        home.remove(node, safe=True)


def _free_name(graph: ir.Graph, name: str) -> str:
    free, count = name, 0
    while free in graph.initializers:
        count += 1
        free = f"{name}_{count}"
    return free


def _cast(value: ir.Value, dtype: ir.DataType, uses: Uses, outputs: list[tuple[ir.Graph, int]]) -> None:
    """Puts a Cast behind a value, for those uses and graph outputs; outputs keep the name."""
    maker = value.producer()
    if maker is not None and _casts(maker) and maker.inputs[0].dtype is dtype and not outputs:  # type: ignore[union-attr]
        _replace(uses, maker.inputs[0])  # type: ignore[arg-type]
        if not value.uses() and not value.is_graph_output():
            maker.graph.remove(maker, safe=True)  # type: ignore[union-attr]
        return
    old = [use.node for use in value.uses() if _casts(use.node) and use.node.attributes["to"].as_int() == dtype]
    new = ir.node("Cast", [value], attributes={"to": dtype.value})
    made = new.outputs[0]
    made.type, made.shape = ir.TensorType(dtype), value.shape
    made.name = f"{value.name}_{dtype.name.lower()}"
    if outputs:
        made.name, value.name = value.name, f"{value.name}_{_name(value)}"
    new.name = f"cast_{made.name}"
    _insert(new, value, maker)
    _replace(uses, made)
    for graph, index in outputs:
        graph.outputs[index] = made
    for node in old:
        if not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(made)
            node.graph.remove(node, safe=True)  # type: ignore[union-attr]


def _name(value: ir.Value) -> str:
    return value.dtype.name.lower() if value.dtype is not None else "cast"


def _insert(new: ir.Node, value: ir.Value, maker: ir.Node | None) -> None:
    if maker is not None:
        assert maker.graph is not None
        new.metadata_props.update({**maker.metadata_props, OURS: "convert-precision"})
        maker.graph.insert_after(maker, new)
        return
    new.metadata_props[OURS] = "convert-precision"
    graph = value.graph
    assert graph is not None
    if len(graph):
        graph.insert_before(graph[0], new)
    else:
        graph.append(new)


def _replace(uses: Iterable[tuple[ir.Node, int]], value: ir.Value) -> None:
    for node, index in uses:
        node.replace_input_with(index, value)


def _casts(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "Cast"


def _drop_cast(node: ir.Node, plan: Plan) -> None:
    """Removes a Cast to the type that its input has by now; an output of the graph becomes a copy."""
    if not _casts(node) or node.inputs[0] is None or node.attributes["to"].as_int() != plan.half.dtype:
        return
    if node.inputs[0].dtype is not plan.half.dtype:
        return
    if node.outputs[0].is_graph_output():
        node.op_type = "Identity"
        node.attributes.clear()
        return
    node.outputs[0].replace_all_uses_with(node.inputs[0])
    assert node.graph is not None
    node.graph.remove(node, safe=True)

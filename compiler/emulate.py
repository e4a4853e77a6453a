"""bfloat16 on a CPU without kernels for it: computed in float32, each result rounded to what bfloat16 holds."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from ..passes import all_graphs, all_values

if TYPE_CHECKING:
    import numpy as np

_BF16 = ir.DataType.BFLOAT16
_TYPES = ("to", "dtype", "output_dtype")


def runner(path: Path) -> "Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]":
    """Returns a function from inputs by name to outputs by name; writes a file beside a graph that has bfloat16."""
    from . import reference, storage

    model = storage.load(path)
    if any(value.dtype is _BF16 for value in all_values(model)):
        path = path.with_name(f"{path.stem}.wide.onnx")
        storage.save(widen(model), path)
    return reference.runner(path)


def widen(model: ir.Model) -> ir.Model:
    """Makes every bfloat16 tensor a float32 one whose numbers are those of bfloat16, in place.

    Operators then accumulate in float32 and round once, as bfloat16 units of CPUs and GPUs do.

    Args:
        model: with float32 inputs and outputs.
    """
    narrow = [value for value in all_values(model) if value.dtype is _BF16]
    for graph in all_graphs(model):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None and value.const_value.dtype is _BF16:
                    value.const_value = ir.tensor(value.const_value.numpy().astype("float32"), name=value.name)
        for node in list(graph):
            _widen_node(node)
    for value in narrow:
        value.dtype = ir.DataType.FLOAT
    return model


def _widen_node(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type is ir.AttributeType.INT and name in _TYPES and attribute.value == _BF16:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
        elif attribute.type is ir.AttributeType.TENSOR and attribute.value.dtype is _BF16:
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype("float32")))
    for value in node.outputs:
        if value.dtype is _BF16:
            _round(node, value)


def _round(node: ir.Node, value: ir.Value) -> None:
    """Puts Cast(to=bfloat16) and Cast(to=float32) between a value and its users."""
    down = ir.node("Cast", [value], attributes={"to": _BF16})
    up = ir.node("Cast", [down.outputs[0]], attributes={"to": ir.DataType.FLOAT})
    down.outputs[0].type, up.outputs[0].type = ir.TensorType(_BF16), ir.TensorType(ir.DataType.FLOAT)
    down.outputs[0].shape = up.outputs[0].shape = value.shape
    down.outputs[0].name, up.outputs[0].name = f"{value.name}_rounded", f"{value.name}_wide"
    users = [use for use in value.uses() if use.node is not down]
    for use in users:
        use.node.replace_input_with(use.idx, up.outputs[0])
    graph = node.graph
    assert graph is not None
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = up.outputs[0]
    graph.insert_after(node, [down, up])

"""Which nodes run in INT8: the products that may, and what stands between them and can carry INT8 through."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

import onnx_ir as ir

from ._base import ORIGIN, Miss
from ._constants import scalar
from ._match import producer, require, text
from ._schemes import Scheme

NOTHING: Mapping[ir.Node, str] = MappingProxyType({})
_QUANTIZING = ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear")


@dataclass
class Regions:
    """What is quantized in a graph.

    Attributes:
        nodes: operators that run in INT8.
        refused: products that do not, and why.
        values: tensors with a Q/DQ pair, in order -> whether all their users get the pair's output, or only INT8 ones.
        source: tensor -> the one whose scale it shares.
        signed: those of `values` that an operator wants symmetric about zero.
    """

    nodes: dict[ir.Node, None] = field(default_factory=dict)
    refused: dict[ir.Node, str] = field(default_factory=dict)
    values: dict[ir.Value, bool] = field(default_factory=dict)
    source: dict[ir.Value, ir.Value] = field(default_factory=dict)
    signed: set[ir.Value] = field(default_factory=set)


def regions(
    graph: ir.Graph, scheme: Scheme, keep: tuple[str, ...], opset: int, without: Mapping[ir.Node, str] = NOTHING
) -> Regions:
    """Chooses what is quantized in the main graph, in time linear in its size.

    Args:
        graph: after planc's passes.
        scheme: of the target.
        keep: names, PyTorch module paths or globs of nodes that stay in floating point.
        opset: of the graph.
        without: nodes that stay in floating point, too, and why.
    """
    found, nodes = Regions(), list(graph)
    for node in nodes:
        if node.op_type in scheme.products and node.domain == "":
            try:
                require(node not in without, without.get(node, ""))
                require_quantizable(node, scheme, keep, opset)
                require(not _is_vector(node.inputs[0]), f"its left side {text(node.inputs[0])} is no matrix")
            except Miss as miss:
                found.refused[node] = str(miss)
            else:
                found.nodes[node] = None
    wanted = _wanted(nodes, scheme, found)
    staying = {node for node in nodes if node in without or is_kept(node, keep)}
    _carry(nodes, scheme, found, wanted, staying)
    return found


def is_kept(node: ir.Node, keep: tuple[str, ...]) -> bool:
    """Whether a name or glob in `keep` is that of the node or of the module that it came from, or of one around it."""
    if not keep:
        return False
    name, origin = layer_name(node), node.metadata_props.get(ORIGIN, "")
    return any(
        one in (name, origin) or fnmatchcase(name, one) or fnmatchcase(origin, one) or origin.startswith(f"{one}.")
        for one in keep
    )


def layer_name(node: ir.Node) -> str:
    """Returns the name by which a node is told apart: its own, else that of its output."""
    return node.name or next((value.name for value in node.outputs if value.name), "")


def operands(node: ir.Node) -> list[ir.Value]:
    """Returns the inputs of a node that are activations: floats that are computed or given."""
    return [value for value in _candidates(node) if value is not None and not is_weight(value)]


def _candidates(node: ir.Node) -> Sequence[ir.Value | None]:
    if node.op_type == "MatMul" and weight_of(node)[0] is not None:
        return node.inputs[:1]
    two = node.op_type in ("Add", "Conv", "ConvTranspose", "Gemm", "MatMul")
    return node.inputs if node.op_type == "Concat" else node.inputs[: 2 if two else 1]


def bias_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Returns where the bias of a product stands: which input of which node; for a MatMul that of the Add behind it."""
    if node.op_type != "MatMul":
        return (node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    output = node.outputs[0]
    if len(output.uses()) != 1 or output.is_graph_output():
        return None
    (use,) = output.uses()
    add, (weight, turned) = use.node, weight_of(node)
    if add.op_type != "Add" or add.domain != "" or add.graph is not node.graph or weight is None:
        return None
    bias = add.inputs[1 - use.idx]
    if bias is None or not is_weight(bias) or bias.const_value is None or weight.const_value is None:
        return None
    sizes, columns = bias.const_value.shape.numpy(), weight.const_value.shape.numpy()[0 if turned else -1]
    plain = len(weight.const_value.shape) == 2 and bias.dtype is ir.DataType.FLOAT and sizes == (columns,)
    return (add, 1 - use.idx) if plain else None


def is_weight(value: ir.Value | None) -> bool:
    """Whether the value is a constant."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def weight_of(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """Returns the constant that a product multiplies by, or None, and whether it stands behind a Transpose.

    It does where an embedding has the same table: MatMul(x, Transpose(table)).
    """
    right = node.inputs[1]
    if is_weight(right):
        return right, False
    turned = producer(right, "Transpose")
    if node.op_type != "MatMul" or turned is None or turned.graph is not node.graph:
        return None, False
    table = turned.inputs[0]
    if table is None or not is_weight(table) or table.const_value is None or len(table.const_value.shape) != 2:
        return None, False
    return (table, True) if tuple(turned.attributes.get_ints("perm", (1, 0))) == (1, 0) else (None, False)


def absorbed(value: ir.Value, scheme: Scheme) -> ir.Value:
    """Returns what the kernel that computes `value` gives out: behind a Relu or Clip that is its only user."""
    if len(value.uses()) != 1 or value.is_graph_output():
        return value
    (use,) = value.uses()
    node, producer = use.node, value.producer()
    if node.domain != "" or node.op_type not in scheme.absorbed or use.idx != 0:
        return value
    if producer is None or node.graph is not producer.graph or not all(map(is_weight, filter(None, node.inputs[1:]))):
        return value
    least, most = bounds(node)
    return node.outputs[0] if least <= 0 <= most else value


def bounds(node: ir.Node | None) -> tuple[float, float]:
    """Returns the least and the greatest number that a Clip gives out; ONNX Runtime's kernel takes it only with them.

    The kernel's integers must not reach beyond them.
    """
    if node is None or node.op_type != "Clip" or node.domain != "":
        return -math.inf, math.inf
    least, most = (scalar(value) for value in [*node.inputs, None, None][1:3])
    return -math.inf if least is None else least, math.inf if most is None else most


def is_plain(node: ir.Node) -> bool:
    """Whether a move gives out one float tensor, and what it adds is zero, which each scale has."""
    first = node.inputs[0]
    if len(node.outputs) != 1 or first is None or first.dtype is not ir.DataType.FLOAT or is_weight(first):
        return False
    if node.op_type != "Pad":
        return True
    number = node.inputs[2] if len(node.inputs) > 2 else None
    return node.attributes.get_string("mode", "constant") == "constant" and (number is None or scalar(number) == 0)


def require_quantizable(node: ir.Node, scheme: Scheme, keep: tuple[str, ...], opset: int) -> None:
    """Checks that a product can be quantized.

    Raises:
        Miss: it cannot, or shall not.
    """
    left, right, bias = [*node.inputs, None][:3]
    require(not any(_is_quantized(value, scheme) for value in (left, right)), "it has Q/DQ of its own")
    require(not is_kept(node, keep), "kept in floating point by name")
    require(opset >= 13, f"the graph is of opset {opset}, scales per channel are of 13")
    for value in (left, right):
        require(value is not None and value.dtype is ir.DataType.FLOAT, f"{text(value)} is not float32")
    require(not is_weight(left), f"its left side {text(left)} is a constant")
    require(bias is None or is_weight(bias), f"its bias {text(bias)} is no constant")
    weight, _ = weight_of(node)
    if node.op_type == "MatMul" and weight is None:
        require(not scheme.both_computed, f"it multiplies two activations, {scheme.both_computed}")
        return
    require(weight is not None, f"its weight {text(right)} is no constant")
    assert weight is not None
    assert weight.const_value is not None
    shape = weight.const_value.shape.numpy()
    require(len(shape) >= 2, f"its weight {text(right)} is no matrix")
    if node.op_type == "Gemm":
        factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
        require(factors == [1.0, 1.0], f"its factors are {factors[0]:g} and {factors[1]:g}")
        require(not node.attributes.get_int("transA", 0), "its left side is transposed")
        if bias is not None and scheme.integer_bias:
            assert bias.const_value is not None
            sizes, columns = (
                bias.const_value.shape.numpy(),
                shape[0 if node.attributes.get_int("transB", 0) == 1 else 1],
            )
            plain = math.prod(sizes) == 1 or (math.prod(sizes) == columns == sizes[-1])
            require(plain, f"its bias {text(bias)} is not one number per column")


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) < 2


def _is_quantized(value: ir.Value | None, scheme: Scheme) -> bool:
    """Whether a value comes out of DequantizeLinear, maybe moved."""
    while value is not None and (maker := value.producer()) is not None and maker.domain == "":
        if maker.op_type in _QUANTIZING:
            return True
        if maker.op_type not in scheme.moves:
            return False
        value = maker.inputs[0]
    return False


def _wanted(nodes: list[ir.Node], scheme: Scheme, found: Regions) -> dict[ir.Value, bool]:
    """Returns the tensors that are wanted in INT8 further down -> whether only moves lie between."""
    wanted: dict[ir.Value, bool] = {}
    for node in reversed(nodes):
        if node in found.nodes:
            wanted.update(dict.fromkeys(operands(node), True))
            continue
        if node.domain != "" or not node.outputs or node.outputs[0] not in wanted:
            continue
        only_moves = wanted[node.outputs[0]]
        if node.op_type in scheme.moves:
            first = node.inputs[0]
            if first is not None:
                wanted[first] = wanted.get(first, False) or only_moves
        elif node.op_type in scheme.joined | scheme.absorbed:
            for value in operands(node):
                wanted.setdefault(value, False)
    return wanted


def _carry(
    nodes: list[ir.Node], scheme: Scheme, found: Regions, wanted: Mapping[ir.Value, bool], staying: set[ir.Node]
) -> None:
    """Goes down through the graph: what is there in INT8, which operators it runs through, where pairs stand."""
    there = {value for value, only_moves in wanted.items() if only_moves and not _is_moved(value, scheme, wanted)}
    for node in nodes:
        if not node.outputs or node.domain != "":
            continue
        output = node.outputs[0]
        if node in found.nodes:
            for value in operands(node):
                _pair(found, value)
                if node.op_type in scheme.signed:
                    found.signed.add(found.source.get(value, value))
            result = absorbed(output, scheme)
            there.add(result)
            if node.op_type in scheme.outputs:
                found.values[result] = True
        elif node in staying:
            continue
        elif node.op_type in scheme.moves and output in wanted and node.inputs[0] in there and is_plain(node):
            source = node.inputs[0]
            assert source is not None
            found.nodes[node] = None
            found.source[output] = found.source.get(source, source)
            there.add(output)
            _pair(found, source)
            if scheme.pairs_behind_moves:
                found.values.setdefault(output, True)
        elif node.op_type in scheme.joined and (result := absorbed(output, scheme)) in wanted:
            inputs = operands(node)
            if not set(inputs) <= there or not _joins(node, inputs, scheme):
                continue
            found.nodes[node] = None
            for value in inputs:
                _pair(found, value)
            there.add(result)
            if node.op_type in scheme.outputs:
                found.values[result] = True


def _joins(node: ir.Node, inputs: Sequence[ir.Value], scheme: Scheme) -> bool:
    """Whether an operator has only activations where it could, and a kernel."""
    if len(inputs) < sum(value is not None for value in _candidates(node)):
        return False
    if node.op_type == "AveragePool" and not scheme.pads_with_zero_point:
        padded = any(node.attributes.get_ints("pads", ())) or "SAME" in node.attributes.get_string("auto_pad", "")
        return not (padded and node.attributes.get_int("count_include_pad", 0) == 1)
    return node.op_type != "ReduceMean" or len(node.inputs) < 2 or is_weight(node.inputs[1])


def _pair(found: Regions, value: ir.Value) -> None:
    """An INT8 operator reads the value: it has a pair, unless it shares that of what it was moved from."""
    if value not in found.source:
        found.values.setdefault(value, False)


def _is_moved(value: ir.Value, scheme: Scheme, wanted: Mapping[ir.Value, bool]) -> bool:
    """Whether the value is what a move gives out whose input can be quantized as well."""
    node = value.producer()
    if node is None or node.domain != "" or node.op_type not in scheme.moves or not is_plain(node):
        return False
    return wanted.get(node.inputs[0], False) if node.inputs[0] is not None else False

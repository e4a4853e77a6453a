"""An ONNX file as a TensorRT network: what the parser refuses, and which layers compute in which precision."""

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import one_line
from ._flavours import strongly_typed

if TYPE_CHECKING:
    import onnx_ir as ir
    import tensorrt as trt

MOST_ROUNDS = 64
_PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "RECURRENCE", "ATTENTION_OUTPUT"}
_MOVES = {"SHUFFLE", "SQUEEZE", "UNSQUEEZE", "SLICE", "IDENTITY"}
_QDQ = {"QUANTIZE", "DEQUANTIZE"}
FOREIGN = {  # what the parser's assertions on Q/DQ of other runtimes mean
    "Non-zero zero point is not supported": "its zero point is not 0",
    "Found unsupported input type of UINT8": "its tensor is uint8",
    "Found unsupported input type of INT32": "its tensor is int32, as a bias is for other runtimes",
}
_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Refused:
    """A node that the parser does not take.

    Attributes:
        name: of the node.
        operator: its ONNX operator.
        reason: the parser's words.
        origin: path of the PyTorch module that it came from; empty where unknown.
    """

    name: str
    operator: str
    reason: str
    origin: str

    def __str__(self) -> str:
        place = f" (from {self.origin})" if self.origin else ""
        return f"{self.operator} {self.name!r}{place}: {self.reason}" if self.operator else self.reason


@dataclass(frozen=True)
class Network:
    """A parsed graph. The builder and the parser stay with it: the network holds on to their memory.

    Attributes:
        builder: makes configurations and plans.
        definition: layers and tensors.
        parser: owns the weights.
    """

    builder: "trt.Builder"
    definition: "trt.INetworkDefinition"
    parser: "trt.OnnxParser"


def parse(library: Any, logger: Any, model: Path) -> Network | list[Refused]:
    """Returns the network of an ONNX file, or the nodes that the parser stopped at."""
    builder: trt.Builder = library.Builder(logger)
    definition = builder.create_network(strongly_typed(library))
    parser: trt.OnnxParser = library.OnnxParser(definition, logger)
    if parser.parse_from_file(str(model)):
        return Network(builder, definition, parser)
    return [_refused(parser.get_error(number)) for number in range(parser.num_errors)]


def refused(library: Any, logger: Any, model: Path, folder: Path, first: list[Refused]) -> list[Refused]:
    """Returns all nodes that the parser refuses, where `first` are those that it stopped at; never none.

    The parser stops at the first operator that it knows but cannot import. It is asked again without what it
    refused: outputs of such nodes become inputs of the graph, where their type and rank are known.
    """
    from ...passes import InferShapes
    from .. import storage

    graph = storage.load(model)
    InferShapes()(graph)
    for number, node in enumerate(graph.graph.all_nodes()):
        node.name = node.name or f"{node.op_type}_{number}"
    origins, found = _origins(graph), list[Refused]()
    for _ in range(MOST_ROUNDS):
        storage.save(graph, folder / "rest.onnx")
        answer = parse(library, logger, folder / "rest.onnx")
        if isinstance(answer, Network):
            break
        found += [Refused(one.name, one.operator, one.reason, origins.get(one.name, "")) for one in answer]
        if not _cut(graph, {one.name for one in answer} - {""}):
            break
    return found or first or [Refused("", "", "the parser gives no reason", "")]


def precisions(definition: "trt.INetworkDefinition") -> dict[str, dict[str, int]]:
    """Counts the layers of a strongly typed network: what they compute in is in the graph, and so proven by it.

    Returns:
        `layers` that compute on floating point or Q/DQ by type of their output, `products` by what they multiply,
        `qdq` pairs folded into such products and left over, and `casts`.
    """
    layers = [definition.get_layer(number) for number in range(definition.num_layers)]
    makers = {layer.get_output(number).name: layer for layer in layers for number in range(layer.num_outputs)}
    counted: Counter[str] = Counter()
    products: Counter[str] = Counter()
    folded: set[str] = set()
    for layer in layers:
        kind = layer.type.name
        name = _type_name(layer)
        if kind in _PRODUCTS:
            operands = _operands(layer, makers)
            name = "int8" if operands and all(one.type.name == "DEQUANTIZE" for one in operands) else name
            products[name] += 1
            folded |= {one.name for one in operands} if name == "int8" else set()
        if kind not in ("CONSTANT", "CAST", *_QDQ) and name:
            counted[name] += 1
    kinds = Counter(layer.type.name for layer in layers)
    whole = {layer.name for layer in layers if layer.type.name == "DEQUANTIZE"}
    folded |= {maker.name for maker in _before_quantize(layers, makers)}
    facts: dict[str, dict[str, int]] = {"layers": _sorted(counted), "products": _sorted(products)}
    if whole or kinds["QUANTIZE"]:
        facts["qdq"] = {"folded": len(whole & folded), "left": len(whole - folded)}
    if casts := sum(layer.type.name == "CAST" and bool(_type_name(layer)) for layer in layers):
        facts["casts"] = {"float": casts}
    return facts


def dtype_name(tensor: "trt.ITensor") -> str:
    """Type of a tensor, as ONNX calls it."""
    kind = tensor.dtype.name
    return {"HALF": "FLOAT16", "BF16": "BFLOAT16"}.get(kind, kind)


def _refused(error: "trt.ParserError") -> Refused:
    words = error.desc().strip()
    plain = next((told for assertion, told in FOREIGN.items() if assertion in words), "")
    reason = "TensorRT has no such operator" if words in ("", "false") else plain or one_line(words, 240)
    return Refused(error.node_name(), error.node_operator(), reason, "")


def _origins(model: "ir.Model") -> dict[str, str]:
    from ...passes import ORIGIN

    nodes = model.graph.all_nodes()
    return {node.name or "": node.metadata_props.get(ORIGIN, "") for node in nodes}


def _cut(model: "ir.Model", names: set[str]) -> bool:
    """Takes the nodes called `names` out, with what holds them; whether something is left to ask for."""
    found = [node for node in model.graph if _holds(node, names)]
    for node in found:
        for value in node.outputs:
            if value.is_graph_output():
                model.graph.outputs[:] = [one for one in model.graph.outputs if one is not value]
            if value.uses() and (value.dtype is None or value.shape is None):
                return False
            if value.uses():
                _make_input(model.graph, value)
        model.graph.remove(node)
    return bool(found) and bool(model.graph.outputs) and bool(len(model.graph))


def _holds(node: "ir.Node", names: set[str]) -> bool:
    from ...passes import subgraphs

    if node.name in names:
        return True
    return any(_holds(inner, names) for graph in subgraphs(node) for inner in graph)


def _make_input(graph: "ir.Graph", value: "ir.Value") -> None:
    import onnx_ir as ir

    fresh = ir.Value(name=f"{value.name}_cut", type=value.type, shape=value.shape)
    value.replace_all_uses_with(fresh)
    graph.inputs.append(fresh)


def _type_name(layer: "trt.ILayer") -> str:
    """Name of the type of a layer's output where it is floating point or 8 bits wide, else empty."""
    if not layer.num_outputs:
        return ""
    kind = layer.get_output(0).dtype.name
    return _NAMES.get(kind, "int8" if kind == "INT8" else "")


def _operands(layer: "trt.ILayer", makers: dict[str, "trt.ILayer"]) -> list["trt.ILayer"]:
    """What makes the two operands of a product, behind what only moves elements; empty where it is not known."""
    found = []
    for number in range(min(layer.num_inputs, 2)):
        maker = _maker(layer.get_input(number), makers)
        if maker is None:
            return []
        found.append(maker)
    return found if len(found) == 2 else []


def _maker(tensor: "trt.ITensor | None", makers: dict[str, "trt.ILayer"]) -> "trt.ILayer | None":
    maker = makers.get(tensor.name) if tensor is not None else None
    while maker is not None and _moves(maker) and maker.get_input(0) is not None:
        maker = makers.get(maker.get_input(0).name)
    return maker


def _moves(layer: "trt.ILayer") -> bool:
    """Whether a layer gives out elements of its first input as they are, as a MaxPool does."""
    if layer.type.name != "POOLING":
        return layer.type.name in _MOVES
    view: Any = layer
    plain = view.__class__
    view.__class__ = importlib.import_module(plain.__module__).IPoolingLayer  # the bindings' way to cast
    kind: str = view.type.name
    view.__class__ = plain
    return kind == "MAX"


def _before_quantize(layers: list["trt.ILayer"], makers: dict[str, "trt.ILayer"]) -> Iterator["trt.ILayer"]:
    """DequantizeLinear layers before one layer that a Q follows: a pool, or a sum with its activation, in INT8."""
    for layer in layers:
        inner = makers.get(layer.get_input(0).name) if layer.type.name == "QUANTIZE" else None
        if inner is not None and inner.type.name == "ACTIVATION":
            inner = makers.get(inner.get_input(0).name)
        if inner is not None:
            for number in range(inner.num_inputs):
                maker = _maker(inner.get_input(number), makers)
                if maker is not None and maker.type.name == "DEQUANTIZE":
                    yield maker


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))

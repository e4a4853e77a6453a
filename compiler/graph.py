"""Facts of an ONNX graph: inputs, outputs, opset, operators, parameters, bytes, precision."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ..passes import all_nodes, all_tensors
from . import protos

if TYPE_CHECKING:
    import onnx


def describe(path: Path) -> dict[str, Any]:
    """Returns the facts of the ONNX file at `path`; weights are not read.

    Raises:
        UsageError: it is not a valid ONNX model.
    """
    from .frontends._graph import input_specs
    from .frontends.onnx import read

    model = read(path)
    tensors = list(all_tensors(model))
    return {
        "inputs": [str(spec) for spec in input_specs(model)],
        "outputs": [_signature(value) for value in model.graph.outputs],
        "opset": dict(sorted(model.opset_imports.items())),
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name or ''} {model.producer_version or ''}".strip(),
        "nodes": sum(1 for _ in all_nodes(model)),
        "operators": operators(model),
        "parameters": sum(tensor.size for tensor in tensors),
        "weights_bytes": sum(tensor.nbytes for tensor in tensors),
        "precision": precision_counts(protos.load_light(path)[0]),
    }


def nodes(path: Path) -> list[dict[str, Any]]:
    """Returns the nodes of the main graph in its order, without constants: what each is, gives and reads.

    `inputs` are places in the list. `precision` is what a node computes in: int8 also where it is between Q/DQ.

    Raises:
        UsageError: it is not a valid ONNX model.
    """
    from ..passes import ORIGIN, InferShapes
    from .frontends.onnx import read

    model = read(path)
    InferShapes()(model)
    places: dict[ir.Value, int] = {}
    known: dict[str, int] = {}
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        known[value.name or ""] = int(value.dtype or 0)
    rows: list[dict[str, Any]] = []
    for node in model.graph:
        for index, value in enumerate(node.outputs):
            known[value.name or ""] = int(value.dtype or 0) or _inferred_dtype(ir.to_proto(node), index, known)
        if node.op_type == "Constant" and node.domain == "":
            continue
        places.update((value, len(rows)) for value in node.outputs)
        dtype = _dtype_name(known[node.outputs[0].name or ""] if node.outputs else 0)
        shape = node.outputs[0].shape if node.outputs else None
        rows.append({
            "op": f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
            "name": node.name or "",
            "module": node.metadata_props.get(ORIGIN, ""),
            "dtype": dtype,
            "shape": None if shape is None else [_known_size(one) for one in shape],
            "precision": _precision(node, dtype),
            "inputs": sorted({places[value] for value in node.inputs if value is not None and value in places}),
        })  # fmt: skip
    return rows


def _known_size(size: int | ir.SymbolicDim) -> int | str | None:
    """A size or its name; None where onnx.shape_inference made the name up."""
    value = size if isinstance(size, int) else size.value
    return None if isinstance(value, str) and value.startswith("unk__") else value


def _precision(node: ir.Node, dtype: str) -> str:
    from . import effect

    whole = (
        node.op_type.startswith(("QLinear", "QGemm", "QAttention"))
        or "Integer" in node.op_type
        or dtype in ("int8", "uint8")
    )
    if whole or (node.domain == "" and node.op_type in effect.PRODUCTS and effect.precision(node) == "int8"):
        return "int8"
    return dtype


def size(model: ir.Model) -> dict[str, Any]:
    """Returns the number of nodes, the nodes by operator and the bytes of the weights."""
    counts = operators(model)
    weights = sum(tensor.nbytes for tensor in all_tensors(model) if tensor.dtype is not ir.DataType.STRING)
    return {"nodes": sum(counts.values()), "operators": counts, "weights_bytes": weights}


def operators(model: ir.Model) -> dict[str, int]:
    """Returns the number of nodes by operator, most frequent first."""
    counts = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in all_nodes(model))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def precision_counts(proto: "onnx.ModelProto") -> dict[str, Any]:
    """Counts nodes by the dtype of their first output, and the bytes of stored weights by dtype.

    Args:
        proto: the file, with or without the bytes of its weights.
    """
    known: dict[str, int] = {}
    weights: Counter[str] = Counter()
    for tensor in protos.tensors(proto):
        dtype = ir.DataType(tensor.data_type)
        size = 0 if dtype is ir.DataType.STRING else dtype.itemsize
        weights[dtype.name.lower()] += math.ceil(math.prod(tensor.dims) * size)
    for graph in protos.graphs(proto):
        known.update((value.name, value.type.tensor_type.elem_type) for value in (*graph.value_info, *graph.output))
        known.update((value.name, value.type.tensor_type.elem_type) for value in graph.input)
        known.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    nodes: Counter[int] = Counter()
    for node in protos.nodes(proto):
        for index, name in enumerate(node.output):
            if not known.get(name):
                known[name] = _inferred_dtype(node, index, known)
        nodes[known[node.output[0]] if node.output else 0] += 1
    names = {dtype: ir.DataType(dtype).name.lower() if dtype else "unknown" for dtype in nodes}
    by_name = {names[dtype]: count for dtype, count in nodes.items()}
    return {"nodes": dict(sorted(by_name.items())), "weights_bytes": dict(sorted(weights.items()))}


def _inferred_dtype(node: "onnx.NodeProto", index: int, known: Mapping[str, int]) -> int:
    """Returns an output's dtype by the operator's schema; a fused operator, without one, keeps its first input's."""
    import onnx

    inputs = [known.get(name, 0) for name in node.input]
    for attribute in node.attribute:
        if attribute.name == "to":
            return int(attribute.i)
        if node.op_type == "Constant" and attribute.name == "value":
            return int(attribute.t.data_type)
    try:
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    except onnx.defs.SchemaError:
        return inputs[0] if inputs else 0
    wanted = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    allowed = next((one.allowed_type_strs for one in schema.type_constraints if one.type_param_str == wanted), [wanted])
    if len(allowed) == 1 and allowed[0].startswith("tensor("):
        return int(ir.DataType[allowed[0].removeprefix("tensor(").removesuffix(")").upper()])
    formal = [parameter.type_str for parameter in schema.inputs]
    return next((have for kind, have in zip(formal, inputs, strict=False) if kind == wanted), 0)


def _signature(value: ir.Value) -> str:
    known = (getattr(size, "value", size) for size in value.shape or ())
    sizes = "..." if value.shape is None else ",".join("?" if size is None else str(size) for size in known)
    return f"{value.name}={_dtype_name(value.dtype or 0)}[{sizes}]"


def _dtype_name(number: int) -> str:
    """Name of a dtype of ONNX as `--input` takes it."""
    name = ir.DataType(number).name.lower()
    return {"double": "float64", "float": "float32", "undefined": "unknown"}.get(name, name)

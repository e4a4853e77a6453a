"""Facts of an ONNX graph: inputs, outputs, opset, operators, parameters, bytes, precision."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..passes import all_nodes, all_tensors


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
        "precision": precision_counts(model),
    }


def size(model: ir.Model) -> dict[str, Any]:
    """Returns the number of nodes, the nodes by operator and the bytes of the weights."""
    counts = operators(model)
    weights = sum(tensor.nbytes for tensor in all_tensors(model) if tensor.dtype is not ir.DataType.STRING)
    return {"nodes": sum(counts.values()), "operators": counts, "weights_bytes": weights}


def operators(model: ir.Model) -> dict[str, int]:
    """Returns the number of nodes by operator, most frequent first."""
    counts = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in all_nodes(model))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def precision_counts(model: ir.Model) -> dict[str, Any]:
    """Counts nodes by the dtype of their first output, and the bytes of stored weights by dtype."""
    weights: Counter[str] = Counter()
    for tensor in all_tensors(model):
        weights[tensor.dtype.name.lower()] += tensor.nbytes
    known: dict[ir.Value, ir.DataType | None] = {}
    nodes: Counter[str] = Counter()
    for node in all_nodes(model):
        for index, value in enumerate(node.outputs):
            known[value] = value.dtype or _inferred_dtype(node, index, known)
        dtype = known[node.outputs[0]] if node.outputs else None
        nodes[dtype.name.lower() if dtype is not None else "unknown"] += 1
    return {"nodes": dict(sorted(nodes.items())), "weights_bytes": dict(sorted(weights.items()))}


def _inferred_dtype(node: ir.Node, index: int, known: Mapping[ir.Value, ir.DataType | None]) -> ir.DataType | None:
    """Returns an output's dtype by the operator's schema; a fused operator, without one, keeps its first input's."""
    import onnx

    inputs = [known.get(value, value.dtype) if value is not None else None for value in node.inputs]
    if "to" in node.attributes:
        return ir.DataType(node.attributes["to"].as_int())
    try:
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    except onnx.defs.SchemaError:
        return inputs[0] if inputs else None
    wanted = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    allowed = next((one.allowed_type_strs for one in schema.type_constraints if one.type_param_str == wanted), [wanted])
    if len(allowed) == 1 and allowed[0].startswith("tensor("):
        return ir.DataType[allowed[0].removeprefix("tensor(").removesuffix(")").upper()]
    formal = [parameter.type_str for parameter in schema.inputs]
    return next((have for kind, have in zip(formal, inputs, strict=False) if kind == wanted), None)


def _signature(value: ir.Value) -> str:
    sizes = "..." if value.shape is None else ",".join(str(getattr(size, "value", size)) for size in value.shape)
    return f"{value.name}={value.dtype.name.lower() if value.dtype else 'unknown'}[{sizes}]"

"""InsertQdq: what runs in INT8, laid out as the kernels of ONNX Runtime, OpenVINO and TensorRT take it."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planc.passes import SCHEMES, InferShapes, InsertQdq, check, observed, signature

FAMILIES = tuple(SCHEMES)
Graph = Callable[..., ir.Model]
Infer = Callable[..., list[np.ndarray]]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def ranges(model: ir.Model, feed: Mapping[str, np.ndarray]) -> tuple[tuple[str, float, float], ...]:
    """Least and greatest values of what the schemes want to know, from one run."""
    import onnxruntime

    names = observed(model)
    proto = ir.to_proto(model)
    outputs = {value.name for value in proto.graph.output}
    given = [name for name in names if name in feed]
    wanted = [name for name in names if name not in feed]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    arrays = dict(zip(wanted, session.run(wanted, dict(feed)), strict=True)) if wanted else {}
    arrays |= {name: feed[name] for name in given}
    return tuple((name, float(arrays[name].min()), float(arrays[name].max())) for name in names)


def sqnr(exact: np.ndarray, found: np.ndarray) -> float:
    """Signal-to-quantization-noise ratio in dB."""
    noise = float(((exact.astype(np.float64) - found) ** 2).sum())
    return 200.0 if noise == 0 else 10 * np.log10(float((exact.astype(np.float64) ** 2).sum()) / noise)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


def node(model: ir.Model, op_type: str) -> ir.Node:
    return next(one for one in model.graph if one.op_type == op_type)


def fused(model: ir.Model, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of the graph."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(folder / "fused.onnx")
    settings.log_severity_level = 4
    proto = ir.to_proto(model)
    onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return Counter(one.op_type for one in onnx.load(folder / "fused.onnx").graph.node)


def optimized(model: ir.Model, **feed: np.ndarray) -> list[np.ndarray]:
    """Runs in ONNX Runtime with all its fusions."""
    import onnxruntime

    proto = ir.to_proto(model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def openvino(model: ir.Model, **feed: np.ndarray) -> tuple[list[np.ndarray], Counter[str]]:
    """Runs in OpenVINO; returns the outputs, and layers by type and primitive, such as "Convolution i8"."""
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(ir.to_proto(model).SerializeToString()), "CPU")
    found = compiled(feed)
    layers: Counter[str] = Counter()
    for layer in compiled.get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        kind = info["layerType"].value if hasattr(info["layerType"], "value") else str(info["layerType"])
        primitive = (
            info["primitiveType"].value if hasattr(info["primitiveType"], "value") else str(info["primitiveType"])
        )
        layers[f"{kind} {primitive.rpartition('_')[2]}"] += 1
    return [found[index] for index in range(len(compiled.outputs))], layers


@pytest.fixture
def quantize(graph: Graph, infer: Infer) -> Callable[..., ir.Model]:
    """Quantizes a graph with the ranges of one run; the result is valid, near the float graph, and stays as it is."""

    def run(
        text: str | ir.Model, /, *, feed: dict[str, Any], least: float = 30, options: Any = None, **arrays: np.ndarray
    ) -> ir.Model:
        model = graph(text, **arrays) if isinstance(text, str) else text
        InferShapes()(model)
        before, wanted, options = infer(model, **feed), signature(model), options or {}
        one = InsertQdq(**{"ranges": ranges(model, feed), **options})
        assert one(model).modified
        check(model, wanted)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        for was, now in zip(before, infer(model, **feed), strict=True):
            assert was.shape == now.shape
            assert was.dtype == now.dtype
            if was.dtype == np.float32:
                assert sqnr(was, now) >= least
        assert not one(model).modified
        assert set(one.near_misses(model)) >= set() and not one.regions(model).nodes
        return model

    return run


PRODUCTS: dict[str, tuple[str, tuple[int, ...], dict[str, np.ndarray]]] = {
    "conv": ("Conv<pads=[1,1,1,1]>(x, w, b)", (2, 4, 6, 6), {"w": normal(8, 4, 3, 3), "b": normal(8)}),
    "conv without bias": ("Conv(x, w)", (2, 4, 6, 6), {"w": normal(8, 4, 3, 3)}),
    "conv 1-d": ("Conv<strides=[2]>(x, w, b)", (2, 4, 9), {"w": normal(8, 4, 3), "b": normal(8)}),
    "depthwise": ("Conv<group=4>(x, w, b)", (2, 4, 6, 6), {"w": normal(4, 1, 3, 3), "b": normal(4)}),
    "transposed": ("ConvTranspose<strides=[2,2]>(x, w, b)", (2, 4, 5, 5), {"w": normal(4, 6, 3, 3), "b": normal(6)}),
    "transposed in groups": ("ConvTranspose<group=2>(x, w, b)", (2, 4, 5, 5), {"w": normal(4, 3, 3, 3), "b": normal(6)}),
    "gemm": ("Gemm(x, w, b)", (5, 16), {"w": normal(16, 7), "b": normal(7)}),
    "gemm transB": ("Gemm<transB=1>(x, w, b)", (5, 16), {"w": normal(7, 16), "b": normal(7)}),
    "gemm without bias": ("Gemm(x, w)", (5, 16), {"w": normal(16, 7)}),
    "gemm, bias of one row": ("Gemm(x, w, b)", (5, 16), {"w": normal(16, 7), "b": normal(1, 7)}),
    "gemm, bias of one number": ("Gemm(x, w, b)", (5, 16), {"w": normal(16, 7), "b": normal(1)}),
    "gemm, bias of many rows": ("Gemm(x, w, b)", (5, 16), {"w": normal(16, 7), "b": normal(5, 7)}),
    "gemm, bias of a column": ("Gemm(x, w, b)", (5, 16), {"w": normal(16, 7), "b": normal(5, 1)}),
    "matmul": ("MatMul(x, w)", (5, 16), {"w": normal(16, 7)}),
    "matmul in batches": ("MatMul(x, w)", (3, 5, 16), {"w": normal(16, 7)}),
    "matmul, weight in batches": ("MatMul(x, w)", (3, 5, 16), {"w": normal(3, 16, 7)}),
    "matmul of itself": ("MatMul(x, x)", (3, 8, 8), {}),
}  # fmt: skip


def _product(case: str) -> tuple[str, dict[str, np.ndarray], np.ndarray]:
    text, shape, arrays = PRODUCTS[case]
    sizes = ",".join(map(str, shape))
    return f"g (float[{sizes}] x) => (float[] y) {{ y = {text} }}", arrays, normal(*shape, seed=1)


@pytest.mark.parametrize("per_channel", [True, False], ids=["per-channel", "per-tensor"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case: str, family: str, per_channel: bool, quantize: Callable[..., ir.Model]) -> None:
    text, arrays, x = _product(case)
    if case.startswith("transposed") and family == "onnxruntime":
        return  # no kernel
    if family == "onnxruntime" and ("many rows" in case or "a column" in case):
        return  # its kernel adds one number per column
    if family == "openvino" and case == "matmul of itself":
        return  # test_openvino_multiplies_two_activations_in_floating_point
    model = quantize(text, feed={"x": x}, options={"family": family, "per_channel": per_channel}, **arrays)
    scheme = SCHEMES[family]
    signed = scheme.symmetric or case.startswith("transposed")
    for one in model.graph:
        if one.op_type == "QuantizeLinear":
            assert one.inputs[2].dtype is (ir.DataType.INT8 if signed else ir.DataType.UINT8)
    for value in model.graph.initializers.values():
        assert value.uses(), f"{value.name} is left over"

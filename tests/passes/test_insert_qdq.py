"""InsertQdq: what runs in INT8, laid out as the kernels of ONNX Runtime, OpenVINO and TensorRT take it."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planc.passes import ORIGIN, SCHEMES, InferShapes, InsertQdq, check, observed, signature

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
    read = core.read_model(ir.to_proto(model).SerializeToString())
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # not bf16 where the CPU has it
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
        assert not one.regions(model).nodes
        return model

    return run


PRODUCTS: dict[str, tuple[str, tuple[int, ...], dict[str, np.ndarray]]] = {
    "conv": ("Conv<pads=[1,1,1,1]>(x, w, b)", (2, 4, 6, 6), {"w": normal(8, 4, 3, 3), "b": normal(8)}),
    "conv without bias": ("Conv(x, w)", (2, 4, 6, 6), {"w": normal(8, 4, 3, 3)}),
    "conv 1-d": ("Conv<strides=[2]>(x, w, b)", (2, 4, 9), {"w": normal(8, 4, 3), "b": normal(8)}),
    "depthwise": ("Conv<group=4>(x, w, b)", (2, 4, 6, 6), {"w": normal(4, 1, 3, 3), "b": normal(4)}),
    "transposed": ("ConvTranspose<strides=[2,2]>(x, w, b)", (2, 4, 5, 5), {"w": normal(4, 6, 3, 3), "b": normal(6)}),
    "transposed, groups": ("ConvTranspose<group=2>(x, w, b)", (2, 4, 5, 5), {"w": normal(4, 3, 3, 3), "b": normal(6)}),
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
}


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
    model = quantize(text, feed={"x": x}, options={"family": family, "per_channel": per_channel}, **arrays)
    scheme = SCHEMES[family]
    signed = scheme.symmetric or case.startswith("transposed")
    for one in model.graph:
        if one.op_type == "QuantizeLinear":
            assert one.inputs[2].dtype is (ir.DataType.INT8 if signed else ir.DataType.UINT8)
    for value in model.graph.initializers.values():
        assert value.uses(), f"{value.name} is left over"


IMAGE = "g (float[2,4,8,8] x) => (float[] y) "
X = normal(2, 4, 8, 8, seed=1)
TWO = {"w": normal(8, 4, 3, 3), "b": normal(8), "v": normal(8, 8, 3, 3, seed=2), "bv": normal(8, seed=3)}


def test_the_types_of_the_schemes(quantize: Callable[..., ir.Model]) -> None:
    """TensorRT-RTX 1.7 builds these graphs for SM86; it refuses UINT8, zero points and DQ on an int32 bias."""
    text = IMAGE + "{ a = Conv(x, w, b) r = Relu(a) y = Conv(r, v, bv) }"
    for family, activation, bias in (
        ("onnxruntime", ir.DataType.UINT8, ir.DataType.INT32),
        ("openvino", ir.DataType.UINT8, None),
        ("tensorrt", ir.DataType.INT8, None),
    ):
        model = quantize(text, feed={"x": X}, options={"family": family}, least=25, **TWO)
        for one in model.graph:
            if one.op_type == "QuantizeLinear":
                assert one.inputs[2].dtype is activation
                assert one.inputs[2].shape == ()
            if one.op_type == "Conv":
                made = [value.producer() for value in one.inputs]
                assert made[1].op_type == "DequantizeLinear"
                assert made[1].inputs[0].dtype is ir.DataType.INT8
                assert made[1].inputs[0].const_value.numpy().min() >= -127
                assert made[1].attributes["axis"].as_int() == 0
                assert not made[1].inputs[2].const_value.numpy().any()
                assert (made[2].inputs[0].dtype if made[2] else None) is bias
        if family == "tensorrt":
            zeros = [one.inputs[2].const_value.numpy() for one in model.graph if "Linear" in one.op_type]
            assert not any(zero.any() for zero in zeros)


@pytest.mark.parametrize("bits", [8, 7])
def test_onnx_runtime_saturates_8_bits_without_vnni(bits: int, quantize: Callable[..., ir.Model], infer: Infer) -> None:
    from planc.compiler.host import has_vnni

    text = IMAGE + "{ a = Conv(x, w, b) r = Relu(a) y = Conv(r, v, bv) }"
    before = quantize(text, feed={"x": X}, options={"weight_bits": bits}, **TWO)
    (exact,), (fast,) = infer(before, x=X), optimized(before, x=X)
    weights = [one.const_value.numpy() for one in before.graph.initializers.values() if one.dtype is ir.DataType.INT8]
    assert max(abs(array).max() for array in weights) == 2 ** (bits - 1) - 1
    if bits == 7 or has_vnni():
        assert sqnr(exact, fast) > 60
    else:
        assert sqnr(exact, fast) < 40


WAYS = {
    "relu": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Conv(r, v, bv)",
        {},
        {"QLinearConv": 2, "Relu": 0, "FusedConv": 0},
        {"Convolution": 2},
    ),
    "relu6": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Clip(a, lo, hi) y = Conv(r, v, bv)",
        {"lo": np.float32(0), "hi": np.float32(6)},
        {"QLinearConv": 2, "Clip": 0, "FusedConv": 0},
        {"Convolution": 2},
    ),
    "clip on both sides": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Clip(a, lo, hi) y = Conv(r, v, bv)",
        {"lo": np.float32(-1), "hi": np.float32(1)},
        {"QLinearConv": 2, "Clip": 0, "FusedConv": 0},
        {"Convolution": 2},
    ),
    "clip without zero": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Clip(a, lo, hi) y = Conv(r, v, bv)",
        {"lo": np.float32(1), "hi": np.float32(5)},
        {"QLinearConv": 2, "Clip": 1, "FusedConv": 0},
        {"Convolution": 2},
    ),
    "residual": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) d = Conv<pads=[1,1,1,1]>(r, v, bv) s = Add(d, r) t = Relu(s)"
        " y = Conv(t, v, bv)",
        {},
        {"QLinearConv": 3, "QLinearAdd": 1, "Add": 0, "Relu": 0},
        {"Convolution": 3},
    ),
    "concat": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) d = Conv<pads=[1,1,1,1]>(r, v, bv) t = Concat<axis=1>(r, d)"
        " y = Conv(t, u)",
        {"u": normal(4, 16, 3, 3)},
        {"QLinearConv": 3, "QLinearConcat": 1, "FusedConv": 0},
        {"Convolution": 3, "Concatenation": 1},
    ),
    "max pool": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) d = MaxPool<kernel_shape=[2,2]>(r) y = Conv(d, v, bv)",
        {},
        {"QLinearConv": 2, "NhwcMaxPool": 1, "MaxPool": 0, "QuantizeLinear": 1, "DequantizeLinear": 1},
        {"Convolution": 2, "Pooling": 1},
    ),
    "average pool": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) d = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(a) y = Conv(d, v, bv)",
        {},
        {"QLinearConv": 2, "QLinearAveragePool": 1},
        {"Convolution": 2, "Pooling": 1},
    ),
    "average pool that counts its padding": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b)"
        " d = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(a) y = Conv(d, v, bv)",
        {},
        {"QLinearConv": 2, "QLinearAveragePool": 1},
        {"Convolution": 2},
    ),
    "global average": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) d = GlobalAveragePool(r) f = Flatten(d) y = Gemm(f, h)",
        {"h": normal(8, 10)},
        {"QLinearConv": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1},
        {"Convolution": 1, "Reduce": 1, "FullyConnected": 1},
    ),
    "mean": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) f = ReduceMean<keepdims=0>(r, axes) y = Gemm(f, h)",
        {"h": normal(8, 10), "axes": np.array([2, 3])},
        {"QLinearConv": 1, "ReduceMean": 1, "QGemm": 1},
        {"Convolution": 1, "Reduce": 1, "FullyConnected": 1},
    ),
    "pad": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) d = Pad(a, p) y = Conv(d, v, bv)",
        {"p": np.array([0, 0, 0, 0, 0, 0, 1, 1])},
        {"QLinearConv": 2, "Pad": 1},
        {"Convolution": 2, "Pad": 0},
    ),
    "moves": (
        "a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) t = Transpose<perm=[0,2,3,1]>(r) f = Reshape(t, s)"
        " g = Slice(f, s0, s1, s0) h = Unsqueeze(g, s0) i = Squeeze(h, s0) y = MatMul(i, k)",
        {"s": np.array([2, 64, 8]), "s0": np.array([0]), "s1": np.array([1]), "k": normal(8, 10)},
        {"QLinearConv": 1, "MatMulIntegerToFloat": 1, "QuantizeLinear": 1, "DequantizeLinear": 0},
        {"Convolution": 1, "FullyConnected": 1},
    ),
}


@pytest.mark.parametrize("case", WAYS)
def test_what_onnx_runtime_runs(case: str, quantize: Callable[..., ir.Model], infer: Infer, tmp_path: Path) -> None:
    body, arrays, wanted, _ = WAYS[case]
    model = quantize(IMAGE + f"{{ {body} }}", feed={"x": X}, options={"weight_bits": 7}, least=25, **arrays, **TWO)
    found = fused(model, tmp_path)
    assert {op: found[op] for op in wanted} == wanted, found
    assert sqnr(infer(model, x=X)[0], optimized(model, x=X)[0]) > 60


@pytest.mark.parametrize("case", WAYS)
def test_what_openvino_runs(case: str, quantize: Callable[..., ir.Model], infer: Infer) -> None:
    body, arrays, _, wanted = WAYS[case]
    options = {"family": "openvino", "weight_bits": 7}
    model = quantize(IMAGE + f"{{ {body} }}", feed={"x": X}, options=options, least=25, **arrays, **TWO)
    (found,), layers = openvino(model, x=X)
    assert {op: layers[f"{op} I8"] for op in wanted} == wanted, layers
    assert not layers["Pad f32"]
    assert sqnr(infer(model, x=X)[0], found) > 60


@pytest.mark.parametrize("case", WAYS)
def test_tensorrt_stays_near(case: str, quantize: Callable[..., ir.Model]) -> None:
    body, arrays, _, _ = WAYS[case]
    quantize(IMAGE + f"{{ {body} }}", feed={"x": X}, options={"family": "tensorrt"}, least=25, **arrays, **TWO)


def why(model: ir.Model, one: InsertQdq) -> dict[str, str]:
    return {node.name or node.outputs[0].name: reason for node, reason in one.near_misses(model)}


def _refused(
    text: str | ir.Model, graph: Graph, wanted: str, /, family: str = "openvino", **arrays: np.ndarray
) -> None:
    """The pass leaves the graph alone, and says why."""
    model = graph(text, **arrays) if isinstance(text, str) else text
    InferShapes()(model)
    before = ir.to_proto(model).SerializeToString()
    names = [value.name for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None]
    one = InsertQdq(family=family, ranges=tuple((name, -4.0, 4.0) for name in dict.fromkeys(names)))
    assert not one(model).modified
    assert ir.to_proto(model).SerializeToString() == before
    assert any(wanted in reason for reason in why(model, one).values()), why(model, one)


def test_refusals(graph: Graph) -> None:
    g, w = "g (float[5,16] x) => (float[] y) ", {"w": normal(16, 7)}
    for opset in (11, 12):
        old = f'<ir_version: 7, opset_import: ["": {opset}]>\n{g} {{ y = MatMul(x, w) }}'
        _refused(old, graph, f"the graph is of opset {opset}", **w)
    for dtype, kind in (("float16", np.float16), ("double", np.float64)):
        _refused(
            f"g ({dtype}[5,16] x) => ({dtype}[] y) {{ y = MatMul(x, w) }}", graph, "not float32", w=w["w"].astype(kind)
        )
    _refused(g + "{ v = Abs(w) y = MatMul(x, v) }", graph, "it multiplies two activations", **w)
    _refused(g + "{ v = Abs(w) y = Gemm(x, v) }", graph, "its weight 'v'", **w)
    _refused(g + "{ y = MatMul(v, x) }", graph, "its left side 'v'", v=normal(3, 5))
    _refused(g + "{ y = MatMul(x, v) }", graph, "no matrix", v=normal(16))
    _refused(g + "{ y = Gemm<alpha=0.5>(x, w) }", graph, "its factors are 0.5 and 1", **w)
    _refused(g + "{ y = Gemm<beta=2.0>(x, w, b) }", graph, "its factors are 1 and 2", b=normal(7), **w)
    _refused(g + "{ y = Gemm<transA=1>(x, v) }", graph, "its left side is transposed", v=normal(5, 7))
    two = "g (float[5,16] x, float[7] b) => (float[] y) "
    _refused(two + "{ y = Gemm(x, w, b) }", graph, "its bias 'b'", **w)
    _refused(g + "{ y = Gemm(x, w, b) }", graph, "not one number per column", family="onnxruntime", b=normal(5, 7), **w)
    image = "g (float[2,4,8,8] x, float[8,4,3,3] w) => (float[] y) { v = Abs(w) y = Conv(x, v) }"
    _refused(image, graph, "its weight 'v'")
    default = "g (float[5,16] x, float[16,7] w) => (float[] y) { y = Gemm(x, w) }"
    _refused(default, graph, "its weight 'w'", **w)  # the caller may replace it


@pytest.mark.parametrize("family", FAMILIES)
def test_two_activations_are_multiplied_in_floating_point(family: str, graph: Graph) -> None:
    """CPUs are no faster in INT8; with TensorRT one scale for all lengths would lose what Softmax gives."""
    text = "g (float[2,4,16] x, float[2,16,4] z) => (float[] y) { y = MatMul(x, z) }"
    _refused(text, graph, "it multiplies two activations", family=family)


def test_without_ranges_nothing_happens(graph: Graph) -> None:
    model = graph(IMAGE + "{ y = Conv(x, w) }", w=normal(8, 4, 3, 3))
    InferShapes()(model)
    assert not InsertQdq()(model).modified


CHAIN = IMAGE + "{ a = Conv(x, w, b) r = Relu(a) c = Conv(r, v, bv) y = Conv(c, v, bv) }"


def _chain(graph: Graph, **options: Any) -> tuple[ir.Model, InsertQdq]:
    model = graph(CHAIN, **TWO)
    InferShapes()(model)
    for name, origin, node in zip("123", ("features.0.conv", "features.1", "head"), _convs(model), strict=True):
        node.name, node.metadata_props[ORIGIN] = f"conv_{name}", origin
    return model, InsertQdq(**{"ranges": ranges(model, {"x": X}), **options})


def _convs(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Conv"]


def _in_int8(model: ir.Model) -> list[bool]:
    return [all(value.producer() is not None for value in node.inputs[:2]) for node in _convs(model)]


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [
        (("conv_1",), [False, True, True]),
        (("conv_[12]",), [False, False, True]),
        (("features",), [False, False, True]),
        (("features.1",), [True, False, True]),
        (("feat*", "head"), [False, False, False]),
        (("feature", "conv"), [True, True, True]),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_keep(family: str, keep: tuple[str, ...], wanted: list[bool], graph: Graph, infer: Infer) -> None:
    model, one = _chain(graph, keep=keep, family=family)
    before = infer(model, x=X)
    reasons = why(model, one)
    assert one(model).modified == any(wanted)
    found = [node.inputs[1].producer() is not None for node in _convs(model)]
    assert found == wanted
    assert set(reasons.values()) <= {"kept in floating point by name"}
    assert len(reasons) == wanted.count(False)
    assert sqnr(before[0], infer(model, x=X)[0]) > 25


def test_a_tensor_without_range_keeps_its_products_in_floating_point(graph: Graph, infer: Infer) -> None:
    for missing, wanted in (("x", [False, True, True]), ("r", [False, False, True]), ("c", [True, False, False])):
        model, one = _chain(graph)
        before = infer(model, x=X)
        one = InsertQdq(ranges=tuple(row for row in one.ranges if row[0] != missing))
        reasons = why(model, one)
        assert one(model).modified
        assert [node.inputs[1].producer() is not None for node in _convs(model)] == wanted
        assert set(reasons.values()) == {f"the calibration table has no range for {missing!r}"}
        assert sqnr(before[0], infer(model, x=X)[0]) > 25


@pytest.mark.parametrize("family", FAMILIES)
def test_behind_a_move_that_stays_the_range_is_that_of_its_source(family: str, graph: Graph, infer: Infer) -> None:
    text = IMAGE + "{ a = Conv(x, w, b) m = MaxPool<kernel_shape=[2,2]>(a) p = Identity(m) y = Conv(p, v, bv) }"
    model = graph(text, **TWO)
    InferShapes()(model)
    node(model, "MaxPool").metadata_props[ORIGIN] = node(model, "Conv").metadata_props[ORIGIN] = "stem"
    (before,), one = infer(model, x=X), InsertQdq(family=family, ranges=ranges(model, {"x": X}), keep=("stem",))
    assert one(model).modified
    assert [found.inputs[1].producer() is not None for found in _convs(model)] == [False, True]
    assert sqnr(before, infer(model, x=X)[0]) > 25


def test_origins_and_names(quantize: Callable[..., ir.Model], graph: Graph) -> None:
    """Q/DQ belong to the module of their product; names are unique, as ONNX Runtime demands."""
    model, _ = _chain(graph)
    quantize(model, feed={"x": X}, least=20)
    names = [node.name for node in model.graph if node.name]
    assert len(set(names)) == len(names)
    origins = {node.metadata_props.get(ORIGIN) for node in model.graph if node.op_type == "DequantizeLinear"}
    assert {"features.0.conv", "features.1", "head"} <= origins


@pytest.mark.parametrize("family", FAMILIES)
def test_unnamed_nodes_and_dynamic_shapes(family: str, quantize: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4,h,w] x) => (float[n,8,i,j] y) { a = Conv(x, w1, b) r = Relu(a) y = Conv(r, v, bv) }"
    arrays = {"w1": TWO["w"], **{name: TWO[name] for name in ("b", "v", "bv")}}
    model = quantize(text, feed={"x": X}, options={"family": family}, least=25, **arrays)
    assert [str(size) for size in model.graph.inputs[0].shape] == ["n", "4", "h", "w"]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_output_that_is_used_inside(family: str, quantize: Callable[..., ir.Model]) -> None:
    text = "g (float[2,4,8,8] x) => (float[] r, float[] a, float[] y) "
    quantize(
        text + "{ a = Conv(x, w, b) r = Relu(a) y = Conv(r, v, bv) }",
        feed={"x": X},
        least=25,
        options={"family": family},
        **TWO,
    )
    text = "g (float[2,4,8,8] x) => (float[] p, float[] y) { p = MaxPool<kernel_shape=[2,2]>(x) y = Conv(p, w, b) }"
    quantize(text, feed={"x": X}, options={"family": family}, **{name: TWO[name] for name in "wb"})


@pytest.mark.parametrize("family", FAMILIES)
def test_subgraphs_that_use_quantized_values(family: str, quantize: Callable[..., ir.Model]) -> None:
    text = """g (float[2,4,8,8] x, bool which) => (float[] y, float[] z) {
      a = Conv(x, w, b)
      y = Conv(a, v, bv)
      z = If (which) <
        then_branch = then () => (float[] t) { t = Relu(a) },
        else_branch = other () => (float[] e) { e = Conv(a, v, bv) }
      >
    }"""
    for which in (True, False):
        model = quantize(text, feed={"x": X, "which": np.array(which)}, options={"family": family}, least=25, **TWO)
        assert "v" in model.graph.initializers, "the branch multiplies by it"


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_weights_are_one_integer_tensor(family: str, quantize: Callable[..., ir.Model]) -> None:
    steps = " ".join(f"a{i} = Gemm(r{i - 1}, w, b{i}) r{i} = Tanh(a{i})" for i in range(1, 13))
    text = f"g (float[5,16] r0) => (float[] r12) {{ {steps} }}"
    weight = normal(16, 16)
    weight[:, 3] = 0  # a dead channel, with biases of all sizes
    biases = {f"b{i}": normal(16, seed=i) * 10 ** (i - 6) for i in range(1, 13)}
    feed = {"r0": normal(5, 16, seed=1)}
    model = quantize(text, feed=feed, options={"family": family}, least=15, w=weight, **biases)
    whole = [one for one in model.graph.initializers.values() if one.dtype is ir.DataType.INT8 and len(one.shape) == 2]
    assert [one.name for one in whole] == ["w_quantized"]
    assert "w" not in model.graph.initializers


def test_a_weight_that_is_also_used_in_floating_point(quantize: Callable[..., ir.Model]) -> None:
    text = "g (float[5,16] x) => (float[] y, float[] z) { z = Softmax(w) y = Gemm<transB=1>(x, w) }"
    model = quantize(text, feed={"x": normal(5, 16, seed=1)}, w=normal(7, 16))
    assert {"w", "w_quantized"} <= set(model.graph.initializers)


TIED = {
    "MatMul": "t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)",
    "MatMul and bias": "t = Transpose(w) m = MatMul(x, t) y = Add(m, b)",
    "Gemm": "y = Gemm<transB=1>(x, w, b)",
    "twice": "t = Transpose(w) m = MatMul(x, t) u = Transpose(w) n = MatMul(s, u) y = Add(m, n)",
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TIED)
def test_an_embedding_shares_the_integers_of_a_projection(
    name: str, family: str, quantize: Callable[..., ir.Model]
) -> None:
    """Rows of the table differ in size: one scale for all would lose the small ones."""
    text = f"g (int64[5] i, float[5,16] x) => (float[] y, float[] z) {{ s = Sin(x) z = Gather(w, i) {TIED[name]} }}"
    table = normal(7, 16) * 10.0 ** np.arange(-3, 4, dtype=np.float32)[:, np.newaxis]
    feed = {"i": np.array([0, 6, 3, 3, 1]), "x": normal(5, 16, seed=1)}
    model = quantize(text, feed=feed, options={"family": family}, least=30, w=table, b=normal(7))
    matrices = [
        one for one in model.graph.initializers.values() if one.shape is not None and one.const_value.size == 7 * 16
    ]
    assert [one.dtype for one in matrices if one.dtype is ir.DataType.INT8] == [ir.DataType.INT8]
    assert len(matrices) == 1 + (family == "tensorrt"), "it looks up tables of floats only"


def test_an_embedding_that_is_kept_keeps_its_table(quantize: Callable[..., ir.Model]) -> None:
    text = (
        "g (int64[5] i, float[5,16] x) => (float[] y, float[] z) { z = Gather(w, i) t = Transpose(w) y = MatMul(x, t) }"
    )
    feed = {"i": np.arange(5), "x": normal(5, 16, seed=1)}
    model = quantize(text, feed=feed, options={"keep": ("z",)}, w=normal(7, 16))
    assert node(model, "Gather").inputs[0].name == "w"


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_dead_channels_and_large_biases(family: str, per_channel: bool, quantize: Callable[..., ir.Model]) -> None:
    """int32 at the scale of the product must hold the bias, also where the weights of its channel are zeros."""
    weight, bias = normal(8, 4, 3, 3), normal(8)
    weight[2], weight[3], bias[3], bias[4], bias[5] = 0, 0, 0, 1e6, 1e-6
    weight[6], bias[6] = weight[6] * 1e-6, 3e5
    x = X * 0.01
    text = IMAGE + "{ y = Conv(x, w, b) }"
    options = {"family": family, "per_channel": per_channel}
    model = quantize(text, feed={"x": x}, options=options, w=weight, b=bias)
    for one in model.graph:
        if one.op_type == "DequantizeLinear":
            assert one.inputs[1].const_value.numpy().min() >= np.finfo(np.float32).tiny
    all_zero = {"w": weight * 0, "b": bias}
    quantize(text, feed={"x": x}, options=options, **all_zero)
    if per_channel:
        weight[6], bias[4] = 1, 0
        bias[6] = 0
        quantize(text, feed={"x": x}, options=options, w=weight, b=bias)


def test_constant_activations(quantize: Callable[..., ir.Model]) -> None:
    """A range of one point has a scale, too."""
    for number in (0.0, 3.0, -2.0, 1e-30):
        for family in FAMILIES:
            x = np.full_like(X, number)
            quantize(IMAGE + "{ y = Conv(x, w, b) }", feed={"x": x}, options={"family": family}, w=TWO["w"], b=TWO["b"])


def test_equal_constants_are_one(quantize: Callable[..., ir.Model]) -> None:
    model = quantize(CHAIN, feed={"x": X}, least=20, **TWO)
    found = [one.const_value for one in model.graph.initializers.values()]
    keys = [(one.dtype, tuple(one.shape), one.tobytes()) for one in found if one.size < 10]
    assert len(set(keys)) == len(keys)


def test_linear_layers_of_onnx_runtime(quantize: Callable[..., ir.Model], infer: Infer, tmp_path: Path) -> None:
    """MatMul + Add becomes Gemm there; without an int32 bias that would run in floating point."""
    arrays = {"w": normal(16, 32), "b": normal(32), "v": normal(32, 8), "c": normal(8)}
    for shape in ("2,5,16", "n,m,16"):
        steps = "a = MatMul(x, w) d = Add(b, a) r = Relu(d) e = MatMul(r, v) y = Add(e, c)"
        text = f"g (float[{shape}] x) => (float[] y) {{ {steps} }}"
        x = normal(2, 5, 16, seed=1)
        model = quantize(text, feed={"x": x}, options={"weight_bits": 7}, **arrays)
        found = fused(model, tmp_path)
        assert found["QGemm"] + found["MatMulIntegerToFloat"] == 2, found
        assert found["QGemm"] == (2 if shape == "2,5,16" else 0)
        assert not found["Gemm"] and not found["MatMul"]
        assert sqnr(infer(model, x=x)[0], optimized(model, x=x)[0]) > 60


def test_transposed_convolution_of_openvino(quantize: Callable[..., ir.Model]) -> None:
    """Its kernel runs in INT8 where the zero point of its input is 0."""
    arrays = {"w": normal(4, 16, 3, 3), "b": normal(16), "v": normal(16, 16, 3, 3)}
    for first, kind in (("Relu", ir.DataType.UINT8), ("Tanh", ir.DataType.INT8)):
        text = (
            IMAGE
            + f"{{ a = {first}(x) d = ConvTranspose<strides=[2,2]>(a, w, b) r = Tanh(d) y = ConvTranspose(r, v) }}"
        )
        model = quantize(text, feed={"x": X}, options={"family": "openvino"}, least=25, **arrays)
        assert node(model, "QuantizeLinear").inputs[2].dtype is kind
        _, layers = openvino(model, x=X)
        assert layers["Deconvolution I8"] + layers["Deconvolution i8"] == 2, layers


def test_a_value_that_only_moves_between(quantize: Callable[..., ir.Model]) -> None:
    """Q/DQ stand before what only moves elements, so that it moves bytes."""
    text = IMAGE + "{ s = Sigmoid(x) t = Transpose<perm=[0,1,3,2]>(s) y = Conv(t, w, b) }"
    model = quantize(text, feed={"x": X}, options={"family": "openvino"}, w=TWO["w"], b=TWO["b"])
    assert node(model, "Transpose").inputs[0].producer().op_type == "DequantizeLinear"
    assert ops(model)["QuantizeLinear"] == 1


def test_no_pairs_where_nothing_is_in_int8(quantize: Callable[..., ir.Model]) -> None:
    text = "g (float[2,4,8,8] x, float[2,4,8,8] z) => (float[] y, float[] q) "
    text += "{ s = Sigmoid(z) q = Add(s, z) y = Conv(x, w, b) }"
    for family in FAMILIES:
        model = quantize(text, feed={"x": X, "z": X}, options={"family": family}, w=TWO["w"], b=TWO["b"])
        assert ops(model)["QuantizeLinear"] == (2 if family == "onnxruntime" else 1)

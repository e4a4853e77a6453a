"""Dynamic INT8: the products that ONNX Runtime runs in integers, without calibration."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from planc.compiler import host
from planc.passes import QuantizeDynamic, check, signature
from planc.passes.infer_shapes import InferShapes

BITS = 8 if host.has_vnni() else 7


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _fused(model: ir.Model, folder: Path) -> Counter[str]:
    """Operators after ONNX Runtime's own fusions."""
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.fixture
def quantized(
    graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]]
) -> Callable[..., tuple[ir.Model, float]]:
    """Runs the pass; returns the graph and the noise at its first output, as a share of the signal."""

    def run(text: str, options: QuantizeDynamic | None = None, /, *, feed: dict[str, Any], **arrays: Any) -> Any:
        model = graph(text, **arrays)
        InferShapes()(model)
        wanted, before = signature(model), infer(model, **feed)
        one = options or QuantizeDynamic(weight_bits=BITS)
        assert one(model).modified
        check(model, wanted)
        after = infer(model, **feed)
        assert not one(model).modified
        return model, float(np.linalg.norm(after[0] - before[0]) / np.linalg.norm(before[0]))

    return run


def test_a_product_becomes_what_onnx_runtime_fuses(quantized: Callable[..., Any], tmp_path: Path) -> None:
    text = "g (float[b,n,16] x) => (float[b,n,8] y) { m = MatMul(x, w) y = Add(m, c) }"
    model, noise = quantized(text, feed={"x": _draw(2, 5, 16)}, w=_draw(16, 8), c=_draw(8))
    assert noise < 0.02
    kinds = _fused(model, tmp_path)
    assert kinds == {"DynamicQuantizeMatMul": 1}


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_keeps_its_bias_and_its_side(
    quantized: Callable[..., Any], ops: Callable[..., Any], transposed: int, tmp_path: Path
) -> None:
    text = f"g (float[n,16] x) => (float[n,8] y) {{ y = Gemm<transB={transposed}>(x, w, c) }}"
    w = _draw(8, 16) if transposed else _draw(16, 8)
    model, noise = quantized(text, feed={"x": _draw(5, 16)}, w=w, c=_draw(8))
    assert noise < 0.02
    assert not ops(model)["Gemm"]
    assert _fused(model, tmp_path) == {"DynamicQuantizeMatMul": 1}
    (whole,) = (node.inputs[1] for node in model.graph if node.op_type == "MatMulInteger")
    assert whole.const_value.numpy().shape == (16, 8)


def test_one_activation_is_quantized_once(quantized: Callable[..., Any], tmp_path: Path) -> None:
    text = "g (float[n,16] x) => (float[n,8] y, float[n,8] z) { y = MatMul(x, v) z = MatMul(x, w) }"
    model, noise = quantized(text, feed={"x": _draw(5, 16)}, v=_draw(16, 8), w=_draw(16, 8, seed=1))
    assert noise < 0.02
    assert _fused(model, tmp_path) == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 2}


def test_shared_weights_stay_one_copy(quantized: Callable[..., Any], ops: Callable[..., Any]) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { h = MatMul(x, w) i = Tanh(h) y = MatMul(i, w) }"
    model, _ = quantized(text, feed={"x": _draw(5, 8)}, w=_draw(8, 8))
    assert ops(model)["MatMulInteger"] == 2
    whole = {node.inputs[1] for node in model.graph if node.op_type == "MatMulInteger"}
    assert len(whole) == 1


def test_a_row_of_outliers_leaves_the_others_their_precision(quantized: Callable[..., Any], tmp_path: Path) -> None:
    text = "g (float[n,16] x) => (float[m,8] y) { a = Relu(x) m = MatMul(a, w) y = Slice(m, from, to) }"
    x = _draw(9, 16)
    x[0] *= 1000
    arrays = {"w": _draw(16, 8), "from": np.array([1]), "to": np.array([9])}
    model, noise = quantized(text, feed={"x": x}, **arrays)
    assert noise < 0.02
    assert _fused(model, tmp_path)["DynamicQuantizeMatMul"] == 1
    _, noise = quantized(text, QuantizeDynamic(weight_bits=BITS, rows=False), feed={"x": x}, **arrays)
    assert noise > 0.2


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("opset", [17, 20])
def test_rows_of_zeros_stay_zeros(
    graph: Callable[..., ir.Model], infer: Callable[..., Any], rows: int, opset: int
) -> None:
    head = f'<ir_version: 8, opset_import: ["": {opset}]> '
    model = graph(f"{head} g (float[n,16] x) => (float[n,8] y) {{ a = Relu(x) y = MatMul(a, w) }}", w=_draw(16, 8))
    InferShapes()(model)
    QuantizeDynamic(weight_bits=BITS)(model)
    (y,) = infer(model, x=np.zeros((rows, 16), np.float32))
    assert y.shape == (rows, 8)
    assert not y.any()


def test_a_vector_is_one_row(quantized: Callable[..., Any]) -> None:
    text = "g (float[16] x) => (float[8] y) { a = Relu(x) y = MatMul(a, w) }"
    _, noise = quantized(text, feed={"x": _draw(16)}, w=_draw(16, 8))
    assert noise < 0.03


def test_columns_of_zeros_stay_zeros(quantized: Callable[..., Any]) -> None:
    w = _draw(16, 8)
    w[:, 3] = 0
    _, noise = quantized("g (float[n,16] x) => (float[n,8] y) { y = MatMul(x, w) }", feed={"x": _draw(5, 16)}, w=w)
    assert noise < 0.02


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[n,4] x, float[4,5] v) => (float[n,5] y) { y = MatMul(x, v) }", "no constant"),
        ("g (float[n,4] x) => (float[4,5] y) { t = Transpose(x) y = MatMul(u, t) }", "left side"),
        ("g (float[n,4] x) => (float[n,5] y) { y = Gemm<alpha=2.>(x, w) }", "factors"),
        ("g (float[2,3,4] x) => (float[2,3,5] y) { y = MatMul(x, s) }", "no matrix"),
        ("g (double[n,4] x) => (double[n,5] y) { y = MatMul(x, d) }", "not float32"),
    ],
)
def test_what_stays_in_float_says_why(keeps: Callable[..., ir.Model], text: str, reason: str) -> None:
    arrays = {"w": _draw(4, 5), "u": _draw(4, 4), "s": _draw(2, 4, 5), "d": _draw(4, 5).astype(np.float64)}
    used = {name: array for name, array in arrays.items() if f"{name})" in text or f"({name}," in text}
    model = keeps(QuantizeDynamic(), text, **used)
    ((_, told),) = QuantizeDynamic().near_misses(model)
    assert reason in told


def test_layers_are_kept_by_name(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x) => (float[n,5] head) { head = MatMul(x, w) }"
    keeps(QuantizeDynamic(keep=("head*",)), text, w=_draw(4, 5))

"""Effect: products counted by the precision that they compute in, from the graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.compiler import effect
from planc.passes import SCHEMES, InferShapes, InsertQdq

HEAD = '<ir_version: 10, opset_import: ["": 20]>\n'


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.fixture
def graph(onnx_file: Callable[..., Path], tmp_path: Path) -> Callable[..., ir.Model]:
    def make(text: str, **arrays: np.ndarray) -> ir.Model:
        model = ir.load(onnx_file(tmp_path / "graph.onnx", HEAD + text, **arrays))
        InferShapes()(model)
        return model

    return make


def _quantized(model: ir.Model, family: str, keep: tuple[str, ...] = ()) -> ir.Model:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    ranges = tuple((value.name or "", -4.0, 4.0) for value in values)
    assert InsertQdq(family=family, ranges=ranges, keep=keep)(model).modified
    return model


@pytest.mark.parametrize(
    ("op", "shape", "arrays", "wanted"),
    [
        ("Conv<pads=[1,1,1,1]>(x, w)", (2, 4, 6, 6), {"w": normal(8, 4, 3, 3)}, 2 * 8 * 36 * 4 * 9),
        ("Conv<group=4>(x, w)", (2, 4, 6, 6), {"w": normal(4, 1, 3, 3)}, 2 * 4 * 16 * 9),
        ("ConvTranspose<strides=[2,2]>(x, w)", (2, 4, 6, 6), {"w": normal(4, 8, 3, 3)}, 2 * 4 * 36 * 8 * 9),
        ("ConvTranspose<group=2>(x, w)", (2, 4, 6, 6), {"w": normal(4, 3, 3, 3)}, 2 * 4 * 36 * 3 * 9),
        ("Gemm(x, w)", (5, 16), {"w": normal(16, 7)}, 5 * 16 * 7),
        ("Gemm<transB=1>(x, w)", (5, 16), {"w": normal(7, 16)}, 5 * 16 * 7),
        ("Gemm<transA=1>(x, w)", (16, 5), {"w": normal(16, 7)}, 5 * 16 * 7),
        ("MatMul(x, w)", (3, 5, 16), {"w": normal(16, 7)}, 3 * 5 * 16 * 7),
        ("MatMul(x, w)", (5, 16), {"w": normal(3, 16, 7)}, 3 * 5 * 16 * 7),
        ("MatMul(x, w)", (16,), {"w": normal(16, 7)}, 16 * 7),
    ],
)
def test_macs(op: str, shape: tuple[int, ...], arrays: Any, wanted: int, graph: Callable[..., ir.Model]) -> None:
    sizes = ",".join(map(str, shape))
    model = graph(f"g (float[{sizes}] x) => (float[] y) {{ y = {op} }}", **arrays)
    assert effect.macs(model.graph[0], effect.shapes_at(model, {})) == wanted
    share = {"nodes": 1, "macs": wanted, "weights_bytes": arrays["w"].nbytes, "macs_share": 1.0}
    assert effect.count(model, {}) == {"float32": share}


def test_symbolic_sizes_are_those_of_the_point_opt(graph: Callable[..., ir.Model]) -> None:
    model = graph("g (float[batch,16] x) => (float[] y) { y = MatMul(x, w) }", w=normal(16, 7))
    assert effect.count(model, {"batch": 8})["float32"]["macs"] == 8 * 16 * 7
    assert effect.count(model, {})["float32"] == {"nodes": 1, "macs": 0, "weights_bytes": 448, "macs_share": None}


def test_sizes_without_a_name_are_inferred_at_the_point(graph: Callable[..., ir.Model]) -> None:
    """Conv and Reshape leave sizes that inference has to make up a name for."""
    text = """g (float[batch,3,width,8] x) => (float[] y) {
      c = Conv<strides=[2,2]>(x, w) s = Shape(c) f = Gather(s, zero) t = Concat<axis=0>(f, minus) r = Reshape(c, t)
      a = Transpose<perm=[1,0]>(r) y = MatMul(a, r)
    }"""
    arrays = {"w": normal(16, 3, 2, 2), "zero": np.array([0]), "minus": np.array([-1])}
    model = graph(text, **arrays)
    before = [value.shape for node in model.graph for value in node.outputs]
    assert any(isinstance(size, ir.SymbolicDim) for size in before[0] or ())
    found = effect.count(model, {"batch": 2, "width": 10})["float32"]
    inner = 16 * 5 * 4
    assert found["macs"] == 2 * inner * 3 * 4 + inner * 2 * inner
    assert found["macs_share"] == 1.0
    assert [value.shape for node in model.graph for value in node.outputs] == before


def test_a_product_of_unknown_size_leaves_the_shares_unknown(graph: Callable[..., ir.Model]) -> None:
    text = "g (float[2,16] x, float[] z) => (float[] y) { a = MatMul(x, w) y = MatMul(a, z) }"
    found = effect.count(graph(text, w=normal(16, 16)), {})["float32"]
    assert (found["macs"], found["macs_share"]) == (2 * 16 * 16, None)


def test_unknown_shapes_count_nothing(graph: Callable[..., ir.Model]) -> None:
    model = graph("g (float[] x) => (float[] y) { y = MatMul(x, w) }", w=normal(16, 7))
    assert effect.count(model, {}) == {"float32": {"nodes": 1, "macs": 0, "weights_bytes": 448, "macs_share": None}}


def test_a_graph_without_products(graph: Callable[..., ir.Model]) -> None:
    assert effect.count(graph("g (float[3] x) => (float[3] y) { y = Relu(x) }"), {}) == {}


@pytest.mark.parametrize("family", SCHEMES)
def test_what_is_lowered_and_what_is_kept(family: str, graph: Callable[..., ir.Model]) -> None:
    text = """g (float[1,4,6,6] x) => (float[] y) {
      a = Conv<pads=[1,1,1,1]>(x, w) m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a) t = Transpose<perm=[0,2,3,1]>(m)
      f = MatMul(t, v) y = MatMul(f, v)
    }"""
    model = _quantized(graph(text, w=normal(8, 4, 3, 3), v=normal(8, 8)), family, keep=("y",))
    found = effect.count(model, {})
    assert found == {
        "float32": {"nodes": 1, "macs": 9 * 64, "weights_bytes": 256, "macs_share": round(576 / (1152 + 10368), 4)},
        "int8": {"nodes": 2, "macs": 9 * 64 + 36 * 288, "weights_bytes": 64 + 288, "macs_share": 0.95},
    }


def test_weights_of_8_bits_alone_are_no_int8(graph: Callable[..., ir.Model]) -> None:
    text = "g (float[5,16] x) => (float[] y) { d = DequantizeLinear<axis=1>(w, s) y = MatMul(x, d) }"
    found = effect.count(graph(text, w=np.ones((16, 7), np.int8), s=np.ones(7, np.float32)), {})
    assert found == {"float32": {"nodes": 1, "macs": 560, "weights_bytes": 112, "macs_share": 1.0}}


def test_dynamic_and_fused_forms(graph: Callable[..., ir.Model]) -> None:
    text = "g (float[5,16] x) => (int32[] y) { q, s, z = DynamicQuantizeLinear(x) y = MatMulInteger(q, w, z) }"
    found = effect.count(graph(text, w=np.ones((16, 7), np.int8)), {})
    assert found == {"int8": {"nodes": 1, "macs": 560, "weights_bytes": 112, "macs_share": 1.0}}
    text = "g (uint8[5,16] x) => (uint8[] y) { y = QLinearMatMul(x, s, z, w, s, i, s, z) }"
    arrays = {"w": np.ones((16, 7), np.int8), "s": np.float32(0.1), "z": np.uint8(0), "i": np.int8(0)}
    assert effect.count(graph(text, **arrays), {}) == found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, graph: Callable[..., ir.Model]) -> None:
    number = {"float16": 10, "bfloat16": 16}[dtype]
    text = (
        f"g (float[5,16] x) => ({dtype}[] y) {{ h = Cast<to={number}>(x) k = Cast<to={number}>(w) y = MatMul(h, k) }}"
    )
    (found,) = effect.count(graph(text, w=normal(16, 7)), {})
    assert found == dtype


def test_products_in_subgraphs_and_of_other_domains_are_not_counted(graph: Callable[..., ir.Model]) -> None:
    text = """g (float[5,16] x, bool which) => (float[] y) {
      y = If (which) <
        then_branch = then () => (float[] t) { t = MatMul(x, w) }, else_branch = other () => (float[] e) { e = Relu(x) }
      >
    }"""
    assert effect.count(graph(text, w=normal(16, 16)), {}) == {}


def test_a_weight_that_layers_share_has_its_bytes_once(graph: Callable[..., ir.Model]) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) b = MatMul(a, w) y = MatMul(b, w) }"
    found = effect.count(graph(text, w=np.eye(4, dtype=np.float32)), {})["float32"]
    assert (found["nodes"], found["weights_bytes"]) == (3, 64)

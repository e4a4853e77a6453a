"""FoldConstants: what depends on constants only becomes a constant."""

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.compiler import reference, storage
from planc.passes._stored import TurnedTensor
from planc.passes.fold_constants import FoldConstants
from planc.passes.infer_shapes import InferShapes
from planc.passes.merge_duplicates import MergeDuplicates

TEXT = """\
<ir_version: 8, opset_import: ["": 18]>
g (float[batch,4] x) => (float[batch,4] y, float[batch,2,2] z) {
  two = Constant<value = float {2.0}>()
  three = Constant<value = float {3.0}>()
  five = Add(two, three)
  y = Mul(x, five)
  shape = Constant<value = int64[3] {0, 2, 2}>()
  z = Reshape(x, shape)
}
"""


def _model(onnx_file: Callable[..., Path], folder: Path, text: str = TEXT, **arrays: np.ndarray) -> ir.Model:
    return ir.load(onnx_file(folder / "g.onnx", text, **arrays))


def test_folds_and_computes_the_same(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]
) -> None:
    model = _model(onnx_file, tmp_path)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    before = infer(model, x=x)
    assert [node.op_type for node in model.graph].count("Add") == 1
    assert FoldConstants()(model).modified
    assert "Add" not in [node.op_type for node in model.graph]
    for was, now in zip(before, infer(model, x=x), strict=True):
        np.testing.assert_array_equal(was, now)


def test_a_second_run_changes_nothing(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    model = _model(onnx_file, tmp_path)
    FoldConstants()(model)
    assert not FoldConstants()(model).modified


def test_large_results_are_not_kept(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[1000,1000] x) => (float[1000,1000] y) {
      shape = Constant<value = int64[2] {1000, 1000}>()
      one = Constant<value = float[1] {1.0}>()
      wide = Expand(one, shape)
      y = Add(x, wide)
    }"""
    model = _model(onnx_file, tmp_path, text)
    FoldConstants()(model)
    assert "Expand" in [node.op_type for node in model.graph]
    FoldConstants(max_output_bytes=1 << 23)(model)
    assert "Expand" not in [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "body",
    [
        "t = Tile(one, far) y = Add(x, t)",
        "s = ConstantOfShape(wide) y = Add(x, s)",
        "e = Expand(one, wide) y = Add(x, e)",
        "p = Pad(one, pads) y = Add(x, p)",
        "i = Range(zero, much, step) c = Cast<to=1>(i) y = Add(x, c)",
        "o = OneHot(zeros, depth, ends) y = Add(x, o)",
    ],
)
def test_a_bomb_is_not_evaluated(body: str, graph: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    """The size of a result is known before it is computed: 4 TB would not fit into any machine."""
    big = 1 << 40
    arrays = {
        "one": np.ones(1, np.float32), "far": np.array([big]), "wide": np.array([big]), "pads": np.array([0, big]),
        "zero": np.array(0), "much": np.array(big), "step": np.array(1), "zeros": np.zeros(8, np.int64),
        "depth": np.array(big), "ends": np.array([0, 1], np.float32),
    }  # fmt: skip
    model = graph(f"g (float[1] x) => (float[] y) {{ {body} }}", **arrays)
    before = ops(model)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    InferShapes()(model)
    FoldConstants()(model)
    assert ops(model) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 100 << 10


def test_the_limit_is_an_option(rewrites: Callable[..., ir.Model], x: np.ndarray) -> None:
    text = "g (float[n,4] x) => (float[] y) { t = Tile(one, four) y = Add(x, t) }"
    arrays = {"one": np.ones(1, np.float32), "four": np.array([4])}
    rewrites(FoldConstants(max_output_bytes=16), text, feed={"x": x}, **arrays)


def test_a_result_beyond_the_limit(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[n,400] x) => (float[] y) { t = Tile(one, four) y = Add(x, t) }"
    keeps(FoldConstants(max_output_bytes=1599), text, one=np.ones(2, np.float32), four=np.array([200]))


@pytest.mark.parametrize(
    "body",
    [
        "q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) y = Add(x, d)",
        "d = DequantizeLinear(v, s, z) y = Add(x, d)",
        "q, a, b = DynamicQuantizeLinear(w) d = DequantizeLinear(q, a, b) y = Add(x, d)",
        "d = Bernoulli(w) y = Add(x, d)",
        "d = RandomNormalLike(w) y = Add(x, d)",
        "d = Dropout(w, s, yes) y = Add(x, d)",
    ],
    ids=["Q and DQ", "DQ", "dynamic Q", "Bernoulli", "normal", "Dropout in training"],
)
def test_what_is_no_arithmetic_stays(
    body: str, graph: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    arrays = {
        "w": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "s": np.array(0.5, np.float32), "z": np.array(3, np.uint8),
        "v": np.array([1, 2, 3, 4], np.uint8), "yes": np.array(True),
    }  # fmt: skip
    model = graph(f"g (float[n,4] x) => (float[] y) {{ {body} }}", **arrays)
    before = ops(model)
    InferShapes()(model)
    assert not FoldConstants()(model).modified
    assert ops(model) == before


def test_a_default_is_no_constant(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x, float[4] c) => (float[] y) { d = Neg(c) y = Add(x, d) }"
    keeps(FoldConstants(), text, c=np.ones(4, np.float32))


def test_branches(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    text = """g (bool c, float[n,4] x) => (float[] y) {
      two = Constant<value = float {2.0}>()
      y = If(c) <
        then_branch = t () => (float[n,4] a) { k = Exp(two) a = Add(x, k) },
        else_branch = e () => (float[n,4] b) { k = Neg(two) b = Add(x, k) }
      >
    }"""
    for condition in (True, False):
        model = rewrites(FoldConstants(), text, feed={"c": np.array(condition), "x": x})
        assert ops(model)["Exp"] == ops(model)["Neg"] == 0


def test_weights_outside_are_not_read(tmp_path: Path, graph: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x) => (float[] y) { a = MatMul(x, w) y = Neg(a) }"
    ir.save(graph(text, w=np.zeros((4, 6000), np.float32)), tmp_path / "m.onnx", external_data="m.data")
    model = ir.load(tmp_path / "m.onnx")
    InferShapes()(model)
    assert not FoldConstants()(model).modified
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None


def test_a_range_of_vectors(rewrites: Callable[..., ir.Model]) -> None:
    """Range takes vectors of one element while their shape is unknown; as constants they must be scalars."""
    text = "g (int64[n] x) => (int64[] y) { e = Add(five, one) r = Range(zero, five, one) y = Add(x, r) }"
    arrays = {"zero": np.array(0), "five": np.array(5), "one": np.array(1)}
    rewrites(FoldConstants(), text, feed={"x": np.arange(5)}, **arrays)


def test_a_chain_of_constants_keeps_no_history(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    """The folder notes at each constant all that it was made from; copied from fold to fold that is quadratic."""
    from onnxscript.optimizer import FOLDED_FROM_KEY

    length = 200
    chain = "\n".join(f"c{i} = Neg(c{i - 1})" for i in range(1, length))
    text = f"""<ir_version: 8, opset_import: ["": 18]>
    g (float[2] x) => (float[2] y) {{
      c0 = Constant<value = float {{1.0}}>()
      {chain}
      y = Mul(x, c{length - 1})
    }}"""
    model = _model(onnx_file, tmp_path, text)
    assert FoldConstants()(model).modified
    assert [node.op_type for node in model.graph][-1] == "Mul" and "Neg" not in [node.op_type for node in model.graph]
    (kept,) = (value for value in model.graph.node(-1).inputs if value is not None and value.name != "x")
    assert len(kept.meta.get(FOLDED_FROM_KEY, ())) <= 2


@pytest.fixture
def turning(onnx_file: Callable[..., Path], tmp_path: Path) -> ir.Model:
    """A graph that turns two equal weights, which lie in its file, and multiplies by them."""
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[n,200] x) => (float[n,100] y) {
      a = Transpose<perm=[1,0]>(w) b = Transpose(v) c = MatMul(x, a) d = MatMul(x, b) y = Add(c, d)
    }"""
    weight = np.random.default_rng(0).standard_normal((100, 200), dtype=np.float32)
    return storage.load(onnx_file(tmp_path / "g.onnx", text, w=weight, v=weight))


def test_a_large_weight_is_turned_when_it_is_written(turning: ir.Model, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 200), dtype=np.float32)
    storage.save_whole(turning, tmp_path / "in.onnx")
    before = reference.runner(tmp_path / "in.onnx")({"x": x})
    assert FoldConstants()(turning).modified
    assert [node.op_type for node in turning.graph] == ["MatMul", "MatMul", "Add"]
    weights = [node.inputs[1].const_value for node in turning.graph if node.op_type == "MatMul"]  # type: ignore[union-attr]
    assert all(isinstance(tensor, TurnedTensor) and tuple(tensor.shape) == (200, 100) for tensor in weights)
    for write in (storage.save, storage.save_whole):
        write(turning, tmp_path / "out.onnx")
        after = reference.runner(tmp_path / "out.onnx")({"x": x})
        np.testing.assert_allclose(after["y"], before["y"], rtol=1e-5, atol=1e-4)


def test_equal_weights_are_one_once_they_are_turned(turning: ir.Model) -> None:
    FoldConstants()(turning)
    assert MergeDuplicates()(turning).modified
    assert len(turning.graph.initializers) == 1


def test_a_weight_that_something_else_uses_is_not_turned(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[n,200] x) => (float[n,200] y) { a = Transpose(w) c = MatMul(x, a) y = MatMul(c, w) }"""
    weight = np.ones((200, 200), np.float32)
    assert not FoldConstants()(storage.load(onnx_file(tmp_path / "g.onnx", text, w=weight))).modified

"""LiftConstants: every constant is an initializer of the main graph, under a name of its own."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.lift_constants import LiftConstants


@pytest.mark.parametrize(
    ("constant", "dtype"),
    [
        ("value = float[4] {1.0,2.0,3.0,4.0}", "float"),
        ("value_float = 2.5", "float"),
        ("value_floats = [1.0,2.0,3.0,4.0]", "float"),
        ("value_int = 3", "int64"),
        ("value_ints = [1,2,3,4]", "int64"),
    ],
)
def test_lifts(
    constant: str, dtype: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray
) -> None:
    text = f"g ({dtype}[n,4] x) => ({dtype}[n,4] y) {{ c = Constant<{constant}>() y = Add(x, c) }}"
    model = rewrites(LiftConstants(), text, feed={"x": x.astype(np.float32 if dtype == "float" else np.int64)})
    assert ops(model) == {"Add": 1}
    assert list(model.graph.initializers) == ["c"]


@pytest.mark.parametrize("words", ['value_string = "one"', 'value_strings = ["one", "two"]'])
def test_text(words: str, graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]]) -> None:
    model = graph(f"g () => (string[] y) {{ c = Constant<{words}>() y = Identity(c) }}")
    before = infer(model)
    assert LiftConstants()(model).modified
    np.testing.assert_array_equal(infer(model)[0], before[0])


def test_an_output_stays_a_node(keeps: Callable[..., ir.Model]) -> None:
    keeps(LiftConstants(), "g () => (float[1] y) { y = Constant<value = float[1] {1.0}>() }")


def test_names_of_branches(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    """What was local to one branch must not be hidden by a name of the other."""
    text = """g (bool c, float[n,4] x) => (float[n,4] y) {
      y = If(c) <
        then_branch = t () => (float[n,4] a) { one = Constant<value = float {1.0}>() a = Add(x, one) },
        else_branch = e () => (float[n,4] b) {
          k = Constant<value = float {5.0}>()
          one = Neg(x)
          one_1 = Exp(one)
          b = Add(one_1, k)
        }
      >
    }"""
    for condition in (True, False):
        model = rewrites(LiftConstants(), text, feed={"c": np.array(condition), "x": x})
        assert ops(model) == {"If": 1, "Add": 2, "Neg": 1, "Exp": 1}
        names = [value.name for graph in model.graphs() for value in graph.initializers.values()]
        names += [value.name for node in model.graph.all_nodes() for value in node.outputs]
        assert len(set(names)) == len(names)
        assert len(model.graph.initializers) == 2


def test_weights_outside_stay_there(tmp_path, graph: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x) => (float[] y) { c = Constant<value = float {1.0}>() a = MatMul(x, w) y = Add(a, c) }"
    ir.save(graph(text, w=np.zeros((4, 600), np.float32)), tmp_path / "m.onnx", external_data="m.data")
    model = ir.load(tmp_path / "m.onnx")
    assert LiftConstants()(model).modified
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)

"""UpgradeOpset: old graphs speak a newer opset and compute the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planc.passes.upgrade_opset import _WIDENED, _WIDENED_FROM, _WIDENED_TO, UpgradeOpset

OPSET_9 = """\
<ir_version: 4, opset_import: ["": 9]>
g (float[1,3,4,4] x) => (float[1,6,8,8] y) {
  n = BatchNormalization<epsilon=0.001>(x, scale, shift, mean, var)
  s = Softmax<axis=1>(n)
  c = Clip<min=0.0, max=6.0>(n)
  j = Concat<axis=1>(s, c)
  y = Upsample<mode="nearest">(j, scales)
}
"""
OPSET_13 = """\
<ir_version: 7, opset_import: ["": 13]>
g (float[2,6] x) => (float[2,1] y) {
  axes = Constant<value = int64[1] {1}>()
  s = ReduceSum<keepdims=1>(x, axes)
  y = Sqrt(s)
}
"""


@pytest.fixture
def nine(onnx_file: Callable[..., Path], tmp_path: Path) -> ir.Model:
    ones = np.array([0.5, 1.0, 2.0], np.float32)
    arrays = {"scale": ones, "shift": ones, "mean": ones, "var": ones, "scales": np.array([1, 1, 2, 2], np.float32)}
    return ir.load(onnx_file(tmp_path / "nine.onnx", OPSET_9, **arrays))


def test_opset_9(nine: ir.Model, infer: Callable[..., list[Any]]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4), dtype=np.float32) * 4
    before = infer(nine, x=x)
    assert UpgradeOpset()(nine).modified
    assert nine.opset_imports[""] == 20
    assert "Upsample" not in [node.op_type for node in nine.graph]
    np.testing.assert_allclose(infer(nine, x=x)[0], before[0], rtol=1e-5, atol=1e-6)
    assert not UpgradeOpset()(nine).modified


def test_opset_13(onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]) -> None:
    model = ir.load(onnx_file(tmp_path / "g.onnx", OPSET_13))
    x = np.random.default_rng(0).uniform(size=(2, 6)).astype(np.float32)
    before = infer(model, x=x)
    assert UpgradeOpset()(model).modified
    assert model.opset_imports[""] == 20
    np.testing.assert_allclose(infer(model, x=x)[0], before[0], rtol=1e-6)


def test_a_new_enough_model_is_left_alone(conv_model: ir.Model) -> None:
    UpgradeOpset()(conv_model)
    assert conv_model.opset_imports[""] == 20
    assert not UpgradeOpset()(conv_model).modified


def test_a_model_that_is_too_old_is_left_alone(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    """Below opset 9 the same words mean other things."""
    text = '<ir_version: 3, opset_import: ["": 8]> g (float[2,6] x) => (float[2,6] y) { y = Softmax<axis=1>(x) }'
    model = ir.load(onnx_file(tmp_path / "g.onnx", text))
    assert not UpgradeOpset()(model).modified
    assert model.opset_imports[""] == 8


def test_a_model_of_other_domains_only(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["com.microsoft": 1]> g (float[n] x) => (float[n] y) '
    model = ir.load(onnx_file(tmp_path / "g.onnx", text + "{ y = com.microsoft.Gelu(x) }"))
    assert not UpgradeOpset()(model).modified


def test_least_is_an_option(conv_model: ir.Model, image: np.ndarray, infer: Callable[..., list[Any]]) -> None:
    before = infer(conv_model, x=image)
    assert not UpgradeOpset(least=18)(conv_model).modified
    assert UpgradeOpset(least=19)(conv_model).modified
    assert conv_model.opset_imports[""] == 19
    np.testing.assert_allclose(infer(conv_model, x=image)[0], before[0], rtol=1e-5)


@pytest.mark.parametrize(
    "line",
    ["y = Hardmax<axis=1>(x)", 'y = Upsample<mode="linear">(x, s)', "y = Resize(x, s)"],
)
def test_operators_that_the_converter_misreads_keep_the_model_as_it_is(
    line: str, onnx_file: Callable[..., Path], tmp_path: Path
) -> None:
    opset = 10 if "Resize" in line else 9
    text = f'<ir_version: 4, opset_import: ["": {opset}]> g (float[1,2,3,4] x) => (float[n,c,h,w] y) {{ {line} }}'
    model = ir.load(onnx_file(tmp_path / "g.onnx", text, s=np.array([1, 1, 2, 2], np.float32)))
    assert not UpgradeOpset()(model).modified
    assert model.opset_imports[""] == opset


def test_a_default_is_no_constant_to_the_converter(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    """It infers shapes on its way, as if the caller could not give another one."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] x, int64[2] c) => (float[a,b] y) { z = Reshape(x, c) y = Neg(z) }"""
    model = ir.load(onnx_file(tmp_path / "g.onnx", text, c=np.array([-1, 4])))
    assert UpgradeOpset()(model).modified
    assert model.graph[0].outputs[0].shape is None
    assert str(model.graph.outputs[0].shape) == "[a,b]"


@pytest.mark.parametrize("name", sorted(_WIDENED))
def test_operators_that_were_widened_only(name: str) -> None:
    """Each newer version takes all that the one before takes, and means the same by it."""
    newest = onnx.defs.get_schema(name, _WIDENED_TO)
    history = onnx.defs.get_all_schemas_with_history()
    since = {one.since_version for one in history if (one.domain, one.name) == ("", name)}
    for opset in (one for one in range(_WIDENED_FROM, _WIDENED_TO) if min(since) <= one):
        old = onnx.defs.get_schema(name, opset)
        ends = (*zip(old.inputs, newest.inputs, strict=False), *zip(old.outputs, newest.outputs, strict=True))
        assert all((one.name, one.option) == (other.name, other.option) for one, other in ends)
        assert all(one.types <= other.types for one, other in ends)
        assert all(one.option.name == "Optional" for one in newest.inputs[len(old.inputs) :])
        for key, attribute in old.attributes.items():
            assert newest.attributes[key].default_value == attribute.default_value
        assert not any(newest.attributes[key].required for key in newest.attributes.keys() - old.attributes.keys())


def test_only_the_number_changes_where_no_operator_does(
    onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]
) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[2,6] x) => (float[a,b] y) {
      p = Pad(x, around) s = Shape<start=0>(p) r = Reshape(p, s) c = Cast<to=1>(r) i = Identity(c)
      left, right = Split<axis=1>(i, sizes)
      y = Relu(left)
    }"""
    arrays = {"around": np.array([0, 1, 0, 1]), "sizes": np.array([3, 5])}
    model = ir.load(onnx_file(tmp_path / "g.onnx", text, **arrays))
    nodes, x = list(model.graph), np.random.default_rng(0).standard_normal((2, 6), dtype=np.float32)
    before = infer(model, x=x)
    assert UpgradeOpset()(model).modified
    assert model.opset_imports[""] == 20 and list(model.graph) == nodes
    np.testing.assert_array_equal(infer(model, x=x)[0], before[0])


@pytest.mark.parametrize("inputs", ["x", "x, "])
def test_a_split_that_is_not_told_the_sizes_is_told_their_number(
    inputs: str, onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]
) -> None:
    """Opset 18 wants either; an optional input without a name is none."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[2,6] x) => (float[2,3] y, float[2,3] z) { y, z = Split<axis=1>(x) }"""
    model = ir.load(onnx_file(tmp_path / "g.onnx", text))
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    before = infer(model, x=x)
    if inputs != "x":
        model.graph[0].resize_inputs(2)
    assert UpgradeOpset()(model).modified
    assert model.graph[0].attributes.get_int("num_outputs") == 2
    for one, other in zip(infer(model, x=x), before, strict=True):
        np.testing.assert_array_equal(one, other)

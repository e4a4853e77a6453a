"""InlineFunctions: a call of a model-local function becomes its body."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from planc.passes.inline_functions import InlineFunctions

TEXT = """\
<ir_version: 8, opset_import: ["": 18, "local": 1]>
g (float[n] x) => (float[n] y) {
  a = local.double(x)
  y = local.twice(a)
}
<domain: "local", opset_import: ["": 18]>
double (x) => (y) { y = Add(x, x) }
<domain: "local", opset_import: ["": 18, "local": 1]>
twice (x) => (y) { a = local.double(x) y = local.double(a) }
"""


def test_nested_functions(onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]) -> None:
    model = ir.load(onnx_file(tmp_path / "g.onnx", TEXT))
    x = np.array([1, 2, 3], np.float32)
    before = infer(model, x=x)
    np.testing.assert_array_equal(before[0], 8 * x)
    assert InlineFunctions()(model).modified
    assert not model.functions
    assert [node.op_type for node in model.graph] == ["Add"] * 3
    np.testing.assert_array_equal(infer(model, x=x)[0], before[0])
    assert not InlineFunctions()(model).modified


def test_a_model_without_functions(conv_model: ir.Model) -> None:
    assert not InlineFunctions()(conv_model).modified

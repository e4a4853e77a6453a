"""RemoveUnused: what no output needs goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from planc.passes.remove_unused import RemoveUnused

TEXT = """\
<ir_version: 8, opset_import: ["": 18, "local": 1, "com.example": 3]>
g (float[n] x) => (float[n] y) {
  dead = Exp(x)
  deader = Add(dead, unused)
  y = Add(x, used)
}
<domain: "local", opset_import: ["": 18]>
never (x) => (y) { y = Add(x, x) }
"""


def test_removes(onnx_file: Callable[..., Path], tmp_path: Path, infer: Callable[..., list[Any]]) -> None:
    one = np.ones(1, np.float32)
    model = ir.load(onnx_file(tmp_path / "g.onnx", TEXT, used=one, unused=one))
    x = np.array([1, 2, 3], np.float32)
    before = infer(model, x=x)
    assert len(list(model.graph)) == 3
    assert RemoveUnused()(model).modified
    assert [node.op_type for node in model.graph] == ["Add"]
    assert list(model.graph.initializers) == ["used"]
    assert not model.functions
    assert dict(model.opset_imports) == {"": 18}
    np.testing.assert_array_equal(infer(model, x=x)[0], before[0])
    assert not RemoveUnused()(model).modified


def test_an_unused_input_stays(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[n] x, float[n] extra) => (float[n] y) { y = Neg(x) }'
    model = ir.load(onnx_file(tmp_path / "g.onnx", text))
    RemoveUnused()(model)
    assert [value.name for value in model.graph.inputs] == ["x", "extra"]


def test_inputs_that_must_be_there_though_empty_stay(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    """A Loop without a condition has two inputs, the second empty."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (int64 m) => (float[k] y) {
      y = Loop(m) <body = b (int64 i, bool c) => (bool d, float w) { d = Identity(c) w = Cast<to=1>(i) }>
    }"""
    model = ir.load(onnx_file(tmp_path / "g.onnx", text))
    model.graph.node(0).resize_inputs(3)
    RemoveUnused()(model)
    assert len(model.graph.node(0).inputs) == 2

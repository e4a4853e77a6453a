"""FoldConstants: what depends on constants only becomes a constant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from planc.passes.fold_constants import FoldConstants

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

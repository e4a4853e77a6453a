"""bfloat16 by rounding, held against NumPy with ml_dtypes."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

from planc.compiler import emulate, storage
from planc.passes import ConvertPrecision, InferShapes

TEXT = """<ir_version: 10, opset_import: ["": 22]> g (float[n,4] x) => (float[n,3] y) {
  m = MatMul(x, w)
  r = Relu(m)
  y = MatMul(r, v)
}"""


def _round(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_each_result_is_rounded(
    onnx_file: Callable[..., Path], infer: Callable[..., list[np.ndarray]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal((4, 6), np.float32), rng.standard_normal((6, 3), np.float32)
    x = rng.standard_normal((2, 4), np.float32)
    model = storage.load(onnx_file(tmp_path / "g.onnx", TEXT, w=w, v=v))
    InferShapes()(model)
    assert ConvertPrecision(dtype="bfloat16")(model).modified
    assert ir.DataType.BFLOAT16 in {value.dtype for node in model.graph for value in node.outputs}
    made = emulate.widen(model)
    assert {node.op_type for node in made.graph} == {"Cast", "MatMul", "Relu"}
    (found,) = infer(made, x=x)
    hidden = np.maximum(_round(_round(x) @ _round(w)), 0)
    np.testing.assert_allclose(found, _round(hidden @ _round(v)), rtol=2**-8)
    assert not np.allclose(found, np.maximum(x @ w, 0) @ v, rtol=1e-4)

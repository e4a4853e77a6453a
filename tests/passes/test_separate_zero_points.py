"""SeparateZeroPoints: what weights share is copied, what activations have is not."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from planc.passes.separate_zero_points import SeparateZeroPoints

W = np.random.default_rng(0).integers(-127, 128, (4, 4)).astype(np.int8)
TEXT = """g (float[n,4] x) => (float[n,4] y) {
  a = DequantizeLinear(v, s, z) b = DequantizeLinear(w, t, z) q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
  m = MatMul(d, a) y = MatMul(m, b)
}"""


def test_each_weight_has_its_own(rewrites: Callable[..., ir.Model]) -> None:
    feed = {"x": np.ones((2, 4), np.float32)}
    scales = {"s": np.float32(0.01), "t": np.float32(0.02), "z": np.int8(3)}
    model = rewrites(SeparateZeroPoints(), TEXT, feed=feed, v=W, w=W[::-1].copy(), **scales)
    zeros = [node.inputs[2].name for node in model.graph if node.op_type in ("DequantizeLinear", "QuantizeLinear")]
    assert sorted(zeros) == ["z", "z", "z", "z_1"]


def test_one_that_nothing_shares_stays(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { a = DequantizeLinear(v, s, z) y = MatMul(x, a) }"
    keeps(SeparateZeroPoints(), text, v=W, s=np.float32(0.01), z=np.int8(0))

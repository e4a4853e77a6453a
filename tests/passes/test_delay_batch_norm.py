"""DelayBatchNorm: behind a MaxPool there are fewer values; a channel turned around would have another maximum."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.delay_batch_norm import DelayBatchNorm
from planc.passes.infer_shapes import InferShapes

RNG = np.random.default_rng(0)
X = {"x": RNG.standard_normal((2, 3, 8, 8), dtype=np.float32)}
ARRAYS = {name: abs(RNG.standard_normal(3, dtype=np.float32)) + 0.1 for name in ("s", "b", "m", "v")}
POOL = "MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>"


def _text(body: str, outputs: str = "float[n,3,h,v] y") -> str:
    return f"g (float[n,3,8,8] x) => ({outputs}) {{ {body} }}"


@pytest.mark.parametrize("body", [f"a = BatchNormalization(x, s, b, m, v) y = {POOL}(a)",
                                  f"a = BatchNormalization(x, s, b, m, v) q = {POOL}(a) y = Relu(q)"])  # fmt: skip
def test_moves_to_the_last_bit(
    body: str, graph: Callable[..., ir.Model], infer: Callable[..., list[Any]], rewrites: Callable[..., ir.Model]
) -> None:
    model = graph(_text(body), **ARRAYS)
    before = infer(model, **X)[0]
    moved = rewrites(DelayBatchNorm(), model, feed=X)
    assert [node.op_type for node in moved.graph][:2] == ["MaxPool", "BatchNormalization"]
    np.testing.assert_array_equal(infer(moved, **X)[0], before)


REASONS = {
    "a channel is not scaled by a positive number": (f"a = BatchNormalization(x, n, b, m, v) y = {POOL}(a)", None),
    "has 2 uses": (f"a = BatchNormalization(x, s, b, m, v) c = {POOL}(a) d = {POOL}(a) y = Add(c, d)", None),
    "is an output of the graph": (
        f"a = BatchNormalization(x, s, b, m, v) y = {POOL}(a)", "float[n,3,h,v] y, float[n,3,8,8] a",
    ),
    "stands where MaxPool is looked for": (
        f"a = BatchNormalization(x, s, b, m, v) q, i = {POOL}(a) y = Identity(q)",
        "float[n,3,h,v] y, int64[n,3,h,v] i",
    ),
    "the scale is not constant": (f"k = Relu(s) a = BatchNormalization(x, k, b, m, v) y = {POOL}(a)", None),
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_what_would_change_stays(
    reason: str, graph: Callable[..., ir.Model], keeps: Callable[..., ir.Model]
) -> None:  # fmt: skip
    body, outputs = REASONS[reason]
    arrays = {**ARRAYS, "n": np.float32([1, -1, 1])}
    used = {name: array for name, array in arrays.items() if f" {name}," in body or f" {name})" in body}
    used |= {"s": ARRAYS["s"]} if "Relu(s)" in body else {}
    model = graph(_text(body, *([outputs] if outputs else [])), **used)
    keeps(DelayBatchNorm(), model)
    InferShapes()(model)
    ((node, told),) = DelayBatchNorm().near_misses(model)
    assert node.op_type == "BatchNormalization"
    assert reason in told

"""FuseScaleConv: what scales or shifts the input of a convolution goes into it, but for a shift where it pads."""

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_scale_conv import FuseScaleConv
from planc.passes.infer_shapes import InferShapes

RNG = np.random.default_rng(0)
X = {"x": RNG.standard_normal((2, 4, 6, 6), dtype=np.float32)}
ARRAYS = {
    "w": RNG.standard_normal((6, 4, 3, 3), dtype=np.float32), "c": RNG.standard_normal(6, dtype=np.float32),
    "g": RNG.standard_normal((6, 2, 3, 3), dtype=np.float32), "d": RNG.standard_normal((4, 1, 3, 3), dtype=np.float32),
    "s": np.float32([[[[0.5]], [[-2]], [[3]], [[0.1]]]]), "b": np.float32([[[1]], [[2]], [[-3]], [[0.2]]]),
    "one": np.float32([0.3]), "two": np.array(-0.7, np.float32), "zero": np.float32([[[1]], [[0]], [[2]], [[3]]]),
}  # fmt: skip


def _text(body: str, x: str = "float[n,4,6,6] x") -> str:
    return f"g ({x}) => (float[n,o,h,v] y) {{ {body} }}"


def _used(body: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in ARRAYS.items() if re.search(rf"[( ]{name}[,)]", body)}


@pytest.mark.parametrize("conv", ["Conv(a, w)", "Conv(a, w, c)", "Conv<group=2, strides=[2,1]>(a, g)",
                                  "Conv<group=4, dilations=[2,1]>(a, d)"])  # fmt: skip
@pytest.mark.parametrize(
    "steps",
    ["a = Mul(x, s)", "a = Add(x, b)", "a = Sub(x, one)", "a = Div(x, s)", "t = Mul(x, one) a = Add(t, two)",
     "t = Sub(x, b) a = Div(t, s)", "t = Add(b, x) u = Mul(s, t) a = Add(u, two)"],
)  # fmt: skip
def test_folds(
    steps: str, conv: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:  # fmt: skip
    body = f"{steps} y = {conv}"
    assert ops(rewrites(FuseScaleConv(), _text(body), feed=X, rtol=1e-4, **_used(body))) == {"Conv": 1}


@pytest.mark.parametrize("pads", ["pads=[1,1,0,0]", 'auto_pad="SAME_UPPER"'])
@pytest.mark.parametrize(
    ("steps", "left"),
    [("a = Mul(x, s)", {}), ("t = Mul(x, s) a = Add(t, two)", {"Add": 1}),
     ("t = Mul(x, one) a = Sub(t, b)", {"Add": 1}),
     ("t = Sub(x, b) a = Div(t, s)", {"Sub": 1})],
)  # fmt: skip
def test_zeros_of_a_padding_are_not_shifted(
    steps: str, left: dict[str, int], pads: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    body = f"{steps} y = Conv<{pads}>(a, w)"
    assert ops(rewrites(FuseScaleConv(), _text(body), feed=X, rtol=1e-4, **_used(body))) == {"Conv": 1, **left}


def test_a_convolution_of_one_axis(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = "g (float[n,4,9] x) => (float[n,5,h] y) { t = Mul(x, s) a = Add(t, b) y = Conv(a, w) }"
    arrays = {"s": ARRAYS["b"][..., 0], "b": ARRAYS["b"][..., 0], "w": RNG.standard_normal((5, 4, 3), dtype=np.float32)}
    feed = {"x": RNG.standard_normal((2, 4, 9), dtype=np.float32)}
    assert ops(rewrites(FuseScaleConv(), text, feed=feed, rtol=1e-4, **arrays)) == {"Conv": 1}


REASONS = {
    "it pads with zeros, which are not shifted": "a = Add(x, b) y = Conv<pads=[1,1,1,1]>(a, w)",
    "something else needs the result of the Mul": "a = Mul(x, one) e = Conv(a, w) m = ReduceMean(a) y = Add(e, m)",
    "the constant is not one number per channel": "a = Mul(x, row) y = Conv(a, w)",
    "the operand 'k' (float[6,4,3,3]) of the Conv is no constant": "k = Relu(w) a = Mul(x, one) y = Conv(a, k)",
    "a channel is scaled by zero": "t = Mul(x, zero) a = Add(t, b) y = Conv<pads=[1,1,1,1]>(a, w)",
    "it divides by zero": "a = Div(x, zero) y = Conv(a, w)",
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_what_would_change_stays(
    reason: str, graph: Callable[..., ir.Model], keeps: Callable[..., ir.Model]
) -> None:  # fmt: skip
    body = REASONS[reason]
    arrays = _used(body)
    arrays |= {"row": RNG.standard_normal((6, 1), dtype=np.float32)} if "row" in body else {}
    model = graph(_text(body), **arrays)
    keeps(FuseScaleConv(), model)
    InferShapes()(model)
    ((node, told),) = FuseScaleConv().near_misses(model)
    assert (node.op_type, told) == ("Conv", reason)


def test_a_constant_that_makes_channels_stays(keeps: Callable[..., ir.Model]) -> None:
    """One channel times four numbers makes four."""
    keeps(FuseScaleConv(), _text("a = Mul(x, s) y = Conv(a, w)", x="float[n,1,6,6] x"), s=ARRAYS["s"], w=ARRAYS["w"])


def test_a_weight_of_two_convolutions_is_copied(rewrites: Callable[..., ir.Model]) -> None:
    body = "a = Mul(x, one) e = Conv(a, w) f = Conv(x, w) y = Add(e, f)"
    rewrites(FuseScaleConv(), _text(body), feed=X, rtol=1e-4, **_used(body))


def test_float16_that_would_overflow_stays(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float16[n,4,6,6] x) => (float16[n,6,h,v] y) { a = Mul(x, s) y = Conv(a, w) }"
    keeps(FuseScaleConv(), text, s=np.float16([30000]), w=(ARRAYS["w"] * 10).astype(np.float16))

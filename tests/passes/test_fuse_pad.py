"""FusePad: a padding with zeros goes into the convolution; any other padding stays."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_pad import FusePad

PADS = np.array([0, 0, 1, 2, 0, 0, 3, 1])


def _weights(shape: tuple[int, ...] = (4, 3, 3, 3)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _text(body: str, inputs: str = "float[n,3,8,8] x") -> str:
    return f"g ({inputs}) => (float[n,4,h,v] y) {{ {body} }}"


@pytest.mark.parametrize("conv", ["y = Conv(q, w)", "y = Conv<pads=[1,0,0,2], strides=[2,1]>(q, w)"])
def test_fuses(
    conv: str,
    rewrites: Callable[..., ir.Model],
    ops: Callable[..., Counter[str]],
    image: np.ndarray,
) -> None:
    text = _text(f"q = Pad(x, p) {conv}")
    model = rewrites(FusePad(), text, feed={"x": image}, rtol=1e-4, p=PADS, w=_weights())
    assert ops(model) == {"Conv": 1}


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("more", ["", ", strides=[2,3]"])
def test_auto_pad(
    auto_pad: str, more: str, graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]], image: np.ndarray
) -> None:
    """Paddings are spelled out where that is right; a result never changes."""
    from planc.passes.infer_shapes import InferShapes

    model = graph(_text(f'y = Conv<auto_pad="{auto_pad}"{more}>(x, w)'), w=_weights())
    InferShapes()(model)
    before = infer(model, x=image)[0]
    FusePad()(model)
    np.testing.assert_allclose(infer(model, x=image)[0], before, rtol=1e-4, atol=1e-5)
    assert not FusePad()(model).modified


def test_auto_pad_of_a_dilated_kernel_stays(keeps: Callable[..., ir.Model]) -> None:
    """onnxscript's rule computes the paddings of a dense kernel for it."""
    keeps(FusePad(), _text('y = Conv<auto_pad="SAME_UPPER", dilations=[2,2]>(x, w)'), w=_weights())


@pytest.mark.parametrize(
    "body",
    [
        'q = Pad<mode="reflect">(x, p) y = Conv(q, w)',
        "q = Pad(x, p, one) y = Conv(q, w)",
        'q = Pad(x, p) y = Conv<auto_pad="SAME_UPPER">(q, w)',
        "q = Pad(x, batch) y = Conv(q, w)",
        "q = Pad(x, crop) y = Conv(q, w)",
        "q = Pad(x, p) z = Neg(q) r = Conv(q, w) c = Conv(z, w) y = Add(r, c)",
    ],
    ids=["reflect", "with ones", "auto_pad", "batch", "crop", "used twice"],
)
def test_keeps(body: str, graph: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    batch, crop = PADS.copy(), PADS.copy()
    batch[0], crop[2] = 1, -1
    model = graph(_text(body), p=PADS, w=_weights(), one=np.array(1, np.float32), batch=batch, crop=crop)
    FusePad()(model)
    assert ops(model)["Pad"] == 1


def test_pads_that_the_caller_gives(keeps: Callable[..., ir.Model]) -> None:
    text = _text("q = Pad(x, p) y = Conv(q, w)", "float[n,3,8,8] x, int64[8] p")
    keeps(FusePad(), text, p=PADS, w=_weights())


def test_an_integer_convolution_pads_with_its_zero_point(
    graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]]
) -> None:
    x = np.random.default_rng(0).integers(0, 255, (1, 3, 8, 8), dtype=np.uint8)
    w = np.random.default_rng(1).integers(0, 255, (4, 3, 3, 3), dtype=np.uint8)
    text = "g (uint8[n,3,8,8] x) => (int32[n,4,h,v] y) { q = Pad(x, p) y = ConvInteger(q, w, zero) }"
    model = graph(text, p=PADS, w=w, zero=np.array(100, np.uint8))
    before = infer(model, x=x)[0]
    FusePad()(model)
    np.testing.assert_array_equal(infer(model, x=x)[0], before)


POOLED = {
    "average": "q = Pad(x, p) y = AveragePool<kernel_shape=[4,4]>(q)",
    "average that counts": "q = Pad(x, p) y = AveragePool<kernel_shape=[5,5], pads=[1,1,1,1], count_include_pad=1>(q)",
    "average of VALID": 'q = Pad(x, p) y = AveragePool<kernel_shape=[4,4], strides=[2,1], auto_pad="VALID">(q)',
    "average, with zeros": "q = Pad(x, p, zero) y = AveragePool<kernel_shape=[4,4]>(q)",
    "average, with axes": "q = Pad(x, some, , axes) y = AveragePool<kernel_shape=[4,4]>(q)",
    "maximum": "q = Pad(x, p, low) y = MaxPool<kernel_shape=[4,4], strides=[2,2]>(q)",
    "maximum with padding": "q = Pad(x, p, low) y = MaxPool<kernel_shape=[5,5], pads=[1,0,1,2]>(q)",
}


@pytest.mark.parametrize("name", POOLED)
def test_pools(
    name: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], image: np.ndarray
) -> None:
    text = f"g (float[n,3,8,8] x) => (float[n,3,h,v] y) {{ {POOLED[name]} }}"
    arrays = {
        "p": PADS, "zero": np.float32([0]), "low": np.array(-np.inf, np.float32), "some": np.array([2, 1, 0, 3]),
        "axes": np.array([-1, 2]),
    }  # fmt: skip
    model = rewrites(FusePad(), text, feed={"x": image}, **arrays)
    assert sum(ops(model).values()) == 1


@pytest.mark.parametrize("op", ["Relu", "Sigmoid"])
def test_zeros_before_a_maximum(
    op: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], image: np.ndarray
) -> None:
    """The stem of a ResNet in Keras: zeros are no greater than what a Relu gives."""
    text = (
        f"g (float[n,3,8,8] x) => (float[n,3,h,v] y) {{ r = {op}(x) q = Pad(r, p) y = MaxPool<kernel_shape=[4,4]>(q) }}"
    )
    assert ops(rewrites(FusePad(), text, feed={"x": image - 3}, p=PADS)) == {op: 1, "MaxPool": 1}


UNPOOLED = {
    "ones": "q = Pad(x, p, one) y = AveragePool<kernel_shape=[4,4]>(q)",
    "reflect": 'q = Pad<mode="reflect">(x, p) y = AveragePool<kernel_shape=[4,4]>(q)',
    "padding that is not counted": "q = Pad(x, p) y = AveragePool<kernel_shape=[4,4], pads=[1,1,1,1]>(q)",
    "ceil_mode": "q = Pad(x, p) y = AveragePool<kernel_shape=[4,4], strides=[2,2], ceil_mode=1>(q)",
    "dilations": "q = Pad(x, p, low) y = MaxPool<kernel_shape=[4,4], dilations=[2,2]>(q)",
    "auto_pad": 'q = Pad(x, p) y = AveragePool<kernel_shape=[4,4], auto_pad="SAME_UPPER">(q)',
    "a window of padding": "q = Pad(x, p) y = AveragePool<kernel_shape=[3,3]>(q)",
    "zeros before a maximum": "q = Pad(x, p) y = MaxPool<kernel_shape=[4,4]>(q)",
    "zeros behind a Tanh": "r = Tanh(x) q = Pad(r, p) y = MaxPool<kernel_shape=[4,4]>(q)",
    "channels": "q = Pad(x, channels) y = AveragePool<kernel_shape=[4,4]>(q)",
    "crop": "q = Pad(x, crop) y = AveragePool<kernel_shape=[4,4]>(q)",
    "the caller's": "q = Pad(x, given) y = AveragePool<kernel_shape=[4,4]>(q)",
    "used twice": """q = Pad(x, p) z = AveragePool<kernel_shape=[4,4]>(q) u = MaxPool<kernel_shape=[4,4]>(q)
      y = Add(z, u)""",
    "indices": "q = Pad(x, p, low) z, i = MaxPool<kernel_shape=[4,4]>(q) j = Cast<to=1>(i) y = Add(z, j)",
}


@pytest.mark.parametrize("name", UNPOOLED)
def test_pools_that_pad_otherwise(name: str, graph: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    crop, channels = PADS.copy(), PADS.copy()
    crop[2], channels[1] = -1, 1
    text = f"g (float[n,3,8,8] x, int64[8] given) => (float[a,b,h,v] y) {{ {UNPOOLED[name]} }}"
    low, one = np.array(-np.inf, np.float32), np.array(1, np.float32)
    model = graph(text, p=PADS, low=low, one=one, crop=crop, channels=channels)
    before = ops(model)
    assert list(FusePad().near_misses(model))
    assert not FusePad()(model).modified
    assert ops(model) == before


def test_pools_in_a_branch(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], image: np.ndarray
) -> None:
    text = """g (bool c, float[n,3,8,8] x) => (float[n,3,h,v] y) {
      o = Pad(x, p)
      y = If(c) <
        then_branch = t () => (float[n,3,h,v] a) { q = Pad(x, p) a = AveragePool<kernel_shape=[4,4]>(q) },
        else_branch = e () => (float[n,3,h,v] b) { b = AveragePool<kernel_shape=[4,4]>(o) }
      >
    }"""
    for condition in (True, False):
        model = rewrites(FusePad(), text, feed={"c": np.array(condition), "x": image}, p=PADS)
        assert ops(model)["Pad"] == 1


@pytest.mark.parametrize("last", ["Conv(q, w)", "AveragePool<kernel_shape=[3,3]>(q)"])
def test_paddings_of_old_opsets_are_an_attribute(last: str, graph: Callable[..., ir.Model]) -> None:
    text = f"""<ir_version: 6, opset_import: ["": 10]>
    g (float[n,3,8,8] x) => (float[n,c,h,v] y) {{ q = Pad<pads=[0,0,1,1,0,0,1,1]>(x) y = {last} }}"""
    model = graph(text, w=_weights())
    assert not FusePad()(model).modified
    ((_, reason),) = FusePad().near_misses(model)
    assert reason


def test_near_misses(graph: Callable[..., ir.Model]) -> None:
    model = graph(_text('q = Pad<mode="reflect">(x, p) y = Conv(q, w)'), p=PADS, w=_weights())
    ((node, reason),) = FusePad().near_misses(model)
    assert node.op_type == "Conv"
    assert "mode must be 'constant'" in reason
    assert list(FusePad().near_misses(graph(_text("y = Conv(x, w)"), w=_weights()))) == []

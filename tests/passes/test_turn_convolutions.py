"""TurnConvolutions: a convolution along a column of width 1 becomes one along a row; chains of them lose Transposes."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.push_transposes import PushTransposes
from planc.passes.turn_convolutions import TurnConvolutions

X = {"x": np.random.default_rng(0).standard_normal((2, 4, 16, 1), dtype=np.float32)}


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def _text(body: str, x: str = "float[n,4,16,1] x", y: str = "float[n,c,h,v] y") -> str:
    return f"g ({x}) => ({y}) {{ {body} }}"


def _kernels(model: ir.Model) -> list[list[int]]:
    convs = [node for node in model.graph if node.op_type == "Conv"]
    return [list(node.inputs[1].shape.numpy())[2:] for node in convs if node.inputs[1] is not None]


@pytest.mark.parametrize(
    "conv",
    [
        "y = Conv(x, w)",
        "y = Conv<kernel_shape=[5,1], pads=[2,0,1,0], strides=[3,1]>(x, w)",
        "y = Conv<dilations=[2,7], strides=[1,9]>(x, w, b)",
        'y = Conv<auto_pad="SAME_UPPER", strides=[2,1]>(x, w)',
    ],
)
def test_turns(conv: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    model = rewrites(TurnConvolutions(), _text(conv), feed=X, rtol=1e-4, w=_weights(6, 4, 5, 1), b=_weights(6))
    assert ops(model) == {"Conv": 1, "Transpose": 2}
    assert _kernels(model) == [[1, 5]]


def test_groups_and_a_length_that_is_not_known(rewrites: Callable[..., ir.Model]) -> None:
    text = _text("y = Conv<group=4>(x, w)", x="float[n,4,length,1] x")
    assert _kernels(rewrites(TurnConvolutions(), text, feed=X, rtol=1e-4, w=_weights(8, 1, 3, 1))) == [[1, 3]]


CHAINS = {
    "pool": "q = MaxPool<kernel_shape=[2,1], strides=[2,1]>(r)",
    "norm": "q = BatchNormalization(r, s, s, s, s)",
    "average": "q = AveragePool<kernel_shape=[3,1], pads=[1,0,1,0], count_include_pad=1>(r)",
    "global": "m = GlobalAveragePool(r) q = Mul(r, m)",
    "instance": "q = InstanceNormalization(r, s, s)",
    "padding": "q = Pad(r, p)",
    "skip": "q = Add(r, a)",
    "vector": "q = Mul(r, v)",
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_has_one_at_each_end(
    name: str, graph: Callable[..., ir.Model], rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    """What works on each channel is no hindrance."""
    body = f"a = Conv(x, w) r = Relu(a) {CHAINS[name]} y = Conv(q, u)"
    arrays = {"w": _weights(6, 4, 3, 1), "u": _weights(6, 6, 5, 1), "s": abs(_weights(6)), "v": _weights(6, 1, 1)}
    model = graph(_text(body), **arrays, p=np.array([0, 0, 1, 0, 0, 0, 2, 0]))
    turned = rewrites(TurnConvolutions(), model, feed=X, rtol=1e-4)
    assert ops(turned)["Transpose"] == 4
    pushed = rewrites(PushTransposes(), turned, feed=X, rtol=1e-4)
    assert ops(pushed)["Transpose"] == 2
    assert _kernels(pushed) == [[1, 3], [1, 5]]


@pytest.mark.parametrize(
    ("body", "x"),
    [
        ("y = Conv(x, wide)", "float[n,4,16,16] x"),
        ("y = Conv(x, point)", "float[n,4,16,1] x"),
        ("y = Conv(x, w)", "float[n,4,16,width] x"),
        ("y = Conv<pads=[0,1,0,1]>(x, w)", "float[n,4,16,1] x"),
        ("k = Relu(w) y = Conv(x, k)", "float[n,4,16,1] x"),
    ],
)
def test_what_is_no_column_stays(body: str, x: str, keeps: Callable[..., ir.Model]) -> None:
    arrays = {"w": _weights(6, 4, 5, 1), "wide": _weights(6, 4, 5, 5), "point": _weights(6, 4, 1, 1)}
    used = {name: array for name, array in arrays.items() if f" {name})" in body or f"({name})" in body}
    keeps(TurnConvolutions(), _text(body, x=x), **used)


def test_the_reason_is_told(graph: Callable[..., ir.Model]) -> None:
    from planc.passes.infer_shapes import InferShapes

    model = graph(_text("k = Relu(w) y = Conv(x, k)"), w=_weights(6, 4, 5, 1))
    InferShapes()(model)
    ((node, reason),) = TurnConvolutions().near_misses(model)
    assert (node.op_type, reason) == ("Conv", "its weight is no constant, or is a large one")


def test_an_output_keeps_its_name_and_a_result_with_two_users_its_value(rewrites: Callable[..., ir.Model]) -> None:
    text = _text("y = Conv(x, w) z = Relu(y)", y="float[n,c,h,v] y, float[n,c,h,v] z")
    model = rewrites(TurnConvolutions(), text, feed=X, rtol=1e-4, w=_weights(6, 4, 5, 1))
    assert [value.name for value in model.graph.outputs] == ["y", "z"]

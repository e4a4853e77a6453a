"""MergeChains: two neighbours of one kind become one."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.merge_chains import MergeChains

CHAINS = {
    "transpose": ("a = Transpose<perm=[1,0,2]>(x) y = Transpose<perm=[2,1,0]>(a)", {"Transpose": 1}),
    "transpose and back": ("a = Transpose<perm=[1,0,2]>(x) y = Transpose<perm=[1,0,2]>(a)", {"Identity": 1}),
    "reshape": ("a = Reshape(x, flat) y = Reshape(a, wide)", {"Reshape": 1}),
    "unsqueeze": ("a = Unsqueeze(x, zero) y = Unsqueeze(a, zero)", {"Unsqueeze": 1}),
    "unsqueeze apart": ("a = Unsqueeze(x, three) y = Unsqueeze(a, zero)", {"Unsqueeze": 1}),
    "cast": ("a = Cast<to=1>(x) y = Cast<to=10>(a)", {"Cast": 1}),
}


def _numbers() -> dict[str, np.ndarray]:
    return {
        "flat": np.array([-1]), "wide": np.array([2, 12]), "zero": np.array([0]), "three": np.array([3]),
        "minus": np.array([-1]), "rest": np.array([0, -1]),
    }  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_merges(name: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    body, expected = CHAINS[name]
    dtype, of = ("double", "float16") if name == "cast" else ("float", "float")
    text = f"g ({dtype}[2,3,4] x) => ({of}[] y) {{ {body} }}"
    x = np.arange(24, dtype=np.float64 if name == "cast" else np.float32).reshape(2, 3, 4)
    count = ops(rewrites(MergeChains(), text, feed={"x": x}, **_numbers()))
    assert {key: number for key, number in count.items() if key != "Constant"} == expected


@pytest.mark.parametrize(
    "body",
    [
        "a = Cast<to=10>(x) y = Cast<to=1>(a)",
        "a = Cast<to=6>(x) y = Cast<to=1>(a)",
        "a = Unsqueeze(x, minus) y = Unsqueeze(a, zero)",
    ],
    ids=["through float16", "through int32", "negative axes"],
)
def test_keeps(body: str, keeps: Callable[..., ir.Model]) -> None:
    keeps(MergeChains(), f"g (float[2,3,4] x) => (float[] y) {{ {body} }}", **_numbers())


def test_a_middle_that_others_need(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[3,4] x) => (float[] y, float[] z) { a = Transpose(x) y = Transpose(a) z = Neg(a) }"
    keeps(MergeChains(), text.replace("(x)", "<perm=[1,0]>(x)").replace("(a)", "<perm=[1,0]>(a)", 1))


def test_zeros_of_a_second_reshape_mean_the_first(
    graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]], x: np.ndarray
) -> None:
    text = "g (float[n,4] x) => (float[] y) { a = Reshape(x, pairs) y = Reshape(a, rest) }"
    model = graph(text, pairs=np.array([-1, 2]), **_numbers())
    before = infer(model, x=x)[0]
    MergeChains()(model)
    np.testing.assert_array_equal(infer(model, x=x)[0], before)


@pytest.mark.parametrize(
    ("body", "other"),
    [
        ("a = Reshape(x, flat) y = Reshape(a, c)", [2, 12]),
        ("a = Unsqueeze(x, zero) y = Unsqueeze(a, c)", [0]),
        ("a = Unsqueeze(x, c) y = Unsqueeze(a, zero)", [0]),
    ],
    ids=["reshape", "unsqueeze", "unsqueeze first"],
)
def test_an_operand_that_the_caller_gives(
    body: str, other: list[int], graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]]
) -> None:
    default = np.array([4, 6]) if len(other) == 2 else np.array([1])
    model = graph(f"g (float[2,3,4] x, int64[{len(other)}] c) => (float[] y) {{ {body} }}", c=default, **_numbers())
    feed = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "c": np.array(other)}
    before = infer(model, **feed)[0]
    MergeChains()(model)
    np.testing.assert_array_equal(infer(model, **feed)[0], before)

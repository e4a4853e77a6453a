"""RemoveNoops: nodes whose output is one of their inputs go; whatever may change shape, dtype or values stays."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.remove_noops import RemoveNoops

NOOPS = {
    "add": "<float c = {0}> { a = Neg(x) b = Add(c, a) y = Neg(b) }",
    "add-ones": "<float[1,4] c = {0,0,0,0}> { a = Neg(x) b = Add(a, c) y = Neg(b) }",
    "sub": "<float c = {0}> { a = Neg(x) b = Sub(a, c) y = Neg(b) }",
    "mul": "<float[1] c = {1}> { a = Neg(x) b = Mul(a, c) y = Neg(b) }",
    "div": "<float c = {1}> { a = Neg(x) b = Div(a, c) y = Neg(b) }",
    "pow": "<float c = {1}> { a = Neg(x) b = Pow(a, c) y = Neg(b) }",
    "identity": "{ a = Neg(x) b = Identity(a) y = Neg(b) }",
    "cast": "{ a = Neg(x) b = Cast<to=1>(a) y = Neg(b) }",
    "clip": "{ a = Neg(x) b = Clip(a) y = Neg(b) }",
    "concat": "{ a = Neg(x) b = Concat<axis=1>(a) y = Neg(b) }",
    "max": "{ a = Neg(x) b = Max(a) y = Neg(b) }",
    "mean": "{ a = Neg(x) b = Mean(a) y = Neg(b) }",
    "sum": "{ a = Neg(x) b = Sum(a) y = Neg(b) }",
    "transpose": "{ a = Neg(x) b = Transpose<perm=[0,1]>(a) y = Neg(b) }",
    "tile": "<int64[2] c = {1,1}> { a = Neg(x) b = Tile(a, c) y = Neg(b) }",
    "pad": "<int64[4] c = {0,0,0,0}> { a = Neg(x) b = Pad(a, c) y = Neg(b) }",
    "expand": "<int64[2] c = {1,4}> { a = Neg(x) b = Expand(a, c) y = Neg(b) }",
    "expand-shorter": "<int64[1] c = {4}> { a = Neg(x) b = Expand(a, c) y = Neg(b) }",
    "reshape": "<int64[2] c = {0,4}> { a = Neg(x) b = Reshape(a, c) y = Neg(b) }",
    "flatten": "{ a = Neg(x) b = Flatten<axis=1>(a) y = Neg(b) }",
    "slice": "<int64[1] s = {0}, int64[1] e = {4}, int64[1] d = {-1}> { a = Neg(x) b = Slice(a, s, e, d) y = Neg(b) }",
    "slice-far": "<int64[2] s = {0,0}, int64[2] e = {2147483647,9223372036854775807}> "
    "{ a = Neg(x) b = Slice(a, s, e) y = Neg(b) }",
    "dropout": "{ a = Neg(x) b = Dropout(a) y = Neg(b) }",
    "dropout-mask-unused": "<float r = {0.5}, bool t = {0}> { a = Neg(x) b, m = Dropout(a, r, t) y = Neg(b) }",
}

OPS = {
    "add-that-broadcasts": "<float[1,1,4] c = {0,0,0,0}> { y = Add(x, c) z = Neg(y) }",
    "add-that-repeats": "<float[3,1,1] c = {0,0,0}> { y = Add(x, c) z = Neg(y) }",
    "add-one": "<float c = {1}> { y = Add(x, c) z = Neg(y) }",
    "sub-from-0": "<float c = {0}> { y = Sub(c, x) z = Neg(y) }",
    "div-of-1": "<float c = {1}> { y = Div(c, x) z = Neg(y) }",
    "pow-of-1": "<float c = {1}> { y = Pow(c, x) z = Neg(y) }",
    "mul-nearly-1": "<float c = {1.0000001}> { y = Mul(x, c) z = Neg(y) }",
    "mul-partly-1": "<float[4] c = {1,1,1,2}> { y = Mul(x, c) z = Neg(y) }",
    "cast": "{ y = Cast<to=11>(x) z = Neg(y) }",
    "clip": "<float c = {0}> { y = Clip(x, c) z = Neg(y) }",
    "clip-above": "<float c = {0}> { y = Clip(x, , c) z = Neg(y) }",
    "concat": "{ y = Concat<axis=0>(x, x) z = Neg(y) }",
    "transpose": "{ y = Transpose(x) z = Neg(y) }",
    "transpose-square": "{ y = Transpose<perm=[1,0]>(x) z = Neg(y) }",
    "tile": "<int64[2] c = {1,2}> { y = Tile(x, c) z = Neg(y) }",
    "pad": "<int64[4] c = {0,0,0,1}> { y = Pad(x, c) z = Neg(y) }",
    "expand": "<int64[3] c = {1,1,4}> { y = Expand(x, c) z = Neg(y) }",
    "reshape": "<int64[2] c = {4,-1}> { y = Reshape(x, c) z = Neg(y) }",
    "slice-from-1": "<int64[1] s = {1}, int64[1] e = {9}, int64[1] d = {1}> { y = Slice(x, s, e, d) z = Neg(y) }",
    "slice-backwards": "<int64[1] s = {0}, int64[1] e = {9223372036854775807}, int64[1] d = {1}, int64[1] t = {-1}> "
    "{ y = Slice(x, s, e, d, t) z = Neg(y) }",
    "slice-steps": "<int64[1] s = {0}, int64[1] e = {4}, int64[1] d = {1}, int64[1] t = {2}> "
    "{ y = Slice(x, s, e, d, t) z = Neg(y) }",
    "slice-of-a-name": "<int64[1] s = {0}, int64[1] e = {4}, int64[1] d = {0}> { y = Slice(x, s, e, d) z = Neg(y) }",
    "dropout-mask-used": "{ y, m = Dropout(x) z = Cast<to=1>(m) }",
    "dropout-training": "<float r = {0.5}, bool t = {1}> { y = Dropout(x, r, t) z = Neg(y) }",
}


@pytest.mark.parametrize("name", NOOPS)
def test_removes(name: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    model = rewrites(RemoveNoops(), f"g (float[n,4] x) => (float[n,4] y) {NOOPS[name]}", feed={"x": x})
    assert ops(model) == {"Neg": 2}


@pytest.mark.parametrize("name", OPS)
def test_keeps(name: str, keeps: Callable[..., ir.Model]) -> None:
    keeps(RemoveNoops(), f"g (float[n,4] x) => (z) {OPS[name]}".replace("(z)", "(float[] z)"))


@pytest.mark.parametrize("flag", ["training", "axes", "shape"])
def test_an_operand_that_the_caller_gives_is_no_constant(flag: str, keeps: Callable[..., ir.Model]) -> None:
    """An initializer that is a graph input too is only a default."""
    texts = {
        "training": "g (float[n,4] x, bool c) => (float[n,4] z) <float r = {0.5}> { y = Dropout(x, r, c) z = Neg(y) }",
        "axes": "g (float[4,6] x, int64[1] c) => (float[a,b] z) <int64[1] s = {0}, int64[1] e = {4}> "
        "{ y = Slice(x, s, e, c) z = Neg(y) }",
        "shape": "g (float[n,4] x, float[k] c) => (float[n,4] z) { y = Add(x, c) z = Neg(y) }",
    }
    defaults = {"training": np.array(False), "axes": np.array([0]), "shape": np.zeros(1, np.float32)}
    keeps(RemoveNoops(), texts[flag], c=defaults[flag])


def test_axes_of_a_slice_that_are_computed(keeps: Callable[..., ir.Model]) -> None:
    """Sizes of other axes say nothing."""
    keeps(
        RemoveNoops(),
        """g (float[4,6] x, int64[1] a) => (float[p,q] z) <int64[1] s = {0}, int64[1] e = {4}>
        { d = Neg(a) y = Slice(x, s, e, d) z = Neg(y) }""",
    )


def test_two_symbols_may_change_places(keeps: Callable[..., ir.Model]) -> None:
    keeps(
        RemoveNoops(),
        "g (float[n,m] x, int64[2] c) => (float[n,m] z) { y = Reshape(x, c) z = Neg(y) }",
    )


def test_a_graph_output_keeps_its_name(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray
) -> None:
    """The producer takes the name over; a graph input or another output cannot."""
    text = "g (float[n,4] x) => (float[n,4] y, float[n,4] z) { a = Neg(x) y = Identity(a) b = Exp(a) z = Identity(b) }"
    model = rewrites(RemoveNoops(), text, feed={"x": x})
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert ops(model) == {"Neg": 1, "Exp": 1}


@pytest.mark.parametrize(
    "body",
    [
        "(float[n,4] y) { y = Identity(x) }",
        "(float[n,4] y, float[n,4] z) { z = Neg(x) y = Identity(z) }",
        "(float[4] y) <float[4] w = {1,2,3,4}> { y = Identity(w) }",
    ],
    ids=["of an input", "of another output", "of a constant"],
)
def test_an_output_that_needs_its_node(body: str, keeps: Callable[..., ir.Model]) -> None:
    keeps(RemoveNoops(), f"g (float[n,4] x) => {body}")


def test_branches(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    """A branch must give out a value of its own, not one from outside."""
    text = """g (bool c, float[n,4] x) => (float[n,4] y) {
      o = Neg(x)
      y = If(c) <
        then_branch = t () => (float[n,4] a) { p = Exp(o) q = Identity(p) a = Identity(q) },
        else_branch = e () => (float[n,4] b) { b = Identity(o) }
      >
    }"""
    for condition in (True, False):
        model = rewrites(RemoveNoops(), text, feed={"c": np.array(condition), "x": x})
        assert ops(model) == {"Neg": 1, "If": 1, "Exp": 1, "Identity": 1}


def test_a_mask_that_is_an_output(keeps: Callable[..., ir.Model]) -> None:
    keeps(RemoveNoops(), "g (float[n,4] x) => (float[n,4] z, bool[n,4] m) { y, m = Dropout(x) z = Neg(y) }")


def test_minus_zero_and_nan(rewrites: Callable[..., ir.Model]) -> None:
    """x * 1 is x whatever x is."""
    x = np.array([[np.nan, np.inf, -np.inf, 0.0]], np.float32)
    text = "g (float[n,4] x) => (float[n,4] y) <float c = {1}> { a = Neg(x) b = Mul(a, c) y = Neg(b) }"
    rewrites(RemoveNoops(), text, feed={"x": x})


@pytest.mark.parametrize("axes", [[0], [-1], [1, 3], [3, 1]])
def test_unsqueeze_and_squeeze_undo_each_other(
    axes: list[int], rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray
) -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { a = Neg(x) b = Unsqueeze(a, c) d = Squeeze(b, c) y = Neg(d) }"
    model = rewrites(RemoveNoops(), text, feed={"x": x}, c=np.array(axes))
    assert "Squeeze" not in ops(model)
    text = (
        "g (float[1,n,1,3,1] x) => (float[1,n,1,3,1] y) { a = Neg(x) b = Squeeze(a, c) d = Unsqueeze(b, c) y = Neg(d) }"
    )
    sized = {"[0]": [0], "[-1]": [-1], "[1, 3]": [0, 2], "[3, 1]": [2, 0]}[str(axes)]
    feed = {"x": np.ones((1, 2, 1, 3, 1), np.float32)}
    assert "Unsqueeze" not in ops(rewrites(RemoveNoops(), text, feed=feed, c=np.array(sized)))


def test_squeeze_of_other_axes(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[1,1,4] x, int64[1] e) => (float[a,b,c] z) { b = Unsqueeze(x, c) y = Squeeze(b, d) z = Neg(y) }"
    keeps(RemoveNoops(), text, c=np.array([0]), d=np.array([2]))
    keeps(RemoveNoops(), text.replace("(x, c)", "(x, e)").replace("(b, d)", "(b, e)"))

"""PushTransposes: islands between Transposes lose them where they become fewer; any other stays as it is."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import PRESETS
from planc.passes.push_transposes import PushTransposes


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


X = {"x": _draw(2, 3, 4, 5)}
ARRAYS = {
    "c": _draw(3, seed=1), "m": _draw(4, 5, 3, seed=2), "w": _draw(2, 4, 5, 3, seed=3), "k": np.float32([0.7]),
    "s": np.array(1.3, np.float32), "row": _draw(5, 1, seed=4), "axes": np.array([1, 2]), "last": np.array([-1]),
    "pads": np.array([0, 1, 2, 3, 0, 2, 1, 0]), "starts": np.array([1, 2]), "ends": np.array([3, 5]),
    "two": np.array([1, 2]), "three": np.array([1, 1]), "padded": np.array([1, 2, 0, 1]), "yes": np.array(True),
    "low": np.array(0.6, np.float32),
}  # fmt: skip
TO, FROM = "Transpose<perm=[0,2,3,1]>", "Transpose<perm=[0,3,1,2]>"

PASSED = {
    "unary": "b = Relu(a)",
    "two": "d = Exp(a) b = Sqrt(d)",
    "clip": "b = Clip(a, low)",
    "scalar": "b = Mul(a, s)",
    "one element": "b = Sub(k, a)",
    "vector": "b = Add(a, c)",
    "three dimensions": "b = Add(m, a)",
    "four dimensions": "b = Div(a, w)",
    "broadcast row": "b = Mul(a, row)",
    "where": "d = Greater(a, c) b = Where(d, a, c)",
    "prelu": "b = PRelu(a, c)",
    "maximum": "b = Max(a, c, m)",
    "itself": "b = Mul(a, a)",
    "softmax": "b = Softmax(a)",
    "softmax of a row": "b = LogSoftmax<axis=2>(a)",
    "concat": "d = Neg(a) b = Concat<axis=-1>(a, d, w)",
    "mean": "b = ReduceMean(a, axes)",
    "last maximum": "b = ReduceMax(a, last)",
    "argmax": "d = ArgMax<axis=3>(a) b = Cast<to=1>(d)",
    "pad": "b = Pad(a, pads)",
    "pad of axes": 'b = Pad<mode="reflect">(a, padded, , two)',
    "slice": "b = Slice(a, starts, ends, axes)",
    "slice without axes": "b = Slice(a, three, ends)",
    "slice with steps": "b = Slice(a, starts, ends, axes, two)",
    "split": "b, d = Split<axis=3, num_outputs=2>(a)",
    "cast": "d = Cast<to=11>(a) b = Cast<to=1>(d)",
}


def _text(body: str, x: str = "float[n,3,4,5] x", y: str = "float[p,q,r,s] y") -> str:
    return f"g ({x}) => ({y}) {{ {body} }}"


@pytest.mark.parametrize("name", PASSED)
def test_pairs_cancel(name: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = _text(f"a = {TO}(x) {PASSED[name]} e = {FROM}(b) y = Neg(e)")
    assert "Transpose" not in ops(rewrites(PushTransposes(), text, feed=X, **ARRAYS))


@pytest.mark.parametrize(
    ("reduction", "y"),
    [
        ("ReduceMean<keepdims=0>(b, axes)", "float[p,q] y"),
        ("ReduceSum<keepdims=0>(b, last)", "float[p,q,r] y"),
        ("ArgMax<keepdims=0, axis=-1>(b)", "int64[p,q,r] y"),
    ],
)
def test_reductions(
    reduction: str, y: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    """What is left in order needs no Transpose."""
    text = _text(f"a = {TO}(x) b = Relu(a) y = {reduction}", y=y)
    assert "Transpose" not in ops(rewrites(PushTransposes(), text, feed=X, **ARRAYS))


def test_a_reduction_that_leaves_a_smaller_permutation(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    text = _text(
        f"a = {TO}(x) b = ReduceMin<keepdims=0>(a, one) d = Transpose<perm=[0,2,1]>(b) y = Neg(d)", y="float[p,q,r] y"
    )
    model = rewrites(PushTransposes(), text, feed=X, one=np.array([1]))
    assert "Transpose" not in ops(model)


def test_squeeze_behind_a_mean(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = _text(f"a = {TO}(x) b = ReduceMean(a, axes) d = Squeeze(b, axes) y = Neg(d)", y="float[p,q] y")
    assert "Transpose" not in ops(rewrites(PushTransposes(), text, feed=X, **ARRAYS))


def test_two_become_one(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = _text(
        f"a = {TO}(x) b = {TO}(z) d = Add(a, b) y = Reshape(d, last)",
        "float[n,3,4,5] x, float[n,3,4,5] z",
        "float[p] y",
    )
    model = rewrites(PushTransposes(), text, feed={**X, "z": _draw(2, 3, 4, 5, seed=9)}, **ARRAYS)
    assert ops(model) == {"Add": 1, "Transpose": 1, "Reshape": 1}


def test_an_export_from_tensorflow(
    graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]], ops: Callable[..., Counter[str]]
) -> None:
    """A residual block in the layout of TensorFlow, through the whole preset."""
    conv = f"= {FROM}(i{{0}}) c{{0}} = Conv<pads=[1,1,1,1]>(t{{0}}, w{{0}}) o{{0}} = {TO}(c{{0}})"
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[n,8,8,3] i0) => (float[n,4] y) {{
      t0 {conv.format(0)}
      a0 = Add(o0, b0) i1 = Relu(a0)
      t1 {conv.format(1)}
      a1 = Add(o1, b1) i2 = Relu(a1)
      t2 {conv.format(2)}
      a2 = Add(o2, b2)
      sum = Add(a2, i1) last = Relu(sum)
      pooled = ReduceMean<axes=[1,2], keepdims=0>(last)
      y = MatMul(pooled, head)
    }}"""
    weights = {f"w{index}": _draw(4, 3 if index == 0 else 4, 3, 3, seed=index) - 1 for index in range(3)}
    biases = {f"b{index}": _draw(4, seed=index) for index in range(3)}
    model = graph(text, head=_draw(4, 4), **weights, **biases)
    feed = {"i0": _draw(2, 8, 8, 3)}
    before = infer(model, **feed)[0]
    for one in PRESETS["onnx"]:
        one(model)
    np.testing.assert_allclose(infer(model, **feed)[0], before, rtol=1e-4, atol=1e-5)
    assert ops(model) == {"Transpose": 1, "Conv": 3, "Relu": 3, "Add": 1, "ReduceMean": 1, "MatMul": 1}


KEPT = {
    "nothing behind": (f"a = {TO}(x) y = Relu(a)", ""),
    "reshape behind": (f"a = {TO}(x) b = Relu(a) y = Reshape(b, last)", ""),
    "used elsewhere, too": (f"a = {TO}(x) b = Add(a, c) d = Reshape(a, last) e = Reshape(b, last) y = Mul(d, e)", ""),
    "another permutation": (
        f"a = {TO}(x) b = Transpose<perm=[0,1,3,2]>(x) d = Sum(a, z) y = Add(b, d)",
        ", float[1,1,1,1] z",
    ),
    "another value": (f"a = {TO}(x) b = Add(a, z) y = {FROM}(b)", ", float[n,4,5,3] z"),
    "a constant of the caller": (f"a = {TO}(x) b = Add(a, c) y = {FROM}(b)", ", float[3] c"),
    "a larger constant": (f"a = {TO}(x) b = Add(a, five) d = Squeeze(b, zero) y = {FROM}(d)", ""),
    "computed axes": (f"a = {TO}(x) b = ReduceMean(a, i) y = {FROM}(b)", ", int64[1] i"),
    "quantization": (f"a = {TO}(x) q = QuantizeLinear(a, s) b = DequantizeLinear(q, s) y = {FROM}(b)", ""),
    "cumulative sums": (f"a = {TO}(x) b = CumSum(a, zero) y = {FROM}(b)", ""),
}


@pytest.mark.parametrize("name", KEPT)
def test_keeps(name: str, keeps: Callable[..., ir.Model]) -> None:
    body, more = KEPT[name]
    arrays = {**ARRAYS, "five": _draw(1, 1, 1, 1, 3), "zero": np.array([0])}
    y = "float[p] y" if "Reshape" in body else "float[p,q,r,s] y"
    keeps(PushTransposes(), _text(body, f"float[n,3,4,5] x{more}", y), **arrays)


def test_an_unknown_rank(keeps: Callable[..., ir.Model]) -> None:
    """A Transpose without perm turns all axes round: how many are there?"""
    text = """g (float[n,3] x, int64[k] s) => (float[] y) {
      r = Reshape(x, s) a = Transpose(r) b = Relu(a) c = Transpose(b) d = Reshape(c, last) y = ReduceSum<keepdims=0>(d)
    }"""
    keeps(PushTransposes(), text, last=np.array([-1]))


def test_a_value_inside_that_is_an_output_or_used_outside(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    """It gets a Transpose of its own where the island still shrinks."""
    text = _text(
        f"a = {TO}(x) b = Relu(a) d = {FROM}(b) e = Exp(b) f = {FROM}(e) y = Add(d, f)",
        y="float[p,q,r,s] y, float[p,t,u,v] b",
    )
    model = rewrites(PushTransposes(), text, feed=X, **ARRAYS)
    assert ops(model) == {"Relu": 1, "Transpose": 1, "Exp": 1, "Add": 1}
    assert [value.name for value in model.graph.outputs] == ["y", "b"]


def test_an_output_behind(rewrites: Callable[..., ir.Model]) -> None:
    """Its Transpose does nothing any more; RemoveNoops takes the name over."""
    model = rewrites(PushTransposes(), _text(f"a = {TO}(x) b = Relu(a) y = {FROM}(b)"), feed=X)
    assert [node.op_type for node in model.graph] == ["Relu", "Transpose"]
    assert list(model.graph[1].attributes["perm"].as_ints()) == [0, 1, 2, 3]


def test_transposes_that_do_not_cancel_become_one(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]
) -> None:
    text = _text(f"a = {TO}(x) b = Relu(a) e = Transpose<perm=[0,2,1,3]>(b) y = Neg(e)")
    model = rewrites(PushTransposes(), text, feed=X)
    assert ops(model) == {"Relu": 1, "Transpose": 1, "Neg": 1}


def test_a_transpose_that_is_before_and_behind(keeps: Callable[..., ir.Model]) -> None:
    """It would have to do two things at once."""
    turn = "Transpose<perm=[0,1,3,2]>"
    keeps(PushTransposes(), _text(f"a = {turn}(x) b = Relu(a) d = {turn}(b) y = Add(b, d)", "float[n,3,4,4] x"))


def test_branches(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    """Within a branch; a value that a branch uses is one that must stay."""
    text = f"""g (bool f, float[n,3,4,5] x) => (float[p,q,r,s] y, float[p,q,r,s] z) {{
      a = {TO}(x) b = Relu(a) z0 = {FROM}(b) z = Exp(z0)
      y = If(f) <
        then_branch = t () => (float[a,b,c,d] p) {{ u = {TO}(x) v = Exp(u) w = {FROM}(v) p = Neg(w) }},
        else_branch = e () => (float[a,b,c,d] q) {{ q = Neg(b) }}
      >
    }}"""
    for condition in (True, False):
        model = rewrites(PushTransposes(), text, feed={**X, "f": np.array(condition)})
        assert ops(model)["Transpose"] == 1


def test_attributes_of_older_opsets(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = '<ir_version: 8, opset_import: ["": 13]> ' + _text(
        f"a = {TO}(x) b = ReduceMean<axes=[1,-1]>(a) e = {FROM}(b) y = Neg(e)"
    )
    assert "Transpose" not in ops(rewrites(PushTransposes(), text, feed=X))


def test_softmax_of_opset_12_is_not_passed(keeps: Callable[..., ir.Model]) -> None:
    text = '<ir_version: 7, opset_import: ["": 12]> '
    keeps(PushTransposes(), text + _text(f"a = {TO}(x) b = Softmax<axis=3>(a) e = {FROM}(b) y = Neg(e)"))


def test_many_operators_take_linear_time(graph: Callable[..., ir.Model]) -> None:
    chain = "".join(f"v{index + 1} = Relu(v{index}) " for index in range(3000))
    model = graph(_text(f"v0 = {TO}(x) {chain} y = {FROM}(v3000)"))
    assert PushTransposes()(model).modified


def test_a_slice_of_int32(rewrites: Callable[..., ir.Model]) -> None:
    """All operands of a Slice are of one type."""
    text = """g (float[2,3,4,5] x) => (float[2,5,2,4] y) {
      t = Transpose<perm=[0,2,3,1]>(x) u = Slice(t, s, e, a) v = Relu(u) y = Transpose<perm=[0,2,3,1]>(v)
    }"""
    text = text.replace("float[2,5,2,4] y", "float[a0,a1,a2,a3] y")
    numbers = {name: np.array([number], np.int32) for name, number in (("s", 1), ("e", 3), ("a", 1))}
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)}
    rewrites(PushTransposes(), text, feed=feed, **numbers)

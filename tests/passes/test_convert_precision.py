"""Conversion to 16 bits: what changes, what stays and why, and that ONNX Runtime computes nearly the same."""

import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from planc.passes import ConvertPrecision, all_nodes, check, parse, signature

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
Convert = Callable[..., ir.Model]


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _valid(model: ir.Model) -> onnx.ModelProto:
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.fixture
def convert(graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]]) -> Convert:
    """Converts a graph and holds it beside what it was: dtypes, results, reasons, and what a second run does."""

    def run(
        text: str | ir.Model, one: ConvertPrecision | None = None, /, *, feed: dict[str, Any], rtol: float = 5e-3,
        **arrays: Any,
    ) -> ir.Model:  # fmt: skip
        one = one or ConvertPrecision()
        model = graph(text, **arrays) if isinstance(text, str) else text
        wanted, reasons = signature(model), _named(one.kept(model))
        before = infer(model, **feed)
        assert one(model).modified
        check(model, wanted)
        _valid(model)
        for was, now in zip(before, infer(model, **feed), strict=True):
            assert was.dtype == now.dtype
            np.testing.assert_allclose(now, was, rtol=rtol, atol=rtol * max(1, float(np.abs(was).max(initial=0))))
        assert _named(one.kept(model)) == reasons
        assert not one(model).modified
        assert not _pairs(model)
        return model

    return run


def _named(kept: list[tuple[ir.Node, str]]) -> dict[str, str]:
    return {node.outputs[0].name or "": reason for node, reason in kept}


def _pairs(model: ir.Model) -> list[str]:
    """Casts of Casts, and several Casts of one value to one type."""
    casts = [node for node in all_nodes(model) if node.op_type == "Cast"]
    double = [node.name or "" for node in casts if (maker := node.inputs[0].producer()) and maker.op_type == "Cast"]
    places = Counter((node.inputs[0], node.attributes["to"].as_int()) for node in casts)
    return double + [place[0].name or "" for place, count in places.items() if count > 1]


def _dtypes(model: ir.Model) -> dict[str, str]:
    return {value.name or "": value.dtype.name for node in all_nodes(model) for value in node.outputs if value.dtype}


def _reasons(one: ConvertPrecision, model: ir.Model) -> dict[str, str]:
    return {node.op_type: reason for node, reason in one.kept(model)}


MLP = """g (float[N,4] x) => (float[N,5] y) {
  a = MatMul(x, w) b = Add(a, c) r = Relu(b) l = LayerNormalization(r, s, t) y = MatMul(l, v) }"""
WEIGHTS = {"w": _draw(4, 6), "c": _draw(6), "s": _draw(6), "t": _draw(6), "v": _draw(6, 5)}


def test_weights_are_halved_and_borders_cast(convert: Convert, ops: Callable[..., Counter[str]]) -> None:
    model = convert(MLP, feed={"x": _draw(3, 4)}, **WEIGHTS)
    assert ops(model) == Counter(Cast=2, MatMul=2, Add=1, Relu=1, LayerNormalization=1)
    assert {value.const_value.dtype for value in model.graph.initializers.values()} == {HALF}
    assert set(model.graph.initializers) == set(WEIGHTS)
    assert {value.dtype for node in model.graph for value in node.outputs if value.name != "y"} == {HALF}
    assert [(value.name, value.dtype) for value in model.graph.outputs] == [("y", FLOAT)]


def test_io(graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]]) -> None:
    model, x = graph(MLP, **WEIGHTS), _draw(3, 4)
    (want,) = infer(model, x=x)
    one = ConvertPrecision(io=True)
    assert one(model).modified
    _valid(model)
    assert "Cast" not in {node.op_type for node in model.graph}
    (have,) = infer(model, x=x.astype(np.float16))
    assert have.dtype == np.float16
    np.testing.assert_allclose(have, want, rtol=1e-2, atol=1e-2)
    assert not one(model).modified


def test_io_of_what_stays_and_what_passes_through(graph: Callable[..., ir.Model], infer: Callable[..., Any]) -> None:
    text = "g (float[3] x) => (float[3] y, float[3] c, float[3] x) { y = Exp(x) z = Mul(c, y) }"
    model = graph(text, c=_draw(3))
    assert ConvertPrecision(io=True)(model).modified
    _valid(model)
    assert [(value.name, value.dtype) for value in model.graph.outputs] == [("y", HALF), ("c", HALF), ("x", HALF)]
    x = _draw(3).astype(np.float16)
    for have, want in zip(infer(model, x=x), (np.exp(x), _draw(3), x), strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-3)


def test_outputs_that_are_inputs_constants_or_used_inside(convert: Convert) -> None:
    text = """g (float[4,4] x) => (float[4,4] a, float[4,4] x, float[4,4] w, float[4,4] y) {
      a = MatMul(x, w) y = MatMul(a, w) }"""
    model = convert(text, feed={"x": _draw(4, 4)}, w=_draw(4, 4, seed=1))
    assert [value.name for value in model.graph.outputs] == ["a", "x", "w", "y"]


def test_one_cast_for_all_users(convert: Convert, ops: Callable[..., Counter[str]]) -> None:
    text = """g (float[2,4] x) => (float[2,4] y, float[2,4] z) {
      a = MatMul(x, w) b = MatMul(x, w) s = Add(a, b)
      e = Exp(s) f = Exp(s) y = Mul(e, e) z = Add(f, e) }"""
    model = convert(text, feed={"x": _draw(2, 4)}, w=_draw(4, 4) / 4)
    assert ops(model)["Cast"] == 2
    assert len(model.graph.initializers) == 1


def test_tied_weights_stay_tied(convert: Convert) -> None:
    text = "g (int64[3] i) => (float[3,9] y) { e = Gather(w, i) t = Transpose<perm=[1,0]>(w) y = MatMul(e, t) }"
    model = convert(text, feed={"i": np.array([0, 5, 8])}, w=_draw(9, 4))
    (weight,) = model.graph.initializers.values()
    assert weight.dtype is HALF
    assert len(weight.uses()) == 2


def test_a_weight_of_both_is_stored_once(convert: Convert, ops: Callable[..., Counter[str]]) -> None:
    """In float32, exact, with a Cast: two copies take half as much again. Of a small one there are two."""
    text = """g (float[2,40] x) => (float[2,40] y) {
      a = MatMul(x, w) y = MatMul(a, w) }"""
    model = convert(text, ConvertPrecision(ranges=(("y", -1.0, 1e6),)), feed={"x": _draw(2, 40)}, w=_draw(40, 40) / 40)
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {"w": FLOAT}
    assert ops(model)["Cast"] == 3
    small = convert(
        "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) y = MatMul(a, w) }",
        ConvertPrecision(ranges=(("y", -1.0, 1e6),)), feed={"x": _draw(2, 4)}, w=_draw(4, 4),
    )  # fmt: skip
    assert {name: value.dtype for name, value in small.graph.initializers.items()} == {"w": FLOAT, "w_float16": HALF}


def test_weights_are_converted_when_they_are_written() -> None:
    x, y = (ir.Value(name=name, type=ir.TensorType(FLOAT), shape=ir.Shape([2, 4096])) for name in "xy")
    big, shape = np.broadcast_to(np.float32(0.5), (4096, 4096)), ir.Shape([4096, 4096])
    weight = ir.Value(
        name="big",
        type=ir.TensorType(FLOAT),
        shape=shape,
        const_value=ir.LazyTensor(partial(ir.tensor, big), FLOAT, shape),
    )
    node = ir.Node("", "MatMul", [x, weight], outputs=[y])
    model = ir.Model(ir.Graph([x], [y], nodes=[node], initializers=[weight], opset_imports={"": 20}), ir_version=10)
    tracemalloc.start()
    assert ConvertPrecision()(model).modified
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(weight.const_value, ir.LazyTensor)
    assert weight.const_value.dtype is HALF
    assert peak < big.nbytes
    assert (weight.const_value.numpy() == np.float16(0.5)).all()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"w": np.full((4, 4), 1e5, np.float32)}, "the constant 'w' holds 1e+05, which float16 does not"),
        ({"w": np.full((4, 4), 1e-7, np.float32)}, "which float16 rounds too much"),
    ],
)
def test_a_weight_that_does_not_fit_keeps_its_node(convert: Convert, arrays: Any, reason: str) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, v) y = MatMul(a, w) }"
    model = convert(text, feed={"x": _draw(2, 4)}, v=_draw(4, 4), **arrays)
    ((_, found),) = ConvertPrecision().kept(model)
    assert reason in found
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), arrays["w"])


def test_small_numbers_among_great_ones_do_not_matter(convert: Convert) -> None:
    w = _draw(4, 4)
    w[0, 0] = 1e-9
    model = convert("g (float[2,4] x) => (float[2,4] y) { y = MatMul(x, w) }", feed={"x": _draw(2, 4)}, w=w)
    assert ConvertPrecision().kept(model) == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("y = Add(a, c)", 1e-12), ("y = Add(a, c)", 1e-5), ("y = Div(a, c)", [1.0, 1.0, 1.0, 1e-9])],
)
def test_an_epsilon_keeps_its_node(convert: Convert, text: str, numbers: Any) -> None:
    graph = f"g (float[2,4] x) => (float[2,4] y) {{ a = MatMul(x, w) {text} }}"
    model = convert(graph, feed={"x": _draw(2, 4)}, w=_draw(4, 4), c=np.array(numbers, np.float32))
    ((node, reason),) = ConvertPrecision().kept(model)
    assert node.op_type in text
    assert "rounds too much" in reason


def test_ranges(graph: Callable[..., ir.Model], convert: Convert) -> None:
    text = """g (float[2,4] x) => (float[2,4] d, float[2,4] y) {
      a = MatMul(x, w) b = MatMul(a, w) c = MatMul(b, w) d = Tanh(c) e = MatMul(x, w)
      y = MatMul(e, w) }"""
    one = ConvertPrecision(ranges=(("a", -1e5, 2.0), ("c", -1e-5, 2e-6), ("d", -1.0, 1.0)))
    model = convert(text, one, feed={"x": _draw(2, 4)}, w=_draw(4, 4) / 4)
    kept = {node.outputs[0].name: reason for node, reason in one.kept(model)}
    assert kept["a"].startswith("'a'")
    assert "too near the end of float16" in kept["a"]
    assert "too near the end of float16" in kept["b"]
    assert "too near 0 for float16" in kept["c"]
    assert "too near 0 for float16" in kept["d"]
    assert hash(one) == hash(ConvertPrecision(ranges=one.ranges))
    near = ConvertPrecision(ranges=(("a", -40000.0, 2.0),))
    assert "between -4e+04 and 2" in near.kept(graph(text, w=_draw(4, 4)))[0][1]


@pytest.mark.parametrize("keep", ["node_b", "node_[b]", "*_b"])
def test_nodes_are_kept_by_name(convert: Convert, graph: Callable[..., ir.Model], keep: str) -> None:
    model = graph(
        "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) b = MatMul(a, w) y = MatMul(b, w) }", w=_draw(4, 4)
    )
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    one = ConvertPrecision(keep=(keep,))
    convert(model, one, feed={"x": _draw(2, 4)}, rtol=2e-2)
    assert [(node.name, reason) for node, reason in one.kept(model)] == [("node_b", "its name is among those to keep")]
    assert list(one.near_misses(model)) == one.kept(model)


def test_whatever_is_converted_can_be_kept(graph: Callable[..., ir.Model], infer: Callable[..., Any]) -> None:
    """By the names that a module path, an output or a subgraph gives them."""
    model = graph(
        """g (float[2,4] x, bool which) => (float[2,4] y) {
          a = MatMul(x, w) s = Softmax(a) n = Shape(s) c = ConstantOfShape(n) d = Add(s, c)
          y = If (which) <
            then_branch = then () => (float[2,4] t) { t = MatMul(d, w) },
            else_branch = other () => (float[2,4] e) { e = Tanh(d) }
          >
        }""",
        w=_draw(4, 4),
    )
    for node in model.graph:
        node.metadata_props["planc.origin"] = f"block.{node.op_type}"
    feed = {"x": _draw(2, 4), "which": np.array(True)}
    (wanted,) = infer(model, **feed)
    for word, outputs in (("s", ["s"]), ("block.Softmax", ["s"]), ("c", ["c"]), ("t", ["t"]), ("block", list("ascd"))):
        one = ConvertPrecision(keep=(word,))
        kept = {node.outputs[0].name: reason for node, reason in one.kept(model)}
        assert {name for name, reason in kept.items() if "keep" in reason} == set(outputs)
        assert set(outputs) <= {node.outputs[0].name for node in one.candidates(model)}
        made = model.clone()
        one(made)
        np.testing.assert_allclose(infer(made, **feed)[0], wanted, rtol=2e-2, atol=1e-3)


def test_operators_that_the_target_has_not_in_16_bits_are_kept(
    convert: Convert, graph: Callable[..., ir.Model]
) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) b = HardSwish(a) y = MatMul(b, w) }"
    model = graph(text, w=_draw(4, 4))
    one = ConvertPrecision(wide=("HardSwish", "Mish"))
    convert(model, one, feed={"x": _draw(2, 4)}, rtol=2e-2)
    assert [reason for _, reason in one.kept(model)] == ["the target has HardSwish in float32 only"]


NORM = """g (float[2,64] x) => (float[2,8] y) {
  a = MatMul(x, w) m = ReduceMean(a, axis) d = Sub(a, m) p = Pow(d, two) v = ReduceMean(p, axis) e = Add(v, eps)
  r = Sqrt(e) n = Div(d, r) y = MatMul(n, u) }"""


def test_a_norm_written_by_hand_squares_in_float32(convert: Convert) -> None:
    """With numbers whose squares float16 does not hold."""
    numbers = {"axis": np.array([-1]), "two": np.float32(2), "eps": np.float32(1e-5)}
    one = ConvertPrecision()
    model = convert(NORM, feed={"x": 300 * _draw(2, 64)}, w=_draw(64, 64) / 8, u=_draw(64, 8), **numbers)
    assert {node.outputs[0].name for node, _ in one.kept(model)} == {"p", "v", "e", "r"}
    reasons = _reasons(one, model)
    assert reasons["Pow"] == "powers may be beyond float16"
    assert "which Pow '' makes" in reasons["Sqrt"]
    ranged = ConvertPrecision(ranges=(("p", 0.0, 4.0), ("v", 0.0, 1.0)))
    model = convert(NORM, ranged, feed={"x": _draw(2, 64)}, w=_draw(64, 64) / 8, u=_draw(64, 8), **numbers)
    assert {node.outputs[0].name for node, _ in ranged.kept(model)} == {"e"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("e = Exp(a)", "exponentials"), ("e = Mul(a, a)", "squares"), ("e = ReduceSumSquare(a, axis)", "squares"),
        ("e = CumSum(a, one)", "sums"), ("e = ReduceSum(a, axis)", "sums"),
    ],
)  # fmt: skip
def test_what_may_grow_stays(graph: Callable[..., ir.Model], text: str, word: str) -> None:
    model = graph(
        f"g (float[2,4] x) => (y) {{ a = MatMul(x, w) {text} y = Tanh(e) }}", w=_draw(4, 4), axis=np.array([-1]),
        one=np.array(1),
    )  # fmt: skip
    reasons = list(_reasons(ConvertPrecision(), model).values())
    assert any(word in reason for reason in reasons)
    assert not any(word in reason for reason in _reasons(ConvertPrecision("bfloat16"), model).values())


def test_softmax_by_hand(convert: Convert) -> None:
    text = """g (float[2,4] x) => (float[2,4] y) {
      a = MatMul(x, w) e = Exp(a) s = ReduceSum(e, axis) d = Div(e, s) y = MatMul(d, w) }"""
    x = np.full((2, 4), 20, np.float32)
    model = convert(text, feed={"x": x}, w=np.eye(4, dtype=np.float32), axis=np.array([-1]))
    assert {node.op_type for node, _ in ConvertPrecision().kept(model)} == {"Exp", "ReduceSum", "Div"}


def test_masks_reach_the_lowest_number(convert: Convert) -> None:
    """A row that is masked as a whole stays a number."""
    text = """g (float[2,4] x, int64[4] mask, bool[2,4] m) => (float[2,4] y) {
      a = MatMul(x, w) f = Cast<to=1>(mask) o = Sub(one, f) p = Mul(o, low)
      b = Add(a, p) c = Where(m, b, low) d = Add(c, far) s = Softmax(d) y = MatMul(s, w) }"""
    far = np.zeros((2, 4), np.float32)
    far[0, 3] = -1e9
    feed = {"x": _draw(2, 4), "mask": np.array([1, 1, 0, 1]), "m": np.array([[True] * 4, [False] * 4])}
    lowest = np.finfo(np.float32).min
    model = convert(text, feed=feed, w=np.eye(4, dtype=np.float32), one=np.float32(1), low=np.array(lowest), far=far)
    assert {node.op_type for node, _ in ConvertPrecision().kept(model)} == {"Mul", "Sub"}


def test_positions_are_computed_in_float32(convert: Convert) -> None:
    """As in rotary embeddings: the cosine of 3001 is not that of 3000."""
    text = """g (float[1,8] x, int64[1,1] i) => (float[1,8] y) {
      a = MatMul(x, w) p = Cast<to=1>(i) t = MatMul(p, freq) c = Cos(t) y = Mul(a, c) }"""
    feed = {"x": _draw(1, 8), "i": np.array([[3001]])}
    model = convert(text, feed=feed, w=_draw(8, 8), freq=np.linspace(0.1, 1, 8, dtype=np.float32)[None])
    assert {node.outputs[0].name for node, _ in ConvertPrecision().kept(model)} == {"t", "c"}


def test_sums_of_integers_are_scaled_in_float32(convert: Convert) -> None:
    text = """g (float[2,300] x) => (float[2,4] y) {
      q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z) f = Cast<to=1>(i) d = Mul(f, s)
      y = MatMul(d, v) }"""
    weights = np.random.default_rng(0).integers(-127, 127, (300, 4)).astype(np.int8)
    feed = {"x": np.abs(_draw(2, 300))}
    model = convert(text, feed=feed, w=weights, v=_draw(4, 4))
    assert {node.outputs[0].name for node, _ in ConvertPrecision().kept(model)} == {"q", "d"}


def test_casts_of_the_user_are_kept_or_retargeted(convert: Convert, ops: Callable[..., Counter[str]]) -> None:
    """From bool and double to what the users want; up from float16 on purpose."""
    text = """g (float[2,4] x, bool[2,4] m, double[2,4] o) => (float[2,4] y) {
      a = MatMul(x, w) f = Cast<to=1>(m) k = Cast<to=1>(o) b = Mul(a, f) c = Add(b, k) y = MatMul(c, w) }"""
    feed = {"x": _draw(2, 4), "m": np.ones((2, 4), bool), "o": np.ones((2, 4))}
    model = convert(text, feed=feed, w=_draw(4, 4))
    assert ops(model)["Cast"] == 4
    assert _dtypes(model)["f"] == _dtypes(model)["k"] == "FLOAT16"
    text = """g (float[2,4] x) => (float[2,4] y) {
      a = MatMul(x, w) h = Cast<to=10>(a) n = Sigmoid(h) u = Cast<to=1>(n) s = Softmax(u) d = Cast<to=10>(s)
      k = Relu(d) t = Cast<to=1>(k) y = MatMul(t, v) }"""
    model = convert(text, feed={"x": _draw(2, 4)}, w=_draw(4, 4), v=_draw(4, 4))
    purpose = "its inputs are cast up to float32 on purpose"
    assert _reasons(ConvertPrecision(), model) == {"MatMul": purpose, "Softmax": purpose}
    assert _dtypes(model)["a"] == "FLOAT16"


@pytest.mark.parametrize(
    ("text", "arrays", "float_inputs"),
    [
        ("y = Resize<mode=\"linear\">(a, , s)", {"s": np.array([1, 1, 2, 2], np.float32)}, {2}),
        ("y = Resize<coordinate_transformation_mode=\"tf_crop_and_resize\">(a, r, s)",
         {"r": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32), "s": np.array([1, 1, 2, 2], np.float32)}, {1, 2}),
        ("y = Dropout(a, s)", {"s": np.array(0.3, np.float32)}, {1}),
        ("y = BatchNormalization(a, s, t, m, v)",
         {"s": _draw(2), "t": _draw(2), "m": _draw(2), "v": np.abs(_draw(2)) + 1}, set()),
        ("y = Clip(a, , s)", {"s": np.array(0.5, np.float32)}, set()),
        ("y = Pad(a, p, s)", {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "s": np.array(0.5, np.float32)}, set()),
    ],
)  # fmt: skip
def test_inputs_of_a_fixed_type(convert: Convert, text: str, arrays: Any, float_inputs: set[int]) -> None:
    graph = f"g (float[1,2,4,4] x) => (y) {{ a = Conv(x, w) {text} }}"
    graph = graph.replace("(y)", "(float[a,b,c,d] y)")
    model = convert(graph, feed={"x": _draw(1, 2, 4, 4)}, w=_draw(2, 2, 1, 1), **arrays)
    (node,) = [one for one in model.graph if one.op_type in text]
    found = {i for i, value in enumerate(node.inputs) if value is not None and value.dtype is FLOAT}
    assert found == float_inputs


def test_a_cast_of_float32_to_itself_is_no_purpose(convert: Convert) -> None:
    text = """g (float[2,4] x) => (float[2,4] y) {
      a = MatMul(x, w) c = Cast<to=1>(a) b = Exp(c)
      d = Log(b) y = MatMul(d, w) }"""
    convert(text, feed={"x": _draw(2, 4)}, w=np.eye(4, dtype=np.float32))


def test_statistics_of_a_layer_norm_stay_float32(convert: Convert) -> None:
    text = """g (float[2,6] x) => (float[2,6] y, float[2,1] m) {
      a = MatMul(x, w) y, m, i = LayerNormalization(a, s, t) }"""
    model = convert(text, feed={"x": _draw(2, 6)}, w=_draw(6, 6), s=_draw(6), t=_draw(6))
    assert _dtypes(model)["m"] == "FLOAT"


def test_generators_give_what_their_users_want(convert: Convert) -> None:
    text = """g (float[2,3] x, int64[2] n) => (float[2,3] y, float[2,3] z) {
      a = MatMul(x, w) f = ConstantOfShape<value=float[1]{2.5}>(n) e = EyeLike(x) b = Add(a, f) c = Add(b, e)
      g = ConstantOfShape<value=float[1]{0.5}>(n) z = Exp(g) h = Add(c, g) y = MatMul(h, w) }"""
    model = convert(text, feed={"x": _draw(2, 3), "n": np.array([2, 3])}, w=_draw(3, 3))
    types = _dtypes(model)
    assert types["f"] == "FLOAT16"
    assert types["g"] == "FLOAT"


def test_random_numbers_are_made_in_float32(graph: Callable[..., ir.Model], infer: Callable[..., Any]) -> None:
    text = """g (float[2,3] x) => (float[2,3] y) {
      a = MatMul(x, w) r = RandomNormal<shape=[2,3], seed=1.0>() l = RandomNormalLike<seed=1.0>(a) b = Add(a, r)
      c = Add(b, l) y = MatMul(c, w) }"""
    model = graph(text, w=_draw(3, 3))
    assert ConvertPrecision()(model).modified
    _valid(model)
    assert _dtypes(model)["r"] == _dtypes(model)["l"] == "FLOAT"
    assert np.isfinite(infer(model, x=_draw(2, 3))[0]).all()
    assert not ConvertPrecision()(model).modified


QDQ = """g (float[2,4] x) => (float[2,5] y) {
  q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear<axis=1>(v, t, o)
  a = MatMul(d, w) p = QuantizeLinear(a, u, z) y = DequantizeLinear(p, u, z) }"""


@pytest.mark.parametrize("opset", [13, 19, 23])
def test_q_dq_stay_right(convert: Convert, opset: int) -> None:
    """Their scales are float32 before opset 19; later those that fit become half."""
    arrays = {
        "s": np.array(0.031, np.float32), "z": np.array(128, np.uint8), "t": np.abs(_draw(5)) / 100 + 0.01,
        "o": np.zeros(5, np.int8), "u": np.array(0.1, np.float32),
        "v": np.random.default_rng(0).integers(-99, 99, (4, 5)).astype(np.int8),
    }  # fmt: skip
    text = f'<ir_version: 10, opset_import: ["": {opset}]>\n{QDQ}'
    model = convert(text, feed={"x": _draw(2, 4)}, rtol=5e-2, **arrays)
    types = _dtypes(model)
    assert types["w"] == ("FLOAT" if opset == 13 else "FLOAT16")
    assert model.graph.initializers["v"].dtype is ir.DataType.INT8


def test_a_scale_that_is_too_small_stays(graph: Callable[..., ir.Model]) -> None:
    arrays = {
        "s": np.array(0.03, np.float32), "z": np.array(128, np.uint8), "t": np.array([1e-2, 1e-6, 1, 1, 1], np.float32),
        "o": np.zeros(5, np.int8), "u": np.array(0.1, np.float32), "v": np.ones((4, 5), np.int8),
    }  # fmt: skip
    kept = {node.outputs[0].name: reason for node, reason in ConvertPrecision().kept(graph(QDQ, **arrays))}
    assert "the constant 't' holds 1e-06" in kept["w"]


def test_subgraphs(convert: Convert) -> None:
    """What crosses their border stays float32; within they compute in half, and use half values from outside."""
    text = """g (float[2,4] x, bool b, int64 n) => (float[2,4] y, float[2,4] z) {
      a = MatMul(x, w)
      c = If(b) <then_branch = t () => (float[2,4] p) { p = MatMul(a, w) },
                 else_branch = e () => (float[2,4] q) { i = Exp(a) q = MatMul(i, w) }>
      o, z = Loop(n, b, c) <body = l (int64 k, bool cond, float[2,4] s) => (bool cond2, float[2,4] s2, float[2,4] r) {
        cond2 = Identity(cond) u = MatMul(s, w) s2 = Tanh(u) r = Add(u, a) }>
      y = MatMul(o, w) }"""
    text = text.replace("float[2,4] z)", "float[k,2,4] z)")
    feed = {"x": _draw(2, 4), "b": np.array(True), "n": np.array(2)}
    model = convert(text, feed=feed, w=_draw(4, 4) / 2)
    assert {node.op_type for node, _ in ConvertPrecision().kept(model)} == {"If", "Loop", "Exp"}
    inner = [node for node in all_nodes(model) if node.op_type == "MatMul"]
    assert {value.dtype for node in inner for value in (*node.inputs, *node.outputs)} == {HALF}


def test_sequences_and_other_domains_stay(convert: Convert) -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
    g (float[2,4] x) => (float[2,4] y) {
      a = MatMul(x, w) s = SequenceConstruct(a, x) i = SequenceAt(s, zero) f = com.microsoft.Gelu(i) g = Identity(f)
      y = MatMul(g, w) }"""
    model = convert(text, feed={"x": _draw(2, 4)}, w=_draw(4, 4), zero=np.array(0))
    reasons = _reasons(ConvertPrecision(), model)
    assert "sequences and optional values stay float32" in reasons["SequenceAt"]
    assert reasons["Gelu"] == "com.microsoft.Gelu is not in the default domain"
    assert reasons["MatMul"] == "the type of 'g' (unknown of unknown shape) is not known"


def test_doubles_and_integers_are_left_alone(convert: Convert) -> None:
    text = """g (float[2,4] x, double[2,4] d) => (float[2,4] y, double[2,4] e, int64[2] n) {
      n = Shape(x) e = Add(d, d) y = MatMul(x, w) }"""
    model = convert(text, feed={"x": _draw(2, 4), "d": np.ones((2, 4))}, w=_draw(4, 4))
    assert [node.op_type for node in model.graph].count("Cast") == 2
    assert next(node for node in model.graph if node.op_type == "Shape").inputs[0] is model.graph.inputs[0]


@pytest.mark.parametrize(
    "text",
    ["g (double[2] x) => (double[2] y) { y = Neg(x) }", "g (float[2] x) => (float[2] y) { y = Exp(x) }",
     "g (float[2] x) => (int64[1] y) { y = Shape(x) }", "g (float[2] x) => (bool[2] y) { z = Exp(x) y = Less(x, z) }"],
)  # fmt: skip
def test_nothing_to_convert(keeps: Callable[..., ir.Model], text: str) -> None:
    keeps(ConvertPrecision(), text)


def test_cheap_nodes_between_those_that_stay_get_no_casts(convert: Convert, ops: Callable[..., Counter[str]]) -> None:
    text = """g (float[2,4] x) => (float[2,4] y) {
      a = MatMul(x, w) b = Exp(a) c = Transpose(b) d = Relu(c) e = Transpose(d) f = Log(e) y = MatMul(f, w) }"""
    model = convert(text, feed={"x": _draw(2, 4)}, w=np.eye(4, dtype=np.float32))
    assert ops(model)["Cast"] == 4
    assert {node.op_type for node, _ in ConvertPrecision().kept(model)} == {"Exp", "Transpose", "Relu", "Log"}


def test_defaults_of_inputs_and_constants_in_nodes(convert: Convert, graph: Callable[..., ir.Model]) -> None:
    text = """g (float[2,4] x, float[4,4] w) => (float[2,4] y) {
      c = Constant<value=float[1]{0.5}>() k = Constant<value_float=2.0>() a = MatMul(x, w)
      b = Mul(a, c) y = Add(b, k) }"""
    model = convert(text, feed={"x": _draw(2, 4), "w": _draw(4, 4, seed=3)}, w=_draw(4, 4))
    assert not [node for node in model.graph if node.op_type == "Constant"]
    assert model.graph.inputs[1].dtype is FLOAT
    assert model.graph.initializers["w"].const_value.dtype is FLOAT


def _bf16(model: ir.Model, **feed: np.ndarray) -> list[Any]:
    return ReferenceEvaluator(_valid(model)).run(None, feed)


def test_bfloat16(graph: Callable[..., ir.Model], infer: Callable[..., Any]) -> None:
    """ONNX Runtime has no kernels for it on the CPU: the reference of the ONNX project runs it."""
    text = """g (float[2,4] x) => (float[2,6] y) {
      a = MatMul(x, w) b = Exp(a) c = Add(b, eps) d = Transpose(c) e = Transpose(d) y = MatMul(e, v) }"""
    model = graph(text, w=_draw(4, 4), v=_draw(4, 6), eps=np.array(1e-12, np.float32))
    one, x = ConvertPrecision("bfloat16"), _draw(2, 4)
    (want,) = infer(model, x=x)
    assert one(model).modified
    assert one.kept(model) == []
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.BFLOAT16}
    (have,) = _bf16(model, x=x)
    assert have.dtype == np.float32
    np.testing.assert_allclose(have, want, rtol=5e-2, atol=5e-2 * np.abs(want).max())
    weight = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(weight, _draw(4, 4).astype(ml_dtypes.bfloat16))
    assert not one(model).modified


def test_bfloat16_needs_an_opset(graph: Callable[..., ir.Model]) -> None:
    text = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) { y = Conv(x, w) }"
    one = ConvertPrecision("bfloat16")
    model = graph(text, w=_draw(2, 2, 1, 1))
    assert _reasons(one, model) == {"Conv": "Conv takes bfloat16 from opset 22 on, the graph is of 20"}
    assert not one(model).modified
    newer = graph(f'<ir_version: 10, opset_import: ["": 22]>\n{text}', w=_draw(2, 2, 1, 1))
    assert one(newer).modified
    _valid(newer)


def test_the_dtype_is_one_of_two() -> None:
    assert parse("convert-precision{dtype=bfloat16, io=true}") == ConvertPrecision("bfloat16", io=True)
    with pytest.raises(ValueError, match="dtype=int8 is none of float16, bfloat16"):
        ConvertPrecision("int8")


def test_a_cnn(conv_model: ir.Model, image: np.ndarray, convert: Convert, tmp_path: Path) -> None:
    """Half the bytes, and nearly the same."""
    ir.save(conv_model, tmp_path / "wide.onnx")
    model = convert(conv_model, feed={"x": image}, rtol=1e-2)
    ir.save(model, tmp_path / "half.onnx")
    assert sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.dtype is HALF) >= 1000

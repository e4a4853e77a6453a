"""InlineIf: the branch that runs takes the place of an If whose condition is known; any other If stays."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import check, signature
from planc.passes.infer_shapes import InferShapes
from planc.passes.inline_if import InlineIf
from planc.passes.remove_unused import RemoveUnused

THEN = "then_branch = t () => (float[a,b] p) { i = Neg(x) p = Exp(i) }"
ELSE = "else_branch = e () => (float[c,d] q) { j = Abs(x) q = Sqrt(j) }"
CONDITIONS = {
    "constant": ("", "yes"),
    "not": ("c = Not(no)", "c"),
    "equal sizes": ("s = Shape(x) k = Gather<axis=0>(s, one) c = Equal(k, four)", "c"),
    "cast": ("s = Shape(x) k = Gather(s, one) e = Equal(k, four) d = Cast<to=7>(e) c = Cast<to=9>(d)", "c"),
    "vector": ("s = Shape(x) k = Gather(s, last) u = Squeeze(k) e = Greater(u, one) c = Identity(e)", "c"),
    "rank": ("s = Shape(x) r = Size(s) c = Less(r, four)", "c"),
    "both": (
        "s = Shape(x) r = Size(s) e = LessOrEqual(r, four) f = GreaterOrEqual(r, one) g = And(e, f) c = Or(g, no)",
        "c",
    ),
}
ARRAYS = {
    "yes": np.array(True), "no": np.array(False), "one": np.array(1), "last": np.array([-1]), "four": np.array(4),
}  # fmt: skip


def _text(before: str, condition: str, *, then: str = THEN, other: str = ELSE, more: str = "") -> str:
    return f"g (float[n,4] x{more}) => (float[n,4] y) {{ {before} y = If({condition}) <{then}, {other}> }}"


@pytest.mark.parametrize("name", CONDITIONS)
def test_known_conditions(
    name: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray
) -> None:
    model = rewrites(InlineIf(), _text(*CONDITIONS[name]), feed={"x": x}, **ARRAYS)
    RemoveUnused()(model)
    assert ops(model) == {"Neg": 1, "Exp": 1}
    assert model.graph.outputs[0].name == "y"


def test_the_other_branch(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    model = rewrites(InlineIf(), _text("", "no"), feed={"x": x}, **ARRAYS)
    assert ops(model) == {"Abs": 1, "Sqrt": 1}


@pytest.mark.parametrize(
    ("before", "condition", "more"),
    [
        ("", "c", ", bool c"),
        ("", "yes", ", bool yes"),
        ("s = Shape(x) k = Gather(s, zero) c = Equal(k, four)", "c", ""),
        ("m = ReduceMax<keepdims=0>(x) c = Cast<to=9>(m)", "c", ""),
    ],
    ids=["an input", "a default", "a dynamic size", "data"],
)
def test_unknown_conditions(before: str, condition: str, more: str, keeps: Callable[..., ir.Model]) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if f"bool {name}" not in more or name == "yes"}
    keeps(InlineIf(), _text(before, condition, more=more), zero=np.array(0), **arrays)


def test_nested(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    """The inner condition is known only once the outer branch tells its sizes."""
    inner = """then_branch = t () => (float[a,b] p) {
      u = Unsqueeze(x, last)
      v = Squeeze(u, last)
      s = Shape(v) k = Gather(s, one) c = Equal(k, four)
      p = If(c) <
        then_branch = s () => (float[e,f] o) { o = Exp(v) },
        else_branch = r () => (float[e,f] o2) { o2 = Neg(v) }
      >
    }"""
    model = rewrites(InlineIf(), _text("", "yes", then=inner), feed={"x": x}, **ARRAYS)
    RemoveUnused()(model)
    assert ops(model) == {"Unsqueeze": 1, "Squeeze": 1, "Exp": 1}


def test_one_after_the_other(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray
) -> None:
    """The rank that the first one gives decides the second one."""
    text = """g (float[4,1,1] x) => (float[4] y) {
      s0 = Shape(x) k0 = Gather(s0, last) c0 = Equal(k0, one)
      a = If(c0) <
        then_branch = t () => (float[p,q] b) { b = Squeeze(x, last) },
        else_branch = e () => (float[p,q,r] d) { d = Identity(x) }
      >
      s1 = Shape(a) k1 = Gather(s1, last) c1 = Equal(k1, one)
      y = If(c1) <
        then_branch = u () => (float[p] f) { f = Squeeze(a, last) },
        else_branch = v () => (float[p,q] h) { h = Identity(a) }
      >
    }"""
    model = rewrites(InlineIf(), text, feed={"x": np.ones((4, 1, 1), np.float32)}, **ARRAYS)
    RemoveUnused()(model)
    assert ops(model) == {"Squeeze": 2}
    assert tuple(model.graph.outputs[0].shape or ()) == (4,)


def test_inside_a_branch_that_is_not_known(
    rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray
) -> None:
    then = f"then_branch = w () => (float[a,b] o) {{ o = If(yes) <{THEN}, {ELSE}> }}"
    for condition in (True, False):
        model = rewrites(
            InlineIf(),
            _text("", "c", then=then, other=ELSE.replace("j", "k"), more=", bool c"),
            feed={"x": x, "c": np.array(condition)},
            **ARRAYS,
        )
        assert ops(model) == {"If": 1, "Neg": 1, "Exp": 1, "Abs": 1, "Sqrt": 1}


@pytest.mark.parametrize(
    "then",
    [
        "then_branch = t () => (float[a,b] p) { p = Identity(o) }",
        "then_branch = t () => (float[a,b] p) <float[1,4] p = {1,2,3,4}> { }",
        "then_branch = t () => (float[a,b] p) <float[1,4] w = {1,2,3,4}> { p = Add(o, w) }",
    ],
    ids=["a value from outside", "an initializer", "with an initializer"],
)
@pytest.mark.parametrize("used_on", [True, False])
def test_what_a_branch_gives(
    then: str, used_on: bool, graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]], x: np.ndarray
) -> None:
    """Also where the main graph has another initializer of that name."""
    last = "z = If(yes)" if used_on else "y = If(yes)"
    more = "y = Add(z, w)" if used_on else "v = Add(o, w)"
    text = f"g (float[n,4] x) => (float[] y) {{ o = Neg(x) {last} <{then}, {ELSE}> {more} }}"
    model = graph(text.replace("float[] y", "float[k,4] y"), w=np.full((1, 4), 7, np.float32), **ARRAYS)
    InferShapes()(model)
    before, wanted = infer(model, x=x), signature(model)
    assert InlineIf()(model).modified
    check(model, wanted)
    np.testing.assert_array_equal(infer(model, x=x)[0], before[0])


def test_two_outputs_of_one_value(
    graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]], x: np.ndarray
) -> None:
    text = """g (float[n,4] x) => (float[n,4] y, float[n,4] z) {
      y, z = If(yes) <
        then_branch = t () => (float[a,b] p, float[a,b] p) { p = Neg(x) },
        else_branch = e () => (float[a,b] q, float[a,b] r) { q = Abs(x) r = Exp(x) }
      >
    }"""
    model = graph(text, **ARRAYS)
    wanted = signature(model)
    assert InlineIf()(model).modified
    check(model, wanted)
    for array in infer(model, x=x):
        np.testing.assert_array_equal(array, -x)


def test_the_branch_that_is_dropped_uses_nothing_any_more(graph: Callable[..., ir.Model]) -> None:
    """Else a fusion would believe that it has another user."""
    model = graph(_text("o = Neg(x)", "yes", other=ELSE.replace("x", "o")), **ARRAYS)
    value = next(node for node in model.graph if node.op_type == "Neg").outputs[0]
    assert InlineIf()(model).modified
    assert not value.uses()


def test_loops_stay(keeps: Callable[..., ir.Model]) -> None:
    """Neither a Loop of no trip nor one of few is unrolled."""
    for trips in (0, 2):
        keeps(
            InlineIf(),
            """g (float[4] x) => (float[4] y) {
              y = Loop(trips, yes, x) <
                body = b (int64 i, bool c, float[4] v) => (bool d, float[4] w) { d = Identity(c) w = Neg(v) }
              >
            }""",
            trips=np.array(trips),
            yes=np.array(True),
        )

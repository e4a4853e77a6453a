"""GroupQueries: keys and values that grouped-query attention repeats are multiplied as they are."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fold_shapes import FoldShapes
from planc.passes.group_queries import GroupQueries
from planc.passes.infer_shapes import InferShapes

KEYS = "u = Unsqueeze(k, two) e = Expand(u, often) r = Reshape(e, heads) t = Transpose<perm=[0,1,3,2]>(r)"
SCORES = f"{KEYS} y = MatMul(q, t)"
VALUES = "u = Unsqueeze(v, two) e = Expand(u, often) r = Reshape(e, heads) y = MatMul(p, r)"
INPUTS = "float[2,6,s,4] q, float[2,2,5,4] k, float[2,2,5,4] v, float[2,6,s,5] p"
CONSTANTS = {"two": np.array([2]), "often": np.array([2, 2, 3, 5, 4]), "heads": np.array([2, 6, 5, 4])}

Rewrites = Callable[..., ir.Model]
Ops = Callable[..., Counter[str]]


def _text(body: str, inputs: str = INPUTS, outputs: str = "float[a,b,c,d] y") -> str:
    return f"g ({inputs}) => ({outputs}) {{ {body} }}"


def _feed(queries: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 6, queries, 4), "k": (2, 2, 5, 4), "v": (2, 2, 5, 4), "p": (2, 6, queries, 5)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("queries", [1, 3])
def test_scores(queries: int, rewrites: Rewrites, ops: Ops) -> None:
    model = rewrites(GroupQueries(), _text(SCORES), feed=_feed(queries), **CONSTANTS)
    assert ops(model) == {"Transpose": 1, "Reshape": 2, "MatMul": 1}


def test_values(rewrites: Rewrites, ops: Ops) -> None:
    model = rewrites(GroupQueries(), _text(VALUES), feed=_feed(), **CONSTANTS)
    assert ops(model) == {"Reshape": 2, "MatMul": 1}


def test_one_query_of_a_batch_that_may_be_empty(rewrites: Rewrites, infer: Callable[..., list[Any]]) -> None:
    """With numbers in the place of -1 nothing is left to solve."""
    inputs = INPUTS.replace("[2,6,s", "[n,6,1").replace("[2,2", "[n,2")
    sizes = "b = Shape<start=0, end=1>(v) often = Concat<axis=0>(b, some) heads = Concat<axis=0>(b, all)"
    some = {"two": np.array([2]), "some": np.array([2, 3, 5, 4]), "all": np.array([6, 5, 4])}
    for batch in (0, 2):
        feed = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in _feed(1).items()}
        rewrites(_After(), _text(f"{sizes} {VALUES}", inputs), feed=feed, **some)


class _After(GroupQueries):
    """Behind FoldShapes, which follows names."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        FoldShapes()(model)
        InferShapes()(model)
        return super().call(model)


def test_past_and_new_keys(rewrites: Rewrites, ops: Ops) -> None:
    """A decoder's step: the number of keys is a sum."""
    text = _text(
        """j = Concat<axis=2>(past, k) a = Shape<start=2, end=3>(past) c = Add(a, five)
        often = Concat<axis=0>(n, c, w) heads = Concat<axis=0>(m, c, w) u = Unsqueeze(j, two) e = Expand(u, often)
        r = Reshape(e, heads) t = Transpose<perm=[0,1,3,2]>(r) y = MatMul(q, t)""",
        "float[2,6,1,4] q, float[2,2,5,4] k, float[2,2,old,4] past",
    )
    feed = {name: array for name, array in _feed(1).items() if name in "qk"} | {"past": np.ones((2, 2, 7, 4), "f")}
    numbers = {"n": [2, 2, 3], "m": [2, 6], "w": [4], "five": [5], "two": [2]}
    model = rewrites(_After(), text, feed=feed, **{name: np.array(value) for name, value in numbers.items()})
    assert (ops(model)["Expand"], ops(model)["MatMul"], ops(model)["Reshape"]) == (0, 1, 2)


MISSES = {
    "another axis": (
        {"two": np.array([1]), "often": np.array([2, 3, 2, 5, 4])},
        INPUTS,
        "what is repeated are not heads",
    ),
    "keys that are broadcast": (
        {},
        INPUTS.replace("[2,2,5,4] k", "[2,2,1,4] k"),
        "'k' (float[2,2,1,4]) becomes 'e' (float[2,2,3,5,4])",
    ),
    "an unknown batch": (
        {},
        INPUTS.replace("[2,2,5,4] k", "[n,2,5,4] k"),
        "'k' (float[n,2,5,4]) becomes 'e' (float[2,2,3,5,4])",
    ),
}


@pytest.mark.parametrize("name", MISSES)
def test_other_repetitions_stay(name: str, graph: Rewrites, ops: Ops) -> None:
    changed, inputs, reason = MISSES[name]
    model = graph(_text(SCORES, inputs), **{**CONSTANTS, **changed})
    InferShapes()(model)
    FoldShapes()(model)
    assert not GroupQueries()(model).modified
    assert ops(model)["Expand"] == 1
    assert [said for _, said in GroupQueries().near_misses(model)] == [reason]


def test_repeated_keys_that_are_an_output_stay(graph: Rewrites) -> None:
    model = graph(_text(VALUES, outputs="float[a,b,c,d] y, float[2,6,5,4] r"), **CONSTANTS)
    InferShapes()(model)
    assert not GroupQueries()(model).modified
    ((_, reason),) = GroupQueries().near_misses(model)
    assert reason == "'r' (float[2,6,5,4]) is needed outside of the pattern"


def test_any_other_product_is_no_near_miss(graph: Rewrites) -> None:
    model = graph("g (float[2,3] x, float[3,4] w) => (float[2,4] y) { y = MatMul(x, w) }")
    InferShapes()(model)
    assert not GroupQueries()(model).modified
    assert not list(GroupQueries().near_misses(model))

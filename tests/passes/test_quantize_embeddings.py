"""Embeddings of int8: right rows, no second copy, and no work for rows that nobody asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import QuantizeDynamic, QuantizeEmbeddings, check, signature
from planc.passes.infer_shapes import InferShapes

TEXT = "g (int64[b,n] ids) => (float[b,n,8] y) { y = Gather(w, ids) }"
IDS = np.array([[0, 5, 11], [-1, 3, 3]])


def _table() -> np.ndarray:
    """Rows of very different size, one of zeros."""
    rows = np.random.default_rng(0).standard_normal((12, 8), dtype=np.float32)
    return rows * np.logspace(-3, 3, 12, dtype=np.float32)[:, None] * (np.arange(12) != 3)[:, None]


def _floats(model: ir.Model) -> list[str]:
    """Matrices of the graph that are still float and used."""
    return [
        value.name or ""
        for value in model.graph.initializers.values()
        if value.dtype is ir.DataType.FLOAT and value.shape is not None and 1 not in value.shape and value.uses()
        if len(value.shape) == 2
    ]


def _run(
    one: Any, model: ir.Model, infer: Callable[..., Any], feed: dict[str, Any]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    InferShapes()(model)
    wanted, before = signature(model), infer(model, **feed)
    assert one(model).modified
    check(model, wanted)
    after = infer(model, **feed)
    assert not one(model).modified
    return before, after


@pytest.mark.parametrize("axis", ["", "<axis=0>", "<axis=-2>"])
def test_each_row_has_a_scale_of_its_own(graph: Callable[..., Any], infer: Callable[..., Any], axis: str) -> None:
    model = graph(TEXT.replace("Gather", f"Gather{axis}"), w=_table())
    (before,), (after,) = _run(QuantizeEmbeddings(least_bytes=1), model, infer, {"ids": IDS})
    most = np.abs(before).max(axis=-1, keepdims=True)
    assert (np.abs(after - before) <= most / 127 * 0.51).all()
    assert not _floats(model)


def test_two_lookups_share_the_table(graph: Callable[..., Any], infer: Callable[..., Any]) -> None:
    text = "g (int64[n] i, int64[n] j) => (float[n,8] y) { a = Gather(w, i) b = Gather(w, j) y = Add(a, b) }"
    model = graph(text, w=_table())
    _run(QuantizeEmbeddings(least_bytes=1), model, infer, {"i": IDS[0], "j": IDS[1]})
    assert not _floats(model)
    assert sum(value.dtype is ir.DataType.INT8 for value in model.graph.initializers.values()) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (int64[n] i, float[n,8] x) => (float[n,12] y, float[n,8] z)"
         "{ t = Transpose(w) y = MatMul(x, t) z = Gather(w, i) }", "Transpose"),
        ("g (int64[n] i) => (float[n,8] z) { z = Gather(w, i) }", "kept"),
    ],
)  # fmt: skip
def test_what_stays_in_float_says_why(graph: Callable[..., Any], text: str, reason: str) -> None:
    model = graph(text, w=_table())
    InferShapes()(model)
    one = QuantizeEmbeddings(least_bytes=1, keep=("z",) if reason == "kept" else ())
    assert not one(model).modified
    ((_, told),) = one.near_misses(model)
    assert reason in told


@pytest.mark.parametrize("text", [TEXT.replace("Gather", "Gather<axis=1>"), TEXT])
def test_small_tables_and_columns_are_left_alone(keeps: Callable[..., Any], text: str) -> None:
    keeps(QuantizeEmbeddings(least_bytes=1 if "axis" in text else 1 << 20), text.replace("b,n,8", "c,d,e"), w=_table())


@pytest.mark.parametrize("sizes", ["n", "b,n"])
def test_a_tied_projection_and_its_embedding_stay_one_copy(
    graph: Callable[..., Any], infer: Callable[..., Any], sizes: str
) -> None:
    text = f"""g (int64[{sizes}] ids) => (float[{sizes},12] y, float[{sizes},8] e)
      {{ e = Gather(w, ids) t = Transpose(w) y = MatMul(e, t) }}"""
    model = graph(text, w=np.random.default_rng(0).standard_normal((12, 8), dtype=np.float32))
    ids = IDS if "b" in sizes else IDS[0]
    before, after = _run(QuantizeDynamic(weight_bits=7), model, infer, {"ids": ids})
    for was, now in zip(before, after, strict=True):
        assert np.linalg.norm(now - was) < 0.02 * np.linalg.norm(was)
    assert not _floats(model)
    matrices = [value for value in model.graph.initializers.values() if value.dtype is ir.DataType.INT8]
    assert sorted(len(value.shape or ()) for value in matrices) == [1, 2]
    assert not QuantizeEmbeddings(least_bytes=1)(model).modified


def test_a_transposed_table_that_the_graph_gives_out_stays(
    graph: Callable[..., Any], infer: Callable[..., Any]
) -> None:
    text = "g (float[n,8] x) => (float[n,12] y, float[8,12] t) { t = Transpose(w) y = MatMul(x, t) }"
    model = graph(text, w=np.random.default_rng(0).standard_normal((12, 8), dtype=np.float32))
    before, after = _run(QuantizeDynamic(weight_bits=7), model, infer, {"x": np.ones((3, 8), np.float32)})
    np.testing.assert_array_equal(before[1], after[1])

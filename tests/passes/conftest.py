"""What the tests of the passes share: run a pass for real, hold the results side by side, run it once more."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import Pass, check, signature
from planc.passes.infer_shapes import InferShapes

HEAD = '<ir_version: 10, opset_import: ["": 20]>\n'


@pytest.fixture
def graph(onnx_file: Callable[..., Path], tmp_path: Path) -> Callable[..., ir.Model]:
    """Gives a graph from ONNX's text form (a header of opset 20 where it has none), with arrays as initializers."""

    def make(text: str, /, **arrays: np.ndarray) -> ir.Model:
        text = text.strip()
        path = onnx_file(tmp_path / "graph.onnx", text if text.startswith("<") else HEAD + text, **arrays)
        return ir.load(path)

    return make


@pytest.fixture
def ops() -> Callable[[ir.Model], Counter[str]]:
    """Counts the nodes by operator, those in subgraphs too."""
    return lambda model: Counter(node.op_type for node in model.graph.all_nodes())


@pytest.fixture
def rewrites(graph: Callable[..., ir.Model], infer: Callable[..., list[Any]]) -> Callable[..., ir.Model]:
    """Runs a pass that must modify the graph, and nothing when it runs again; the outputs must stay as they were.

    Shapes are inferred first, as in the presets.
    """

    def run(one: Pass, text: str | ir.Model, /, *, rtol: float = 1e-5, feed: dict[str, Any], **arrays: Any) -> ir.Model:
        model = graph(text, **arrays) if isinstance(text, str) else text
        InferShapes()(model)
        before, wanted = infer(model, **feed), signature(model)
        assert one(model).modified
        check(model, wanted)
        for was, now in zip(before, infer(model, **feed), strict=True):
            assert was.dtype == now.dtype
            np.testing.assert_allclose(now, was, rtol=rtol, atol=rtol / 10)
        assert not one(model).modified
        return model

    return run


@pytest.fixture
def keeps(graph: Callable[..., ir.Model]) -> Callable[..., ir.Model]:
    """Runs a pass that must leave the graph alone."""

    def run(one: Pass, text: str | ir.Model, /, **arrays: Any) -> ir.Model:
        model = graph(text, **arrays) if isinstance(text, str) else text
        InferShapes()(model)
        before = [(node.op_type, [value and value.name for value in node.inputs]) for node in model.graph.all_nodes()]
        assert not one(model).modified
        after = [(node.op_type, [value and value.name for value in node.inputs]) for node in model.graph.all_nodes()]
        assert after == before
        return model

    return run


@pytest.fixture
def x() -> np.ndarray:
    """A float32[3,4]."""
    return np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)

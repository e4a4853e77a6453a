"""Walks over protobuf messages: nothing is left out, and what is defined first comes first."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import parser

from planc.compiler import protos, storage

TEXT = """<ir_version: 8, opset_import: ["": 18, "own": 1]>
g (bool c, float[2] x) => (float[2] y) <float[1] w = {1}> {
  k = Constant<value = float[1] {2}>()
  n = Neg(x)
  y = If(c) <
    then_branch = t () => (float[2] a) { a = Relu(n) },
    else_branch = e () => (float[2] b) <float[1] v = {3}> { z = If(c) <
      then_branch = u () => (float[2] p) { p = Exp(x) }, else_branch = f () => (float[2] q) { q = own.f(n) }
    > b = Abs(z) }
  >
}
<domain: "own", opset_import: ["": 18]> f (a) => (b) { b = Sqrt(a) }
"""


def test_every_node_once_and_inner_ones_after_outer_ones() -> None:
    found = [node.op_type for node in protos.nodes(parser.parse_model(TEXT))]
    assert found == ["Constant", "Neg", "If", "Sqrt", "Relu", "If", "Abs", "Exp", "f"]


def test_every_graph() -> None:
    assert sorted(graph.name for graph in protos.graphs(parser.parse_model(TEXT))) == ["e", "f", "g", "t", "u"]


def test_every_body_with_its_node() -> None:
    found = sorted((node.op_type, graph.name) for node, graph in protos.bodies(parser.parse_model(TEXT)))
    assert found == [("If", "e"), ("If", "f"), ("If", "t"), ("If", "u")]


def test_every_tensor() -> None:
    found = [tuple(tensor.float_data) for tensor in protos.tensors(parser.parse_model(TEXT))]
    assert sorted(found) == [(1.0,), (2.0,), (3.0,)]


def test_files_beside_and_dtypes(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 18]> g (float16[n,64] x) => (int64[n] y) { z = MatMul(x, w) y = Shape(z) }'
    )
    whole = onnx_file(tmp_path / "g.onnx", text, w=np.ones((64, 64), np.float16))
    assert protos.data_files(whole) == set()
    apart = tmp_path / "out" / "apart.onnx"
    apart.parent.mkdir()
    storage.save(storage.load(whole), apart)
    assert protos.data_files(apart) == {apart.with_name("apart.onnx.data")}
    graph = protos.load_light(whole)[0].graph
    assert [protos.dtype_name(value) for value in (*graph.input, *graph.output)] == ["FLOAT16", "INT64"]

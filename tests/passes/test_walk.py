"""The walks reach main graph, subgraphs and functions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import all_graphs, all_nodes, all_tensors, all_values

TEXT = """\
<ir_version: 8, opset_import: ["": 18, "local": 1]>
g (bool c, float[1] x) => (float[1] y) {
  y = If(c) <
    then_branch = t () => (float[1] a) { one = Constant<value = float[1] {1.0}>() a = Add(x, one) },
    else_branch = e () => (float[1] b) { b = local.f(x) }
  >
}
<domain: "local", opset_import: ["": 18]>
f (p) => (q) { two = Constant<value = float[1] {2.0}>() m = Mul(p, two) q = Neg(m) }
"""


@pytest.fixture
def model(onnx_file: Callable[..., Path], tmp_path: Path) -> ir.Model:
    return ir.load(onnx_file(tmp_path / "g.onnx", TEXT, w=np.zeros(3, np.float32)))


def test_nodes(model: ir.Model) -> None:
    ops = [node.op_type for node in all_nodes(model)]
    assert sorted(ops) == ["Add", "Constant", "Constant", "If", "Mul", "Neg", "f"]


def test_graphs(model: ir.Model) -> None:
    assert len(list(all_graphs(model))) == 4


def test_values_come_once(model: ir.Model) -> None:
    names = [value.name for value in all_values(model)]
    assert sorted(map(str, names)) == ["a", "b", "c", "m", "one", "p", "q", "two", "w", "x", "y"]


def test_tensors(model: ir.Model) -> None:
    assert sorted(tensor.size for tensor in all_tensors(model)) == [1, 1, 3]

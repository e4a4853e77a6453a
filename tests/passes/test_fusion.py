"""Fusion: what all fusions share, on one that makes Negs of products with -1."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import ORIGIN, check, signature
from planc.passes._base import Miss
from planc.passes._constants import free_constant
from planc.passes._fusion import Fused, Fusion, single
from planc.passes._match import beside, maker, require, source, user, with_scalar


@dataclass(frozen=True)
class FuseNegation(Fusion):
    """x * -1 -> Neg(x)."""

    anchors: ClassVar[frozenset[str]] = frozenset({"Mul"})
    opset: ClassVar[int] = 13

    def match(self, anchor: ir.Node, _opset: int, /) -> Fused:
        x = with_scalar(anchor, -1)
        require(x, "no factor is -1")
        return single(anchor, "Neg", [x])


@dataclass(frozen=True)
class FuseShift(Fusion):
    """Abs(x) -> contrib.Shift(x, 7): an operator of another domain and a constant of its own."""

    anchors: ClassVar[frozenset[str]] = frozenset({"Abs"})

    def match(self, anchor: ir.Node, _opset: int, /) -> Fused:
        return single(anchor, "Shift", [anchor.inputs[0], free_constant("w", np.array(7.0))], domain="contrib")


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_what_nothing_needs_any_more_goes(graph: Callable[..., ir.Model]) -> None:
    model = graph("g (float x) => (float y) { c = Constant<value_float = -1.0>() a = Exp(x) y = Mul(a, minus) }",
                  minus=np.array(-1, np.float32))  # fmt: skip
    next(node for node in model.graph if node.op_type == "Mul").metadata_props[ORIGIN] = "net.neg"
    wanted = signature(model)
    assert FuseNegation()(model).modified
    check(model, wanted)
    assert _ops(model) == ["Constant", "Exp", "Neg"]
    assert next(node for node in model.graph if node.op_type == "Neg").metadata_props[ORIGIN] == "net.neg"
    assert not FuseNegation()(model).modified


def test_a_chain_in_one_run(graph: Callable[..., ir.Model]) -> None:
    model = graph("g (float x) => (float y) { a = Mul(x, m) b = Mul(a, m) y = Mul(b, two) }",
                  m=np.array(-1, np.float32), two=np.array(2, np.float32))  # fmt: skip
    FuseNegation()(model)
    assert _ops(model) == ["Neg", "Neg", "Mul"]
    ((node, reason),) = FuseNegation().near_misses(model)
    assert (node.outputs[0].name, reason) == ("y", "no factor is -1")


def test_looking_for_near_misses_leaves_no_trace(graph: Callable[..., ir.Model]) -> None:
    model = graph("g (float x) => (float y) { y = Mul(x, m) }", m=np.array(-1, np.float32))
    assert list(FuseNegation().near_misses(model)) == []
    assert len(model.graph.inputs[0].uses()) == 1


def test_a_function_has_an_opset_of_its_own(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": %s, "local": 1]>
    g (float x) => (float y) { y = local.f(x) }
    <domain: "local", opset_import: ["": %s]>
    f (p) => (q) { a = Neg(p) q = Mul(p, a) }"""
    for opset, said in ((12, "the graph is of opset 12, the fused operator of 13"), (13, "no factor is -1")):
        model = ir.load(onnx_file(tmp_path / "g.onnx", text % (18, opset)))
        ((_, reason),) = FuseNegation().near_misses(model)
        assert reason == said


def test_a_new_constant_and_domain(graph: Callable[..., ir.Model]) -> None:
    model = graph("g (float x) => (float y, float z) { y = Abs(x) a = Exp(w) z = Abs(a) }", w=np.array(1, np.float32))
    FuseShift()(model)
    assert model.opset_imports["contrib"] == 1
    assert {name: float(value.const_value.numpy()) for name, value in model.graph.initializers.items()} == {
        "w": 1, "w_1": 7, "w_2": 7,
    }  # fmt: skip
    check(model, signature(model))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda v: user(v["a"], "Mul"), "'a' (float[n]) has 2 uses: Add '', Neg ''"),
        (lambda v: user(v["b"], "Mul"), "Add '' stands where Mul is looked for"),
        (lambda v: user(v["y"], "Mul"), "'y' (float[n]) is an output of the graph"),
        (lambda v: maker(v["a"], "Exp"), "'a' (float[n]) is needed outside of the pattern"),
        (lambda v: source(v["a"], "Abs", "Neg"), "Exp '' stands where Abs or Neg is looked for"),
        (lambda v: source(v["x"], "Abs"), "an input or a constant stands where Abs is looked for"),
        (lambda v: source(None, "Abs"), "an input or a constant stands where Abs is looked for"),
    ],
)
def test_reasons(what: Callable[..., Any], said: str, graph: Callable[..., ir.Model]) -> None:
    model = graph("g (float[n] x) => (float[n] y) { a = Exp(x) b = Neg(a) y = Add(a, b) }")
    values = {value.name: value for node in model.graph for value in [*node.inputs, *node.outputs]}
    for value in values.values():
        value.type, value.shape = model.graph.inputs[0].type, model.graph.inputs[0].shape
    with pytest.raises(Miss) as caught:
        what(values)
    assert str(caught.value) == said
    assert beside(next(node for node in model.graph if node.op_type == "Add"), values["a"]) is values["b"]

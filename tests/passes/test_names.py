"""Names: whatever a pass adds or moves, no value of a file takes another one's name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from planc.passes._base import Pass
from planc.passes._constants import new_constant
from planc.passes._names import make_unique

TEXT = """g (bool c, float[n] x) => (float[n] y) {
  a = Neg(x)
  y = If(c) <
    then_branch = t () => (float[n] p) { b = Exp(a) p = Relu(b) },
    else_branch = e () => (float[n] q) { b = Neg(a) q = Relu(b) }
  >
}"""


def _names(model: ir.Model) -> list[str | None]:
    return [value.name for node in model.graph.all_nodes() for value in node.outputs]


def test_names_that_are_unique_stay_and_branches_may_share_them(graph: Callable[..., ir.Model]) -> None:
    model = graph(TEXT)
    before = _names(model)
    make_unique(model)
    assert _names(model) == before
    assert before.count("b") == 2


def test_a_value_that_hides_one_from_outside_is_renamed(
    graph: Callable[..., ir.Model], infer: Callable[..., list[np.ndarray]]
) -> None:
    model = graph(TEXT)
    x = np.array([1, -2], np.float32)
    before = infer(model, c=np.array(True), x=x)[0]
    next(node for node in model.graph.all_nodes() if node.op_type == "Exp").outputs[0].name = "a"
    make_unique(model)
    assert _names(model).count("a") == 1
    np.testing.assert_array_equal(infer(model, c=np.array(True), x=x)[0], before)


def test_inputs_and_outputs_keep_theirs(graph: Callable[..., ir.Model]) -> None:
    model = graph(TEXT)
    first = model.graph[0]
    first.outputs[0].name = "y"
    new_constant(model.graph, "x", np.zeros(1))
    make_unique(model)
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["c", "x", "y"]
    assert first.outputs[0].name == "y_1"
    assert list(model.graph.initializers) == ["x_1"]


@dataclass(frozen=True)
class TakesAName(Pass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        new_constant(model.graph, "a", np.zeros(1))
        return ir.passes.PassResult(model, modified=True)


def test_every_pass_that_modifies_leaves_unique_names(graph: Callable[..., ir.Model]) -> None:
    model = TakesAName()(graph(TEXT)).model
    names = [*_names(model), *model.graph.initializers]
    assert len(names) - len(set(names)) == 1  # b, in two branches

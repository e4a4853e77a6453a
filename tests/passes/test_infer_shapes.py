"""InferShapes: values get dtypes and shapes; a default that the caller may replace tells nothing."""

import resource
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.infer_shapes import InferShapes


def _shapes(model: ir.Model) -> dict[str | None, str]:
    return {value.name: str(value.shape) for node in model.graph for value in node.outputs}


def test_infers_through_symbols(graph: Callable[..., ir.Model], ops: Callable[..., Counter[str]]) -> None:
    text = "g (float[n,4] x) => (float[] y) { a = MatMul(x, w) b = Relu(a) s = Shape(x) y = Reshape(b, s) }"
    model = graph(text, w=np.zeros((4, 6), np.float32))
    before = ops(model)
    assert not InferShapes()(model).modified
    assert ops(model) == before
    assert _shapes(model)["b"] == "[n,6]"
    assert _shapes(model)["s"] == "[2]"


def test_a_default_is_no_constant(graph: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x, int64[2] c) => (float[a,b] y) { z = Reshape(x, c) y = Neg(z) }"
    model = graph(text, c=np.array([2, 6]), w=np.zeros(3, np.float32))
    InferShapes()(model)
    assert _shapes(model)["z"] != "[2,6]"
    assert list(model.graph.initializers) == ["c", "w"]
    assert model.graph.initializers["c"].const_value is not None
    constant = graph(text.replace(", int64[2] c", ""), c=np.array([2, 6]))
    InferShapes()(constant)
    assert _shapes(constant)["z"] == "[2,6]"


def test_external_weights_are_not_read(tmp_path, graph: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x) => (float[] y) { a = MatMul(x, w) y = Relu(a) }"
    ir.save(graph(text, w=np.zeros((4, 600), np.float32)), tmp_path / "m.onnx", external_data="m.data")
    model = ir.load(tmp_path / "m.onnx")
    tensor = model.graph.initializers["w"].const_value
    InferShapes()(model)
    assert model.graph.initializers["w"].const_value is tensor
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None
    assert _shapes(model)["a"] == "[n,600]"


def test_a_sequence_that_leaves_a_branch_is_no_tensor(graph: Callable[..., ir.Model]) -> None:
    text = """g (bool c, float[n] x) => (float[] y) {
      s = If(c) <
        then_branch = t () => (seq(float[n]) a) { a = SequenceConstruct(x) },
        else_branch = e () => (seq(float[n]) b) { b = SequenceConstruct(x, x) }
      >
      y = SequenceAt(s, zero)
    }"""
    model = graph(text, zero=np.array(0))
    InferShapes()(model)
    (branch,) = [node for node in model.graph if node.op_type == "If"]
    assert not isinstance(branch.outputs[0].type, ir.TensorType)


@pytest.mark.parametrize(
    "body", ["t = Tile(one, far) y = Add(x, t)", "i = Range(zero, far, one) j = Cast<to=1>(i) y = Add(x, j)"]
)
def test_long_vectors_take_no_memory(body: str, graph: Callable[..., ir.Model]) -> None:
    """ONNX's data propagation would take 144 bytes for each of these 64 million elements."""
    far = np.array([1 << 26]) if "Tile" in body else np.array(1 << 26)
    one = np.ones(1, np.float32) if "Tile" in body else np.array(1)
    model = graph(f"g (float[1] x) => (float[] y) {{ {body} }}", one=one, far=far, zero=np.array(0))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    InferShapes()(model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 100 << 10
    assert _shapes(model)["y"] == f"[{1 << 26}]"


def test_what_is_known_by_symbols_of_the_inputs_is_not_inferred_again(
    graph: Callable[..., ir.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graph(
        '<ir_version: 10, opset_import: ["": 20]> g (float[n,4] x) => (float[m,4] y) { a = Relu(x) y = Relu(a) }'
    )
    InferShapes()(model)
    assert [str(size) for size in model.graph.node(0).outputs[0].shape or ()] == ["n", "4"]
    model.graph.outputs[0].shape = ir.Shape(["n", 4])
    calls: list[None] = []
    monkeypatch.setattr(ir, "to_proto", lambda *_: calls.append(None))
    InferShapes()(model)
    assert not calls
    for unknown in (None, "m", "unk__0", "?", "-1"):  # of nothing that is known of the inputs
        model.graph.node(0).outputs[0].shape = ir.Shape([unknown, 4])
        with pytest.raises(AttributeError):
            InferShapes()(model)
    assert len(calls) == 5

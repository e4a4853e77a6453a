"""StripMetadata: no path, stack trace or doc string ships."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from planc.passes.infer_shapes import InferShapes
from planc.passes.strip_metadata import StripMetadata

SECRET = "/home/someone/checkout/net.py"


def _littered(model: ir.Model) -> ir.Model:
    model.doc_string = SECRET
    model.graph.doc_string = SECRET
    model.metadata_props.update({"pkg.torch.export.ExportedProgram.graph_signature": SECRET, "author": "kept"})
    model.graph.metadata_props["where"] = SECRET
    for node in model.graph:
        node.doc_string = SECRET
        node.metadata_props["pkg.torch.onnx.stack_trace"] = f'File "{SECRET}", line 1'
        for value in node.outputs:
            value.metadata_props["where"] = SECRET
    for value in model.graph.initializers.values():
        value.doc_string = SECRET
        assert isinstance(value.const_value, ir.serde.TensorProtoTensor)
        value.const_value.raw.doc_string = SECRET
    model.graph.inputs[0].doc_string = SECRET
    return model


def test_no_byte_of_it_is_left(conv_model: ir.Model, image: np.ndarray, infer: Callable[..., list[Any]]) -> None:
    model = _littered(conv_model)
    before = infer(model, x=image)
    assert SECRET.encode() in ir.to_proto(model).SerializeToString()
    nodes = len(list(model.graph))
    assert StripMetadata()(model).modified
    assert SECRET.encode() not in ir.to_proto(model).SerializeToString()
    assert len(list(model.graph)) == nodes
    np.testing.assert_array_equal(infer(model, x=image)[0], before[0])


def test_the_users_own_notes_are_kept(conv_model: ir.Model) -> None:
    model = _littered(conv_model)
    StripMetadata()(model)
    assert model.metadata_props == {"author": "kept"}


def test_a_second_run_changes_nothing(conv_model: ir.Model) -> None:
    model = _littered(conv_model)
    StripMetadata()(model)
    assert not StripMetadata()(model).modified


def test_names_of_sizes_that_were_made_up_go(graph: Callable[..., ir.Model]) -> None:
    """ONNX Runtime would take two sizes of one such name for equal, and fuse what is slower fused."""
    model = graph("g (float[n,4] x, int64[2] s) => (float[a,b] y) { r = Reshape(x, s) y = Neg(r) }")
    InferShapes()(model)
    assert str(model.graph[0].outputs[0].shape) == "[unk__0,unk__1]"
    StripMetadata()(model)
    assert str(model.graph[0].outputs[0].shape) == "[None,None]"
    assert str(model.graph.inputs[0].shape) == "[n,4]"


def test_names_that_the_inputs_have_are_the_users(graph: Callable[..., ir.Model]) -> None:
    """tf2onnx calls sizes unk__5 as well, and two inputs share one."""
    model = graph("g (float[unk__5,4] x, float[unk__5,4] z) => (float[unk__5,4] y) { a = Add(x, z) y = Neg(a) }")
    InferShapes()(model)
    StripMetadata()(model)
    values = (*model.graph.inputs, *model.graph.outputs, model.graph[0].outputs[0])
    assert [str(value.shape) for value in values] == ["[unk__5,4]"] * 4

"""Facts of a graph, on one whose numbers are known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from planc.compiler import graph
from planc.compiler.errors import UsageError


def test_describe(workshop: Path) -> None:
    facts = graph.describe(workshop / "conv.onnx")
    assert facts["inputs"] == ["x=float32[batch,3,8,8]"]
    assert facts["outputs"] == ["y=float32[batch,5]"]
    assert facts["opset"] == {"": 18}
    assert facts["nodes"] == 6
    assert list(facts["operators"].values()) == [1] * 6
    assert facts["operators"].keys() == {"BatchNormalization", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "Relu"}
    parameters = 16 * 27 + 16 * 5 + 5 * 16 + 5
    assert facts["parameters"] == parameters
    assert facts["weights_bytes"] == 4 * parameters
    assert facts["precision"]["weights_bytes"] == {"float": 4 * parameters}


def test_nodes_of_subgraphs_count(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    path = onnx_file(
        tmp_path / "if.onnx",
        """<ir_version: 8, opset_import: ["": 18]>
        g (bool c, float[2] x) => (float[2] y) {
          y = If(c) <
            then_branch = t () => (float[2] a) { a = Relu(x) },
            else_branch = e () => (float[2] b) { z = Neg(x) b = Relu(z) }
          >
        }""",
    )
    facts = graph.describe(path)
    assert facts["nodes"] == 4
    assert facts["operators"] == {"Relu": 2, "If": 1, "Neg": 1}
    assert list(facts["operators"]) == ["Relu", "If", "Neg"]


def test_precision_is_counted_from_the_graph(conv_model: ir.Model) -> None:
    value = conv_model.graph.initializers["head"]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name="head")
    counts = graph.precision_counts(ir.to_proto(conv_model))
    assert counts["weights_bytes"]["float16"] == 2 * 80
    assert counts["weights_bytes"]["float"] == 4 * (16 * 27 + 16 * 5 + 5)


def test_nodes(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    path = onnx_file(
        tmp_path / "qdq.onnx",
        """<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>
        g (float[batch,2] x, float[2,2] w, float s, uint8 z, int8 i) => (float[batch,2] y, bool[batch,2] b) {
          q = QuantizeLinear(x, s, z)
          d = DequantizeLinear(q, s, z)
          v = QuantizeLinear(w, s, i)
          u = DequantizeLinear(v, s, i)
          m = MatMul(d, u)
          h = Cast <to = 10> (m)
          f = com.microsoft.QuickGelu(h)
          k = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z)
          y = Relu(m)
          b = Greater(y, m)
        }""",
    )
    rows = graph.nodes(path)
    assert [(row["op"], row["precision"]) for row in rows] == [
        ("QuantizeLinear", "int8"), ("DequantizeLinear", "float32"), ("QuantizeLinear", "int8"),
        ("DequantizeLinear", "float32"), ("MatMul", "int8"), ("Cast", "float16"),
        ("com.microsoft.QuickGelu", "float16"), ("com.microsoft.QLinearAdd", "int8"), ("Relu", "float32"),
        ("Greater", "bool"),
    ]  # fmt: skip
    assert [row["inputs"] for row in rows] == [[], [0], [], [2], [1, 3], [4], [5], [0], [4], [4, 8]]
    assert (rows[4]["dtype"], rows[4]["shape"], rows[4]["module"]) == ("float32", ["batch", 2], "")


def test_rubbish_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model at all")
    with pytest.raises(UsageError, match=r"bad\.onnx"):
        graph.describe(tmp_path / "bad.onnx")
    with pytest.raises(UsageError, match=r"bad\.onnx"):
        graph.nodes(tmp_path / "bad.onnx")


def test_words_among_the_weights(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    nodes = "y = Relu(x) z = Identity(w)"
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y, string[2] z) {{ {nodes} }}'
    facts = graph.describe(onnx_file(tmp_path / "g.onnx", text, w=np.array(["a", "bc"], dtype=object)))
    assert facts["precision"]["nodes"] == {"float": 1, "string": 1}

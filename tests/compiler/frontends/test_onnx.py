"""ONNX files, old and new, as they are found in the wild."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from planc.compiler import graph, optimize, recipe
from planc.compiler.errors import UsageError
from planc.compiler.frontends import Exported
from planc.compiler.frontends import onnx as frontend
from planc.compiler.worker import Limits

OPSET_9 = """\
<ir_version: 4, opset_import: ["": 9]>
g (float[batch,3,4,4] x) => (float[batch,3,8,8] y) {
  n = BatchNormalization<epsilon=0.001>(x, scale, shift, mean, var)
  y = Upsample<mode="nearest">(n, scales)
}
"""
ADD = '<ir_version: 8, opset_import: ["": 18]> g (float[batch,seq] x) => (float[batch,seq] y) { y = Add(x, x) }'


def _export(path: Path, folder: Path, **words: Any) -> Exported:
    folder.mkdir()
    return frontend.export(recipe.source(str(path), **words), folder, emit=lambda *_: None)


def test_points_and_reference(workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]]) -> None:
    made = _export(workshop / "conv.onnx", tmp_path / "out", dims=["batch=1..4@2"])
    assert [(one.label, one.inputs["x"].shape[0]) for one in made.goldens] == [("opt", 2), ("min", 1), ("max", 4)]
    for one in made.goldens:
        np.testing.assert_array_equal(one.outputs["y"], infer(workshop / "conv.onnx", **one.inputs)[0])
    assert [str(spec) for spec in made.outputs] == ["y=float32[batch,5]"]
    assert made.sources == (workshop / "conv.onnx",)
    assert "optimizations off" in made.reference


def test_a_symbol_without_sizes(workshop: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        _export(workshop / "conv.onnx", tmp_path / "out")
    assert "'batch' without sizes" in caught.value.what
    assert caught.value.hint == "Add --dim batch=1..8@1, or fix it with --dim batch=1"


def test_a_dim_with_one_size_is_fixed(workshop: Path, tmp_path: Path) -> None:
    made = _export(workshop / "conv.onnx", tmp_path / "out", dims=["batch=3"])
    assert made.dims == ()
    assert [str(spec) for spec in (*made.inputs, *made.outputs)] == ["x=float32[3,3,8,8]", "y=float32[3,5]"]
    assert graph.describe(made.path)["inputs"] == ["x=float32[3,3,8,8]"]


def test_input_renames_a_symbol(workshop: Path, tmp_path: Path) -> None:
    made = _export(workshop / "conv.onnx", tmp_path / "out", inputs=["x=float32[n,3,8,8]"], dims=["n=1..2"])
    assert [str(spec) for spec in (*made.inputs, *made.outputs)] == ["x=float32[n,3,8,8]", "y=float32[n,5]"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("x=float32[batch,4,8,8]", "Write --input 'x=float32[batch,3,8,8]'"),
        ("x=float32[batch,3,8]", "Write --input 'x=float32[batch,3,8,8]'"),
        ("x=float16[batch,3,8,8]", "Write --input 'x=float32[batch,3,8,8]'"),
        ("y=float32[batch,3,8,8]", "has no such input"),
    ],
)
def test_an_input_that_does_not_fit(workshop: Path, tmp_path: Path, spec: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        _export(workshop / "conv.onnx", tmp_path / "out", inputs=[spec], dims=["batch=1..2"])
    assert said in str(caught.value)


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_symbol_may_be_called_anything(
    target: str, workshop: Path, tmp_path: Path, planc: Callable[..., Any]
) -> None:
    """As paddle2onnx calls them."""
    model = onnx.load(workshop / "conv.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "p2o.DynamicDimension.0"
    onnx.save(model, tmp_path / "paddle.onnx")
    named = ("--input", "x=float32[p2o.DynamicDimension.0,3,8,8]")
    for sizes, words in (("1", ()), ("1..4@2", named)):
        dims = ("--dim", f"p2o.DynamicDimension.0={sizes}", *words)
        planc("compile", "paddle.onnx", *dims, "-t", target, "-o", "art", "--overwrite", cwd=tmp_path)


def test_two_dynamic_dims_are_proven_together(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    made = _export(onnx_file(tmp_path / "g.onnx", ADD), tmp_path / "out", dims=["batch=1..4@2", "seq=8|16|32"])
    assert [(one.label, one.inputs["x"].shape) for one in made.goldens] == [
        ("opt", (2, 8)), ("min", (1, 8)), ("max", (4, 32)), ("seq=16", (2, 16)),
    ]  # fmt: skip


def test_opset_9_is_read(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "nine.onnx", OPSET_9, **_nine())
    made = _export(path, tmp_path / "out", dims=["batch=1..2"])
    assert made.goldens[0].outputs["y"].shape == (1, 3, 8, 8)


def test_opset_9_is_upgraded_and_verified_by_compile(
    onnx_file: Callable[..., Path], tmp_path: Path, planc: Callable[..., Any]
) -> None:
    onnx_file(tmp_path / "nine.onnx", OPSET_9, **_nine())
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        done = planc("compile", "nine.onnx", "--dim", "batch=1..2", "-t", target, "-o", target, cwd=tmp_path)
        assert "verified against onnxruntime" in done.stdout
    assert '"upgrade-opset"' in (tmp_path / "openvino-cpu" / "manifest.json").read_text()


def test_opset_8_is_refused(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "g.onnx", ADD.replace("18", "8").replace("ir_version: 8", "ir_version: 3"))
    with pytest.raises(UsageError, match="has opset 8; planc reads opset 9 and newer"):
        _export(path, tmp_path / "out", dims=["batch=1", "seq=1"])


def test_opset_13(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 7, opset_import: ["": 13]> g (float[n,4] x) => (float[n] y) {
      axes = Constant<value = int64[1] {1}>()
      y = ReduceSum<keepdims=0>(x, axes)
    }"""
    made = _export(onnx_file(tmp_path / "g.onnx", text), tmp_path / "out", dims=["n=1..3"])
    for one in made.goldens:
        np.testing.assert_allclose(one.outputs["y"], one.inputs["x"].sum(1), rtol=1e-5)


def test_initializers_that_are_inputs_too_are_no_inputs(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    """IR version 3 lists every weight among the inputs."""
    text = (
        '<ir_version: 3, opset_import: ["": 9]> g (float[n,2] x, float[2,2] w) => (float[n,2] y) { y = MatMul(x, w) }'
    )
    w = np.array([[1, 2], [3, 4]], np.float32)
    made = _export(onnx_file(tmp_path / "g.onnx", text, w=w), tmp_path / "out", dims=["n=1..3"])
    assert [spec.name for spec in made.inputs] == ["x"]
    np.testing.assert_allclose(made.goldens[0].outputs["y"], made.goldens[0].inputs["x"] @ w, rtol=1e-5)


def test_external_data_is_carried(onnx_file: Callable[..., Path], tmp_path: Path, planc: Callable[..., Any]) -> None:
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }'
    w = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    model = onnx.load(onnx_file(tmp_path / "small" / "g.onnx", text, w=w))
    folder = tmp_path / "user"
    folder.mkdir()
    onnx.save(model, folder / "g.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    made = _export(folder / "g.onnx", tmp_path / "out", dims=["n=1..3"])
    assert [path.name for path in made.sources] == ["g.onnx", "weights.bin"]
    one = made.goldens[0]
    np.testing.assert_allclose(one.outputs["y"], one.inputs["x"] @ w, rtol=1e-4, atol=1e-4)
    planc(
        "compile", "user/g.onnx", "--dim", "n=1..3", "-t", "onnxruntime-cpu", "-o", "art", "--depfile", "art.d",
        cwd=tmp_path,
    )  # fmt: skip
    assert "user/weights.bin" in (tmp_path / "art.d").read_text()
    (folder / "weights.bin").unlink()
    planc("verify", "art", cwd=tmp_path)


def test_integers_are_drawn_from_their_range(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 18]> g (int64[batch] ids) => (float[batch,2] y) { y = Gather(table, ids) }'
    )
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    path = onnx_file(tmp_path / "g.onnx", text, table=table)
    made = _export(path, tmp_path / "out", inputs=["ids=int64[batch]:3..9"], dims=["batch=64"])
    ids = made.goldens[0].inputs["ids"]
    assert set(ids.tolist()) == set(range(3, 10))
    np.testing.assert_array_equal(made.goldens[0].outputs["y"], table[ids])


def test_one_of_two_inputs_may_be_named(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
g (float[batch,past] x, int64[batch] ids) => (float[batch,past] y) { y = Gather(x, ids) }"""
    given = {"inputs": ["ids=int64[batch]:0..1"], "dims": ["batch=2", "past=1..4"]}
    made = _export(onnx_file(tmp_path / "g.onnx", text), tmp_path / "out", **given)
    assert [dim.name for dim in made.dims] == ["past"]


def test_real_inputs_become_golden_data(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    x = np.full((2, 8), 7, np.float32)
    np.savez(tmp_path / "real.npz", x=x)
    made = _export(
        onnx_file(tmp_path / "g.onnx", ADD), tmp_path / "out",
        dims=["batch=1..4@2", "seq=8|16"], data=tmp_path / "real.npz",
    )  # fmt: skip
    np.testing.assert_array_equal(made.goldens[0].inputs["x"], x)
    np.testing.assert_array_equal(made.goldens[0].outputs["y"], 2 * x)
    assert made.goldens[1].inputs["x"].shape == (1, 8)
    assert tmp_path / "real.npz" in made.sources


def test_real_inputs_that_do_not_fit(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", x=np.zeros(3, np.float32))
    with pytest.raises(UsageError, match=r"input 'x' is float32\[3\]"):
        _export(
            onnx_file(tmp_path / "g.onnx", ADD), tmp_path / "out",
            dims=["batch=1", "seq=8"], data=tmp_path / "real.npz",
        )  # fmt: skip


def test_every_dtype_of_the_border(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> g (bool[n] a, uint8[n] b, int32[n] c, double[n] d, float16[n] e)
      => (bool[n] v, uint8[n] w, int32[n] x, double[n] y, float16[n] z) {
      v = Not(a)
      w = Identity(b)
      x = Add(c, c)
      y = Add(d, d)
      z = Identity(e)
    }"""
    made = _export(onnx_file(tmp_path / "g.onnx", text), tmp_path / "out", dims=["n=1..3"])
    assert [spec.dtype for spec in made.inputs] == ["bool", "uint8", "int32", "float64", "float16"]
    assert [spec.dtype for spec in made.outputs] == ["bool", "uint8", "int32", "float64", "float16"]


def test_notes_of_tensors_do_not_stop_a_compile(workshop: Path, tmp_path: Path, planc: Callable[..., Any]) -> None:
    model = onnx.load(workshop / "conv.onnx")
    for tensor in model.graph.initializer:
        tensor.doc_string = "/home/someone/notes.txt"
    (tmp_path / "noted.onnx").write_bytes(model.SerializeToString())
    planc("compile", "noted.onnx", "--dim", "batch=1..2", "-t", "null", "-o", "art", cwd=tmp_path)
    assert b"/home/someone" not in (tmp_path / "art" / "model.onnx").read_bytes()


def _nine() -> dict[str, np.ndarray]:
    ones = np.array([0.5, 1.0, 2.0], np.float32)
    return {"scale": ones, "shift": ones, "mean": ones, "var": ones, "scales": np.array([1, 1, 2, 2], np.float32)}


def _overloaded(calls: dict[str, str]) -> onnx.ModelProto:
    """Functions of one name: each overload has a Neg and calls the other one that is given."""
    functions = []
    for name, called in calls.items():
        nodes = [helper.make_node("Neg", ["a"], ["n"])]
        nodes += [helper.make_node("F", ["n"], ["b"], domain="own", overload=called)] if called else []
        end = "b" if called else "n"
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", "F", ["a"], [end], nodes, opsets, overload=name))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    call = helper.make_node("F", ["x"], ["y"], domain="own", overload="one")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    graph = helper.make_graph([call], "g", ends[:1], ends[1:])
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def test_overloads_are_functions_of_their_own(tmp_path: Path, infer: Callable[..., list[Any]]) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(_overloaded({"two": "", "one": "two"}).SerializeToString())
    optimize.optimize(source, out, optimize.Recipe(embed=True), limits=Limits(seconds=60, memory=4 << 30))
    np.testing.assert_array_equal(infer(out, x=np.arange(4, dtype=np.float32))[0], np.arange(4))


@pytest.mark.parametrize("calls", [{"one": "one", "two": ""}, {"one": "two", "two": "one"}])
def test_an_overload_that_calls_itself(calls: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(_overloaded(calls).SerializeToString())
    with pytest.raises(UsageError, match="'F' calls itself"):
        frontend.read(source)

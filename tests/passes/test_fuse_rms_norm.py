"""FuseRmsNorm: one operator since opset 23, before it the spelling that ONNX Runtime fuses; near misses stay."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_rms_norm import FuseRmsNorm

HEAD = '<ir_version: 11, opset_import: ["": 23]>\n'
MEAN = "q = Pow(x, two) m = ReduceMean(q, last) e = Add(m, eps) r = Sqrt(e)"
TORCH = f"{MEAN} i = Reciprocal(r) n = Mul(x, i) y = Mul(scale, n)"
BODIES = {
    "torch": TORCH,
    "TorchScript": f"{MEAN} i = Div(one, r) n = Mul(i, x) y = Mul(n, scale)",
    "products": TORCH.replace("Pow(x, two)", "Mul(x, x)").replace("Add(m, eps)", "Add(eps, m)"),
}
DIVIDED = f"{MEAN} n = Div(x, r) y = Mul(scale, n)"
CONSTANTS: dict[str, Any] = {
    "two": np.array(2, np.float32),
    "one": np.array(1, np.float32),
    "eps": np.array(1e-6, np.float32),
    "last": np.array([-1]),
    "scale": np.array([1, 2, 3, 4], np.float32),
}


def _text(body: str = TORCH, outputs: str = "float[n,3,4] y", inputs: str = "float[n,3,4] x") -> str:
    return f"g ({inputs}) => ({outputs}) {{ {body} }}"


@pytest.fixture
def cube() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 4), dtype=np.float32) * 3 + 5


Rewrites = Callable[..., ir.Model]
Ops = Callable[..., Counter[str]]
SPELLED = {"ReduceMean": 1, "Add": 1, "Sqrt": 1, "Div": 1}


@pytest.mark.parametrize("name", BODIES)
def test_before_opset_23_the_reciprocal_goes(name: str, rewrites: Rewrites, ops: Ops, cube: np.ndarray) -> None:
    model = rewrites(FuseRmsNorm(), _text(BODIES[name]), feed={"x": cube}, rtol=1e-4, **CONSTANTS)
    assert ops(model) == {**SPELLED, **({"Mul": 2} if name == "products" else {"Pow": 1, "Mul": 1})}


@pytest.mark.parametrize("name", [*BODIES, "divided"])
def test_one_operator(name: str, rewrites: Rewrites, ops: Ops, cube: np.ndarray) -> None:
    text = HEAD + _text({**BODIES, "divided": DIVIDED}[name])
    model = rewrites(FuseRmsNorm(), text, feed={"x": cube}, rtol=1e-4, **CONSTANTS)
    assert ops(model) == {"RMSNormalization": 1}
    (node,) = model.graph
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-6)
    assert [value.name for value in node.inputs] == ["x", "scale"]


def test_a_cast_before_the_scale_stays(rewrites: Rewrites, ops: Ops, cube: np.ndarray) -> None:
    """Llama's at float16: the norm is in float32, the scale is not."""
    body = "x = Cast<to=1>(h) " + TORCH.replace("y = Mul(scale, n)", "c = Cast<to=10>(n) y = Mul(scale, c)")
    text = HEAD + _text(body, "float16[n,3,4] y", "float16[n,3,4] h")
    constants = {**CONSTANTS, "scale": CONSTANTS["scale"].astype(np.float16)}
    model = rewrites(FuseRmsNorm(), text, feed={"h": cube.astype(np.float16)}, rtol=2e-3, **constants)
    assert ops(model) == {"Cast": 2, "RMSNormalization": 1, "Mul": 1}


def test_onnxruntime_fuses_the_spelling(rewrites: Rewrites, cube: np.ndarray, tmp_path: Any) -> None:
    import onnxruntime

    model = rewrites(FuseRmsNorm(), _text(), feed={"x": cube}, rtol=1e-4, **CONSTANTS)
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    settings.log_severity_level = 4
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), settings, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in ir.load(tmp_path / "loaded.onnx").graph] == ["SimplifiedLayerNormalization"]


def test_the_spelling_stays(keeps: Rewrites) -> None:
    model = keeps(FuseRmsNorm(), _text(DIVIDED), **CONSTANTS)
    ((_, said),) = FuseRmsNorm().near_misses(model)
    assert said.startswith("Div ")


NOT = {
    "a cube": ({"two": np.array(3, np.float32)}, "", "", "'q' (float[n,3,4]) is no square"),
    "another axis": ({"last": np.array([1])}, "", "", "is over the axes [1]"),
    "another value": ({}, "Mul(x, i)", "Mul(z, i)", "'z' (float[n,3,4]) is divided, not 'x'"),
    "no epsilon": ({}, "Add(m, eps)", "Add(m, m)", "no constant epsilon"),
    "a product": ({}, "n = Mul(x, i)", "n = Add(x, i)", "Add '' stands where Mul"),
}


@pytest.mark.parametrize("head", ["", HEAD])
@pytest.mark.parametrize("name", NOT)
def test_what_is_nearly_one(name: str, head: str, keeps: Rewrites) -> None:
    other, old, new, reason = NOT[name]
    text = head + _text(TORCH.replace(old, new) if old else TORCH, inputs="float[n,3,4] x, float[n,3,4] z")
    ((_, said),) = FuseRmsNorm().near_misses(keeps(FuseRmsNorm(), text, **{**CONSTANTS, **other}))
    assert reason in said


@pytest.mark.parametrize("name", ["q", "m", "e", "r", "i"])
def test_an_intermediate_that_others_need(name: str, keeps: Rewrites) -> None:
    more = f"float[n,3,4] y, float[n,3,{4 if name == 'q' else 1}] "
    for head in ("", HEAD):
        keeps(FuseRmsNorm(), head + _text(f"{TORCH} z = Neg({name})", more + "z"), **CONSTANTS)
        keeps(FuseRmsNorm(), head + _text(TORCH, more + name), **CONSTANTS)


@pytest.mark.parametrize("name", ["eps", "two", "last"])
def test_a_constant_that_the_caller_gives(name: str, keeps: Rewrites) -> None:
    kind = "int64[1]" if name == "last" else "float"
    keeps(FuseRmsNorm(), _text(TORCH, "float[a,b,c] y", f"float[n,3,4] x, {kind} {name}"), **CONSTANTS)

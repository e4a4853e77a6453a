"""Q and DQ are instructions to a compiler: whole presets leave every pair where it is, beside what it quantizes."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes import PRESETS, check, signature

PAIR = "{0}q = QuantizeLinear({0}, s, z) {0}d = DequantizeLinear({0}q, s, z)"
CONV = f"""{PAIR.format("x")}
  wd = DequantizeLinear<axis=0>(w, sw, zw)
  bd = DequantizeLinear<axis=0>(b, sb, zb)
  c = Conv(xd, wd, bd)"""


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


def _ints(*shape: int, dtype: Any = np.int8) -> np.ndarray:
    return np.random.default_rng(5).integers(-100, 100, shape).astype(dtype)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """A convolution of 3 to 4 channels, and a Gemm of 4 to 5, with weights of int8 per channel."""
    return {
        "s": np.array(0.03, np.float32), "z": np.array(128, np.uint8), "w": _ints(4, 3, 3, 3), "sw": _draw(4) / 100,
        "zw": np.zeros(4, np.int8), "b": _ints(4, dtype=np.int32), "sb": _draw(4) / 1000, "zb": np.zeros(4, np.int32),
        "v": _ints(4, 5), "sv": _draw(5) / 100, "zv": np.zeros(5, np.int8), "scale": _draw(4, seed=1),
        "shift": _draw(4, seed=2), "mean": _draw(4, seed=3), "var": _draw(4, seed=4), "column": _draw(4, 1, 1),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "float": _draw(4, 3, 3, 3),
    }  # fmt: skip


def _optimized(
    model: ir.Model, family: str, infer: Callable[..., list[np.ndarray]]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Runs a preset, and returns the outputs before and behind it."""
    x, wanted = _draw(2, 3, 8, 8) - 1, signature(model)
    before = infer(model, x=x)
    for one in PRESETS[family]:
        one(model)
        check(model, wanted)
    return before, infer(model, x=x)


MODELS = {
    "convolution": f"{CONV} {PAIR.format('c')} y = Identity(cd)",
    "convolution and relu": f"{CONV} r = Relu(c) {PAIR.format('r')} y = Neg(rd)",
    "batch normalization between": f"""{CONV} n = BatchNormalization(c, scale, shift, mean, var)
      {PAIR.format("n")} y = Neg(nd)""",
    "batch normalization behind": f"{CONV} {PAIR.format('c')} y = BatchNormalization(cd, scale, shift, mean, var)",
    "a scale between": f"{CONV} n = Mul(c, column) {PAIR.format('n')} y = Neg(nd)",
    "a scale behind": f"{CONV} {PAIR.format('c')} y = Mul(cd, column)",
    "padding before": f"p = Pad(x, pads) {CONV.replace('(x,', '(p,')} {PAIR.format('c')} y = Neg(cd)",
    "gemm": f"""{CONV} g = GlobalAveragePool(c) f = Flatten(g) {PAIR.format("f")}
      vd = DequantizeLinear<axis=1>(v, sv, zv) m = Gemm(fd, vd) {PAIR.format("m")} y = Neg(md)""",
    "two pairs alike": f"""{CONV} {PAIR.format("c")} cq2 = QuantizeLinear(c, s, z) cd2 = DequantizeLinear(cq2, s, z)
      p = Relu(cd) q = Neg(cd2) y = Add(p, q)""",
    "quantized weights of floats": f"""{PAIR.format("x")} wq = QuantizeLinear<axis=0>(float, sw, zw)
      wd = DequantizeLinear<axis=0>(wq, sw, zw) y = Conv(xd, wd)""",
}


@pytest.mark.parametrize("family", PRESETS)
@pytest.mark.parametrize("name", MODELS)
def test_pairs_stay(
    name: str,
    family: str,
    graph: Callable[..., ir.Model],
    infer: Callable[..., list[np.ndarray]],
    ops: Callable[..., Counter[str]],
    arrays: dict[str, np.ndarray],
) -> None:
    """Equal pairs of one value may become one; none is folded, int8 weights stay int8, and float ones become it."""
    model = graph(
        f"g (float[n,3,8,8] x) => (float[] y) {{ {MODELS[name]} }}".replace(
            "float[] y", "float[p,q] y" if name == "gemm" else "float[p,q,r,s] y"
        ),
        **arrays,
    )
    wanted = ops(model)
    was, now = _optimized(model, family, infer)
    np.testing.assert_allclose(now[0], was[0], rtol=1e-4, atol=1e-5)
    have = ops(model)
    fewer = 1 if name == "two pairs alike" else 0
    folded = 1 if name == "quantized weights of floats" else 0
    assert have["QuantizeLinear"] == wanted["QuantizeLinear"] - fewer - folded
    assert have["DequantizeLinear"] == wanted["DequantizeLinear"] - fewer
    assert have["BatchNormalization"] == wanted["BatchNormalization"]
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            operands = [value.producer() for value in node.inputs[:2] if value is not None]
            assert [one and one.op_type for one in operands] == ["DequantizeLinear"] * 2
    kept = model.graph.initializers.values()
    assert ir.DataType.INT8 in {value.dtype for value in kept}


@pytest.mark.parametrize("family", PRESETS)
def test_transposes_do_not_pass_a_pair(
    family: str,
    graph: Callable[..., ir.Model],
    infer: Callable[..., list[np.ndarray]],
    arrays: dict[str, np.ndarray],
) -> None:
    """DQ -> operator -> Q is one unit: a Transpose between them would break it."""
    text = f"""g (float[n,3,8,8] x) => (float[p,q,r,s] y) {{
      t = Transpose<perm=[0,2,3,1]>(x) {PAIR.format("t")} o = Relu(td) {PAIR.format("o")}
      u = Transpose<perm=[0,3,1,2]>(od) y = Neg(u)
    }}"""
    model = graph(text, **arrays)
    was, now = _optimized(model, family, infer)
    np.testing.assert_array_equal(now[0], was[0])
    assert [node.op_type for node in model.graph] == [
        "Transpose", "QuantizeLinear", "DequantizeLinear", "Relu", "QuantizeLinear", "DequantizeLinear", "Transpose",
        "Neg",
    ]  # fmt: skip


@pytest.mark.parametrize("family", PRESETS)
@pytest.mark.parametrize("opset", [13, 19, 20])
def test_opsets(
    opset: int,
    family: str,
    graph: Callable[..., ir.Model],
    infer: Callable[..., list[np.ndarray]],
    ops: Callable[..., Counter[str]],
    arrays: dict[str, np.ndarray],
) -> None:
    body = f"{CONV} {PAIR.format('c')} y = Neg(cd)"
    model = graph(
        f'<ir_version: 9, opset_import: ["": {opset}]> g (float[n,3,8,8] x) => (float[p,q,r,s] y) {{ {body} }}',
        **arrays,
    )
    was, now = _optimized(model, family, infer)
    np.testing.assert_allclose(now[0], was[0], rtol=1e-4, atol=1e-5)
    assert ops(model) == {"QuantizeLinear": 2, "DequantizeLinear": 4, "Conv": 1, "Neg": 1}


@pytest.mark.parametrize("family", PRESETS)
def test_a_dynamic_quantization_stays(
    family: str,
    graph: Callable[..., ir.Model],
    infer: Callable[..., list[np.ndarray]],
    ops: Callable[..., Counter[str]],
) -> None:
    text = """g (float[n,3,8,8] x) => (float[n,3,8,5] y) {
      q, s, z = DynamicQuantizeLinear(x)
      m = MatMulInteger(q, w, z)
      f = Cast<to=1>(m)
      k = Mul(s, sw)
      y = Mul(f, k)
    }"""
    model = graph(text, w=_ints(8, 5), sw=_draw(5))
    was, now = _optimized(model, family, infer)
    np.testing.assert_allclose(now[0], was[0], rtol=1e-5)
    assert ops(model) == {"DynamicQuantizeLinear": 1, "MatMulInteger": 1, "Cast": 1, "Mul": 2}

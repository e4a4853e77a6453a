"""FuseGelu: the spellings of exporters become one Gelu; anything that is nearly GELU stays."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_gelu import FuseGelu
from planc.passes.remove_unused import RemoveUnused

ERF = {
    "torch": "s = Div(x, root) e = Erf(s) g = Add(e, one) p = Mul(x, g) y = Mul(p, half)",
    "half first": "s = Mul(x, inverse) e = Erf(s) g = Add(one, e) h = Mul(half, x) y = Mul(h, g)",
    "half of the gate": "s = Mul(inverse, x) e = Erf(s) g = Add(one, e) h = Mul(g, half) y = Mul(x, h)",
    "half last": "s = Div(x, root) e = Erf(s) g = Add(e, one) p = Mul(g, x) y = Mul(half, p)",
}
TANH = {
    "pow": "q = Pow(x, three) c = Mul(q, cubic) i = Add(x, c) s = Mul(i, slope) t = Tanh(s) g = Add(t, one) "
    "h = Mul(x, half) y = Mul(h, g)",
    "products": "a = Mul(x, x) q = Mul(a, x) c = Mul(cubic, q) i = Add(c, x) s = Mul(slope, i) t = Tanh(s) "
    "g = Add(one, t) p = Mul(x, g) y = Mul(p, half)",
}
NUMBERS = {"root": 2**0.5, "inverse": 2**-0.5, "one": 1, "half": 0.5, "three": 3, "cubic": 0.044715, "slope": 0.7978846}


def _constants(dtype: type = np.float32, **other: float) -> dict[str, np.ndarray]:
    return {name: np.array(number, dtype) for name, number in {**NUMBERS, **other}.items()}


def _text(body: str, outputs: str = "float[n,4] y", dtype: str = "float") -> str:
    return f"g (float[n,4] x) => ({outputs}) {{ {body} }}".replace("float[", f"{dtype}[")


@pytest.mark.parametrize("name", [*ERF, *TANH])
def test_fuses(name: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    model = rewrites(FuseGelu(), _text({**ERF, **TANH}[name]), feed={"x": 3 * x}, rtol=1e-4, **_constants())
    (gelu,) = [node for node in model.graph if node.op_type == "Gelu"]
    assert ("approximate" in gelu.attributes) == (name in TANH)
    assert [value.name for value in model.graph.outputs] == ["y"]
    RemoveUnused()(model)
    assert ops(model) == {"Gelu": 1}


def test_float16(rewrites: Callable[..., ir.Model], x: np.ndarray) -> None:
    constants = _constants(np.float16)
    rewrites(FuseGelu(), _text(ERF["torch"], dtype="float16"), feed={"x": x.astype(np.float16)}, rtol=3e-3, **constants)


def test_a_chain_of_two(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    second = "a = Div(y, root) b = Erf(a) c = Add(b, one) d = Mul(y, c) z = Mul(d, half)"
    model = rewrites(FuseGelu(), _text(ERF["torch"] + second, "float[n,4] z"), feed={"x": x}, **_constants())
    assert ops(model)["Gelu"] == 2


def test_half_of_x_that_others_need_stays(rewrites: Callable[..., ir.Model], x: np.ndarray) -> None:
    text = _text(ERF["half first"] + " z = Neg(h)", "float[n,4] y, float[n,4] z")
    model = rewrites(FuseGelu(), text, feed={"x": x}, **_constants())
    assert "Gelu" in [node.op_type for node in model.graph]


@pytest.mark.parametrize("name", NUMBERS)
def test_another_constant(name: str, keeps: Callable[..., ir.Model]) -> None:
    bodies = [body for body in (*ERF.values(), *TANH.values()) if name in body]
    assert bodies
    for body in bodies:
        keeps(FuseGelu(), _text(body), **_constants(**{name: NUMBERS[name] * 1.01}))


@pytest.mark.parametrize("name", ["s", "e", "g", "p"])
def test_an_intermediate_that_others_need(name: str, keeps: Callable[..., ir.Model]) -> None:
    keeps(FuseGelu(), _text(f"{ERF['torch']} z = Neg({name})", "float[n,4] y, float[n,4] z"), **_constants())
    keeps(FuseGelu(), _text(ERF["torch"], f"float[n,4] y, float[n,4] {name}"), **_constants())


def test_another_x(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x, float[n,4] z) => (float[n,4] y) { %s }"
    for body in ERF.values():
        scaled = body.split(" e = ")[0]
        keeps(FuseGelu(), text % body.replace(scaled, scaled.replace("x", "z")), **_constants())


def test_a_constant_that_the_caller_gives(keeps: Callable[..., ir.Model]) -> None:
    text = "g (float[n,4] x, float half) => (float[n,4] y) { %s }"
    keeps(FuseGelu(), text % ERF["torch"], **_constants())


def test_a_constant_that_adds_a_dimension(keeps: Callable[..., ir.Model]) -> None:
    constants = {**_constants(), "half": np.full((1, 1, 1), 0.5, np.float32)}
    keeps(FuseGelu(), _text(ERF["torch"], "float[1,n,4] y"), **constants)


def test_before_opset_20(keeps: Callable[..., ir.Model]) -> None:
    keeps(FuseGelu(), '<ir_version: 8, opset_import: ["": 19]>' + _text(ERF["torch"]), **_constants())


def test_branches(rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    inner = ERF["torch"].replace("x", "o")
    text = f"""g (bool k, float[n,4] x) => (float[n,4] z) {{
      o = Neg(x)
      z = If(k) <
        then_branch = t () => (float[n,4] y) {{ {inner} }},
        else_branch = f () => (float[n,4] w) {{ w = Exp(o) }}
      >
    }}"""
    model = rewrites(FuseGelu(), text, feed={"k": np.array(True), "x": x}, **_constants())
    RemoveUnused()(model)
    assert ops(model) == {"Neg": 1, "If": 1, "Gelu": 1, "Exp": 1}


@pytest.mark.parametrize(
    ("body", "numbers", "reason"),
    [
        (ERF["torch"], {"half": 0.6}, "'half' = 0.6 scales the product, not 0.5"),
        (ERF["torch"], {"one": 2}, "'one' = 2 is added to the curve, not 1"),
        (ERF["half first"], {"half": 0.6}, "the gate multiplies 'h' (float[n,4]): neither x ="),
        (TANH["pow"], {"cubic": 0.05}, "'i' (float[n,4]) is not x + 0.044715 * x ** 3"),
        ("y = Tanh(x)", {}, "an input or a constant stands where Mul or Div is looked for"),
        ("z = Neg(x) y = Erf(z)", {}, "Neg '' stands where Mul or Div is looked for"),
        ("z = Div(x, root) y = Erf(z)", {}, "'y' (float[n,4]) is an output of the graph"),
    ],
)
def test_near_misses(body: str, numbers: dict[str, float], reason: str, keeps: Callable[..., ir.Model]) -> None:
    model = keeps(FuseGelu(), _text(body), **_constants(**numbers))
    ((node, said),) = FuseGelu().near_misses(model)
    assert node.op_type in ("Erf", "Tanh")
    assert reason in said


def test_what_matches_is_no_near_miss_and_looking_changes_nothing(
    graph: Callable[..., ir.Model], rewrites: Callable[..., ir.Model], x: np.ndarray
) -> None:
    model = graph(_text(ERF["torch"]), **_constants())
    assert list(FuseGelu().near_misses(model)) == []
    model = rewrites(FuseGelu(), model, feed={"x": x}, rtol=1e-4)
    assert list(FuseGelu().near_misses(model)) == []


def test_near_misses_say_that_the_opset_is_too_old(graph: Callable[..., ir.Model]) -> None:
    model = graph('<ir_version: 8, opset_import: ["": 19]>' + _text(ERF["torch"]), **_constants())
    ((_, reason),) = FuseGelu().near_misses(model)
    assert reason == "the graph is of opset 19, the fused operator of 20"

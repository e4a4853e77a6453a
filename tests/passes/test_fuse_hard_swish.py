"""FuseHardSwish: the spellings of exporters become one HardSwish; anything that is nearly one stays."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_hard_swish import FuseHardSwish

CLIP = "a = Add(x, three) c = Clip(a, zero, six) p = Mul(x, c) y = Div(p, six)"
GATE = "h = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(h, x)"
BODIES = {
    "last": CLIP,
    "last, by a product": "a = Add(three, x) c = Clip(a, zero, six) p = Mul(c, x) y = Mul(sixth, p)",
    "first": "a = Add(x, three) c = Clip(a, zero, six) d = Div(c, six) y = Mul(x, d)",
    "first, by a product": "a = Add(x, three) c = Clip(a, zero, six) d = Mul(c, sixth) y = Mul(d, x)",
    "HardSigmoid": GATE,
}
NUMBERS: dict[str, float] = {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6}


def _constants(dtype: type = np.float32, **other: float) -> dict[str, np.ndarray]:
    return {name: np.array(number, dtype) for name, number in {**NUMBERS, **other}.items()}


def _text(body: str, outputs: str = "float[n,4] y", inputs: str = "float[n,4] x") -> str:
    return f"g ({inputs}) => ({outputs}) {{ {body} }}"


@pytest.mark.parametrize("name", BODIES)
def test_fuses(name: str, rewrites: Callable[..., ir.Model], ops: Callable[..., Counter[str]], x: np.ndarray) -> None:
    feed = {"x": np.concatenate([x, [[-3, 3, -9, 9]]]).astype(np.float32) * 2}
    model = rewrites(FuseHardSwish(), _text(BODIES[name]), feed=feed, rtol=1e-4, **_constants())
    assert ops(model) == {"HardSwish": 1}
    assert list(FuseHardSwish().near_misses(model)) == []


NOT = {
    "another sum": (CLIP, {"three": 2}, "'a' (float[n,4]) is not x + 3"),
    "another bound": (CLIP, {"zero": 1}, "the bounds are 1.0 and 6.0"),
    "no bound": (CLIP.replace("zero, six", "zero"), {}, "the bounds are 0.0 and None"),
    "not divided": (CLIP.replace("Div(p, six)", "Neg(p)"), {}, "'p' (float[n,4]) is not divided by 6"),
    "divided the other way": (CLIP.replace("Div(p, six)", "Div(six, p)"), {}, "is not divided by 6"),
    "another x": (CLIP.replace("Mul(x, c)", "Mul(z, c)"), {}, "the gate multiplies 'z' (float[n,4]), not 'x'"),
    "another slope": (GATE.replace("0.16666667", "0.2"), {}, "the slope is 0.2 and the middle 0.5"),
    "another middle": (GATE.replace("beta=0.5", "beta=0.6"), {}, "the middle 0.6"),
    "a gate alone": ("y = HardSigmoid<alpha=0.16666667, beta=0.5>(x)", {}, "is an output of the graph"),
}


@pytest.mark.parametrize("name", NOT)
def test_what_is_nearly_one(name: str, keeps: Callable[..., ir.Model]) -> None:
    body, other, reason = NOT[name]
    model = keeps(FuseHardSwish(), _text(body, inputs="float[n,4] x, float[n,4] z"), **_constants(**other))
    ((_, said),) = FuseHardSwish().near_misses(model)
    assert reason in said


@pytest.mark.parametrize("name", ["a", "c", "p"])
def test_an_intermediate_that_others_need(name: str, keeps: Callable[..., ir.Model]) -> None:
    keeps(FuseHardSwish(), _text(f"{CLIP} z = Neg({name})", "float[n,4] y, float[n,4] z"), **_constants())
    keeps(FuseHardSwish(), _text(CLIP, f"float[n,4] y, float[n,4] {name}"), **_constants())


@pytest.mark.parametrize("name", ["three", "zero", "six"])
def test_a_constant_that_the_caller_gives(name: str, keeps: Callable[..., ir.Model]) -> None:
    keeps(FuseHardSwish(), _text(CLIP, inputs=f"float[n,4] x, float {name}"), **_constants())


@pytest.mark.parametrize(("word", "dtype"), [("double", np.float64), ("float16", np.float16)])
def test_what_has_no_kernel(word: str, dtype: Any, keeps: Callable[..., ir.Model]) -> None:
    keeps(FuseHardSwish(), _text(CLIP).replace("float[", f"{word}["), **_constants(dtype))


def test_before_opset_14(keeps: Callable[..., ir.Model]) -> None:
    keeps(FuseHardSwish(), '<ir_version: 8, opset_import: ["": 13]>' + _text(CLIP), **_constants())

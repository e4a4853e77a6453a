"""FuseRotary: x * cos + rotate_half(x) * sin is one operator, of the angles once."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc.passes.fuse_rotary import FuseRotary
from planc.passes.infer_shapes import InferShapes

HEAD = '<ir_version: 11, opset_import: ["": 23]>\n'
ANGLES = (
    "d = Concat<axis=-1>(a, a) c = Cos(d) s = Sin(d) cu = Unsqueeze(c, one) su = Unsqueeze(s, one) "
    "p = Mul(x, cu) l = Slice(x, zero, four, three, one) u = Slice(x, four, far, three, one) n = Neg(u)"
)
BODY = f"{ANGLES} r = Concat<axis=-1>(n, l) q = Mul(r, su) y = Add(p, q)"
CONSTANTS: dict[str, Any] = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "three": np.array([3]),
    "four": np.array([4]),
    "far": np.array([2**63 - 1]),
}
INPUTS = "float[b,2,5,8] x, float[b,5,4] a"

Rewrites = Callable[..., ir.Model]
Ops = Callable[..., Counter[str]]


def _text(body: str = BODY, inputs: str = INPUTS, outputs: str = "float[b,2,5,8] y") -> str:
    return f"{HEAD} g ({inputs}) => ({outputs}) {{ {body} }}"


def _feed(batch: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"x": (3, 2, 5, 8), "a": (batch, 5, 4)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("y = Add(p, q)", "y = Add(q, p)"),
        ("Mul(x, cu)", "Mul(cu, x)"),
        ("Mul(r, su)", "Mul(su, r)"),
        ("x, four, far", "x, four, eight"),
    ],
)
def test_fuses(old: str, new: str, rewrites: Rewrites, ops: Ops) -> None:
    text = _text(BODY.replace(old, new))
    model = rewrites(FuseRotary(), text, feed=_feed(), rtol=1e-4, eight=np.array([8]), **CONSTANTS)
    assert ops(model) == {"Cos": 1, "Sin": 1, "RotaryEmbedding": 1}
    assert list(FuseRotary().near_misses(model)) == []


def test_angles_of_all_batches(rewrites: Rewrites, ops: Ops) -> None:
    text = _text(inputs=INPUTS.replace("[b,5,4]", "[1,5,4]"))
    model = rewrites(FuseRotary(), text, feed=_feed(1), rtol=1e-4, **CONSTANTS)
    assert ops(model) == {"Shape": 1, "Concat": 1, "Expand": 1, "Cos": 1, "Sin": 1, "RotaryEmbedding": 1}


MISSES = {
    "the halves the other way round": ("u = Slice(x, four, far", "u = Slice(x, zero, four", "upper half"),
    "an uneven cut": ("l = Slice(x, zero, four", "l = Slice(x, zero, three", "lower half"),
    "another axis": ("r = Concat<axis=-1>(n, l)", "r = Concat<axis=3>(n, l) z = Neg(r)", None),
    "other angles": ("s = Sin(d)", "e = Neg(d) s = Sin(e)", "stands where Concat is looked for"),
    "the negated angles": ("s = Sin(d)", "m = Neg(a) e = Concat<axis=-1>(m, m) s = Sin(e)", "is not of the angles"),
    "angles that differ": ("d = Concat<axis=-1>(a, a)", "m = Neg(a) d = Concat<axis=-1>(a, m)", "twice the same"),
    "another value": ("p = Mul(x, cu)", "w = Neg(x) p = Mul(w, cu)", "is not 'x'"),
}


@pytest.mark.parametrize("name", MISSES)
def test_what_only_looks_so_stays(name: str, graph: Rewrites) -> None:
    old, new, said = MISSES[name]
    model = graph(_text(BODY.replace(old, new)), **CONSTANTS)
    InferShapes()(model)
    assert FuseRotary()(model).modified == (said is None)
    assert [said in reason for _, reason in FuseRotary().near_misses(model) if said] == [True] * (said is not None)


def test_other_batches_and_opsets_stay(graph: Rewrites) -> None:
    for text, said in (
        (_text(inputs=INPUTS.replace("[b,5,4]", "[c,5,4]")), "have another batch than"),
        (_text(inputs=INPUTS.replace("[b,5,4]", "[b,1,4]")), "do not fit"),
        (_text().replace('"": 23', '"": 20'), "the graph is of opset 20"),
    ):
        model = graph(text, **CONSTANTS)
        InferShapes()(model)
        assert not FuseRotary()(model).modified
        ((_, reason),) = FuseRotary().near_misses(model)
        assert said in reason

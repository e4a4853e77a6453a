"""The presets: the ordered lists of passes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc import passes
from planc.passes import PRESETS
from planc.passes._base import Pass


def test_run_names_the_passes_that_changed_something(
    conv_model: ir.Model, image: np.ndarray, infer: Callable[..., list[Any]]
) -> None:
    before = infer(conv_model, x=image)
    changed = passes.run(conv_model, "onnx")
    assert "fuse-conv-bn" in changed
    assert "upgrade-opset" not in changed
    assert changed == [one.name for one in PRESETS["onnx"] if one.name in changed]
    np.testing.assert_allclose(infer(conv_model, x=image)[0], before[0], rtol=1e-4, atol=1e-5)
    assert passes.run(conv_model, "onnx") == []


def test_there_is_no_other_family(conv_model: ir.Model) -> None:
    with pytest.raises(LookupError):
        passes.run(conv_model, "abacus")


@dataclass(frozen=True)
class BrokenPass(Pass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raise ValueError("cannot do that") from KeyError("no such weight")


def test_a_failing_pass_is_named(conv_model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "broken", (BrokenPass(),))
    with pytest.raises(ir.passes.PassError, match="broken-pass: KeyError: 'no such weight'"):
        passes.run(conv_model, "broken")


def test_a_pass_is_named_after_its_class() -> None:
    assert [one.name for one in PRESETS["onnx"]][:2] == ["inline-functions", "upgrade-opset"]

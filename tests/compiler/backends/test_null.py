"""The null backend: the optimized graph, executed nowhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler.backends import Request, null
from planc.compiler.errors import Unavailable
from planc.compiler.target import Precision, find_target


def test_build_writes_the_graph_as_it_is(
    workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    built = null.build(Request(workshop / "conv.onnx", Precision.FP32, null.Options(), tmp_path, find_target("null")))
    expected = infer(workshop / "conv.onnx", x=image)[0]
    np.testing.assert_array_equal(infer(tmp_path / "model.onnx", x=image)[0], expected)
    assert sum(built.effective_precision["nodes"].values()) == 6


def test_nothing_runs_it(null_artifact: Path) -> None:
    with pytest.raises(Unavailable, match="runs nowhere"):
        null.load(null_artifact, {})
    assert all(null.why_not(find_target("null"), precision, null.Options()) is None for precision in Precision)


def test_the_manifest_says_why_it_is_not_verified(null_artifact: Path) -> None:
    verification = json.loads((null_artifact / "manifest.json").read_text())["verification"]
    assert verification["passed"] is None
    assert "null target executes nothing" in verification["reason"]

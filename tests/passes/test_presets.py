"""The presets: the ordered lists of passes; names and options on the command line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planc import passes
from planc.passes import PRESETS
from planc.passes.fold_constants import FoldConstants
from planc.passes.strip_metadata import StripMetadata


def _changed(model: ir.Model) -> list[str]:
    return [one.name for one in PRESETS["onnx"] if one(model).modified]


def test_a_preset_changes_no_result(conv_model: ir.Model, image: np.ndarray, infer: Callable[..., list[Any]]) -> None:
    before = infer(conv_model, x=image)
    assert {"fuse-conv-bn", "upgrade-opset"} <= set(_changed(conv_model))
    np.testing.assert_allclose(infer(conv_model, x=image)[0], before[0], rtol=1e-4, atol=1e-5)
    assert _changed(conv_model) == []


def test_a_pass_is_named_after_its_class() -> None:
    assert [one.name for one in PRESETS["onnx"]][:2] == ["inline-functions", "upgrade-opset"]


def test_names_are_sorted_and_those_of_the_presets() -> None:
    known = passes.names()
    assert list(known) == sorted(known)
    assert {one.name for order in PRESETS.values() for one in order} <= set(known)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fold-constants", FoldConstants()),
        (" fold-constants{} ", FoldConstants()),
        ("fold-constants{max-output-bytes=10}", FoldConstants(max_output_bytes=10)),
        ("fold-constants{ max-output-bytes = 10 , max-input-elements=2 }", FoldConstants(2, 10)),
        ("strip-metadata{keep-origin=true}", StripMetadata(keep_origin=True)),
        ("strip-metadata{keep-origin=false}", StripMetadata()),
    ],
)
def test_parse(text: str, expected: passes.Pass) -> None:
    assert passes.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fold-constant", "unknown pass 'fold-constant'.*fold-constants"),
        ("", "unknown pass"),
        ("fold-constants{max-output-bytes=10", "unknown pass"),
        ("fold-constants{bytes=10}", "fold-constants has no option 'bytes'"),
        ("fold-constants{max-output-bytes=ten}", "max-output-bytes=ten is not of type int"),
        ("fold-constants{max-output-bytes=-1}", "is not of type int"),
        ("fold-constants{max-output-bytes}", "is not of type int"),
        ("strip-metadata{keep-origin=1}", "is not of type bool"),
    ],
)
def test_parse_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        passes.parse(text)

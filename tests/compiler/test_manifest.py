"""What a manifest says; that a build writes it is held by test_pipeline.py."""

import pytest

from planc.compiler import keys, manifest
from planc.compiler.artifact import RANGES


@pytest.mark.parametrize(
    ("name", "expected"),
    [(f"{keys.PAYLOAD}model.onnx", "model.onnx"), (keys.RANGES, RANGES), ("lowered.onnx", "")],
)
def test_what_of_a_stage_gets_into_the_artifact(name: str, expected: str) -> None:
    assert manifest.payload_name(name) == expected


def test_a_dimension_has_its_bounds_and_all_its_sizes() -> None:
    row = {"name": "batch", "sizes": (1, 2, 8), "opt": 2, "choice": True}
    expected = {"name": "batch", "min": 1, "opt": 2, "max": 8, "sizes": [1, 2, 8], "choice": True}
    assert manifest.shown_dim(row) == expected


def test_what_was_not_executed_says_how_to_complete_it_only_where_that_can_be() -> None:
    graph = {"reference": "torch", "tolerance": {"cosine": 0.99}, "points": {}}
    said = manifest.not_executed("no GPU", graph)
    assert said["passed"] is None and said["reason"] == "built, not executed here: no GPU"
    assert said["complete_with"].startswith("planc verify")
    assert "complete_with" not in manifest.not_executed("it runs nowhere", graph, completable=False)

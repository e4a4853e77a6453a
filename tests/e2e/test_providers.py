"""Real models in ONNX Runtime on the OpenVINO provider, by the installed command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planc as package
from planc.compiler.backends import onnxruntime_ep
from planc.compiler.target import find_target

from ._run import planc

TARGET = "onnxruntime-openvino"
IDS = ("--input", "input_ids=int64[batch,seq]:0..30521", "--input", "attention_mask=int64[batch,seq]:1..1")
MODELS = {
    "efficientnet_lite0": (
        ("--input", "x=float32[batch,3,224,224]"), ("--dim", "batch=1..8@1"), "image_calibration", 16,
    ),
    "minilm": (IDS, ("--dim", "batch=1..4@1", "--dim", "seq=8..256@128"), "text_calibration", 16),
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _openvino() -> None:
    if reason := onnxruntime_ep.unverifiable(find_target(TARGET)):
        pytest.skip(reason)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The exported graph, in a folder of its own."""
    out = tmp_path_factory.mktemp(request.param) / f"{request.param}.onnx"
    inputs, dims, *_ = MODELS[request.param]
    _call("export", f"{repository}/bench/models.py:{request.param}", *inputs, *dims, "-o", out, cwd=out.parent)
    return out


def _call(*words: object, cwd: Path) -> dict[str, Any]:
    """Runs planc and returns its JSON document."""
    answer = planc(*words, "--format", "json", cwd=cwd, timeout=300)
    assert answer.code == 0, answer.stderr
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def _compile(model: Path, name: str, *words: object) -> dict[str, Any]:
    dims: Sequence[str] = MODELS[model.stem][1]
    made = _call("compile", model, *dims, "-t", TARGET, "-o", name, *words, cwd=model.parent)
    manifest: dict[str, Any] = made["manifest"]
    return manifest


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model.*"))


def test_every_node_is_on_the_provider_and_int8_is_a_third(model: Path, repository: Path) -> None:
    *_, data, samples = MODELS[model.stem]
    fp32 = _compile(model, "fp32")
    ranges = ("--calibration", f"{repository}/bench/data.py:{data}", "--samples", samples)
    int8 = _compile(model, "int8", "-p", "int8", *ranges)
    for manifest in (fp32, int8):
        assert manifest["placement"]["share"] == 1.0
        assert manifest["verification"]["passed"] is True
    assert int8["quantization"]["products"]["int8"]["macs_share"] > 0.99
    assert _bytes(model.parent / "int8") < 0.33 * _bytes(model.parent / "fp32")


def test_what_the_provider_compiled_computes_the_same(model: Path) -> None:
    plain = _compile(model, "plain")
    assert _compile(model, "compiled", "-O", "ep_context=true")["placement"] == plain["placement"]
    golden = package.load(model.parent / "plain")
    feed = {
        spec.name: np.ones(
            [size if isinstance(size, int) else {"seq": 32}.get(size, 1) for size in spec.shape], spec.dtype
        )
        for spec in golden.inputs
    }
    expected, result = golden(**feed), package.load(model.parent / "compiled")(**feed)
    for name, array in expected.items():
        np.testing.assert_allclose(result[name], array, rtol=1e-3, atol=1e-4)

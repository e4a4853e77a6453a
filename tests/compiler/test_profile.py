"""Layers by time, as ONNX Runtime's and OpenVINO's own profilers tell them, under the names of PyTorch modules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from planc.compiler import bench, profile
from planc.compiler.backends import Layer

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.body(torch.relu(self.norm(self.stem(x))))
        return self.head(torch.sin(x.mean((2, 3))))


def net():
    torch.manual_seed(0)
    return Net().eval()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=rng.standard_normal((8, 3, 32, 32), dtype=np.float32))
    return folder


@pytest.fixture(scope="module", params=["onnxruntime-cpu", "openvino-cpu"])
def made(request: pytest.FixtureRequest, site: Path, planc: Callable[..., Any]) -> dict[str, Any]:
    """The document of `planc bench --profile` of an artifact in fp32 and in INT8."""
    target = request.param
    words = ("--input", "x=float32[batch,3,32,32]", "--dim", "batch=1..8@8", "-t", target)
    planc("compile", "net.py:net", *words, "-o", f"{target}-fp32", cwd=site)
    planc("compile", "net.py:net", *words, "-p", "int8", "--calibration", "data.npz", "-o", f"{target}-int8", cwd=site)
    quick = ("--seconds", 0.2, "--processes", 1, "--profile", "--format", "json")
    document: dict[str, Any] = json.loads(planc("bench", f"{target}-fp32", f"{target}-int8", *quick, cwd=site).stdout)
    return document


def test_layers_have_the_paths_of_modules_and_all_of_the_time(made: dict[str, Any]) -> None:
    jsonschema.validate(made, json.loads(bench.SCHEMA.read_text()))
    for subject in made["subjects"]:
        found = subject["profile"]
        assert {"stem", "body.0", "head"} <= {row["module"] for row in found["layers"]}
        assert sum(row["share"] for row in found["layers"]) == pytest.approx(1)
        assert sum(row["share"] for row in found["modules"]) == pytest.approx(1)
        assert sum(row["ms"] for row in found["layers"]) == pytest.approx(found["sum_ms"])
        assert found["layers"] == sorted(found["layers"], key=lambda row: -row["ms"])
        assert not [row for row in found["layers"] if row["note"] == profile.FALLBACK]


def test_products_compute_in_what_was_asked_for(made: dict[str, Any]) -> None:
    kinds = []
    for subject in made["subjects"]:
        rows = {row["module"]: row for row in subject["profile"]["layers"]}
        kinds.append({rows[name]["precision"] for name in ("stem", "body.0", "head")})
    assert kinds[0] == {"float32"}
    assert "int8" in kinds[1]


def test_text_has_the_slowest_layers(made: dict[str, Any], site: Path, planc: Callable[..., Any]) -> None:
    name = made["subjects"][1]["name"]
    done = planc("bench", name, "--seconds", 0.2, "--processes", 1, "--profile", cwd=site)
    lines = done.stdout.splitlines()
    (heading,) = [number for number, line in enumerate(lines) if "computes in" in line]
    assert "%" in lines[heading + 2]
    assert any(f"{name}: " in line and "layers take" in line and "of the time has a module" in line for line in lines)


def test_an_onnx_file_is_profiled_and_a_module_says_why_not(site: Path, planc: Callable[..., Any]) -> None:
    words = ("--input", "x=float32[batch,3,32,32]", "--dim", "batch=8")
    planc("export", "net.py:net", *words, "-o", "net.onnx", cwd=site)
    done = planc(
        "bench", "net.onnx", "--against", "torch:net.py:net", "--seconds", 0.2, "--processes", 1,
        "--profile", "--format", "json", cwd=site,
    )  # fmt: skip
    file, module = (subject["profile"] for subject in json.loads(done.stdout)["subjects"])
    assert {"Conv", "Gemm"} & {row["op"] for row in file["layers"]}
    assert "torch.profiler" in module["reason"]


def _layer(name: str, ms: float, **facts: Any) -> Layer:
    known = {"op": "Conv", "kernel": "", "provider": "CPU", "precision": "int8", "product": True, "conversion": False}
    return Layer((name, f"{name}_added"), ms=ms, **{**known, **facts})


def test_what_was_not_fused_or_fell_back_is_told() -> None:
    layers = [
        _layer("a", 5.0),
        _layer("b", 3.0, precision="float32"),
        _layer("c", 1.0, op="Reorder", product=False, conversion=True),
        _layer("d", 1.0, provider="GPU"),
    ]
    known = {"a": "stem", "b_added": "body"}
    found = profile.document(layers, known, quantized=True, provider="CPU")
    assert [row["note"] for row in found["layers"]] == ["", "float", "conversion", "fallback"]
    assert [row["module"] for row in found["layers"]] == ["stem", "body", None, None]
    assert found["modules"][0] == {"module": "stem", "layers": 1, "ms": 5.0, "share": 0.5}
    lines = list(profile.told("net", found, 9.0))
    assert "4 layers take 10 ms under the profiler, a call 9 ms without it; 80% of the time has a module" in lines[0]
    assert lines[1:] == [
        "net: 1 run on another provider than the one that was asked for, 10.0% of the time: Conv",
        "net: 1 products stay in floating point, 30.0% of the time: Conv",
        "net: 1 layers only convert layouts or types, 10.0% of the time: Reorder",
    ]
    plain = profile.document(layers, known, quantized=False, provider="CPU")
    assert "float" not in {row["note"] for row in plain["layers"]}


def test_an_artifact_without_a_report_has_no_modules(tmp_path: Path) -> None:
    assert profile.modules(tmp_path) == {}

"""What the tests share: the real command line, small graphs, and artifacts that are built once per run."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the first import of onnxruntime

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino")

NET = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(16)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def net():
    return Net()
"""
NET_SHAPES = ("--input", "x=float32[batch,3,8,8]", "--dim", "batch=1..4@2")

CONV = """\
<ir_version: 8, opset_import: ["": 18]>
conv (float[batch,3,8,8] x) => (float[batch,5] y) {
  a = Conv<pads=[1,1,1,1]>(x, w, b)
  n = BatchNormalization(a, scale, shift, mean, var)
  r = Relu(n)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  y = Gemm<transB=1>(f, head, bias)
}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each file of tests has a cache of its own, which is empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def run_planc(*words: object, cwd: Path, expect: int | None = 0, **environment: str) -> Done:
    """Runs the installed `planc` as a user does; with `expect`, its exit code must be that."""
    command = [str(Path(sys.executable).with_name("planc")), *map(str, words)]
    made = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )
    assert expect is None or made.returncode == expect, f"{command}: {made.returncode}\n{made.stdout}\n{made.stderr}"
    return Done(made.returncode, made.stdout, made.stderr)


def write_onnx(path: Path, text: str, **arrays: np.ndarray) -> Path:
    """Writes a graph given in ONNX's text form, with arrays as its initializers."""
    import onnx
    import onnx.parser

    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def conv_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of CONV."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    return {
        "w": normal(16, 3, 3, 3),
        "b": normal(16),
        "scale": normal(16),
        "shift": normal(16),
        "mean": normal(16),
        "var": np.abs(normal(16)) + 0.5,
        "head": normal(5, 16),
        "bias": normal(5),
    }


def run_onnx(model: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    """Runs a graph (a path or an onnx_ir.Model) in ONNX Runtime with optimizations off."""
    import onnx_ir as ir
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    what = str(model) if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(what, settings, providers=["CPUExecutionProvider"]).run(None, inputs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole command lines first: started last, one long file would keep one process busy while the other waits."""
    items.sort(key=lambda item: not {"conformance", "e2e", "examples", "test_readme.py"} & set(item.path.parts))


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def planc() -> Callable[..., Done]:
    return run_planc


@pytest.fixture(scope="session")
def onnx_file() -> Callable[..., Path]:
    return write_onnx


@pytest.fixture(scope="session")
def infer() -> Callable[..., list[np.ndarray]]:
    return run_onnx


@pytest.fixture
def conv_model() -> Any:
    """CONV as an onnx_ir.Model of its own, to be changed at will."""
    import onnx
    import onnx.parser
    import onnx_ir as ir

    model = onnx.parser.parse_model(CONV)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in conv_weights().items())
    return ir.from_proto(model)


@pytest.fixture
def image() -> np.ndarray:
    """An input of CONV and NET."""
    return np.random.default_rng(1).standard_normal((2, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with `net.py` and `conv.onnx`; nothing that is built there may be changed."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "net.py").write_text(NET)
    write_onnx(folder / "conv.onnx", CONV, **conv_weights())
    return folder


def _compiled(workshop: Path, target: str, *words: str) -> Path:
    out = workshop / "out" / "-".join((target, *words)).replace("=", "-")
    run_planc("compile", "conv.onnx", "--dim", "batch=1..4@2", "-t", target, *words, "-o", out, cwd=workshop)
    return out


@pytest.fixture(scope="session")
def ort_artifact(workshop: Path) -> Path:
    """CONV for onnxruntime-cpu: read only."""
    return _compiled(workshop, "onnxruntime-cpu")


@pytest.fixture(scope="session")
def openvino_artifact(workshop: Path) -> Path:
    """CONV for openvino-cpu: read only."""
    return _compiled(workshop, "openvino-cpu")


@pytest.fixture(scope="session")
def null_artifact(workshop: Path) -> Path:
    """CONV for the null target: read only."""
    return _compiled(workshop, "null")


@pytest.fixture
def copied(ort_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the onnxruntime-cpu artifact, to be damaged at will."""
    import shutil

    return Path(shutil.copytree(ort_artifact, tmp_path / "copied"))


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Runs Python code in a process of its own and returns its stdout."""

    def run(code: str, *words: object, cwd: Path = REPOSITORY) -> str:
        made = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300
        )
        assert made.returncode == 0, made.stderr
        return made.stdout

    return run

"""Real models become plans by the installed command line: sizes, precisions, and what their graphs compute.

`python -m bench plans` makes all of them in all precisions.
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from planc.compiler import host

from ._run import planc

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(host.gpus()), reason="plans are executed here")]


@dataclass(frozen=True)
class Net:
    """A model of bench/models.py.

    Attributes:
        inputs: as for --input.
        dims: as for --dim.
        products: convolutions and matrix products of the parsed network.
    """

    inputs: tuple[str, ...]
    dims: tuple[str, ...]
    products: int

    @property
    def words(self) -> list[str]:
        """What planc is told of the shapes."""
        return [f"--input={text}" for text in self.inputs] + [f"--dim={text}" for text in self.dims]


NETS = {
    "efficientnet_lite0": Net(("x=float32[batch,3,224,224]",), ("batch=1..4@1",), 50),
    "crepe_tiny": Net(("frames=float32[batch,1024]",), ("batch=1..64@16",), 7),
    "gpt2_step": Net(
        ("ids=int64[batch,1]:0..50256", "past=float32[6,2,batch,6,past,64]"), ("batch=1..2@1", "past=1..128@64"), 37
    ),
}
OCR = Net(("x=float32[batch,3,48,width]",), ("batch=1", "width=48..640@320"), 51)


def _call(*words: object, cwd: Path) -> dict[str, Any]:
    answer = planc(*words, "--format", "json", cwd=cwd, timeout=300)
    assert answer.code == 0, answer.stderr
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Callable[[str], Path]:
    """Exports a model; gives its FP32 graph, weights inside."""
    folder = tmp_path_factory.mktemp("plans")

    def export(name: str) -> Path:
        out = folder / f"{name}.onnx"
        if not out.exists():
            _call("export", f"{repository}/bench/models.py:{name}", *NETS[name].words, "-o", out, cwd=folder)
        return out

    return export


def _compile(source: Path, net: Net, out: Path, *words: object) -> tuple[dict[str, Any], float]:
    """The manifest of a plan that its graph proves, and its bytes as a share of those of the FP32 graph."""
    made = _call("compile", source, *net.words, "-t", "tensorrt-rtx:sm86+sm89", "-o", out, *words, cwd=out.parent)
    manifest = made["manifest"]
    verification = manifest["verification"]
    assert verification["passed"] is None
    assert verification["reason"] == "built, not executed here: no GPU"
    assert verification["graph"]["passed"] is True
    return manifest, manifest["files"]["model.plan"]["bytes"] / source.stat().st_size


@pytest.mark.parametrize(("name", "most"), [("gpt2_step", 0.86)])
def test_half_the_precision_is_half_the_size(
    name: str, most: float, graph: Callable[[str], Path], tmp_path: Path
) -> None:
    """A KV cache that grows by one; TensorRT stores GPT-2's tied weight twice (bench plans: seven models)."""
    manifest, share = _compile(graph(name), NETS[name], tmp_path / "out", "-p", "fp16")
    effective = manifest["effective_precision"]
    assert effective["products"] == {"float16": NETS[name].products}
    assert "float32" not in effective["layers"]
    assert share <= most
    ((profile,),) = (manifest["session"]["profiles"],)
    assert set(profile) == {text.partition("=")[0] for text in NETS[name].inputs}
    assert all(low != high for low, _, high in profile.values())


@pytest.mark.parametrize(
    ("name", "calibration", "most"),
    [
        ("efficientnet_lite0", "image_calibration", 0.66),
        ("crepe_tiny", "tone_calibration", 1.1),
    ],
)
def test_int8_is_in_every_product(
    name: str, calibration: str, most: float, graph: Callable[[str], Path], repository: Path, tmp_path: Path
) -> None:
    """Each INT8 layer carries about 0.1 MB of compiled code: small nets gain little."""
    data = ("--calibration", f"{repository}/bench/data.py:{calibration}", "--samples", "16")
    manifest, share = _compile(graph(name), NETS[name], tmp_path / "out", "-p", "int8", *data)
    effective = manifest["effective_precision"]
    assert effective["products"] == {"int8": NETS[name].products}
    assert effective["qdq"]["left"] == 0
    assert share <= most


def test_a_graph_of_opset_12_is_a_plan_in_int8(repository: Path, tmp_path: Path) -> None:
    """PP-OCRv4: the scales of its depthwise convolutions need opset 13."""
    found = importlib.util.find_spec("rapidocr_onnxruntime")
    assert found
    assert found.submodule_search_locations
    source = Path(found.submodule_search_locations[0]) / "models/ch_PP-OCRv4_rec_infer.onnx"
    data = ("--calibration", f"{repository}/bench/data.py:line_calibration", "--samples", "16")
    words = ("-p", "int8", *data, "--tolerance", "sqnr_db=0", "--tolerance", "cosine=0")  # where a letter flips
    manifest, share = _compile(source, OCR, tmp_path / "out", *words)
    effective = manifest["effective_precision"]
    assert effective["products"]["int8"] >= 0.9 * OCR.products
    assert share <= 1.15

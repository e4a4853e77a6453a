"""--dynamic: INT8 for models without data, from the command line to the artifact."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import recipe, single
from planc.compiler.errors import Unavailable, UsageError
from planc.compiler.worker import Limits

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (int64[batch,n] ids) => (float[batch,n,16] y) {
  e = Gather(table, ids) h = MatMul(e, up) a = Relu(h) [down_node] m = MatMul(a, down) y = Add(m, bias) }"""
WORDS = ("--input", "ids=int64[batch,n]:0..8191", "--dim", "batch=1..4@2", "--dim", "n=1..9@5")


@pytest.fixture(scope="module")
def language(onnx_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding of 1 MB and two products."""
    random = np.random.default_rng(0)
    shapes = {"table": (8192, 64), "up": (64, 128), "down": (128, 16), "bias": (16,)}
    arrays = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return onnx_file(tmp_path_factory.mktemp("language") / "language.onnx", TEXT, **arrays)


def _job(model: Path, target: str, **words: Any) -> recipe.Job:
    source = recipe.source(str(model), inputs=WORDS[1:2], dims=WORDS[3::2])
    return recipe.job(source, target, "int8", quantization=recipe.quantization(dynamic=True, **words))


def test_an_artifact_without_data(planc: Callable[..., Any], language: Path, tmp_path: Path) -> None:
    words = ("-t", "onnxruntime-cpu", "-p", "int8", "--dynamic", "--format", "json", "-o", "art")
    manifest = json.loads(planc("compile", language, *WORDS, *words, cwd=tmp_path).stdout)["manifest"]
    assert manifest["effective_precision"]["products"] == {"int8": 2, "float": 0}
    quantization = manifest["quantization"]
    assert quantization["products"].keys() == {"int8"}
    assert quantization["products"]["int8"]["weights_bytes"] == 64 * 128 + 128 * 16
    assert quantization["dynamic"]
    assert quantization["calibration"] is None
    weights = sum(path.stat().st_size for path in (tmp_path / "art").glob("model.*"))
    assert weights < 0.35 * language.stat().st_size
    assert not (tmp_path / "art" / "ranges.json").exists()


def test_a_graph_without_data_tells_each_layer(language: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    made = single.quantize_file(_job(language, "onnxruntime-cpu"), out, limits=Limits(300))
    assert [row["op"] for row in made["layers"]] == ["MatMul", "MatMul", "Gather"]
    assert {row["decision"] for row in made["layers"]} == {"int8"}
    assert out.stat().st_size < 0.35 * language.stat().st_size


def test_the_guard_and_names_keep_layers_in_float(language: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "eval.npz", ids=np.random.default_rng(1).integers(0, 8192, (6, 5)))
    job = _job(language, "onnxruntime-cpu", keep=["e"], max_drop=["cosine=0.01"], evaluation=str(tmp_path / "eval.npz"))
    made = single.quantize_file(job, tmp_path / "out.onnx", limits=Limits(300))
    assert [row["decision"] for row in made["layers"]] == ["int8", "int8", "float"]
    assert made["guard"]["loss"]["cosine=0.01"] < 0.01


def test_data_and_no_data_exclude_each_other(planc: Callable[..., Any], language: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", ids=np.zeros((2, 5), np.int64))
    words = ("compile", language, *WORDS, "-t", "onnxruntime-cpu", "-o", "art", "--dynamic")
    assert "--dynamic" in planc(*words, "-p", "int8", "--calibration", "data.npz", cwd=tmp_path, expect=2).stderr
    assert "-p int8" in planc(*words, cwd=tmp_path, expect=2).stderr
    with pytest.raises(UsageError):
        recipe.quantization(dynamic=True, random=True)


def test_targets_that_run_it_in_float_refuse_it(language: Path) -> None:
    with pytest.raises(Unavailable, match="float32") as caught:
        _job(language, "openvino-cpu")
    assert caught.value.exit_code == 3
    assert [job.target.name for job in recipe.candidates(_job(language, "cpu"))] == ["onnxruntime-cpu"]

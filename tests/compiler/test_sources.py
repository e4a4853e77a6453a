"""What artifacts were made from, as depfiles have it: after a build, from the cache, and after a failure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import project, sources
from planc.compiler.cache import Store

GRAPH = '<ir_version: 8, opset_import: ["": 18]> g (float[4,64] x) => (float[4,32] y) { y = MatMul(x, w) }'
TOML = """
[model.net]
source = "models/net.onnx"
calibration = "data.py:samples"
[[build]]
targets = ["null"]
precisions = ["fp32", "int8"]
"""
DATA = """
from pathlib import Path
import numpy as np
from helper import SCALE


def samples():
    for file in sorted(Path("samples").iterdir()):
        yield {"x": np.load(file) * SCALE}
"""
FP32 = "out/net-null-fp32/manifest.json: models/net.onnx planc.toml"
INT8 = "out/net-null-int8/manifest.json: data.py helper.py models/net.onnx planc.toml samples/0.npy"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, onnx_file: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("site")
    rng = np.random.default_rng(1)
    onnx_file(folder / "models" / "net.onnx", GRAPH, w=rng.standard_normal((64, 32), dtype=np.float32))
    (folder / "samples").mkdir()
    np.save(folder / "samples" / "0.npy", rng.standard_normal((4, 64), dtype=np.float32))
    (folder / "data.py").write_text(DATA)
    (folder / "helper.py").write_text("SCALE = 1\n")
    (folder / "planc.toml").write_text(TOML)
    return folder


def _rules(site: Path) -> list[str]:
    return [line for line in (site / "build" / "all.d").read_text().splitlines() if not line.endswith(":")]


def test_a_depfile_has_all_sources_of_each_artifact_cached_or_not(site: Path, planc: Callable[..., Any]) -> None:
    words = ("build", "--cache", "cache", "--depfile", "build/all.d")
    planc(*words, cwd=site)
    assert _rules(site) == [FP32, INT8]
    (site / "build" / "all.d").unlink()
    assert planc(*words, cwd=site).stdout.endswith("2 jobs: 2 cached\n")
    assert _rules(site) == [FP32, INT8]
    planc(*words, "--only", "*-fp32", cwd=site)
    assert _rules(site) == [FP32]


def test_folders_that_user_code_lists_are_known(site: Path) -> None:
    fp32, int8 = project.load(site / "planc.toml").jobs
    store = Store(site / "cache")
    assert sources.of(fp32, store).folders == frozenset()
    assert sources.of(int8, store).folders == {site / "samples"}
    whole = sources.together(site / "planc.toml", [sources.of(one, store) for one in (fp32, int8)])
    assert {path.name for path in whole.files} == {"0.npy", "data.py", "helper.py", "net.onnx", "planc.toml"}


def test_a_failed_job_keeps_its_sources(site: Path, planc: Callable[..., Any]) -> None:
    """Make has its artifact from before: it must come again when the helper is mended."""
    (site / "helper.py").write_text("from missing_one import SCALE\n")
    planc("build", "--cache", "cache", "--depfile", "build/all.d", cwd=site, expect=2)
    assert _rules(site) == [FP32, INT8]
    (site / "helper.py").write_text("SCALE = 1\n")
    (site / "samples" / "0.npy").rename(site / "samples" / "1.npy")
    _, int8 = project.load(site / "planc.toml").jobs
    assert site / "samples" / "0.npy" in sources.of(int8, Store(site / "cache")).files  # as it was last built


def test_a_job_that_only_another_machine_can_build_has_sources_too(site: Path, tmp_path: Path) -> None:
    overrides = ['build.0.targets=["h100"]', 'build.0.precisions=["fp16"]']
    (entry,) = project.for_others(project.load(site / "planc.toml", overrides=overrides).jobs)
    assert site / "models" / "net.onnx" in sources.of(entry, Store(tmp_path / "empty")).files

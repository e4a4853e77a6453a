"""Each thing that decides a result changes the keys of exactly the stages that read it; nothing else changes any."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import host, keys, pipeline, recipe, stages
from planc.compiler.cache import Store
from planc.compiler.recipe import Job
from planc.compiler.worker import Limits

Write = Callable[..., Path]

ALL = ("export", "optimize", "calibrate", "lower", "build", "verify")
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,64] x) => (float[n,16] y) {
  a = MatMul(x, w)
  r = Relu(a)
  y = MatMul(r, v)
}"""
DATA = """
import scale
import numpy as np

def calibration():
    rng = np.random.default_rng(0)
    for _ in range(4):
        yield {"x": rng.standard_normal((1, 64), dtype=np.float32) * scale.SCALE}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, onnx_file: Write) -> Path:
    """A project that was built, in INT8 for ONNX Runtime, and its store: read only."""
    folder = tmp_path_factory.mktemp("keys") / "site"
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal((64, 32), dtype=np.float32), rng.standard_normal((32, 16), dtype=np.float32)
    plain = onnx_file(folder / "plain.onnx", GRAPH, w=w, v=v)
    import onnx

    model = onnx.load(plain)
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    plain.unlink()
    (folder / "data.py").write_text(DATA)
    (folder / "scale.py").write_text("SCALE = 2.0\n")
    (folder / "samples").mkdir()
    for number in range(3):
        np.save(folder / "samples" / f"{number}.npy", rng.standard_normal((1, 64), dtype=np.float32))
    for data in ("data.py:calibration", "samples"):
        pipeline.run(_job(folder, data), folder.parent / "out" / data[:4], limits=Limits(300), store=_store(folder))
    return folder


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Path:
    """A copy of the project at another place, with the store."""
    shutil.copytree(built.parent, tmp_path / "elsewhere", symlinks=True)
    return tmp_path / "elsewhere" / "site"


def _store(folder: Path) -> Store:
    return Store(folder.parent / "cache")


def _job(folder: Path, data: str = "data.py:calibration", target: str = "onnxruntime-cpu", *options: str) -> Job:
    source = recipe.source(str(folder / "net.onnx"), dims=["n=1..4@2"])
    return recipe.job(
        source, target, "int8", options=options, quantization=recipe.quantization(data=str(folder / data))
    )


def _misses(folder: Path, job: Job) -> tuple[str, ...]:
    """Stages that run when the job is built now."""
    return pipeline.run(job, folder.parent / "again", limits=Limits(300), store=_store(folder)).made


def _first_miss(folder: Path, job: Job) -> str:
    return stages.trail(job, _store(folder))[1]


def test_a_copy_elsewhere_with_new_times_and_neighbours_hits(site: Path) -> None:
    for path in site.rglob("*"):
        os.utime(path, (1, 1))
    (site / "notes.txt").write_text("unrelated")
    (site / "samples" / "notes.txt").write_text("unrelated")
    assert _misses(site, _job(site)) == ()
    assert _misses(site, _job(site, "samples")) == ()


def test_a_bit_of_external_data_misses_all(site: Path) -> None:
    content = bytearray((site / "net.data").read_bytes())
    content[100] ^= 1
    (site / "net.data").write_bytes(content)
    assert _misses(site, _job(site)) == ALL


def test_a_bit_of_the_graph_misses_the_export(site: Path) -> None:
    import onnx

    model = onnx.load(site / "net.onnx", load_external_data=False)
    model.graph.name = "other"
    (site / "net.onnx").write_bytes(model.SerializeToString())
    assert _first_miss(site, _job(site)) == "export"


def test_a_calibration_sample_misses_from_there(site: Path) -> None:
    sample = np.load(site / "samples" / "1.npy")
    np.save(site / "samples" / "1.npy", sample * 3)
    assert _misses(site, _job(site, "samples")) == ("calibrate", "lower", "build", "verify")


def test_one_more_sample_misses_calibrate(site: Path) -> None:
    shutil.copy(site / "samples" / "1.npy", site / "samples" / "9.npy")
    assert _first_miss(site, _job(site, "samples")) == "calibrate"


def test_a_helper_of_the_data_misses_calibrate_and_a_comment_in_it_no_more(site: Path) -> None:
    (site / "scale.py").write_text("SCALE = 2.0  # as it was\n")
    assert _misses(site, _job(site)) == ("calibrate",)  # its result is the same: the rest hits
    (site / "scale.py").write_text("SCALE = 3.0\n")
    assert _misses(site, _job(site)) == ("calibrate", "lower", "build", "verify")


def test_a_package_that_comes_before_a_helper_misses(site: Path) -> None:
    (site / "scale").mkdir()
    (site / "scale" / "__init__.py").write_text("SCALE = 5.0\n")
    assert _first_miss(site, _job(site)) == "calibrate"


def test_an_option_of_the_backend_misses_the_build(site: Path) -> None:
    assert _first_miss(site, _job(site, "data.py:calibration", "onnxruntime-cpu", "threads=1")) == "build"


def test_a_number_of_threads_does_not_search_the_layers_again(site: Path, tmp_path: Path) -> None:
    job = _job(site)
    job = replace(
        job, quantization=recipe.quantization(data=job.quantization.calibration.data, max_drop=["cosine=0.5"])
    )
    pipeline.run(job, tmp_path / "out", limits=Limits(300), store=_store(site))
    assert _first_miss(site, replace(job, options=(("threads", "1"),))) == "build"


def test_a_tolerance_misses_verify_only(site: Path) -> None:
    job = replace(_job(site), tolerance=(("sqnr_db", 5.0),))
    assert _misses(site, job) == ("verify",)


@pytest.mark.parametrize(
    ("package", "stage"),
    [("onnx", "export"), ("onnxscript", "export"), ("onnxruntime", "export"), ("openvino", ""), ("torch", "")],
)
def test_a_version_of_a_tool_misses_where_it_is_used(
    package: str, stage: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = host.version
    monkeypatch.setattr(host, "version", lambda name: "0.0" if name == package else version(name))
    assert _first_miss(site, _job(site)) == stage


def test_a_flag_of_the_cpu_misses_where_it_is_looked_at(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = host.cpu_flags()
    monkeypatch.setattr(host, "cpu_flags", lambda: flags ^ {"avx512_fp16"})
    assert _first_miss(site, _job(site)) == "build"
    without = flags - {"avx_vnni", "avx512_vnni", "amx_int8"}
    monkeypatch.setattr(host, "cpu_flags", lambda: without if without != flags else flags | {"avx512_vnni"})
    assert _first_miss(site, _job(site)) == "lower"  # weights of 7 or 8 bits


def test_a_plan_for_a_gpu_does_not_know_this_cpu(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(_job(site), target=recipe.find_target("null"))
    pipeline.run(job, site.parent / "null", limits=Limits(300), store=_store(site))
    flags = host.cpu_flags()
    monkeypatch.setattr(host, "cpu_flags", lambda: flags ^ {"avx512_fp16"})
    assert _first_miss(site, job) == "verify"  # what was executed here


def test_a_change_of_planc_misses_all(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "own_digest", lambda: "other")
    assert _first_miss(site, _job(site)) == "export"


def test_dims_and_precision_miss(site: Path) -> None:
    job = _job(site)
    wider = replace(job, source=recipe.source(str(site / "net.onnx"), dims=["n=1..8@2"]))
    assert _first_miss(site, wider) == "export"
    assert _first_miss(site, recipe.job(replace(job.source, brief=True), "onnxruntime-cpu", "fp32")) != ""


def test_a_key_names_no_path(site: Path) -> None:
    job, store = _job(site), _store(site)
    done, _, _ = stages.trail(job, store)
    assert list(done) == list(ALL)
    for entry in done.values():
        assert str(site.parent) not in str(entry)
        assert "/tmp" not in str({"components": entry.components, "reads": entry.reads})

"""From words to a Job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planc.compiler import host, recipe
from planc.compiler.errors import Unavailable, UsageError
from planc.compiler.recipe import Source
from planc.compiler.target import Precision, find_target
from planc.compiler.worker import Limits

X = Source("net.py:net")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("net.py", "model.onnx", "model.pt2", "model.pt", "state.safetensors"):
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "frontend", "name"),
    [
        ("net.py:build", "torch", "build"),
        ("some.package:build", "torch", "build"),
        ("model.onnx", "onnx", "model"),
        ("model.pt2", "torch", "model"),
    ],
)
def test_source(here: Path, model: str, frontend: str, name: str) -> None:
    made = recipe.source(model, inputs=["x=float32[batch,3]"], dims=["batch=1..4"])
    assert (made.frontend, made.name) == (frontend, name)
    assert made.inputs[0].shape == ("batch", 3)
    assert made.dims[0].max == 4


@pytest.mark.parametrize(
    ("model", "what", "hint"),
    [
        ("modle.onnx", "no such file", "Did you mean 'model.onnx'?"),
        ("nett.py:build", "no such file", "Did you mean 'net.py'?"),
        ("net.py", "what kind of model", "file.py:callable"),
        ("model", "what kind of model", "model.onnx"),
        (":net", "what kind of model", "pkg.mod:callable"),
        ("some-package:net", "what kind of model", "pkg.mod:callable"),
        ("model.pt", "is a pickle", "--trust-pickle"),
    ],
)
def test_bad_source(here: Path, model: str, what: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.source(model)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_files_beside_the_model_must_exist(here: Path) -> None:
    assert recipe.source("model.pt", trust_pickle=True).trust_pickle
    with pytest.raises(UsageError, match=r"no such file: gone\.npz"):
        recipe.source("net.py:net", data=Path("gone.npz"))
    with pytest.raises(UsageError, match=r"Did you mean 'state\.safetensors'"):
        recipe.source("net.py:net", weights=Path("state.safetensor"))


def test_dims_are_checked_against_the_inputs(here: Path) -> None:
    with pytest.raises(UsageError, match="Add --dim batch="):
        recipe.source("net.py:net", inputs=["x=float32[batch]"])


def test_torch_takes_words_for_dimensions(here: Path) -> None:
    with pytest.raises(UsageError, match=r"torch takes no dimension called 'a\.b'"):
        recipe.source("net.py:net", inputs=["x=float32[a.b]"], dims=["a.b=1..4"])


def test_job() -> None:
    job = recipe.job(X, "openvino-cpu", "fp16", options=["threads=2", "hint=throughput"], tolerance=["sqnr-db=30"])
    assert job.id == "net-openvino-cpu-fp16"
    assert job.precision is Precision.FP16
    assert job.tolerance == (("sqnr_db", 30.0),)
    options = recipe.backend_options(job)
    assert (options.threads, options.hint) == (2, "throughput")


def test_options_are_typed() -> None:
    options = recipe.backend_options(recipe.job(X, "onnxruntime-cpu", "fp32", options=["portable=True", "threads=3"]))
    assert options.portable is True
    assert options.threads == 3
    assert recipe.backend_options(recipe.job(X, "onnxruntime-cpu", "fp32")).portable is False


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("portabel=true", "Did you mean 'portable'?"),
        ("portable=1", "not of type bool"),
        ("threads=two", "not of type int"),
        ("threads=-1", "not of type int"),
        ("threads", "not of the form NAME=VALUE"),
        ("=3", "not of the form NAME=VALUE"),
    ],
)
def test_bad_options(option: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.job(X, "onnxruntime-cpu", "fp32", options=[option])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cosin=1", "Did you mean 'cosine'?"),
        ("cosine=near", "not a number"),
        ("cosine=nan", "not a number"),
        ("cosine", "not of the form NAME=VALUE"),
    ],
)
def test_bad_tolerances(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.tolerances([text])
    assert said in str(caught.value)


def test_what_no_backend_can_do_is_told_with_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "has_bf16", lambda: False)
    with pytest.raises(Unavailable) as caught:
        recipe.job(X, "cpu", "bf16")
    assert "onnxruntime-cpu: " in caught.value.what
    assert "openvino-cpu: " in caught.value.what
    assert "planc doctor" in caught.value.hint


def test_cpu_keeps_the_candidates_that_can() -> None:
    assert [job.target.name for job in recipe.candidates(recipe.job(X, "cpu", "fp32"))] == [
        "onnxruntime-cpu",
        "openvino-cpu",
    ]
    assert [job.target.name for job in recipe.candidates(recipe.job(X, "cpu", "fp16"))] == ["openvino-cpu"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 << 30), ("500MB", 500_000_000), ("1.5 kb", 1500), ("4096", 4096), ("2MiB", 2 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert recipe.bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "8 apples", "8TiB", "nan", "inf"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        recipe.bytes_of(text)


def test_limits(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(bytes(1000))
    most = host.memory_bytes() * 9 // 10
    assert recipe.limits(X, 5, "1GiB") == Limits(5, 1 << 30, 1 << 30)
    assert recipe.limits(X, 5, None) == Limits(5, most, most)
    assert recipe.limits(Source(str(model)), 5, None) == Limits(5, (768 << 20) + 8000, most)
    for seconds in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="not positive"):
            recipe.limits(X, seconds, None)


def test_options_of_a_target_file_come_before_the_users() -> None:
    base = recipe.job(X, "openvino-cpu", "fp32", options=["threads=2"])
    target = type(base.target)(base.target.name, "", "openvino", options={"threads": 8, "hint": "throughput"})
    options = recipe.backend_options(recipe.Job(X, target, base.precision, base.options))
    assert (options.threads, options.hint) == (2, "throughput")


def test_what_quantization_reads_is_known(tmp_path: Path) -> None:
    for name in ("data.py", "metric.py", "ranges.json", "names.txt"):
        (tmp_path / name).write_text("f = g = conv\n" if name.endswith(".py") else "conv\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0.npz").touch()
    made = recipe.quantization(
        data=f"{tmp_path / 'data.py'}:f",
        evaluation=str(tmp_path / "folder"),
        keep=[f"@{tmp_path / 'names.txt'}"],
        max_drop=[f"{tmp_path / 'metric.py'}:g=0.1"],
    )
    assert [path.name for path in made.files] == ["data.py", "0.npz", "metric.py", "names.txt"]
    assert made.keep == ("conv",)
    assert recipe.quantization(table=tmp_path / "ranges.json").files == (tmp_path / "ranges.json",)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"samples": 0}, "--samples 0"),
        ({"method": "mce"}, "--method mce"),
        ({"smoothing": 1.5}, "--smoothing 1.5"),
        ({"random": True, "data": "x.npz"}, "exclude each other"),
        ({"dynamic": True, "random": True}, "--dynamic takes no calibration"),
        ({"max_drop": ["top2=1"]}, "top2"),
        ({"data": "missing.npz"}, "missing.npz"),
        ({"data": "words.txt"}, "words.txt: not data"),
        ({"data": "data.calib:batches"}, "data.calib:batches: data are given as a file"),
    ],
)
def test_quantization_refuses(
    words: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.npz", "words.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UsageError) as caught:
        recipe.quantization(**words)
    assert reason in caught.value.what
    assert caught.value.hint


def test_int8_needs_data_and_fp32_none() -> None:
    with pytest.raises(UsageError, match="INT8 needs calibration data"):
        recipe.job(Source("net.py:net"), "onnxruntime-cpu", "int8")
    with pytest.raises(UsageError, match="not with FP32"):
        recipe.job(X, "onnxruntime-cpu", "fp32", quantization=recipe.quantization(random=True))


def test_options_of_the_able_candidate_are_taken(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    """onnxruntime-cpu knows no hint, and cannot do fp16 either."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }"""
    source = recipe.source(str(onnx_file(tmp_path / "g.onnx", text)))
    job = recipe.job(source, "cpu", "fp16", options=["hint=throughput"])
    assert [one.target.name for one in recipe.candidates(job)] == ["openvino-cpu"]


def test_the_order_of_compute_capabilities_does_not_matter() -> None:
    assert find_target("tensorrt-rtx:sm89+sm86+sm86").name == "tensorrt-rtx:sm86+sm89"

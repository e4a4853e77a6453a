"""From planc.toml to jobs: paths, precedence, gates, globs, and what a mistake says."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planc.compiler import project, recipe, schema
from planc.compiler.errors import Unavailable, UsageError
from planc.compiler.gates import Gates
from planc.compiler.project import Entry, Project
from planc.compiler.recipe import Calibration, Guard, Quantization
from planc.compiler.target import Precision

NET = """
[model.net]
source = "net.py:net"
inputs = { x = "float32[batch,3]" }
dims = { batch = "1..8@2" }
calibration = "data.py:calibration"
"""
BUILD = """
[[build]]
targets = ["null"]
"""
EDGE = """
[target.edge]
backend = "tensorrt-rtx"
arch = "sm86+sm89"
options = { builder_optimization_level = 4 }
resources = { l4 = 1 }
memory = "8GiB"
description = "The box at the gate"
"""
INT8 = 'precisions = ["fp32", "fp16", "int8"]\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with all files that the tests name, seen from elsewhere."""
    made = tmp_path / "project"
    (made / "data").mkdir(parents=True)
    for name in ("net.py", "data.py", "metric.py", "net.onnx", "net.safetensors", "ranges.json", "x.npz", "data/0.npz"):
        (made / name).write_text("# here\ncalibration = labelled = loss = max\n")
    (made / "keep.txt").write_text("head  # costs most\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return made


@pytest.fixture
def load(folder: Path) -> Callable[..., Project]:
    def load(text: str, *overrides: str) -> Project:
        (folder / "planc.toml").write_text(text)
        return project.load(folder / "planc.toml", overrides=overrides)

    return load


def _ids(entries: Any) -> list[str]:
    return [entry.id for entry in entries]


def test_models_by_targets_by_precisions(load: Callable[..., Project], folder: Path) -> None:
    other = '[model.other]\nsource = "net.onnx"\n'
    made = load(NET + other + '[[build]]\ntargets = ["null", "openvino-cpu"]\nprecisions = ["fp32", "int8"]\n')
    assert _ids(made.jobs) == [
        "net-null-fp32", "net-null-int8", "net-openvino-cpu-fp32", "net-openvino-cpu-int8",
        "other-null-fp32", "other-null-int8", "other-openvino-cpu-fp32", "other-openvino-cpu-int8",
    ]  # fmt: skip
    assert [entry.out for entry in made.jobs] == [folder / "out" / entry.id for entry in made.jobs]
    assert made.file == folder / "planc.toml"
    assert (made.cache, made.seconds, made.memory) == ("", 3600.0, None)


def test_a_job_is_what_planc_compile_makes(load: Callable[..., Project], folder: Path) -> None:
    text = """
    weights = "net.safetensors"
    real_inputs = "x.npz"
    samples = 64
    method = "percentile"
    eval = "data"
    exclude = ["body.*", "@keep.txt"]
    smoothing = 0.5
    tolerance = { cosine = 0.9, atol = 0.1 }
    [[build]]
    targets = ["openvino-cpu"]
    precisions = ["int8"]
    options = { threads = 2 }
    tolerance = { cosine = 0.99 }
    gates.max_drop = { top1 = "0.5pp", "metric.py:loss" = 0.1 }
    """
    (entry,) = load(NET + text).jobs
    source = recipe.source(
        f"{folder}/net.py:net", inputs=["x=float32[batch,3]"], dims=["batch=1..8@2"],
        weights=folder / "net.safetensors", data=folder / "x.npz",
    )  # fmt: skip
    quantization = recipe.quantization(
        data=f"{folder}/data.py:calibration", samples=64, method="percentile", evaluation=f"{folder}/data",
        keep=["body.*", f"@{folder}/keep.txt"], smoothing=0.5, max_drop=["top1=0.5pp", f"{folder}/metric.py:loss=0.1"],
    )  # fmt: skip
    wanted = recipe.job(
        source, "openvino-cpu", "int8", options=["threads=2"], tolerance=["cosine=0.99", "atol=0.1"],
        quantization=quantization, name="net",
    )  # fmt: skip
    assert entry.job == wanted
    assert entry.gates == Gates(), "the guard holds the bounds"


def test_the_name_in_the_file_is_in_the_id(load: Callable[..., Project]) -> None:
    (entry,) = load(NET.replace("model.net", 'model."my-net_2.x"') + BUILD).jobs
    assert entry.id == "my-net_2.x-null-fp32"
    assert entry.job.id == entry.id
    (entry,) = load(NET + '[[build]]\ntargets = ["cpu"]\n').jobs
    assert {one.id for one in recipe.candidates(entry.job)} == {"net-cpu-fp32"}


def test_what_each_precision_is_made_from(load: Callable[..., Project], folder: Path) -> None:
    gates = 'gates = { max_drop = { cosine = "0.01" } }\n'
    made = load(NET + '[[build]]\ntargets = ["null", "openvino-cpu"]\n' + INT8 + gates).jobs
    how = {entry.id: entry.job.quantization for entry in made}
    data = Calibration(f"{folder}/data.py:calibration", everything=True)  # fp16 and int8 share a table
    lowered = Quantization(data, guard=Guard(("cosine=0.01",)), files=(folder / "data.py",))
    assert how["net-null-fp32"] == how["net-openvino-cpu-fp32"] == Quantization()
    assert how["net-null-fp16"] == how["net-null-int8"] == how["net-openvino-cpu-int8"] == lowered
    assert how["net-openvino-cpu-fp16"] == Quantization(), "its own compiler makes it"
    judged = {entry.id: entry.gates.max_drop for entry in made}
    assert judged["net-null-fp32"] == ()
    assert judged["net-openvino-cpu-fp16"] == ("cosine=0.01",)


@pytest.mark.parametrize(
    ("key", "calibration"),
    [("allow_random_calibration", Calibration(random=True)), ("dynamic", Calibration())],
)
def test_int8_without_data(load: Callable[..., Project], key: str, calibration: Calibration) -> None:
    text = NET.replace('calibration = "data.py:calibration"', f"{key} = true")
    fp32, fp16, int8 = load(text + BUILD + INT8).jobs
    assert fp32.job.quantization == fp16.job.quantization == Quantization()
    assert int8.job.quantization.calibration == calibration
    assert int8.job.quantization.dynamic is (key == "dynamic")


def test_gates_are_numbers_with_units(load: Callable[..., Project]) -> None:
    gates = 'max_p99 = "500 us", min_speedup = "1.5x", max_regression = "5%", max_size = "50MB", max_rss = "2GiB"'
    fp32, _, int8 = load(NET + BUILD + INT8 + f"gates = {{ {gates} }}\n").jobs
    assert int8.gates == Gates(0.5, 1.5, 1.05, 50_000_000, 2 << 30)
    assert int8.rival == fp32.job
    assert fp32.gates == replace(int8.gates, min_speedup=None), "it is what the others are compared with"
    assert fp32.rival is None
    (entry,) = load(NET + BUILD + 'gates = { max_p99 = "1.5s", max_regression = 0.1 }\n').jobs
    assert entry.gates == Gates(max_p99_ms=1500, max_slowdown=1.1)


def test_limits_and_cache(load: Callable[..., Project]) -> None:
    made = load(NET + BUILD + '[cache]\nurl = "s3://b/x"\n[limits]\ntime = "1.5min"\nmemory = "8GiB"\n')
    assert (made.cache, made.seconds, made.memory) == ("s3://b/x", 90, "8GiB")
    assert load(NET + BUILD + "[limits]\ntime = 30\n").seconds == 30
    assert load(NET + BUILD + '[limits]\nmemory = "8GiB"\n').seconds == 3600


def test_a_target_of_the_projects_own(load: Callable[..., Project], folder: Path) -> None:
    text = NET + EDGE + '[[build]]\ntargets = ["edge"]\noptions = { cuda_graphs = true }\n'
    (entry,) = load(text, 'target.edge.options.timing_cache="t.cache"').jobs
    target = entry.job.target
    assert (target.name, target.backend, target.arch) == ("edge", "tensorrt", ("sm86", "sm89"))
    assert target.description == "The box at the gate"
    options = recipe.backend_options(entry.job)
    assert (options.builder_optimization_level, options.cuda_graphs) == (4, True)
    assert options.timing_cache == folder / "t.cache", "options that are paths are relative to planc.toml"
    assert (entry.id, entry.resources, entry.memory) == ("net-edge-fp32", {"l4": 1}, 8 << 30)


def test_options_of_a_target_that_is_like_one_with_candidates(load: Callable[..., Project]) -> None:
    box = '[target.box]\nbackend = "cpu"\noptions = { threads = 3 }\n[[build]]\ntargets = ["box"]\n'
    (entry,) = load(NET + box).jobs
    assert [recipe.backend_options(one).threads for one in recipe.candidates(entry.job)] == [3, 3]


def test_jobs_that_cannot_be_built_here_are_skipped(load: Callable[..., Project]) -> None:
    made = load(NET + '[[build]]\ntargets = ["onnxruntime-cpu", "h100"]\n' + INT8).jobs
    skipped = {entry.id: entry.skipped for entry in made if entry.skipped}
    assert "runs FP32 and INT8, not FP16" in skipped["net-onnxruntime-cpu-fp16"]
    assert "net-onnxruntime-cpu-int8" not in skipped
    for entry in made:
        if entry.job.target.name == "h100" and entry.job.precision is not Precision.FP32:
            assert entry.job.quantization.calibration.data, "another machine may build it"
    with pytest.raises(Unavailable, match=r"--require \*-fp16: net-onnxruntime-cpu-fp16: .*not FP16.*See planc doctor"):
        project.select(made, require=["*-fp16"])


def test_defaults_then_file_then_set(load: Callable[..., Project]) -> None:
    text = NET + 'method = "entropy"\n' + BUILD + 'precisions = ["int8"]\n'
    assert load(text).jobs[0].job.quantization.calibration.method == "entropy"
    made = load(text, "model.net.method=minmax", "model.net.dims.batch=1..4", 'build.0.precisions=["fp32","int8"]')
    assert made.jobs[1].job.quantization.calibration.method == "minmax"
    assert made.jobs[0].job.source.dims[0].max == 4
    assert _ids(made.jobs) == ["net-null-fp32", "net-null-int8"]
    assert load(text, "output=dist").jobs[0].out.parent.name == "dist"
    assert load(BUILD, "model.a.source=net.onnx").jobs[0].id == "a-null-fp32", "a file may leave keys to --set"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.net.sample=3", "--set model.net.sample=3: [model.net]: unknown key 'sample'. Did you mean 'samples'?"),
        ("model.net.samples=x", '--set model.net.samples=x: [model.net] samples: "x" is a text, not an integer'),
        ("build.1.targets=['cpu']", "--set build.1.targets=['cpu']: build is a list, and has no '1'. Write"),
        ("nonsense", "--set 'nonsense' is not of the form KEY=VALUE. Write --set model.net.dims.batch=1..8"),
    ],
)  # fmt: skip
def test_wrong_overrides(load: Callable[..., Project], override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(NET + BUILD, override)
    assert str(caught.value).startswith(message)


def test_a_mistake_of_the_file_is_not_put_on_set(load: Callable[..., Project]) -> None:
    with pytest.raises(UsageError, match=r"planc.toml: \[model.net\]: unknown key 'sampels'"):
        load(NET + "sampels = 3\n" + BUILD, "output=dist")


def test_resolved_is_the_whole_configuration_of_the_job(load: Callable[..., Project], folder: Path) -> None:
    text = NET.replace('"net.py:net"', f'"{folder}/net.py:net"') + f'weights = "{folder.parent}/elsewhere/w.pt"\n'
    Path("w.pt").write_text("# here\n")
    (entry,) = load(text + EDGE + '[[build]]\ntargets = ["edge"]\nprecisions = ["int8"]\ngates.max_p99 = "5ms"\n').jobs
    assert json.loads(json.dumps(entry.resolved)) == {
        "model": {
            "name": "net", "source": "net.py:net", "inputs": {"x": "float32[batch,3]"}, "dims": {"batch": "1..8@2"},
            "weights": "w.pt", "trust_pickle": False, "calibration": "data.py:calibration", "method": "mse",
            "allow_random_calibration": False, "dynamic": False, "exclude": [], "smoothing": 0.7, "tolerance": {},
        },
        "target": {
            "name": "edge", "backend": "tensorrt", "arch": ["sm86", "sm89"],
            "options": {"builder_optimization_level": 4},
        },
        "precision": "int8",
        "options": {},
        "tolerance": {},
        "gates": {"max_drop": {}, "max_p99": "5ms"},
    }  # fmt: skip
    assert str(folder.parent) not in json.dumps(entry.resolved)


def test_shards_are_in_no_manifest(load: Callable[..., Project]) -> None:
    text = NET + BUILD + 'precisions = ["int8"]\n'
    (one,), (three,) = load(text).jobs, load(text, "model.net.shards=3").jobs
    assert three.job.quantization.calibration == replace(one.job.quantization.calibration, shards=3)
    assert three.resolved == one.resolved
    with pytest.raises(UsageError, match=r"planc.toml: \[model.net\]: shards goes with calibration") as caught:
        load(text.replace('calibration = "data.py:calibration"', "dynamic = true"), "model.net.shards=3")
    assert caught.value.hint == "Add calibration, or leave shards out"


def test_resolved_of_fp32_does_not_know_the_calibration(load: Callable[..., Project]) -> None:
    build = BUILD + 'precisions = ["fp32"]\ngates.max_drop = { top1 = 0.1 }\n'
    (before,), (after,) = load(NET + build).jobs, load(NET + "samples = 3\n" + build).jobs
    assert before.resolved == after.resolved
    assert "max_drop" not in before.resolved["gates"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no [[build]], so there is nothing to build. Add [[build]]"),
        (BUILD, "no model. Add [model.net]"),
        ("x = [", "end of file: Invalid value"),
        ("[model.net]\nsource = net.py\n", "line 2, column 10: Invalid value. Texts are quoted"),
        (NET + BUILD + "models = ['nte']\n", "[[build]] 1: models: no model 'nte'. Did you mean 'net'?"),
        (NET + "[[build]]\ntargets = ['nul']\n", "[[build]] 1: targets: unknown target 'nul'. Did you mean"),
        (
            NET + EDGE + "[[build]]\ntargets = ['egde']\n",
            "[[build]] 1: targets: unknown target 'egde'. Did you mean 'edge'?",
        ),
        (
            NET + "[target.edge]\nbackend = 'x86'\n[[build]]\ntargets = ['edge']\n",
            "[target.edge]: target edge: unknown backend",
        ),
        (
            NET + "[target.edge]\nbackend = 'openvino'\narch = 'sm86'\n[[build]]\ntargets = ['edge']\n",
            "[target.edge]: target edge: openvino-cpu takes no arch. Leave arch out",
        ),
        (
            NET + "[target.null]\nbackend = 'null'\n" + BUILD,
            "[target.null]: target null: planc has one of this name. Choose another",
        ),
        (
            NET.replace("1..8@2", "8..1") + BUILD,
            '[model.net]: dims.batch = "8..1": sizes must satisfy 1 <= min <= opt <= max. Write dims.batch = "1..8@8"',
        ),
        (
            NET.replace("batch =", "bacth =") + BUILD,
            "[model.net]: dims bacth: no input has a dimension 'bacth'. Did you mean 'batch'?",
        ),
        (NET.replace("float32[", "float[") + BUILD, '[model.net]: inputs.x = "float[batch,3]"'),
        (NET.replace("net.py:net", "nte.py:net") + BUILD, "[model.net]: no such file: "),
        (NET.replace("data.py:", "date.py:") + BUILD + INT8, "[model.net]: no such file: "),
        (NET.replace("net.py:net", "net.pt") + BUILD, "[model.net]: no such file: "),
        (
            NET + "tolerance = { cosin = 1 }\n" + BUILD,
            "[model.net]: tolerance cosin: unknown bound. Did you mean 'cosine'?",
        ),
        (
            NET + "ranges = 'ranges.json'\n" + BUILD + INT8,
            "[model.net]: calibration, ranges and allow_random_calibration exclude each other",
        ),
        (
            NET.replace("calibration =", "weights =").replace("data.py:calibration", "net.safetensors") + BUILD + INT8,
            "[[build]] 1 net on null: INT8 needs calibration data. Add calibration",
        ),
        (
            NET + BUILD + "options = { thread = 1 }\n",
            "[[build]] 1 net on null: options thread: null has no such option",
        ),
        (
            NET + "[[build]]\ntargets = ['openvino-cpu']\noptions = { threads = 'two' }\n",
            '[[build]] 1 net on openvino-cpu: options.threads = "two": not of type int. Write options.threads = 1',
        ),
        (
            NET + BUILD + INT8 + "gates.max_drop = { top2 = 1 }\n",
            "[[build]] 1: gates.max_drop.top2 = 1: no metric 'top2'",
        ),
        (NET + BUILD + INT8 + "gates.max_drop = { top1 = '5 px' }\n", "[[build]] 1: gates.max_drop"),
        (
            NET + BUILD + "gates = { max_rss = '0' }\n",
            "[[build]] 1: gates.max_rss: '0' is not a size. Write it like 8GiB",
        ),
        (NET + BUILD + "[limits]\nmemory = '0MB'\n", "[limits] memory: '0MB' is not a size. Write it like 8GiB"),
        (
            NET + "[target.edge]\nbackend = 'null'\nmemory = '0'\n[[build]]\ntargets = ['edge']\n",
            "[target.edge] memory: '0' is not a size",
        ),
        (NET + BUILD + "tolerance = { cosin = 1 }\n", "[[build]] 1: tolerance cosin: unknown bound. Did you"),
        (NET + BUILD + BUILD, "the job net-null-fp32 is there twice. Name each"),
        (NET + "[[build]]\ntargets = ['null', 'null']\n", "the job net-null-fp32 is there twice"),
        (
            NET + BUILD + INT8 + "[[build]]\ntargets = ['cpu']\noutput = 'out/net-null-int8'\n",
            "the artifact of net-cpu-fp32 would lie in that of net-null-int8. Change output",
        ),
    ],
)
def test_mistakes(load: Callable[..., Project], folder: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(text)
    told = str(caught.value)
    assert told.startswith(f"{folder}/planc.toml: {message}")
    assert caught.value.hint
    assert "\n" not in told
    assert not re.search(r"(?<!\S)--(?!set)[a-z]", told), "the command line's words"


def test_paths_from_within_the_folder_stay_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "planc.toml").write_text(NET + BUILD)
    monkeypatch.chdir(folder)
    (entry,) = project.load(Path("planc.toml")).jobs
    assert entry.job.source.text == "net.py:net"
    assert entry.out == Path("out/net-null-fp32")


def test_modules_are_imported_from_the_folder(load: Callable[..., Project], folder: Path) -> None:
    (entry,) = load(NET.replace("net.py:net", "pkg.net:net") + BUILD).jobs
    assert (entry.job.source.text, entry.job.source.root) == ("pkg.net:net", folder)


@pytest.fixture
def entries(load: Callable[..., Project]) -> tuple[Entry, ...]:
    made = load(NET + '[model.other]\nsource = "net.onnx"\n' + BUILD + 'precisions = ["fp32", "int8"]\n').jobs
    return (*made, replace(made[0], job=replace(made[0].job, model="far"), skipped="no GPU"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, ["net-null-fp32", "net-null-int8", "other-null-fp32", "other-null-int8", "far-null-fp32"]),
        ({"only": ["net-*", "*-int8"]}, ["net-null-fp32", "net-null-int8", "other-null-int8"]),
        ({"skip": ["*-fp32", "nothing"]}, ["net-null-int8", "other-null-int8"]),
        ({"only": ["other-*"], "skip": ["*-int8"], "require": ["other-*"]}, ["other-null-fp32"]),
        ({"only": ["far-null-fp32"]}, ["far-null-fp32"]),
        ({"only": ["net-null-fp3?"]}, ["net-null-fp32"]),
    ],
)
def test_select(entries: tuple[Entry, ...], words: dict[str, Any], expected: list[str]) -> None:
    assert _ids(project.select(entries, **words)) == expected


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"only": ["net-nul-int8"]}, UsageError, "--only net-nul-int8: no such job. Did you mean 'net-null-int8'?"),
        ({"only": ["net-*", "gone-*"]}, UsageError, "--only gone-*: no such job."),
        ({"skip": ["*"]}, UsageError, "--only and --skip leave no job. There are net-null-fp32, net-null-int8"),
        ({"require": ["l4-*"]}, UsageError, "--require l4-*: no such job."),
        ({"skip": ["net-*"], "require": ["net-*"]}, UsageError, "--require net-*: no such job."),
        ({"require": ["far-*"]}, Unavailable, "--require far-*: far-null-fp32: no GPU. See planc doctor"),
    ],
)
def test_select_nothing(
    entries: tuple[Entry, ...], words: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        project.select(entries, **words)
    assert str(caught.value).startswith(message)


def test_init_writes_what_loads(folder: Path) -> None:
    for name in ("inputs.npz", "net.safetensors"):
        (folder / name).write_text("# here\n")
    made, beside = project.init(folder)
    text = made.read_text()
    assert text.startswith("#:schema ./planc.schema.json\n")
    assert json.loads(beside.read_text()) == json.loads(schema.PLANC.read_text())
    assert _ids(project.load(made).jobs) == ["net-onnxruntime-cpu-fp32"]
    for part in json.loads(schema.PLANC.read_text())["$defs"].values():
        assert [key for key in part.get("properties", ()) if not re.search(rf"(^#?|[{{,] ){key} = ", text, re.M)] == []
    other = "allow_random_calibration|arch|dynamic|ranges|trust_pickle|weights"  # beside calibration, edge and .onnx
    text = re.sub(rf"^#({other}) = .*\n", "", text, flags=re.M)
    made.write_text(re.sub(r"^#(?=[\w\[])", "", text, flags=re.M))
    full = project.load(made)
    assert _ids(full.jobs) == ["net-onnxruntime-cpu-fp32", "net-edge-int8"]
    assert full.jobs[1].out == folder / "dist" / "net-edge-int8"
    assert full.jobs[1].resources == {"edge": 1}
    assert full.cache == "s3://bucket/planc"


def test_init_takes_the_model_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "ResNet 50.v1.onnx").write_text("# here\n")
    made, _ = project.init(tmp_path)
    assert _ids(project.load(made).jobs) == ["ResNet-50-v1-onnxruntime-cpu-fp32"]
    assert project.load(made).jobs[0].job.source.text == str(tmp_path / "ResNet 50.v1.onnx")


def test_init_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "planc.toml").write_text("mine")
    with pytest.raises(UsageError, match=r"planc.toml exists. Edit it"):
        project.init(tmp_path)
    assert (tmp_path / "planc.toml").read_text() == "mine"
    with pytest.raises(UsageError, match=r"no such folder: .*mkdir -p"):
        project.init(tmp_path / "gone")


def test_loading_is_light_and_fast(folder: Path, python: Callable[..., str]) -> None:
    targets = '[[build]]\ntargets = ["onnxruntime-cpu", "openvino-cpu", "edge", "null"]\n'
    (folder / "planc.toml").write_text(NET + EDGE + targets + INT8 + "gates.max_drop = { top1 = '1pp' }\n")
    code = f"""
import sys, time
from pathlib import Path
from planc.compiler import project
count = len(project.load(Path({str(folder / "planc.toml")!r})).jobs)
seconds = []
for _ in range(5):
    begun = time.perf_counter()
    project.load(Path({str(folder / "planc.toml")!r}))
    seconds.append(time.perf_counter() - begun)
heavy = {{"numpy", "onnx", "onnx_ir", "torch", "openvino", "onnxruntime", "tensorrt_rtx", "rich", "typer"}}
print(count, sorted(heavy & set(sys.modules)), min(seconds) < 0.1)
"""
    assert python(code).strip() == "12 [] True"

"""TensorRT-RTX builds real plans here, without a GPU; what needs one says so."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from planc.compiler import host
from planc.compiler.backends import Built, Request, _flavours, _networks, tensorrt
from planc.compiler.errors import BuildFailed, Unavailable, UsageError
from planc.compiler.shapes import parse_dim, parse_input
from planc.compiler.target import Precision, find_target

IMAGE = parse_input("x=float32[batch,3,8,8]")
DIM = parse_dim("batch=1..4@2")
no_gpu = pytest.mark.skipif(bool(host.gpus()), reason="there is a GPU here")
gpu = pytest.mark.skipif(not host.gpus(), reason="needs an NVIDIA GPU, and there is none here")

REFUSED = """\
<ir_version: 9, opset_import: ["": 20]>
g (float[4,8] x, int64[1] axes) => (float[4,8] y, float[4,8] w, float[4,1] r, float v) {
  a = Relu(x)
  b = Bernoulli(a)
  y = Neg(b)
  q = QuantizeLinear(a, scale, point)
  w = DequantizeLinear(q, scale, point)
  r = ReduceMean(a, axes)
  sq = MatMul(a, square)
  v = Det(square)
}
"""
"""Two operators that TensorRT has not, a zero point and axes that it does not take: it stops at them in turn."""


def _build(model: Path, folder: Path, target: str = "tensorrt-rtx:sm86", dims: Any = (DIM,), **options: Any) -> Built:
    folder.mkdir()
    chosen = tensorrt.Options(**options)
    return tensorrt.build(Request(model, Precision.FP32, chosen, folder, find_target(target), (IMAGE,), dims))


def _compile(planc: Callable[..., Any], workshop: Path, out: Path, *words: object, expect: int = 0) -> Any:
    return planc(
        "compile", "conv.onnx", "--dim", "batch=1..4@2", "-o", out, "--format", "json", *words,
        cwd=workshop, expect=expect,
    )  # fmt: skip


@pytest.fixture(scope="module")
def samples(workshop: Path) -> Path:
    x = np.random.default_rng(0).standard_normal((16, 3, 8, 8), dtype=np.float32)
    np.savez(workshop / "samples.npz", x=x)
    return workshop / "samples.npz"


class TestBuild:
    def test_the_same_graph_has_the_same_digest(self, workshop: Path, tmp_path: Path) -> None:
        first, second = (_build(workshop / "conv.onnx", tmp_path / name) for name in ("a", "b"))
        assert first == second
        assert first.effective_precision["products"] == {"float32": 2}
        assert (tmp_path / "a" / "model.plan").stat().st_size > 4 * 16 * 27
        others = [
            _build(workshop / "conv.onnx", tmp_path / "c", "tensorrt-rtx:sm89"),
            _build(workshop / "conv.onnx", tmp_path / "d", dims=(parse_dim("batch=1..4@3"),)),
            _build(workshop / "conv.onnx", tmp_path / "e", weight_streaming=True),
        ]
        digests = {one.semantic_sha256["model.plan"] for one in (first, *others)}
        assert len(digests) == 4

    def test_a_worker_gives_the_same_bytes(self, planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
        for name in ("one", "another-name"):
            _compile(planc, workshop, tmp_path / name, "-t", "l4")
        assert (tmp_path / "one/model.plan").read_bytes() == (tmp_path / "another-name/model.plan").read_bytes()

    def test_a_plan_serves_several_compute_capabilities(self, workshop: Path, tmp_path: Path) -> None:
        one = _build(workshop / "conv.onnx", tmp_path / "one")
        many = _build(workshop / "conv.onnx", tmp_path / "many", "tensorrt-rtx:sm80+sm86+sm89+sm120+sm121")
        assert one.session["arch"] == ["sm86"]
        assert many.session["arch"] == ["sm80", "sm86", "sm89", "sm120", "sm121"]
        plans = [(tmp_path / name / "model.plan").read_bytes() for name in ("one", "many")]
        assert plans[0] != plans[1]

    def test_each_combination_of_choices_is_a_profile(self, workshop: Path, tmp_path: Path) -> None:
        ranged = _build(workshop / "conv.onnx", tmp_path / "ranged")
        assert ranged.session["profiles"] == [{"x": [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]}]
        chosen = _build(workshop / "conv.onnx", tmp_path / "chosen", dims=(parse_dim("batch=1|4"),))
        assert [one["x"][0][0] for one in chosen.session["profiles"]] == [1, 4]
        assert all(low == opt == high for one in chosen.session["profiles"] for low, opt, high in [one["x"]])

    def test_too_many_profiles_are_refused(self, workshop: Path, tmp_path: Path) -> None:
        sizes = "|".join(map(str, range(1, 40)))
        with pytest.raises(UsageError, match="more than 32 optimization profiles"):
            _build(workshop / "conv.onnx", tmp_path / "out", dims=(parse_dim(f"batch={sizes}"),))

    @pytest.mark.parametrize(
        "options",
        [{"weight_streaming": True}, {"profiling_verbosity": "none"}],
        ids=str,
    )
    def test_an_option_reaches_the_plan(self, workshop: Path, tmp_path: Path, options: dict[str, Any]) -> None:
        _build(workshop / "conv.onnx", tmp_path / "plain")
        _build(workshop / "conv.onnx", tmp_path / "other", **options)
        plans = [(tmp_path / name / "model.plan").read_bytes() for name in ("plain", "other")]
        assert plans[0] != plans[1]

    def test_options_reach_the_configuration(self, workshop: Path, tmp_path: Path) -> None:
        library = _flavours.FLAVOURS["tensorrt-rtx"].load()
        log = library.Logger(library.Logger.ERROR)
        network = _networks.parse(library, log, workshop / "conv.onnx")
        options = tensorrt.Options(builder_optimization_level=5, workspace="64MB", max_aux_streams=2)
        target = find_target("tensorrt-rtx:sm80+sm89")
        request = Request(workshop / "conv.onnx", Precision.FP32, options, tmp_path, target, (IMAGE,), (DIM,))
        profiles = list(tensorrt._profiles((IMAGE,), (DIM,)))
        config = tensorrt._config(library, _flavours.FLAVOURS["tensorrt-rtx"], network, request, profiles)
        assert config.builder_optimization_level == 5
        assert config.get_memory_pool_limit(library.MemoryPoolType.WORKSPACE) == 64_000_000
        assert config.max_aux_streams == 2
        assert config.num_optimization_profiles == 1
        assert [config.get_compute_capability(number).name for number in range(2)] == ["SM80", "SM89"]

    def test_its_log_lies_beside_the_plan(self, workshop: Path, tmp_path: Path) -> None:
        _build(workshop / "conv.onnx", tmp_path / "out")
        assert "INFO: " in (tmp_path / "out" / "build.log").read_text()

    def test_turing_multiplies_no_matrices_in_float32(self, workshop: Path, tmp_path: Path) -> None:
        with pytest.raises(BuildFailed, match="FP32 GEMM is not supported") as caught:
            _build(workshop / "conv.onnx", tmp_path / "out", "tensorrt-rtx:sm75")
        assert "-p fp16" in caught.value.hint
        assert "/_src/" not in caught.value.what

    def test_other_weights_have_another_digest(self, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
        """Large weights lie in a file of another name beside the graph."""
        text = """<ir_version: 8, opset_import: ["": 18]>
g (float[batch,3,8,8] x) => (float[batch,4] y) {\n  f = Flatten(x)\n  y = MatMul(f, w)\n}"""
        digests = set()
        for number in (1, 2):
            w = np.full((192, 4), number, np.float32)
            model = onnx.load(onnx_file(tmp_path / f"{number}.onnx", text, w=w))
            (tmp_path / f"{number}").mkdir()
            path = tmp_path / f"{number}" / "g.onnx"
            onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
            digests.add(_build(path, tmp_path / f"out{number}").semantic_sha256["model.plan"])
        assert len(digests) == 2

    def test_float64_is_not_made_float32_unasked(self, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
        text = """<ir_version: 8, opset_import: ["": 18]>
g (double[batch,3,8,8] x) => (double[batch,3,8,8] y) {\n  y = Relu(x)\n}"""
        with pytest.raises(BuildFailed, match="has FLOAT where 'x' is DOUBLE"):
            _build(onnx_file(tmp_path / "wide.onnx", text), tmp_path / "out")

    def test_an_input_that_is_an_output_too(self, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
        text = """<ir_version: 8, opset_import: ["": 18]>
g (float[batch,3,8,8] x) => (float[batch,3,8,8] x, float[batch,3,8,8] y) {\n  y = Relu(x)\n}"""
        session = _build(onnx_file(tmp_path / "passed.onnx", text), tmp_path / "out").session
        assert list(session["profiles"][0]) == session["inputs"]
        assert len(session["outputs"]) == 2
        asked = Request(
            tmp_path / "passed.onnx", Precision.FP32, tensorrt.Options(), tmp_path, find_target("l4"), (IMAGE,), (DIM,)
        )
        assert tensorrt.unsupported(asked) == [], "doctor says what build says"

    def test_float32_is_not_tf32_unasked(self, workshop: Path, tmp_path: Path) -> None:
        library = _flavours.FLAVOURS["tensorrt-rtx"].load()
        log = library.Logger(library.Logger.ERROR)
        network = _networks.parse(library, log, workshop / "conv.onnx")
        for wanted in (False, True):
            options = tensorrt.Options(tf32=wanted)
            request = Request(workshop / "conv.onnx", Precision.FP32, options, tmp_path, find_target("l4"))
            config = tensorrt._config(library, _flavours.FLAVOURS["tensorrt-rtx"], network, request, [])
            assert config.get_flag(library.BuilderFlag.TF32) is wanted


class TestRefused:
    def test_all_nodes_are_told_at_once(self, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
        arrays = {"scale": np.float32(0.1), "point": np.uint8(3), "square": np.eye(8, dtype=np.float32)}
        model = onnx_file(tmp_path / "g.onnx", REFUSED, **arrays)
        named = onnx.load(model)
        for number, node in enumerate(named.graph.node):
            node.name = f"node_{number}"
        onnx.save(named, model)
        target = find_target("tensorrt-rtx:sm86")
        found = tensorrt.unsupported(Request(model, Precision.FP32, tensorrt.Options(), tmp_path, target))
        assert sorted({one.operator for one in found}) == [
            "Bernoulli",
            "DequantizeLinear",
            "Det",
            "QuantizeLinear",
            "ReduceMean",
        ]
        reasons = {one.operator: one.reason for one in found}
        assert "no such operator" in reasons["Bernoulli"]
        assert reasons["QuantizeLinear"] == "its zero point is not 0"
        assert "constant" in reasons["ReduceMean"]

    def test_doctor_answers_without_building(
        self, workshop: Path, onnx_file: Callable[..., Path], planc: Callable[..., Any], tmp_path: Path
    ) -> None:
        text = """<ir_version: 9, opset_import: ["": 20]>
g (float[2,8] x) => (float[2,8] y) { a = Relu(x)  y = Bernoulli(a) }"""
        onnx_file(tmp_path / "g.onnx", text)
        good = planc("doctor", "--model", workshop / "conv.onnx", "-t", "tensorrt-rtx:sm89", cwd=tmp_path)
        assert "takes" in good.stdout
        bad = planc(
            "doctor", "--model", "g.onnx", "-t", "l4", "--format", "json", cwd=tmp_path, expect=1
        )  # fmt: skip
        answer = json.loads(bad.stdout)
        assert answer["supported"] is False
        assert [one["operator"] for one in answer["refused"]] == ["Bernoulli"]
        planc("doctor", "--model", "absent.onnx", "-t", "l4", cwd=tmp_path, expect=2)
        assert "compile" in planc("doctor", "--model", "g.onnx", "-t", "openvino-cpu", cwd=tmp_path, expect=2).stderr
        planc("doctor", "--model", "g.onnx", "-t", "h100", cwd=tmp_path, expect=3)
        assert (
            "Ask one: -t onnxruntime-cpu"
            in planc("doctor", "--model", "g.onnx", "-t", "cpu", cwd=tmp_path, expect=2).stderr
        )
        words = ("doctor", "--model", workshop / "conv.onnx", "-t", "l4", "--dim", "bogus=1..4")
        assert "no input has a dimension 'bogus'" in planc(*words, cwd=tmp_path, expect=2).stderr
        turing = planc("doctor", "--model", workshop / "conv.onnx", "-t", "t4", cwd=tmp_path, expect=1)
        assert "build with -p fp16" in turing.stdout

    def test_operators_of_others_are_named(
        self, onnx_file: Callable[..., Path], planc: Callable[..., Any], tmp_path: Path
    ) -> None:
        text = """<ir_version: 9, opset_import: ["": 20, "mine": 1]>
g (float[2,8] x) => (float[2,8] y) { a = Relu(x)  y = mine.Foo(a) }"""
        onnx_file(tmp_path / "g.onnx", text)
        assert "  Foo 'Foo_1': " in planc("doctor", "--model", "g.onnx", "-t", "l4", cwd=tmp_path, expect=1).stdout

    def test_the_module_of_a_refused_node_is_told(self, planc: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "net.py").write_text(
            "import torch\n\n\nclass Draw(torch.nn.Module):\n    def forward(self, x):\n"
            "        return torch.bernoulli((x > 0.5).float())\n\n\ndef net():\n"
            "    return torch.nn.Sequential(torch.nn.Sigmoid(), torch.nn.Sequential(Draw()))\n"
        )
        words = ("compile", "net.py:net", "--input", "x=float32[2,4]", "-t", "tensorrt-rtx:sm86", "-o", "out")
        done = planc(*words, cwd=tmp_path, expect=4)
        assert re.search(r"Bernoulli '\S+' \(from 1\.0\)", done.stderr), done.stderr
        assert not (tmp_path / "out").exists()


class TestSizesAsInputs:
    """Values that are sizes: the builder wants their bounds."""

    TOP = """<ir_version: 9, opset_import: ["": 20]>
g (float[2,8] x, int64[1] k) => (float[2,n] y, int64[2,n] i) { y, i = TopK(x, k) }"""

    def test_they_are_bounded_by_the_user(
        self, onnx_file: Callable[..., Path], planc: Callable[..., Any], tmp_path: Path
    ) -> None:
        onnx_file(tmp_path / "top.onnx", self.TOP)
        words = ("compile", "top.onnx", "-t", "l4", "-o", "out")
        done = planc(*words, cwd=tmp_path, expect=4)
        assert "the values of input 'k' are sizes of tensors" in done.stderr
        assert "--input 'k=int64[1]:1..8'" in done.stderr
        planc(*words, "--input", "k=int64[1]:1..8", cwd=tmp_path)
        planc("doctor", "--model", "top.onnx", "-t", "l4", cwd=tmp_path)


class TestCompile:
    @no_gpu
    def test_a_plan_is_verified_by_its_graph(self, planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
        made = json.loads(_compile(planc, workshop, tmp_path / "out", "-t", "tensorrt-rtx:sm86+sm89").stdout)
        verification = made["manifest"]["verification"]
        assert verification["passed"] is None
        assert verification["reason"] == "built, not executed here: no GPU"
        assert "planc verify" in verification["complete_with"]
        assert verification["graph"]["passed"] is True
        assert set(made["manifest"]["files"]) == {"model.plan", "golden.npz"}
        assert (tmp_path / "out" / "build.log").exists()
        assert made["manifest"]["versions"]["tensorrt_rtx"] == host.version("tensorrt-rtx-cu12")
        for verb in ("verify", "run"):
            words = ("--inputs", tmp_path / "out" / "golden.npz") if verb == "run" else ()
            done = planc(verb, tmp_path / "out", *words, cwd=tmp_path, expect=3)
            assert "runs on a GPU of sm86+sm89" in done.stderr
        again = _compile(planc, workshop, tmp_path / "out", "-t", "tensorrt-rtx:sm86+sm89")
        assert json.loads(again.stdout)["status"] == "unchanged"

    @pytest.mark.parametrize(("precision", "name"), [("fp16", "float16"), ("bf16", "bfloat16")])
    def test_sixteen_bits_are_in_the_network(
        self, planc: Callable[..., Any], workshop: Path, tmp_path: Path, precision: str, name: str
    ) -> None:
        made = json.loads(_compile(planc, workshop, tmp_path / "out", "-t", "l4", "-p", precision).stdout)
        assert made["manifest"]["effective_precision"]["products"] == {name: 2}
        assert made["manifest"]["verification"]["graph"]["passed"] is True

    def test_operators_without_bfloat16_stay_float32(
        self, onnx_file: Callable[..., Path], planc: Callable[..., Any], tmp_path: Path
    ) -> None:
        text = """<ir_version: 9, opset_import: ["": 20]>
g (float[2,8] x) => (float[2,8] y) { a = MatMul(x, w)  b = HardSwish(a)  y = MatMul(b, w) }"""
        onnx_file(tmp_path / "g.onnx", text, w=np.random.default_rng(0).standard_normal((8, 8), dtype=np.float32))
        words = ("compile", "g.onnx", "-t", "l4", "-p", "bf16", "-o", "out", "--format", "json")
        effective = json.loads(planc(*words, cwd=tmp_path).stdout)["manifest"]["effective_precision"]
        assert effective["products"] == {"bfloat16": 2}
        assert effective["layers"]["float32"] > 0

    def test_int8_is_in_the_network_and_nothing_is_left_over(
        self, planc: Callable[..., Any], workshop: Path, tmp_path: Path, samples: Path
    ) -> None:
        words = ("-p", "int8", "--calibration", samples)
        made = json.loads(_compile(planc, workshop, tmp_path / "l4", "-t", "l4", *words).stdout)
        effective = made["manifest"]["effective_precision"]
        assert effective["products"] == {"int8": 2}
        assert effective["qdq"]["left"] == 0
        assert "float16" not in effective["layers"]
        turing = json.loads(_compile(planc, workshop, tmp_path / "t4", "-t", "t4", *words).stdout)
        effective = turing["manifest"]["effective_precision"]
        assert effective["products"] == {"int8": 2}
        assert "float32" not in effective["layers"], "sm75 has no products in float32"
        kept = json.loads(_compile(planc, workshop, tmp_path / "k", "-t", "t4", *words, "--exclude", "y").stdout)
        assert kept["manifest"]["effective_precision"]["products"] == {"float16": 1, "int8": 1}
        chosen = json.loads(_compile(planc, workshop, tmp_path / "o", "-t", "l4", *words, "-O", "around=bf16").stdout)
        assert "bfloat16" in chosen["manifest"]["effective_precision"]["layers"]

    @no_gpu
    @pytest.mark.parametrize(
        ("words", "code", "told"),
        [
            (("-t", "tensorrt-rtx:sm90"), 3, "builds for sm75, sm80, sm86, sm89, sm120, sm121, not for sm90"),
            (("-t", "h100"), 3, "pip install 'planc[tensorrt]'"),
            (("-t", "tensorrt"), 3, "pip install 'planc[tensorrt]'"),
            (("-t", "t4", "-p", "bf16"), 3, "sm75 has no BF16"),
            (("-t", "l4", "-O", "strip_weights=true"), 3, "needs a GPU for -O strip_weights=true"),
            (("-t", "l4", "-O", "refit=true"), 3, "needs a GPU for -O refit=true"),
            (("-t", "l4", "-O", "version_compatible=true"), 3, "does nothing in TensorRT-RTX"),
            (("-t", "l4", "-O", "timing_cache=t.bin"), 3, "does nothing in TensorRT-RTX"),
            (("-t", "tensorrt-rtx:sm99"), 2, "Known: sm75, sm80"),
            (("-t", "tensorrt-rtx:"), 2, "unknown compute capability"),
            (("-t", "l4:sm86"), 2, "takes no 'sm86'"),
            (("-t", "onnxruntime-cpu:sm86"), 2, "takes no 'sm86'"),
            (("-t", "l4", "-O", "profiling_verbosity=loud"), 2, "unknown value"),
            (("-t", "l4", "-O", "workspace=many"), 2, "is not a size"),
            (("-t", "l4", "-O", "builder_optimization_level=9"), 2, "not one of 0 to 5"),
            (("-t", "l4", "-O", "max_aux_streams=99999999999"), 2, "is above 64"),
            (("-t", "l4", "-O", "workspace=99999999999GiB"), 2, "is too much"),
            (("-t", "l4", "-O", "around=fp16"), 2, "goes with -p int8"),
            (("-t", "t4", "-p", "int8", "--dynamic", "-O", "around=bf16"), 3, "sm75 has no products in BF16"),
        ],
        ids=lambda one: "-".join(one) if isinstance(one, tuple) else "",
    )
    def test_what_cannot_be_is_said_before_any_work(
        self, planc: Callable[..., Any], workshop: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str
    ) -> None:
        done = _compile(planc, workshop, tmp_path / "out", *words, expect=code)
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1, "nothing ran before"
        assert not (tmp_path / "out").exists()

    def test_a_builder_that_is_killed_tells_how_its_log_ends(
        self, onnx_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(0)
        layers = "".join(f"  c{n} = Conv<pads=[1,1,1,1]>(r{n}, w{n})\n  r{n + 1} = Relu(c{n})\n" for n in range(24))
        text = f"""<ir_version: 8, opset_import: ["": 18]>
g (float[1,256,14,14] r0) => (float[1,256,14,14] r24) {{\n{layers}}}"""
        arrays = {f"w{n}": rng.standard_normal((256, 256, 3, 3), dtype=np.float32) / 48 for n in range(24)}
        onnx_file(tmp_path / "deep.onnx", text, **arrays)
        command = [str(Path(sys.executable).with_name("planc")), "compile", "deep.onnx", "-t", "l4", "-o", "out"]
        child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert child.stderr
        for line in child.stderr:
            if line.strip() == "planc: build":
                break
        _kill_when_it_logs(child.pid, tmp_path)
        last = child.stderr.read().strip().splitlines()[-1]
        assert child.wait(60) == 4
        assert "killed by SIGSEGV in stage build; its log ends: INFO: " in last
        assert last.endswith("--debug"), "a command that repeats it"
        assert not (tmp_path / "out").exists()


def _kill_when_it_logs(pid: int, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(path.stat().st_size for path in folder.rglob("build.log")):
            break
        time.sleep(0.002)
    (worker,) = (Path(f"/proc/{pid}/task/{pid}/children").read_text().split())[:1]
    os.kill(int(worker), signal.SIGSEGV)


class TestTable:
    def test_versions_and_places(self) -> None:
        rtx, proper = _flavours.FLAVOURS.values()
        assert rtx.version() == host.version("tensorrt-rtx-cu12")
        assert _flavours.find(["tensorrt-rtx"], ("sm75", "sm121")) == (rtx, "")
        found, reason = _flavours.find(["tensorrt-rtx", "tensorrt"], ("sm100",))
        if proper.version() is None:
            assert found is None
            assert "not for sm100" in reason
            assert proper.install in reason

    def test_the_compute_capabilities_are_those_of_the_library(self) -> None:
        library = _flavours.FLAVOURS["tensorrt-rtx"].load()
        known = {name.lower() for name in library.ComputeCapability.__members__ if name.startswith("SM")}
        assert known == set(_flavours.FLAVOURS["tensorrt-rtx"].archs)

    def test_the_profiler_of_the_library_is_heard(self) -> None:
        seen: dict[str, list[float]] = {}
        context = SimpleNamespace(profiler=None)
        tensorrt._listen(_flavours.FLAVOURS["tensorrt-rtx"].load(), context, seen)
        for ms in (1.0, 2.0):
            context.profiler.report_layer_time("conv + relu", ms)
        assert seen == {"conv + relu": [1.0, 2.0]}

    def test_a_profile_is_found_by_shape(self) -> None:
        profiles = [{"x": [[size, 3], [size, 3], [size, 3]]} for size in (1, 4)]
        assert tensorrt._profile_of(profiles, {"x": np.zeros((4, 3))}) == 1
        with pytest.raises(UsageError, match=r"no optimization profile holds x=\[2, 3\]"):
            tensorrt._profile_of(profiles, {"x": np.zeros((2, 3))})


@no_gpu
def test_load_needs_a_gpu(workshop: Path, tmp_path: Path) -> None:
    built = _build(workshop / "conv.onnx", tmp_path / "out")
    with pytest.raises(Unavailable, match="runs on a GPU of sm86"):
        tensorrt.load(tmp_path / "out", built.session)


@pytest.mark.gpu
@gpu
def test_the_profiler_tells_the_layers(workshop: Path, tmp_path: Path, image: np.ndarray) -> None:
    built = _build(workshop / "conv.onnx", tmp_path / "out", f"tensorrt-rtx:{_flavours.architectures()[0]}")
    seen = tensorrt.profile(tmp_path / "out", built.session, [image], 10)
    assert seen
    assert all(one.ms > 0 and one.provider == tensorrt.provider(built.session) for one in seen)


@no_gpu
def test_the_profiler_needs_a_gpu(workshop: Path, tmp_path: Path, image: np.ndarray) -> None:
    built = _build(workshop / "conv.onnx", tmp_path / "out")
    with pytest.raises(Unavailable, match="runs on a GPU of sm86"):
        tensorrt.profile(tmp_path / "out", built.session, [image], 10)


@pytest.mark.gpu
@gpu
def test_a_plan_computes_what_the_graph_computes(
    workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray
) -> None:
    built = _build(workshop / "conv.onnx", tmp_path / "out", f"tensorrt-rtx:{_flavours.architectures()[0]}")
    actual = tensorrt.load(tmp_path / "out", built.session)([image])[0]
    np.testing.assert_allclose(actual, infer(workshop / "conv.onnx", x=image)[0], rtol=1e-3, atol=1e-4)

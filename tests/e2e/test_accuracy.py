"""INT8 by the installed command line on real trained models: what it may cost, and how it ends where it cannot be had.

The bounds are those of the proofs in bench/README.md; `python -m bench accuracy` prints the figures.
"""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import planc as package
from planc.compiler import emulate

from ._run import planc

TARGETS = ("onnxruntime-cpu", "openvino-cpu")
IMAGES = ("--input", "x=float32[batch,3,224,224]", "--dim", "batch=1..8@1")
LINES = ("--input", "x=float32[batch,3,48,width]", "--dim", "batch=1", "--dim", "width=48..1280@320")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(repository: Path) -> ModuleType:
    """bench/data.py."""
    return _module(repository / "bench/data.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("accuracy")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _call(*words: object, cwd: Path, code: int = 0) -> dict[str, Any]:
    """Runs planc and returns its JSON document."""
    answer = planc(*words, "--format", "json", cwd=cwd, timeout=300)
    assert answer.code == code, answer.stderr
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def _int8(source: Path, target: str, out: Path, *words: object) -> dict[str, Any]:
    return _call("compile", source, "-t", target, "-p", "int8", "-o", out, *words, cwd=out.parent)


def _runner(path: Path) -> Callable[..., np.ndarray]:
    """First output of an artifact, or of an ONNX file in ONNX Runtime."""
    if path.is_dir():
        session = package.load(path)
        return lambda **feed: next(iter(session(**feed).values()))
    import onnxruntime

    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda **feed: plain.run(None, feed)[0]


def _plain_runner(path: Path) -> Callable[..., np.ndarray]:
    """First output of a graph, Q/DQ as they stand: INT8 kernels for x86 without VNNI saturate at weights of 8 bits."""
    run = emulate.runner(path)
    return lambda **feed: next(iter(run(feed).values()))


def _payload(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model.*"))


class TestEfficientNet:
    """A depthwise net: its layers have few weights for each channel, of very different size."""

    @pytest.fixture(scope="class")
    @classmethod
    def graph(cls, folder: Path, repository: Path) -> Path:
        out = folder / "efficientnet.onnx"
        _call("export", f"{repository}/bench/models.py:efficientnet_lite0", *IMAGES, "-o", out, cwd=folder)
        return out

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, graph: Path, repository: Path) -> Path:
        out = graph.with_name("ranges.json")
        images = ("--calibration", f"{repository}/bench/data.py:image_calibration", "--samples", 48)
        _call("calibrate", graph, *IMAGES[2:], *images, "-o", out, cwd=graph.parent)
        return out

    @pytest.fixture(scope="class")
    @classmethod
    def judged(cls, graph: Path, data: ModuleType) -> list[tuple[np.ndarray, set[int], int]]:
        """40 images, what is right, and what FP32 says; mirrored ones where the stamps are not installed."""
        run, found = _runner(graph), data.images()
        mirrored = [(np.ascontiguousarray(image[..., ::-1]), labels) for image, labels in found]
        return [(image, labels, int(run(x=image).argmax())) for image, labels in (found + mirrored)[:40]]

    @pytest.mark.parametrize("target", TARGETS)
    def test_it_says_what_fp32_says_at_a_quarter_of_the_size(
        self, target: str, graph: Path, table: Path, judged: list[tuple[np.ndarray, set[int], int]]
    ) -> None:
        """One table serves both runtimes."""
        out = graph.with_name(target)
        np.savez(out.with_suffix(".npz"), x=judged[0][0])  # the table brings no image
        made = _int8(graph, target, out, *IMAGES[2:], "--ranges", table, "--inputs", out.with_suffix(".npz"))
        run = _runner(out)
        answers = [int(run(x=image).argmax()) for image, _, _ in judged]
        agreement = np.mean([answer == fp32 for answer, (*_, fp32) in zip(answers, judged, strict=True)])
        drop = sum(fp32 in right for _, right, fp32 in judged) - sum(
            answer in right for answer, (_, right, _) in zip(answers, judged, strict=True)
        )
        assert agreement >= 0.92
        assert drop <= 0.02 * len(judged)
        plain = graph.with_name(f"{target}-fp32")
        _call("compile", graph, *IMAGES[2:], "-t", target, "-o", plain, cwd=graph.parent)
        assert _payload(out) <= 0.30 * _payload(plain)
        assert set(made["manifest"]["quantization"]["products"]) == {"int8"}

    def test_the_graph_of_a_plan_says_it_too(
        self, graph: Path, table: Path, judged: list[tuple[np.ndarray, set[int], int]]
    ) -> None:
        """Symmetric INT8, as TensorRT has it; the plan itself needs a GPU."""
        out = graph.with_name("plan.onnx")
        words = (*IMAGES[2:], "-t", "tensorrt-rtx", "--ranges", table, "--tolerance", "cosine=0.9")
        made = _call("quantize", graph, *words, "--tolerance", "sqnr_db=5", "-o", out, cwd=graph.parent)
        run = _plain_runner(out)
        assert np.mean([int(run(x=image).argmax()) == fp32 for image, _, fp32 in judged]) >= 0.92
        assert set(made["products"]) == {"int8"}

    def test_one_scale_for_a_whole_weight_is_clearly_worse(
        self, graph: Path, table: Path, judged: list[tuple[np.ndarray, set[int], int]], folder: Path
    ) -> None:
        """7 bits: with 8, sums of products saturate on x86 without VNNI, most where channels use the whole range."""
        import onnx_ir as ir

        from planc.calibration.table import load
        from planc.passes import InsertQdq

        optimized = folder / "optimized.onnx"
        _call("optimize", graph, "-o", optimized, cwd=folder)
        ranges = tuple((name, *one.affine) for name, one in load(table).tensors.items())
        noise = {}
        plain = _runner(optimized)
        for per_channel in (True, False):
            model = ir.load(optimized)
            InsertQdq(ranges=ranges, per_channel=per_channel, weight_bits=7)(model)
            path = folder / f"per-channel-{per_channel}.onnx"
            ir.save(model, path)
            run = _runner(path)
            pairs = [(run(x=image), plain(x=image)) for image, *_ in judged[:8]]
            noise[per_channel] = float(np.mean([np.square(one - other).mean() / other.var() for one, other in pairs]))
        assert noise[True] < 0.06, noise
        assert noise[False] > 10 * noise[True], noise


def test_crepe_hears_the_same_pitch(folder: Path, repository: Path, data: ModuleType) -> None:
    graph = folder / "crepe.onnx"
    sizes = ("--dim", "batch=1..256@16")
    frames = ("--input", "frames=float32[batch,1024]")
    _call("export", f"{repository}/bench/models.py:crepe_tiny", *frames, *sizes, "-o", graph, cwd=folder)
    sound, pitches = data.tones(1000, seed=0)
    parts = [sound[start : start + 200] for start in range(0, 1000, 200)]

    def accuracy(path: Path, load: Callable[[Path], Callable[..., np.ndarray]] = _runner) -> float:
        run = load(path)
        return data.pitch_accuracy(np.concatenate([run(frames=part) for part in parts]), pitches)

    plain = accuracy(graph)
    tones = f"{repository}/bench/data.py:tone_calibration"
    assert plain > 0.95
    for target in TARGETS:
        _int8(graph, target, folder / f"crepe-{target}", *sizes, "--calibration", tones)
        assert plain - accuracy(folder / f"crepe-{target}") <= 0.005
    lowered = folder / "crepe-plan.onnx"
    words = (*sizes, "-t", "tensorrt-rtx", "--calibration", tones, "-o", lowered)
    _call("quantize", graph, *words, cwd=folder)
    assert plain - accuracy(lowered, _plain_runner) <= 0.005


@pytest.mark.parametrize(("target", "most"), [("onnxruntime-cpu", 3.3e6), ("openvino-cpu", 3.6e6)])
def test_ocr_is_found_by_the_guard_alone(
    target: str, most: float, folder: Path, repository: Path, data: ModuleType
) -> None:
    """A graph of opset 12 with 14 depthwise convolutions and attention; the user states the error rate only."""
    source = data.package("rapidocr_onnxruntime") / "models/ch_PP-OCRv4_rec_infer.onnx"
    ours, out = f"{repository}/bench/data.py", folder / f"ocr-{target}"
    made = _int8(
        source, target, out, *LINES, "--calibration", f"{ours}:line_calibration",
        "--eval", f"{ours}:line_trial", "--max-drop", f"{ours}:character_accuracy=0.005",
    )  # fmt: skip
    judged = data.lines(100, seed=0)
    labels = [text for _, text in judged]
    plain, quantized = (
        data.character_accuracy([run(x=image) for image, _ in judged], labels)
        for run in (_runner(source), _runner(out))
    )
    assert plain > 0.85
    assert plain - quantized <= 0.01
    assert _payload(out) <= most  # the greater one with the compiled graph
    assert made["manifest"]["quantization"]["guard"]["labelled"]
    held = made["manifest"]["verification"].get("held_by")  # its softmax on one line, where a letter flips
    assert held is None or max(held["loss"].values()) <= 0.005
    assert _call("verify", out, cwd=folder)["passed"]


def test_openvino_runs_all_that_is_quantized_in_int8(folder: Path, repository: Path, data: ModuleType) -> None:
    """`convert_model` would leave 20 of these products in float32: its "smart reshape" breaks their patterns."""
    source, ours = data.package("rapidocr_onnxruntime") / "models/ch_PP-OCRv4_rec_infer.onnx", "bench/data.py"
    words = (*LINES, "--calibration", f"{repository}/{ours}:line_calibration", "--samples", 4)
    loose = ("--tolerance", "sqnr_db=0", "--tolerance", "cosine=0")
    manifest = _int8(source, "openvino-cpu", folder / "ocr-openvino", *words, *loose)["manifest"]
    quantized = manifest["quantization"]["products"]["int8"]["nodes"]
    assert quantized > 40
    assert manifest["effective_precision"]["products"]["int8"] == quantized


def test_a_net_that_is_trained_here_keeps_its_accuracy(folder: Path, repository: Path, data: ModuleType) -> None:
    import torch

    models = _module(repository / "bench/models.py")
    images, labels = data.digits()
    count = data.TRAINED
    net = models.train_mnist(torch.from_numpy(images[:count]), torch.from_numpy(labels[:count]), epochs=3)
    torch.save(net.state_dict(), folder / "mnist.pt")
    graph, sizes = folder / "mnist.onnx", ("--dim", "batch=1..128@1")
    x = ("--input", "x=float32[batch,1,28,28]", "--weights", folder / "mnist.pt")
    _call("export", f"{repository}/bench/models.py:mnist", *x, *sizes, "-o", graph, cwd=folder)

    def accuracy(path: Path) -> float:
        run = _runner(path)
        answers = [run(x=images[start : start + 100]).argmax(axis=1) for start in range(count, 5000, 100)]
        return float(np.mean(np.concatenate(answers) == labels[count:]))

    plain = accuracy(graph)
    assert plain > 0.93
    for target in TARGETS:
        out = folder / f"mnist-{target}"
        _int8(graph, target, out, *sizes, "--calibration", f"{repository}/bench/data.py:digit_calibration")
        assert plain - accuracy(out) <= 0.003


OUTLIER = """<ir_version: 10, opset_import: ["": 20]> g (float[batch,3,8,8] x) => (float[batch,10] y) {
  a = Conv(x, w1) r = Relu(a) s = Mul(r, scale) t = Conv(s, w2) u = Relu(t) v = Conv(u, w3)
  p = GlobalAveragePool(v) y = Flatten(p)
}"""
"""One channel of what the second convolution reads is 30,000 times as large as the others, and hardly counts."""

SMALL = ("--dim", "batch=1..4@2")


@pytest.fixture(scope="module")
def outlier(folder: Path, onnx_file: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    scale, second = np.ones((1, 16, 8, 8), np.float32), normal(16, 16, 1, 1) / 4
    scale[0, 0], second[:, 0] = 3e4, second[:, 0] * 1e-6
    scale[0, 0, 0, 0] = 2e4  # one number per channel would be folded into w2
    np.savez(folder / "images.npz", x=normal(32, 3, 8, 8))
    arrays = {"w1": normal(16, 3, 1, 1), "scale": scale, "w2": second, "w3": normal(10, 16, 1, 1)}
    return onnx_file(folder / "outlier.onnx", OUTLIER, **arrays)


class TestGuard:
    @pytest.mark.parametrize("target", TARGETS)
    def test_a_layer_that_collapses_is_rescued(self, target: str, outlier: Path) -> None:
        words = (outlier, *SMALL, "-t", target, "-p", "int8", "--calibration", "images.npz")
        out = outlier.with_name(f"rescued-{target}")
        refused = planc("compile", *words, "-o", out, cwd=outlier.parent)
        assert refused.code == 1, "without the guard it is destroyed, and verification says so"
        made = _call("compile", *words, "--max-drop", "top1=1pp", "-o", out, cwd=outlier.parent)
        quantization = made["manifest"]["quantization"]
        assert [one["name"] for one in quantization["guard"]["excluded"]] == ["t"]
        assert quantization["products"]["int8"]["nodes"] == 2

    def test_a_stopped_search_goes_on_without_doing_anything_twice(self, outlier: Path) -> None:
        words = (outlier, *SMALL, "-t", "onnxruntime-cpu", "--calibration", "images.npz", "--max-drop", "top1=1pp")
        found = [
            _call("quantize", *words, "--state", "state.json", "--no-cache", "-o", "q.onnx", cwd=outlier.parent)[
                "guard"
            ]
            for _ in range(2)
        ]
        assert found[0].pop("evaluations") > 3
        assert found[1].pop("evaluations") == 0
        assert found[0] == found[1]

    @pytest.mark.parametrize("verb", ["compile", "quantize"])
    def test_the_list_that_it_writes_gives_the_same_bytes_without_a_search(self, verb: str, outlier: Path) -> None:
        words = (verb, outlier, *SMALL, "-t", "onnxruntime-cpu", "-p", "int8", "--calibration", "images.npz", "-o")
        listing, cwd = f"{verb}.txt", outlier.parent
        _call(*words, f"{verb}-found", "--max-drop", "top1=1pp", "--write-exclude", listing, cwd=cwd)
        assert [line.partition("  # noise ")[0] for line in (cwd / listing).read_text().splitlines()[1:]] == ["t"]
        _call(*words, f"{verb}-listed", "--exclude", f"@{listing}", cwd=cwd)
        made = [cwd / f"{verb}-{name}" for name in ("found", "listed")]
        payloads = [path / "model.onnx" if path.is_dir() else path for path in made]
        assert payloads[0].read_bytes() == payloads[1].read_bytes()

    def test_a_bound_that_cannot_be_held_says_the_best_found(self, outlier: Path) -> None:
        words = (outlier, *SMALL, "-t", "openvino-cpu", "-p", "int8", "--calibration", "images.npz")
        answer = planc("compile", *words, "--max-drop", "sqnr=200dB", "-o", "never", cwd=outlier.parent)
        assert answer.code == 1
        assert "INT8 misses the bound unless all 3 layers stay in float" in answer.error
        (outlier.parent / "nan.py").write_text("def metric(outputs, labels):\n    return float('nan')\n")
        answer = planc("compile", *words, "--max-drop", "nan.py:metric=0", "-o", "never", cwd=outlier.parent)
        assert answer.code == 2
        assert "nan.py:metric returned NaN for the outputs of the FP32 model" in answer.error
        assert not (outlier.parent / "never").exists()


def test_a_weight_of_twelve_layers_is_one(folder: Path, onnx_file: Callable[..., Path]) -> None:
    steps = ["h0 = MatMul(x, w)", *(f"r{i} = Tanh(h{i}) h{i + 1} = MatMul(r{i}, w)" for i in range(11))]
    text = f'<ir_version: 10, opset_import: ["": 20]> g (float[batch,64] x) => (float[batch,64] y) {{ {" ".join(steps)} y = Tanh(h11) }}'  # noqa: E501
    rng = np.random.default_rng(0)
    source = onnx_file(folder / "shared.onnx", text, w=rng.standard_normal((64, 64), dtype=np.float32) / 8)
    np.savez(folder / "rows.npz", x=rng.standard_normal((32, 64), dtype=np.float32))
    for target in TARGETS:
        made = _int8(source, target, folder / f"shared-{target}", *SMALL, "--calibration", folder / "rows.npz")
        assert made["manifest"]["quantization"]["products"]["int8"]["nodes"] == 12
        weights = {"onnxruntime-cpu": "model.onnx.data", "openvino-cpu": "model.bin"}[target]
        assert 64 * 64 <= made["manifest"]["files"][weights]["bytes"] < 2 * 64 * 64


@pytest.mark.parametrize("target", TARGETS)
def test_a_table_that_the_last_layer_shares_is_one(target: str, folder: Path, onnx_file: Callable[..., Path]) -> None:
    """A language model's output projection multiplies by the transposed embedding."""
    text = """<ir_version: 10, opset_import: ["": 20]> g (int64[batch,words] ids) => (float[batch,words,3000] y) {
      e = Gather(table, ids) h = MatMul(e, w) r = Relu(h) s = Add(e, r) t = Transpose<perm=[1,0]>(table)
      y = MatMul(s, t)
    }"""
    rng = np.random.default_rng(0)
    arrays = {"table": rng.standard_normal((3000, 128), np.float32), "w": rng.standard_normal((128, 128), np.float32)}
    source = onnx_file(folder / "tied.onnx", text, **{name: array / 12 for name, array in arrays.items()})
    ids = rng.integers(0, 3000, (16, 9))
    np.savez(folder / "words.npz", ids=ids)
    words = ("--dim", "batch=1..4@1", "--dim", "words=9", "--calibration", folder / "words.npz")
    made = _int8(source, target, folder / f"tied-{target}", *words)
    assert made["manifest"]["quantization"]["products"]["int8"]["nodes"] == 2
    copy = 3000 * 128
    assert copy < _payload(folder / f"tied-{target}") < 1.25 * copy
    wanted, found = (_runner(path)(ids=ids[:2]) for path in (source, folder / f"tied-{target}"))
    assert (wanted.argmax(-1) == found.argmax(-1)).mean() > 0.9


def test_two_runs_give_the_same_bytes(workshop: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).standard_normal((8, 3, 8, 8), dtype=np.float32))
    for target in TARGETS:
        made = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir(exist_ok=True)
            out = tmp_path / name / f"art-{target}"
            _int8(workshop / "conv.onnx", target, out, *SMALL, "--calibration", tmp_path / "c.npz")
            made.append({path.name: path.read_bytes() for path in out.iterdir() if path.name != "report.json"})
        assert made[0] == made[1]


class TestData:
    """What is given instead of calibration data."""

    WORDS = (*SMALL, "-t", "onnxruntime-cpu", "-p", "int8", "-o")

    def test_none_is_a_wrong_usage_and_random_data_is_said(self, workshop: Path, tmp_path: Path) -> None:
        words = ("compile", workshop / "conv.onnx", *self.WORDS, tmp_path / "out")
        answer = planc(*words, cwd=tmp_path)
        assert answer.code == 2
        assert "INT8 needs calibration data. Add --calibration DATA" in answer.error
        made = _call(*words, "--allow-random-calibration", cwd=tmp_path)
        assert made["manifest"]["quantization"]["calibration"]["data"] == "random"

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"image": np.zeros((2, 3, 8, 8), np.float32)}, "input 'x' is missing"),
            ({"x": np.full((2, 3, 8, 8), "a")}, "input 'x' is <U1; wanted float32"),
            ({"x": np.zeros((2, 8, 8, 3), np.float32)}, "input 'x' has the shape [2, 8, 8, 3]"),
            ({"x": np.full((2, 3, 8, 8), np.nan, np.float32)}, "sample 0: input 'x' has values that are NaN"),
            ({"x": np.zeros((0, 3, 8, 8), np.float32)}, "no samples"),
        ],
        ids=["names", "dtypes", "shapes", "nan", "empty"],
    )
    def test_data_that_does_not_fit_is_one_line(
        self, arrays: dict[str, np.ndarray], words: str, workshop: Path, tmp_path: Path
    ) -> None:
        np.savez(tmp_path / "c.npz", **arrays)
        job = ("compile", workshop / "conv.onnx", *self.WORDS, tmp_path / "out", "--calibration", "c.npz")
        answer = planc(*job, cwd=tmp_path)
        assert answer.code == 2, answer.stderr
        assert words in answer.error
        assert "c.npz" in answer.error
        assert not (tmp_path / "out").exists()

    def test_a_graph_without_a_product_fails_with_the_reason(
        self, onnx_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        text = '<ir_version: 10, opset_import: ["": 20]> g (float[batch,4] x) => (float[batch,4] y) { y = Tanh(x) }'
        np.savez(tmp_path / "c.npz", x=np.ones((2, 4), np.float32))
        source = onnx_file(tmp_path / "tanh.onnx", text)
        answer = planc("compile", source, *self.WORDS, "out", "--calibration", "c.npz", cwd=tmp_path)
        assert answer.code == 4
        assert "INT8 had no effect: the graph has no matrix product or convolution" in answer.error

    def test_a_table_of_other_weights_is_refused(
        self, workshop: Path, onnx_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        import onnx

        words = (*SMALL, "--allow-random-calibration", "-o", tmp_path / "ranges.json")
        _call("calibrate", workshop / "conv.onnx", *words, cwd=tmp_path)
        model = onnx.load(workshop / "conv.onnx")
        for one in model.graph.initializer:
            if one.name == "head":
                one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one) * 2, "head"))
        onnx.save(model, tmp_path / "other.onnx")
        job = ("compile", "other.onnx", *self.WORDS, tmp_path / "out", "--ranges", "ranges.json")
        answer = planc(*job, cwd=tmp_path)
        assert answer.code == 2
        assert "--ranges ranges.json was made for another graph" in answer.error.replace(f"{tmp_path}/", "")

    @pytest.mark.parametrize("verb", ["compile", "quantize"])
    def test_a_ready_table_is_verified_on_real_data_where_some_is_known(
        self, verb: str, workshop: Path, tmp_path: Path
    ) -> None:
        """Real numbers are small and positive: what is drawn at random is cut off by the ranges."""
        x = np.random.default_rng(0).random((8, 3, 8, 8), dtype=np.float32) / 10
        np.savez(tmp_path / "real.npz", x=x)
        np.savez(tmp_path / "one.npz", x=x[:1])
        np.savez(tmp_path / "labelled.npz", x=x, labels=np.arange(8))
        source = workshop / "conv.onnx"
        _call("calibrate", source, *SMALL, "--calibration", "real.npz", "-o", "ranges.json", cwd=tmp_path)
        words = (verb, source, *self.WORDS, "out", "--ranges", "ranges.json", "--overwrite")
        answer = planc(*words, cwd=tmp_path)
        assert answer.code == 1, answer.stdout
        assert "planc: verification runs on random numbers" in answer.stderr
        assert "It ran on random numbers: --inputs FILE.npz or --eval DATA gives real ones" in answer.error
        for known in (("--inputs", "one.npz"), ("--eval", "labelled.npz")):
            answer = planc(*words, *known, cwd=tmp_path)
            assert answer.code == 0, answer.stderr
            assert "random" not in answer.stderr
        np.savez(tmp_path / "empty.npz", x=x[:0])
        answer = planc(*words, "--inputs", "empty.npz", cwd=tmp_path)
        assert answer.code == 2
        assert "float32[0,3,8,8]" in answer.error

    @pytest.mark.parametrize("what", ["calibrate", "quantize"])
    def test_the_number_of_samples_costs_no_memory(
        self, what: str, onnx_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        """640 samples of 196 kB are 126 MB, to calibrate on or to judge by."""
        text = """<ir_version: 10, opset_import: ["": 20]> g (float[batch,3,128,128] x) => (float[batch,8] y) {
            a = Conv<strides=[2,2]>(x, w) r = Relu(a) p = GlobalAveragePool(r) y = Flatten(p)
        }"""
        rng = np.random.default_rng(0)
        source = onnx_file(tmp_path / "m.onnx", text, w=rng.standard_normal((8, 3, 3, 3), dtype=np.float32))
        images = rng.standard_normal((640, 3, 128, 128), dtype=np.float32)
        peaks = []
        for count in (128, 640):
            np.savez(tmp_path / f"{count}.npz", x=images[:count])
            words = ("--dim", "batch=1..4@1", "--calibration", f"{count}.npz", "-o", f"{count}.out")
            if what == "quantize":
                words += ("-t", "onnxruntime-cpu", "--max-drop", "cosine=0.9", "--eval", f"{count}.npz")
            answer = planc(what, source, *words, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
            assert answer.code == 0, answer.stderr
            peaks.append(answer.peak)
        assert peaks[1] <= 1.1 * peaks[0], peaks


def test_qdq_of_training_is_taken_as_it_is(workshop: Path, tmp_path: Path) -> None:
    """No calibration data: the ranges are in the graph."""
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).standard_normal((8, 3, 8, 8), dtype=np.float32))
    words = (*SMALL, "-t", "onnxruntime-cpu", "--calibration", tmp_path / "c.npz", "-o", tmp_path / "q.onnx")
    _call("quantize", workshop / "conv.onnx", *words, cwd=tmp_path)
    for target in TARGETS:
        made = _int8(tmp_path / "q.onnx", target, tmp_path / target, *SMALL)
        assert made["manifest"]["quantization"]["products"]["int8"]["nodes"] == 2

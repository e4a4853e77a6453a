"""The accuracy guard: bounds, evaluation data with labels, and the search on a small graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import calibrate, guard, quantize, recipe
from planc.compiler.errors import GateFailed, UsageError
from planc.compiler.shapes import TensorSpec, parse_dim

SPECS = (TensorSpec("x", "float32", ("batch", 3, 4, 4)),)
DIMS = (parse_dim("batch=1..4@2"),)
NET = """<ir_version: 10, opset_import: ["": 20]> g (float[batch,3,4,4] x) => (float[batch,10] y)
<float[batch,16,4,4] a, float[batch,16,4,4] r, float[batch,16,4,4] s, float[batch,16,4,4] t, float[batch,16,4,4] u,
  float[batch,10,4,4] v, float[batch,10,1,1] p> {
  a = Conv(x, w1) r = Relu(a) s = Mul(r, scale) t = Conv(s, w2) u = Relu(t) v = Conv(u, w3)
  p = GlobalAveragePool(v) y = Flatten(p)
}"""
"""Its second convolution cannot be quantized: one channel of its input is huge and hardly counts."""


@pytest.fixture
def graph(onnx_file: Callable[..., Path], tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    scale, second = np.ones((1, 16, 1, 1), np.float32), normal(16, 16, 1, 1) / 4
    scale[0, 0], second[:, 0] = 3e4, second[:, 0] * 1e-6
    np.savez(tmp_path / "images.npz", x=normal(16, 3, 4, 4))
    arrays = {"w1": normal(16, 3, 1, 1), "scale": scale, "w2": second, "w3": normal(10, 16, 1, 1)}
    return onnx_file(tmp_path / "net.onnx", NET, **arrays)


@pytest.fixture
def search(graph: Path, tmp_path: Path) -> Callable[..., Any]:
    """Runs the guard with bounds."""

    def run(*bounds: str, **words: Any) -> Any:
        source = recipe.source(str(graph), dims=["batch=1..4@2"])
        wanted = recipe.quantization(data=str(tmp_path / "images.npz"), max_drop=bounds, **words)
        job = recipe.job(source, "onnxruntime-cpu", "int8", quantization=wanted)
        table, _ = calibrate.measure(graph, wanted.calibration, SPECS, DIMS, emit=lambda *_: None)
        return guard.search(job, graph, quantize.lowering(job, DIMS), table, SPECS, emit=lambda *_: None)

    return run


def _metric(folder: Path, body: str) -> str:
    path = folder / "metric.py"
    path.write_text(f"import numpy as np\ndef metric(outputs, labels):\n    {body}\n")
    return f"{path}:metric"


class TestSearch:
    def test_the_layer_that_collapses_stays_in_float(self, search: Callable[..., Any]) -> None:
        found = search("top1=1pp", "cosine=0.01")
        assert found.excluded == ("t",)
        assert list(found.facts["loss"]) == ["top1=1pp", "cosine=0.01"]
        assert found.facts["loss"]["cosine=0.01"] <= 0.01
        assert found.facts["samples"] == 16
        assert not found.facts["labelled"]

    def test_nothing_is_excluded_where_the_bound_holds(self, search: Callable[..., Any]) -> None:
        found = search("mse=1000")
        assert found.excluded == ()
        assert found.facts["evaluations"] == 1

    def test_the_ratio_is_told_as_it_is(self, search: Callable[..., Any]) -> None:
        found = search("sqnr=20dB")
        assert found.facts["loss"]["sqnr=20dB"] >= 20

    def test_an_impossible_bound_is_a_gate_that_said_no(self, search: Callable[..., Any]) -> None:
        with pytest.raises(GateFailed, match="unless all 3 layers stay in float; with none of them it loses sqnr=150"):
            search("sqnr=150dB")

    def test_a_metric_of_the_user_sees_outputs_and_labels(
        self, search: Callable[..., Any], tmp_path: Path, graph: Path
    ) -> None:
        text = _metric(tmp_path, "return float(np.mean([o.argmax() == l for o, l in zip(outputs, labels)]))")
        from planc.compiler.reference import runner

        run, images = runner(graph), np.load(tmp_path / "images.npz")["x"]
        labels = [int(run({"x": image[None]})["y"].argmax()) for image in images]
        np.savez(tmp_path / "eval.npz", x=images, labels=labels)
        found = search(f"{text}=0.01", evaluation=str(tmp_path / "eval.npz"))
        assert found.excluded == ("t",)
        assert found.facts["labelled"]

    def test_a_search_goes_on_from_its_state_unless_the_metric_changed(
        self, search: Callable[..., Any], tmp_path: Path
    ) -> None:
        text, state = _metric(tmp_path, "return -sum(float(np.abs(o).max() > 1e3) for o in outputs)"), tmp_path / "s"
        assert search(f"{text}=0", "top1=1pp", state=state).facts["evaluations"] > 1
        assert search(f"{text}=0", "top1=1pp", state=state).facts["evaluations"] == 0
        _metric(tmp_path, "return 1.0")
        assert search(f"{text}=0", "top1=1pp", state=state).facts["evaluations"] > 1

    def test_a_state_file_that_is_something_else_is_refused(self, search: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "s.json").write_text("[]")
        with pytest.raises(UsageError, match=r"--state .*s\.json: not the state of a sensitivity search"):
            search("top1=1pp", state=tmp_path / "s.json")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", r"calling .*metric raised ZeroDivisionError: division by zero at metric\.py:3"),
        ("return None", r"calling .*metric raised TypeError"),
        ("return 'good'", r"calling .*metric raised ValueError"),
    ],
)
def test_a_metric_that_fails_is_one_line(body: str, words: str, search: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        search(f"{_metric(tmp_path, body)}=0.1")


class TestEvaluation:
    def test_labels_go_with_samples(self, graph: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "e.npz", x=np.zeros((3, 3, 4, 4), np.float32), labels=["a", "b", "c"])
        found = guard.evaluation(str(tmp_path / "e.npz"), SPECS, graph)
        assert [str(label) for label in found.labels or []] == ["a", "b", "c"]
        assert [one["y"].shape for one in found.references] == [(1, 10)] * 3

    def test_labels_count(self, graph: Path, tmp_path: Path) -> None:
        digests = set()
        for labels in ([0, 1], [1, 0]):
            np.savez(tmp_path / "e.npz", x=np.zeros((2, 3, 4, 4), np.float32), labels=labels)
            digests.add(guard.evaluation(str(tmp_path / "e.npz"), SPECS, graph).digest)
        assert len(digests) == 2

    def test_a_batch_of_the_model_has_its_labels(self, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
        text = '<ir_version: 10, opset_import: ["": 20]> g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }'
        np.savez(tmp_path / "e.npz", x=np.zeros((5, 3), np.float32), labels=np.arange(5))
        specs = (TensorSpec("x", "float32", (2, 3)),)
        found = guard.evaluation(str(tmp_path / "e.npz"), specs, onnx_file(tmp_path / "m.onnx", text))
        assert [label.tolist() for label in found.labels or []] == [[0, 1], [2, 3]]

    def test_an_input_may_be_called_labels(self, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
        text = '<ir_version: 10, opset_import: ["": 20]> g (float[n,3] labels) => (float[n,3] y) { y = Relu(labels) }'
        np.savez(tmp_path / "e.npz", labels=np.zeros((5, 3), np.float32))
        specs = (TensorSpec("labels", "float32", ("n", 3)),)
        found = guard.evaluation(str(tmp_path / "e.npz"), specs, onnx_file(tmp_path / "m.onnx", text))
        assert len(found.feeds) == 5
        assert found.labels is None

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"x": np.zeros((3, 3, 4, 4), np.float32), "labels": np.arange(2)}, "2 labels for 3 samples"),
            ({"labels": np.arange(2)}, "input 'x' is missing"),
            ({"x": np.zeros((0, 3, 4, 4), np.float32)}, "no samples"),
        ],
    )
    def test_data_that_does_not_fit_is_told(self, arrays: Any, words: str, graph: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "e.npz", **arrays)
        with pytest.raises(UsageError, match=f"--eval.*{words}"):
            guard.evaluation(str(tmp_path / "e.npz"), SPECS, graph)

    def test_a_bound_wants_data(self, graph: Path) -> None:
        with pytest.raises(UsageError, match="--max-drop needs data to judge by"):
            guard.evaluation("", SPECS, graph)

"""The accuracy guard on a net of which one layer does not bear INT8."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import calibrate, guard, quantize, recipe
from planc.compiler.errors import GateFailed, UsageError
from planc.compiler.recipe import Calibration, Guard, Quantization, Source
from planc.compiler.reference import runner
from planc.compiler.shapes import Dim, TensorSpec

TEXT = """<ir_version: 8, opset_import: ["": 18]> g (float[n,16] x) => (float[n,8] y)
  <float[n,16] a, float[n,16] b, float[n,16] c, float[n,16] d> {
  a = MatMul(x, w1)
  b = Tanh(a)
  c = MatMul(b, w2)
  d = Mul(c, outlier)
  y = MatMul(d, w3)
}"""
SPECS = (TensorSpec("x", "float32", ("n", 16)),)
DIMS = (Dim("n", (1, 8), 1),)


def _emit(_kind: str, _value: Any) -> None: ...


@pytest.fixture
def graph(onnx_file: Callable[..., Path], tmp_path: Path) -> Path:
    """The input of the last product has a channel a thousand times as large as the others, with weights as small."""
    rng = np.random.default_rng(0)
    arrays = {f"w{index}": rng.standard_normal((16, 16), np.float32) / 4 for index in (1, 2)}
    arrays["w3"] = rng.standard_normal((16, 8), np.float32)
    arrays["outlier"] = np.ones(16, np.float32)
    arrays["outlier"][3], arrays["w3"][3] = 1000, arrays["w3"][3] / 1000
    return onnx_file(tmp_path / "net.onnx", TEXT, **arrays)


@pytest.fixture
def data(tmp_path: Path) -> str:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).standard_normal((24, 16), np.float32))
    return str(tmp_path / "x.npz")


def _search(
    graph: Path,
    calibration: str,
    *bounds: str,
    target: str = "onnxruntime-cpu",
    specs: tuple[TensorSpec, ...] = SPECS,
    **options: Any,
) -> guard.Guarded:
    wanted = Quantization(Calibration(data=calibration), smoothing=0.0, guard=Guard(bounds, **options))
    job = recipe.job(Source(str(graph)), target, "int8", quantization=wanted)
    table, _ = calibrate.measure(graph, wanted.calibration, specs, DIMS, emit=_emit)
    return guard.search(job, graph, quantize.lowering(job, DIMS), table, specs, emit=_emit)


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu", "null"])
def test_the_layer_that_costs_most_goes_back(target: str, graph: Path, data: str) -> None:
    found = _search(graph, data, "cosine=0.01", target=target)
    assert found.excluded == ("y",)
    (row,) = found.facts["excluded"]
    assert row["noise"] > 0.1
    assert found.facts["costs"]["y"] == row["noise"] == max(found.facts["costs"].values())
    assert found.facts["loss"]["cosine=0.01"] <= 0.01
    assert found.facts["samples"] == 24


class TestJudge:
    """A payload on all the data, by the bounds of the user."""

    def _judged(self, graph: Path, data: str, bound: str, change: Callable[[np.ndarray], np.ndarray]) -> guard.Judged:
        wanted = Quantization(Calibration(data=data), guard=Guard((bound,)))
        job, run = recipe.job(Source(str(graph)), "onnxruntime-cpu", "int8", quantization=wanted), runner(graph)
        return guard.judge(lambda **inputs: {"y": change(run(inputs)["y"])}, job, graph, SPECS, emit=_emit)

    def test_losses_are_told(self, graph: Path, data: str) -> None:
        made = self._judged(graph, data, "cosine=0.1", lambda array: array + np.float32(0.1))
        assert made.holds
        assert 0 < made.loss["cosine=0.1"] < 0.1
        assert (made.samples, made.outputs) == (24, {"y"})
        assert not self._judged(graph, data, "cosine=0.1", np.negative).holds

    def test_nan_never_holds(self, graph: Path, data: str) -> None:
        assert not self._judged(graph, data, "cosine=2", lambda array: array * np.float32("nan")).holds

    def test_sizes_that_it_is_not_made_for_are_no_answer(self, graph: Path, data: str) -> None:
        def refuse(_: np.ndarray) -> np.ndarray:
            raise UsageError("dimension 'n' is 1; the artifact is verified for 4..8")

        made = self._judged(graph, data, "cosine=2", refuse)
        assert not made.holds
        assert "at sample 0 dimension 'n' is 1" in made.told


def test_nan_in_one_of_several_outputs_is_no_pass(onnx_file: Callable[..., Path], data: str, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,16] x) => (float[n,16] y, float[n,16] z) { y = Tanh(x) z = Relu(x) }"""
    path = onnx_file(tmp_path / "two.onnx", text)
    wanted = Quantization(Calibration(data=data), guard=Guard(("cosine=0.5",)))
    job, run = recipe.job(Source(str(path)), "null", "int8", quantization=wanted), runner(path)
    made = guard.judge(
        lambda **inputs: {**run(inputs), "z": np.full((1, 16), np.nan, np.float32)}, job, path, SPECS, emit=_emit
    )
    assert not made.holds


def test_nothing_is_searched_where_the_bound_holds(graph: Path, data: str) -> None:
    found = _search(graph, data, "cosine=1.5")
    assert (found.excluded, found.facts["evaluations"]) == ((), 1)


def test_a_stopped_search_goes_on(graph: Path, data: str, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with pytest.raises(GateFailed, match="the best found loses"):
        _search(graph, data, "cosine=0.01", state=state, budget=3)
    rest = _search(graph, data, "cosine=0.01", state=state)
    whole = _search(graph, data, "cosine=0.01")
    assert rest.excluded == whole.excluded
    assert rest.facts["evaluations"] == whole.facts["evaluations"] - 3
    assert _search(graph, data, "cosine=0.01", state=state).facts["evaluations"] == 0


def test_candidates_share_a_state_file(graph: Path, data: str, tmp_path: Path) -> None:
    targets = ("onnxruntime-cpu", "openvino-cpu")
    asked = [
        _search(graph, data, "cosine=0.01", state=tmp_path / "state.json", target=target).facts["evaluations"]
        for target in targets * 2
    ]
    assert min(asked[:2]) > 3
    assert asked[2:] == [0, 0]


def test_labels_judge_where_there_are_some(graph: Path, data: str, tmp_path: Path) -> None:
    from planc.compiler.reference import runner

    x = np.load(data)["x"]
    answers = runner(graph)({"x": x})["y"].argmax(axis=1)
    np.savez(tmp_path / "eval.npz", x=x, labels=answers)
    found = _search(graph, data, "top1=5pp", data=str(tmp_path / "eval.npz"))
    assert found.facts["labelled"]
    assert found.facts["loss"]["top1=5pp"] <= 0.05
    np.savez(tmp_path / "less.npz", x=x, labels=answers[:3])
    with pytest.raises(UsageError, match="3 labels for 24 samples"):
        _search(graph, data, "top1=5pp", data=str(tmp_path / "less.npz"))


def test_a_metric_of_the_users(graph: Path, data: str, tmp_path: Path) -> None:
    (tmp_path / "own_metric.py").write_text(
        "import numpy as np\n"
        "def spread(outputs, labels):\n    assert labels is None\n    return -float(np.std(outputs))\n"
        "def broken(outputs, labels):\n    raise ValueError('no')\n"
    )
    found = _search(graph, data, f"{tmp_path / 'own_metric.py'}:spread=0.5")
    assert next(iter(found.facts["loss"].values())) <= 0.5
    with pytest.raises(UsageError, match=r"raised ValueError: no at own_metric.py:6"):
        _search(graph, data, f"{tmp_path / 'own_metric.py'}:broken=0.5")


def test_what_cannot_hold_says_so(graph: Path, data: str, tmp_path: Path) -> None:
    (tmp_path / "own_harsh.py").write_text(
        "CALLS = []\n\n\ndef never(*_):\n    CALLS.append(1)\n    return -len(CALLS)\n"
    )
    with pytest.raises(GateFailed, match=r"INT8 misses the bound: .* of 3 layers in float") as caught:
        _search(graph, data, f"{tmp_path / 'own_harsh.py'}:never=0.5")
    assert "--max-drop" in caught.value.hint


def test_a_metric_that_is_nan_of_the_model_itself_is_the_users_to_mend(graph: Path, data: str, tmp_path: Path) -> None:
    (tmp_path / "own_nan.py").write_text("def nan(*_):\n    return float('nan')\n")
    with pytest.raises(UsageError, match=r"own_nan\.py:nan returned NaN for the outputs of the FP32 model"):
        _search(graph, data, f"{tmp_path / 'own_nan.py'}:nan=0.5")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(24) + 8, "no label is the number of a class, 0 to 7; the first is 8"),
        (np.full(24, "cat"), "no label is the number of a class, 0 to 7; the first is cat"),
        (np.full(24, 0.5), "no label is the number of a class, 0 to 7; the first is 0.5"),
    ],
)
def test_labels_that_no_class_has_are_refused(
    labels: np.ndarray, words: str, graph: Path, data: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "e.npz", x=np.load(data)["x"], labels=labels)
    with pytest.raises(UsageError) as caught:
        _search(graph, data, "top1=1pp", data=str(tmp_path / "e.npz"))
    assert words in caught.value.what


def test_a_ratio_is_told_as_it_is(graph: Path, data: str) -> None:
    assert _search(graph, data, "sqnr=20dB").facts["loss"]["sqnr=20dB"] >= 20


def test_where_all_must_stay_in_float_the_gate_says_no(graph: Path, data: str) -> None:
    with pytest.raises(GateFailed, match="unless all 3 layers stay in float; with none of them it loses sqnr=150dB"):
        _search(graph, data, "sqnr=150dB")


def test_an_embedding_alone_is_not_worth_a_build(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
g (int64[n,1] ids) => (float[n,1,8] y) <float[n,1,64] e> {
  e = Gather(table, ids)
  y = MatMul(e, w)
}"""
    rng = np.random.default_rng(0)
    table, w = rng.standard_normal((8192, 64), np.float32), rng.standard_normal((64, 8), np.float32)
    graph = onnx_file(tmp_path / "words.onnx", text, table=table, w=w)
    np.savez(tmp_path / "ids.npz", ids=rng.integers(0, 8192, (24, 1)))
    specs = (TensorSpec("ids", "int64", ("n", 1)),)
    with pytest.raises(GateFailed, match="unless all 1 layers stay in float"):
        _search(graph, str(tmp_path / "ids.npz"), "sqnr=150dB", specs=specs, target="openvino-cpu")


def test_a_changed_metric_begins_anew(graph: Path, data: str, tmp_path: Path) -> None:
    path, state = tmp_path / "own_changing.py", tmp_path / "state.json"
    for value, evaluations in ((1, 1), (1, 0), (2, 1)):
        path.write_text(f"def metric(outputs, labels):\n    return {value}\n")
        assert _search(graph, data, f"{path}:metric=0", state=state).facts["evaluations"] == evaluations


def test_a_state_file_that_is_something_else_is_refused(graph: Path, data: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("[]")
    with pytest.raises(UsageError, match=r"--state .*s\.json: not the state of a sensitivity search"):
        _search(graph, data, "cosine=0.01", state=tmp_path / "s.json")


@pytest.mark.parametrize(("answer", "words"), [("None", "raised TypeError"), ("'good'", "raised ValueError")])
def test_a_metric_that_gives_no_number_is_one_line(
    answer: str, words: str, graph: Path, data: str, tmp_path: Path
) -> None:
    (tmp_path / "own_odd.py").write_text(f"def metric(outputs, labels):\n    return {answer}\n")
    with pytest.raises(UsageError, match=words):
        _search(graph, data, f"{tmp_path / 'own_odd.py'}:metric=0.1")


class TestEvaluation:
    def test_labels_go_with_samples(self, graph: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "e.npz", x=np.zeros((3, 16), np.float32), labels=["a", "b", "c"])
        found = guard.evaluation(Guard(data=str(tmp_path / "e.npz")), Calibration(), SPECS, graph, tmp_path)
        assert [str(label) for label in found.labels or []] == ["a", "b", "c"]
        assert [one["y"].shape for one in found.references] == [(1, 8)] * 3

    def test_labels_count(self, graph: Path, tmp_path: Path) -> None:
        digests = set()
        for labels in ([0, 1], [1, 0]):
            np.savez(tmp_path / "e.npz", x=np.zeros((2, 16), np.float32), labels=labels)
            digests.add(
                guard.evaluation(Guard(data=str(tmp_path / "e.npz")), Calibration(), SPECS, graph, tmp_path).digest
            )
        assert len(digests) == 2

    def test_a_batch_of_the_model_has_its_labels(self, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
        text = '<ir_version: 10, opset_import: ["": 20]> g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }'
        np.savez(tmp_path / "e.npz", x=np.zeros((5, 3), np.float32), labels=np.arange(5))
        specs = (TensorSpec("x", "float32", (2, 3)),)
        found = guard.evaluation(
            Guard(data=str(tmp_path / "e.npz")), Calibration(), specs, onnx_file(tmp_path / "m.onnx", text), tmp_path
        )
        assert [label.tolist() for label in found.labels or []] == [[0, 1], [2, 3]]

    def test_an_input_may_be_called_labels(self, onnx_file: Callable[..., Path], tmp_path: Path) -> None:
        text = '<ir_version: 10, opset_import: ["": 20]> g (float[n,3] labels) => (float[n,3] y) { y = Relu(labels) }'
        np.savez(tmp_path / "e.npz", labels=np.zeros((5, 3), np.float32))
        specs = (TensorSpec("labels", "float32", ("n", 3)),)
        found = guard.evaluation(
            Guard(data=str(tmp_path / "e.npz")), Calibration(), specs, onnx_file(tmp_path / "m.onnx", text), tmp_path
        )
        assert len(found.feeds) == 5
        assert found.labels is None

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"x": np.zeros((3, 16), np.float32), "labels": np.arange(2)}, "2 labels for 3 samples"),
            ({"labels": np.arange(2)}, "input 'x' is missing"),
            ({"x": np.zeros((0, 16), np.float32)}, "no samples"),
        ],
    )
    def test_data_that_does_not_fit_is_told(self, arrays: Any, words: str, graph: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "e.npz", **arrays)
        with pytest.raises(UsageError, match=f"--eval.*{words}"):
            guard.evaluation(Guard(data=str(tmp_path / "e.npz")), Calibration(), SPECS, graph, tmp_path)

    def test_a_bound_wants_data(self, graph: Path) -> None:
        with pytest.raises(UsageError, match="--max-drop needs data to judge by"):
            guard.evaluation(Guard(), Calibration(), SPECS, graph, graph.parent)

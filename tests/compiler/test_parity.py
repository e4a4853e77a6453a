"""What a graph is run on, where it cannot be checked, and what counts as a difference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import parity, recipe
from planc.compiler.errors import UsageError
from planc.compiler.golden import Golden
from planc.compiler.parity import Check

HEAD = '<ir_version: 10, opset_import: ["": 20]>'


@pytest.fixture
def told() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def reference(
    onnx_file: Callable[..., Path], tmp_path: Path, told: list[tuple[str, Any]]
) -> Callable[..., list[Golden]]:
    """What the source computes, from its text and the words of the command line."""

    def run(text: str, arrays: dict[str, np.ndarray] | None = None, **words: Any) -> list[Golden]:
        path = onnx_file(tmp_path / "in.onnx", f"{HEAD} {text}", **(arrays or {}))
        source = recipe.source(str(path), **words)
        return parity.reference(Check(source), emit=lambda kind, value: told.append((kind, value)))

    return run


def _shapes(goldens: list[Golden], name: str) -> list[tuple[int, ...]]:
    return [golden.inputs[name].shape for golden in goldens]


def test_several_sizes_and_one_symbol_has_one_size(reference: Callable[..., list[Golden]]) -> None:
    goldens = reference("g (float[batch,seq] x, bool[seq,batch] m) => (float[batch,seq] y) { y = Relu(x) }")
    assert _shapes(goldens, "x") == [(2, 2), (1, 1), (7, 7), (3, 4)]
    assert _shapes(goldens, "m") == [(2, 2), (1, 1), (7, 7), (4, 3)]
    assert [golden.label for golden in goldens][-1] == "batch=3, seq=4"


def test_the_words_of_the_shape_language_bound_them(reference: Callable[..., list[Golden]]) -> None:
    text = "g (float[batch,seq] x) => (float[batch,seq] y) { y = Relu(x) }"
    assert _shapes(reference(text, dims=["batch=4..9@5"]), "x") == [(5, 2), (4, 1), (9, 7), (5, 3)]
    assert _shapes(reference(text, dims=["batch=4", "seq=6"]), "x") == [(4, 6)]
    (golden,) = reference(text, dims=["b=4", "s=6"], inputs=["x=float32[b,s]:5..6"])
    assert 5 <= golden.inputs["x"].min() <= golden.inputs["x"].max() <= 6


def test_sums_of_sizes_are_what_they_say(reference: Callable[..., list[Golden]]) -> None:
    text = """g (float[past] p, float[seq] x, float["past + seq"] m) => (float[n] y) {
        c = Concat<axis=0>(p, x) y = Add(c, m)
    }"""
    goldens = reference(text)
    assert _shapes(goldens, "m") == [(4,), (2,), (14,), (7,)]
    assert _shapes(reference(text, dims=["past=5"]), "m") == [(7,), (6,), (12,)]


def test_inputs_are_the_same_at_every_run_and_indices_are_rows(reference: Callable[..., list[Golden]]) -> None:
    text = """g (int64[n] ids, int32[n] types, int64[n] mask, float scale) => (float[n,2] y) {
        e = Gather(words, ids) t = Cast<to=7>(types) f = Gather(kinds, t) a = Add(e, f)
        c = CastLike(mask, scale) d = Mul(c, scale)
        axes = Constant<value_ints=[1]>() u = Unsqueeze(d, axes) y = Mul(a, u)
    }"""
    weights = {"words": np.ones((90, 2), np.float32), "kinds": np.ones((3, 2), np.float32)}
    goldens = reference(text, weights, dims=["n=50..200@100"])
    assert set(np.unique(goldens[-1].inputs["types"])) == {0, 1, 2}
    assert 60 < goldens[-1].inputs["ids"].max() < 90
    assert set(goldens[0].inputs["mask"]) == {1}, "a mask that hides nothing"
    assert set(goldens[-1].inputs["mask"]) == {0, 1}
    for first, second in zip(goldens, reference(text, weights, dims=["n=50..200@100"]), strict=True):
        for name, array in first.inputs.items():
            np.testing.assert_array_equal(array, second.inputs[name])


@pytest.mark.parametrize("dtype", ["float16", "double", "bool", "uint8", "int32"])
def test_dtypes_at_the_border(dtype: str, reference: Callable[..., list[Golden]]) -> None:
    (golden,) = reference(f"g ({dtype}[3] x) => ({dtype}[3] y) {{ y = Identity(x) }}")
    assert golden.label == parity.FIXED
    assert golden.inputs["x"].dtype == np.dtype(dtype)
    assert parity.differences(lambda feed: {"y": feed["x"]}, [golden]) == ([], {parity.FIXED: {"y": _equal(golden)}})


def _equal(golden: Golden) -> dict[str, Any]:
    from planc.compiler.verify import compare

    return compare(golden.outputs["y"], golden.outputs["y"])


def test_defaults_of_inputs_are_replaced_once(reference: Callable[..., list[Golden]]) -> None:
    goldens = reference("g (float[n,4] x, float[4] w = {1,1,1,1}) => (float[n,4] y) { y = Mul(x, w) }")
    assert [list(golden.inputs) for golden in goldens] == [["x"]] * 3 + [["x", "w"]]
    assert goldens[-1].label == "n=2 with other values for w"
    folded = parity.differences(lambda feed: {"y": feed["x"]}, goldens)[0]
    assert {one.point for one in folded} == {"n=2 with other values for w"}


def test_sizes_at_which_the_source_does_not_run_are_told(
    reference: Callable[..., list[Golden]], told: list[tuple[str, Any]]
) -> None:
    text = "g (float[n] x) => (float[a,b] y) <int64[2] s = {2,-1}> { y = Reshape(x, s) }"
    assert [golden.label for golden in reference(text)] == ["n=2"]
    notes = [value for kind, value in told if kind == "note"]
    assert [note.partition(": ")[0] for note in notes] == ["not compared at n=1", "not compared at n=7"]


def test_an_output_without_a_number_is_told(
    reference: Callable[..., list[Golden]], told: list[tuple[str, Any]]
) -> None:
    reference("g (float[n] x) => (float[n] y, float[n] z) { s = Mul(x, x) m = Neg(s) y = Log(m) z = Log(x) }")
    notes = [value for kind, value in told if kind == "note"]
    assert [note.partition(":")[0] for note in notes] == ["output 'y' is NaN or infinite throughout"]


def test_larger_sizes_where_no_usual_one_runs(reference: Callable[..., list[Golden]]) -> None:
    text = "g (float[b,1,h,h] x) => (float[b,1,i,j] y) { y = MaxPool<kernel_shape=[20,20]>(x) }"
    assert _shapes(reference(text), "x") == [(32, 1, 32, 32)]


def test_a_source_that_runs_nowhere_is_an_error_and_not_fine(planc: Callable[..., Any], tmp_path: Path) -> None:
    _write(tmp_path, "g (float[n] x) => (float[3,5] y) <int64[2] s = {3,5}> { y = Reshape(x, s) }")
    for words in (("optimize", "in.onnx", "-o", "o.onnx", "--check"), ("bisect", "in.onnx")):
        done = planc(*words, cwd=tmp_path, expect=2)
        last = done.stderr.splitlines()[-1]
        assert "nothing to compare with: in.onnx runs neither at n=2 nor at n=1 nor at n=7" in last
        assert "--dim" in last
        assert "n=15: off by 0 at most" in planc(*words, "--dim", "n=15", cwd=tmp_path).stdout or words[0] == "bisect"
    assert (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("node", "who"),
    [
        ("y = RandomNormalLike(x)", "RandomNormalLike 'n' draws random numbers"),
        ("r, k = Dropout(x, half, yes) y = Identity(r)", "Dropout 'n' draws random numbers"),
    ],
)
def test_a_source_that_draws_random_numbers_cannot_be_checked(
    node: str, who: str, planc: Callable[..., Any], tmp_path: Path
) -> None:
    import onnx

    _write(tmp_path, f"g (float[n,40] x) => (float[n,40] y) <float half = {{0.5}}, bool yes = {{1}}> {{ {node} }}")
    model = onnx.load(tmp_path / "in.onnx")
    model.graph.node[0].name = "n"
    onnx.save(model, tmp_path / "in.onnx")
    done = planc("optimize", "in.onnx", "-o", "o.onnx", "--check", cwd=tmp_path, expect=2)
    assert f"in.onnx cannot be checked: its output 'y' differs from run to run: {who}" in done.stderr
    assert not (tmp_path / "o.onnx").exists()
    planc("optimize", "in.onnx", "-o", "o.onnx", cwd=tmp_path)


def test_real_inputs_take_the_place_of_drawn_ones(planc: Callable[..., Any], tmp_path: Path) -> None:
    _write(tmp_path, "g (float[n] x) => (float[n] y) { y = Relu(x) }")
    np.savez(tmp_path / "real.npz", x=np.ones(5, np.float32))
    done = planc(
        "optimize", "in.onnx", "-o", "o.onnx", "--check", "--inputs", "real.npz", "--format", "json", cwd=tmp_path
    )
    assert json.loads(done.stdout)["checked"] == {"points": ["real.npz"], "max_abs": 0.0, "relative": 0.0}
    np.savez(tmp_path / "real.npz", x=np.ones((5, 5), np.float32))
    done = planc("bisect", "in.onnx", "--inputs", "real.npz", cwd=tmp_path, expect=2)
    assert "input 'x' is float32[5,5]" in done.stderr


def test_words_on_the_check_need_the_check(planc: Callable[..., Any], tmp_path: Path) -> None:
    _write(tmp_path, "g (float[n] x) => (float[n] y) { y = Relu(x) }")
    done = planc("optimize", "in.onnx", "-o", "o.onnx", "--dim", "n=3", cwd=tmp_path, expect=2)
    assert "Add --check" in done.stderr


@pytest.mark.parametrize(
    ("expected", "actual", "wrong"),
    [
        (np.array([1.0, np.nan], np.float32), np.array([1.0, np.nan], np.float32), ""),
        (np.array([1.0, np.nan], np.float32), np.array([1.0, 0.0], np.float32), "NaN"),
        (np.array([1.0, 2.0], np.float32), np.array([1.0, 2.01], np.float32), "off by 0.01"),
        (np.array([1.0, 2.0], np.float16), np.array([1.0, 2.01], np.float16), ""),
        (np.array([1.0, 2.0]), np.array([1.0, 2.01]), "off by 0.01"),
        (np.array([1, 2]), np.array([1, 3]), "50.000% of the elements differ"),
        (np.array([True]), np.array([False]), "100.000% of the elements differ"),
        (np.array([1, 2]), np.array([1, 2], np.int32), "int32[2] instead of int64[2]"),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), ""),
    ],
)
def test_what_counts_as_a_difference(expected: np.ndarray, actual: np.ndarray, wrong: str) -> None:
    golden = Golden("n=2", {}, {"y": expected})
    found, _ = parity.differences(lambda _: {"y": actual}, [golden])
    assert bool(found) == bool(wrong)
    assert not wrong or wrong in str(found[0])
    loose = (("atol", 1.0), ("mismatch", 1.0))
    found, _ = parity.differences(lambda _: {"y": actual}, [golden], loose)
    assert bool(found) == ("NaN" in wrong or "instead" in wrong), "a tolerance by name takes the place of the default"


def test_a_result_that_does_not_run_where_the_source_does_differs() -> None:
    def run(_: Any) -> Any:
        raise RuntimeError("bad shape")

    found, metrics = parity.differences(run, [Golden("n=7", {}, {"y": np.ones(3)})])
    assert [str(one) for one in found] == ["ONNX Runtime cannot run it at n=7: bad shape"]
    assert (metrics, parity.worst(metrics)) == ({}, {"max_abs": 0.0, "relative": 0.0})


def test_strings_are_refused_in_one_line(reference: Callable[..., list[Golden]]) -> None:
    with pytest.raises(UsageError, match="'x' has dtype string, which planc does not take"):
        reference("g (string[n] x) => (string[n] y) { y = Identity(x) }")


def _write(folder: Path, text: str) -> None:
    import onnx
    import onnx.parser

    onnx.save(onnx.parser.parse_model(f"{HEAD} {text}"), folder / "in.onnx")

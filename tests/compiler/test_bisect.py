"""Wrong passes through the real command line and the real worker: they are named, left out, and shown on few nodes.

Python imports `sitecustomize` at its start, in the worker too: that is how the wrong passes of this file get there.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest

from planc.compiler._cut import smallest
from planc.compiler.bisect import Trouble, _first
from planc.passes import ORIGIN, PRESETS

WRONG = """\
import os
from dataclasses import dataclass

import onnx_ir as ir

from planc.passes import Pass


def each(model, operator, change):
    found = [node for node in model.graph if node.op_type == operator]
    for node in found:
        change(node)
    return ir.passes.PassResult(model, modified=bool(found))


@dataclass(frozen=True)
class ErfToTanh(Pass):
    def call(self, model):
        return each(model, "Erf", lambda node: setattr(node, "op_type", "Tanh"))


@dataclass(frozen=True)
class ShiftSoftmax(Pass):
    axis: int = 1

    def call(self, model):
        def change(node):
            node.attributes["axis"] = ir.AttrInt64("axis", self.axis)
        return each(model, "Softmax", change)


@dataclass(frozen=True)
class ZeroAtSeven(Pass):
    '''Erf(x) -> Erf(x) * (batch != 7).'''

    def call(self, model):
        def change(node):
            seven = model.graph.initializers.get("seven")
            if seven is None:
                seven = ir.Value(name="seven", const_value=ir.tensor([7], name="seven"))
                model.graph.register_initializer(seven)
            size = ir.node("Shape", [node.outputs[0]], {"start": 0, "end": 1})
            same = ir.node("Equal", [size.outputs[0], seven])
            other = ir.node("Not", [same.outputs[0]])
            factor = ir.node("Cast", [other.outputs[0]], {"to": 1})
            made = ir.node("Mul", [node.outputs[0], factor.outputs[0]])
            node.outputs[0].replace_all_uses_with(made.outputs[0])
            size.replace_input_with(0, node.outputs[0])
            made.replace_input_with(0, node.outputs[0])
            model.graph.insert_after(node, [size, same, other, factor, made])
        return each(model, "Erf", change)


@dataclass(frozen=True)
class NegateIf(Pass):
    def call(self, model):
        def change(node):
            made = ir.node("Neg", [node.outputs[0]])
            node.outputs[0].replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
            made.replace_input_with(0, node.outputs[0])
            if made.outputs[0].is_graph_output():
                made.outputs[0].dtype, made.outputs[0].shape = node.outputs[0].dtype, node.outputs[0].shape
                made.outputs[0].name, node.outputs[0].name = node.outputs[0].name, "inner"
            model.graph.insert_after(node, made)
        return each(model, "If", change)


@dataclass(frozen=True)
class RaiseAtSoftmax(Pass):
    def call(self, model):
        def change(node):
            raise ValueError("no softmax, please")
        return each(model, "Softmax", change)


@dataclass(frozen=True)
class UnknownErf(Pass):
    def call(self, model):
        return each(model, "Erf", lambda node: setattr(node, "op_type", "Erfurt"))


@dataclass(frozen=True)
class DieAtErf(Pass):
    def call(self, model):
        return each(model, "Erf", lambda node: os.abort())
"""

ATTENTION = """<ir_version: 10, opset_import: ["": 20]>
bert (int64[batch,seq] ids, int64[batch,seq] mask) => (float[batch,seq,8] y)
<float one = {1}, float low = {-10000}, int64[1] axis = {1}> {
  e = Gather(table, ids)
  q = MatMul(e, wq)
  k = MatMul(e, wk)
  v = MatMul(e, wv)
  kt = Transpose<perm=[0,2,1]>(k)
  s = MatMul(q, kt)
  m = Cast<to=1>(mask)
  n = Sub(one, m)
  b = Mul(n, low)
  u = Unsqueeze(b, axis)
  a = Add(s, u)
  p = Softmax<axis=-1>(a)
  c = MatMul(p, v)
  h = Add(c, e)
  f = MatMul(h, w1)
  r = Erf(f)
  g = Mul(f, r)
  o = MatMul(g, w2)
  y = Add(o, h)
}"""


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"table": (50, 8), "wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "w1": (8, 16), "w2": (16, 8)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path: Path, onnx_file: Callable[..., Path]) -> Path:
    """`in.onnx`, whose Erf knows its module, and the wrong passes."""
    onnx_file(tmp_path / "in.onnx", ATTENTION, **_weights())
    model = onnx.load(tmp_path / "in.onnx")
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type.lower()}_{number}"
        if node.op_type == "Erf":
            node.metadata_props.add(key=ORIGIN, value="layers.3.gelu")
    onnx.save(model, tmp_path / "in.onnx")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "sitecustomize.py").write_text(WRONG)
    return tmp_path


@pytest.fixture
def wrongly(folder: Path, planc: Callable[..., Any]) -> Callable[..., Any]:
    """The command line in `folder`, with the wrong passes."""
    path = os.pathsep.join(filter(None, [str(folder / "wrong"), os.environ.get("PYTHONPATH", "")]))

    def run(*words: object, expect: int = 0) -> Any:
        return planc(*words, cwd=folder, expect=expect, PYTHONPATH=path)

    return run


def _operators(path: Path) -> list[str]:
    return sorted(node.op_type for node in onnx.load(path).graph.node)


def _passes(*names: str) -> list[str]:
    return [word for name in names for word in ("--pass", name)]


def test_right_passes_are_found_right(planc: Callable[..., Any], folder: Path) -> None:
    done = planc("optimize", "in.onnx", "-o", "o.onnx", "--check", cwd=folder)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("checked at batch=2, seq=2; batch=1, seq=1; batch=7, seq=7; batch=3, seq=4: off by ")
    assert "left out" not in done.stdout
    done = planc("bisect", "in.onnx", "-o", "repro", cwd=folder)
    assert done.stdout.startswith(f"no pass changes the outputs: {len(PRESETS['onnx'])} passes at batch=2, seq=2; ")
    assert not (folder / "repro").exists()


def test_a_wrong_pass_is_left_out_and_named_with_its_node(
    wrongly: Callable[..., Any], folder: Path, infer: Callable[..., list[Any]]
) -> None:
    words = ("optimize", "in.onnx", "-o", "o.onnx", *_passes("remove-noops", "erf-to-tanh", "merge-matmuls"))
    wrongly(*words)
    assert "Tanh" in _operators(folder / "o.onnx"), "without --check it is believed"
    document = json.loads(wrongly(*words, "--check", "--format", "json").stdout)
    assert list(document["skipped"]) == ["erf-to-tanh"]
    assert "output 'y' at batch=2, seq=2: off by " in document["skipped"]["erf-to-tanh"]
    assert "at Erf 'erf_15' of layers.3.gelu" in document["skipped"]["erf-to-tanh"]
    assert "see o.onnx.repro-erf-to-tanh" in document["skipped"]["erf-to-tanh"]
    assert document["checked"]["max_abs"] < 1e-4
    assert "merge-matmuls" in {one["name"] for one in document["passes"]}
    feed = {"ids": np.array([[3, 40, 7]]), "mask": np.array([[1, 1, 0]])}
    after, before = (infer(folder / name, **feed)[0] for name in ("o.onnx", "in.onnx"))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_the_repro_is_small_and_shows_it_again(
    wrongly: Callable[..., Any], folder: Path, infer: Callable[..., list[Any]]
) -> None:
    wrongly("optimize", "in.onnx", "-o", "o.onnx", "--check", *_passes("remove-noops", "erf-to-tanh"))
    repro = folder / "o.onnx.repro-erf-to-tanh"
    assert {path.name for path in repro.iterdir()} == {"before.onnx", "after.onnx", "inputs.npz", "repro.json"}
    assert (_operators(repro / "before.onnx"), _operators(repro / "after.onnx")) == (["Erf"], ["Tanh"])
    facts = json.loads((repro / "repro.json").read_text())
    assert facts["nodes"] == [{"operator": "Erf", "name": "erf_15", "origin": "layers.3.gelu"}]
    assert facts["inputs"] == {"f": "float32[2, 2, 16]"}
    assert facts["versions"]["onnxruntime"]
    with np.load(repro / "inputs.npz") as feed:
        before, after = (infer(repro / f"{name}.onnx", **feed)[0] for name in ("before", "after"))
    assert np.abs(before - after).max() > 0.01
    command, *words = facts["command"].split()
    assert command == "planc"
    words = [str(repro / word) if (repro / word).is_file() else word for word in words]
    again = wrongly(*words, expect=1)
    assert again.stdout.startswith("pass erf-to-tanh\n")
    assert "Erf 'erf_15' of layers.3.gelu" in again.stdout


def test_a_pass_that_is_wrong_at_one_size_only(wrongly: Callable[..., Any], folder: Path) -> None:
    document = json.loads(
        wrongly("optimize", "in.onnx", "-o", "o.onnx", "--check", "--format", "json", *_passes("zero-at-seven")).stdout
    )
    assert "at batch=7, seq=7" in document["skipped"]["zero-at-seven"]
    facts = json.loads((folder / "o.onnx.repro-zero-at-seven" / "repro.json").read_text())
    assert [one["operator"] for one in facts["nodes"]] == ["Erf", "Mul"], "the pass cares for readers, not for outputs"
    assert facts["inputs"] == {"f": "float32[7, 7, 16]"}
    sizes = ("--dim", "batch=1..4", "--dim", "seq=1..9")
    done = wrongly("optimize", "in.onnx", "-o", "o.onnx", "--check", *sizes, *_passes("zero-at-seven"))
    assert "left out" not in done.stdout, "a batch of 7 cannot be"
    assert "batch=4, seq=9" in done.stdout


def test_two_wrong_passes_are_both_left_out(wrongly: Callable[..., Any], folder: Path) -> None:
    wrong = _passes("shift-softmax", "remove-noops", "erf-to-tanh", "merge-matmuls")
    document = json.loads(wrongly("optimize", "in.onnx", "-o", "o.onnx", "--check", "--format", "json", *wrong).stdout)
    assert list(document["skipped"]) == ["shift-softmax", "erf-to-tanh"]
    assert [one["name"] for one in document["passes"]] == ["remove-noops", "merge-matmuls"]
    assert {"Erf", "Softmax"} <= set(_operators(folder / "o.onnx"))
    for name, operator in (("shift-softmax", "Softmax"), ("erf-to-tanh", "Erf")):
        assert _operators(folder / f"o.onnx.repro-{name}" / "before.onnx") == [operator]


def test_passes_that_go_wrong_in_every_way_cost_only_themselves(
    wrongly: Callable[..., Any], folder: Path, infer: Callable[..., list[Any]]
) -> None:
    names = ("erf-to-tanh", "remove-noops", "die-at-erf", "unknown-erf", "raise-at-softmax", "merge-matmuls")
    words = ("optimize", "in.onnx", "-o", "o.onnx", "--check", "--format", "json")
    document = json.loads(wrongly(*words, *_passes(*names)).stdout)
    assert set(document["skipped"]) == {"erf-to-tanh", "die-at-erf", "unknown-erf", "raise-at-softmax"}
    assert [one["name"] for one in document["passes"]] == ["remove-noops", "merge-matmuls"]
    assert "Erfurt" in document["skipped"]["unknown-erf"], "the checker's own reason"
    feed = {"ids": np.array([[3, 40, 7]]), "mask": np.array([[1, 1, 0]])}
    after, before = (infer(folder / name, **feed)[0] for name in ("o.onnx", "in.onnx"))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_strict_makes_it_a_gate_that_said_no(wrongly: Callable[..., Any], folder: Path) -> None:
    """The pass ran and its graph is valid: a comparison said no, which is exit code 1 also elsewhere."""
    words = ("optimize", "in.onnx", "-o", "o.onnx", "--check", "--strict")
    done = wrongly(*words, *_passes("erf-to-tanh"), expect=1)
    assert "pass erf-to-tanh changes the outputs: output 'y' at batch=2, seq=2" in done.stderr
    assert "--skip erf-to-tanh" in done.stderr
    assert not (folder / "o.onnx").exists()
    assert (folder / "o.onnx.repro-erf-to-tanh" / "before.onnx").is_file()
    wrongly(*words, *_passes("raise-at-softmax"), expect=4)


def test_repros_of_an_earlier_run_do_not_stay(wrongly: Callable[..., Any], folder: Path) -> None:
    """But for one in which somebody else keeps something; those of another file are none of this one's."""
    words = ("optimize", "in.onnx", "--check", *_passes("erf-to-tanh"))
    wrongly(*words, "-o", "o.onnx")
    repro = folder / "o.onnx.repro-erf-to-tanh"
    for name in ("o.onnx.repro-noted", "p.onnx.repro-erf-to-tanh"):
        shutil.copytree(repro, folder / name)
    (folder / "o.onnx.repro-noted" / "notes.txt").touch()
    wrongly("optimize", "in.onnx", "--check", "-o", "o.onnx", *_passes("remove-noops"))
    assert sorted(path.name for path in folder.glob("*.repro-*")) == ["o.onnx.repro-noted", "p.onnx.repro-erf-to-tanh"]


def test_a_model_of_any_name_is_checked(wrongly: Callable[..., Any], folder: Path) -> None:
    (folder / "in.onnx").rename(folder / "in.model")
    wrongly("optimize", "in.model", "--check", "-o", "o.onnx", *_passes("remove-noops"))
    wrongly("bisect", "in.model", *_passes("remove-noops"))
    (folder / "notes.txt").write_text("no model\n")
    for words in (("optimize", "notes.txt", "--check", "-o", "p.onnx"), ("bisect", "notes.txt")):
        (line,) = wrongly(*words, expect=2).stderr.splitlines()[-1:]
        assert line.startswith("planc: notes.txt is not an ONNX file or is cut short: ")


def test_a_folder_of_somebody_else_is_not_replaced(wrongly: Callable[..., Any], folder: Path) -> None:
    (folder / "o.onnx.repro-erf-to-tanh").mkdir()
    mine = folder / "o.onnx.repro-erf-to-tanh" / "mine"
    mine.write_text("x")
    done = wrongly("optimize", "in.onnx", "-o", "o.onnx", "--check", *_passes("erf-to-tanh"), expect=2)
    assert "is not a repro of planc" in done.stderr
    assert mine.read_text() == "x"
    assert not (folder / "o.onnx").exists()
    wrongly("bisect", "in.onnx", "-o", mine.parent, *_passes("erf-to-tanh"), expect=2)


@pytest.mark.parametrize(
    ("name", "kind", "operators"),
    [
        ("shift-softmax{axis=1}", "changes the outputs", ["Softmax"]),
        ("raise-at-softmax", "fails", ["Softmax"]),
        ("unknown-erf", "leaves a graph that ONNX Runtime does not load", ["Erf"]),
        ("die-at-erf", "kills its worker", []),
    ],
)
def test_bisect_names_pass_and_node(
    name: str, kind: str, operators: list[str], wrongly: Callable[..., Any], folder: Path
) -> None:
    words = ("bisect", "in.onnx", "-o", "repro", "--format", "json")
    document = json.loads(wrongly(*words, *_passes("remove-noops", name, "merge-matmuls"), expect=1).stdout)
    fault = document["fault"]
    assert (fault["name"], fault["kind"]) == (name.partition("{")[0], kind)
    assert [one["operator"] for one in fault["nodes"]] == operators
    assert (folder / "repro").is_dir() == bool(operators)
    if operators:
        assert _operators(folder / "repro" / "before.onnx") == operators
        assert f"--pass {name}" in fault["command"].replace("'", "")
    skipping = ("bisect", "in.onnx", "--skip", fault["name"])
    done = wrongly(*skipping, *_passes("remove-noops", name, "merge-matmuls"))
    assert done.stdout.startswith("no pass changes the outputs: 2 passes")


def test_the_first_of_several_is_named(wrongly: Callable[..., Any]) -> None:
    """A pass before one that raises, or that kills its worker, may be wrong as well."""
    for other in ("raise-at-softmax", "die-at-erf", "unknown-erf"):
        done = wrongly("bisect", "in.onnx", *_passes("shift-softmax", other), expect=1)
        assert done.stdout.startswith("pass shift-softmax\n  changes the outputs: output 'y' at batch=2, seq=2")


NESTED = """<ir_version: 10, opset_import: ["": 20, "local": 1]>
g (float16[n,4] x, bool flag) => (float16[n,4] y) {
  a = Mul(x, half)
  b = local.twice(a)
  c = If(flag) <
    then_branch = yes () => (float16[n,4] t) { u = Mul(a, b) t = Erf(u) },
    else_branch = no () => (float16[n,4] e) { e = Identity(b) }
  >
  d = Cast<to=1>(c)
  r = Erf(d)
  y = Cast<to=10>(r)
}
<domain: "local", opset_import: ["": 20]>
twice (v) => (w) { w = Add(v, v) }"""


def test_subgraphs_functions_and_float16(wrongly: Callable[..., Any], folder: Path, onnx_file: Any) -> None:
    """What an If computes becomes an input; then the If itself is cut out, with what its branches read."""
    onnx_file(folder / "nested.onnx", NESTED, half=np.array(0.5, np.float16))
    done = wrongly("bisect", "nested.onnx", "-o", "repro", *_passes("remove-noops", "erf-to-tanh"), expect=1)
    assert done.stdout.startswith("pass erf-to-tanh\n  changes the outputs: output 'y' at n=2")
    assert _operators(folder / "repro" / "before.onnx") == ["Erf"]
    wrongly("bisect", "nested.onnx", "-o", "repro", *_passes("negate-if"), expect=1)
    before = folder / "repro" / "before.onnx"
    assert _operators(before) == ["If"]
    assert [value.name for value in onnx.load(before).graph.input] == ["flag", "a", "b"]
    wrongly("bisect", before, "--inputs", before.with_name("inputs.npz"), *_passes("negate-if"), expect=1)
    wrongly("optimize", "nested.onnx", "-o", "o.onnx", "--check")


@pytest.mark.parametrize("bad", [{1, 2, 3, 4}, {3, 4}, {4}, {2, 4}, {0, 1, 2, 3, 4}])
def test_the_search_ends_at_a_list_that_is_fine_without_its_last(bad: set[int]) -> None:
    """`bad` are the numbers of passes after which the outputs are wrong."""

    class Fake:
        def trouble(self, passes: Any) -> Trouble | None:
            return Trouble("changes the outputs", len(passes), "") if len(passes) in bad else None

    found = _first(cast(Any, Fake()), cast(Any, "abcd"))
    assert found is not None
    assert found.upto in bad
    assert found.upto == 0 or found.upto - 1 not in bad


def test_smallest_keeps_what_it_takes() -> None:
    calls: list[int] = []

    def fails(items: Any) -> bool:
        calls.append(len(items))
        return {3, 50, 77} <= set(items)

    assert list(smallest(range(100), fails, tries=300)) == [3, 50, 77]
    assert len(calls) < 60
    assert {3, 50, 77} <= set(smallest(range(100), fails, tries=5)), "whatever is returned fails"
    assert list(smallest([8], lambda _: True, tries=300)) == [8]

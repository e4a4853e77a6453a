"""PyTorch models in all the forms that planc reads; exported for real, in this process."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from planc.compiler import recipe
from planc.compiler.errors import BuildFailed, UsageError
from planc.compiler.frontends import Exported
from planc.compiler.frontends import torch as frontend
from planc.passes import ORIGIN

MODELS = """\
import torch
from helper import SCALE


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.lin(x) * SCALE


class Two(torch.nn.Module):
    def forward(self, left, right):
        return left - 2 * right


class Sequence(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 8)
        self.mix = torch.nn.Linear(8, 8)

    def forward(self, ids, mask):
        return (self.mix(self.table(ids)) * mask.unsqueeze(-1)).sum(1)


class Nested(torch.nn.Module):
    def forward(self, x):
        return {"logits": x + 1, "states": (x + 2, [x + 3]), "nothing": None}


class Pair(torch.nn.Module):
    def forward(self, x):
        return x + 1, x.argmax(-1)


class Branch(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Random(torch.nn.Module):
    def forward(self, x):
        return x + torch.rand(4)


class Broken(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("no luck today")


class Loop(torch.nn.Module):
    def forward(self, x):
        for _ in range(x.shape[0]):
            x = x + 1
        return x


class Count(torch.nn.Module):
    def forward(self, x):
        return x + 1, x.shape[0]


class Open(torch.nn.Module):
    def forward(self, left, right, **more):
        return left - 2 * right


made = Scale()


def with_tuple():
    return Two(), (torch.full((2, 4), 3.0), torch.full((2, 4), 1.0))


def with_dict():
    return Two(), {"right": torch.full((2, 4), 1.0), "left": torch.full((2, 4), 3.0)}


def with_tensor():
    return Scale(), torch.ones(2, 4)


def number():
    return 7


def raises():
    raise ValueError("bad day")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("torch_models")
    (path / "zoo.py").write_text(MODELS)
    (path / "helper.py").write_text("SCALE = 2.0\n")
    (path / "pack").mkdir()
    (path / "pack" / "__init__.py").write_text("")
    (path / "pack" / "mod.py").write_text(MODELS)
    (path / "pack" / "inner.py").write_text("from .mod import Scale as net\n")
    (path / "pack" / "outer.py").write_text("from pack.mod import Scale as net\n")
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))


@pytest.fixture
def export(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Exported]:
    """Exports as the worker does; modules of earlier calls are forgotten, as they are in a new process."""
    monkeypatch.chdir(folder)
    for name in ("zoo", "helper", "pack", "pack.mod"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run(model: str, *inputs: str, dims: tuple[str, ...] = (), **more: Any) -> Exported:
        source = recipe.source(model, inputs=inputs, dims=dims, **more)
        return frontend.export(source, tmp_path, emit=lambda *_: None)

    return run


def _check(made: Exported, infer: Callable[..., list[Any]]) -> None:
    """The exported graph computes, at every point, what PyTorch computed."""
    for one in made.goldens:
        actual = infer(made.path, **one.inputs)
        for spec, array in zip(made.outputs, actual, strict=True):
            np.testing.assert_allclose(array, one.outputs[spec.name], rtol=1e-4, atol=1e-5)
            assert str(array.dtype) == spec.dtype


def test_a_file(export: Callable[..., Exported], infer: Callable[..., list[Any]], folder: Path) -> None:
    made = export("zoo.py:Scale", "x=float32[batch,4]", dims=("batch=1..4@2",))
    assert [str(spec) for spec in (*made.inputs, *made.outputs)] == ["x=float32[batch,4]", "output=float32[batch,3]"]
    assert [one.label for one in made.goldens] == ["opt", "min", "max"]
    assert sorted(path.name for path in made.sources) == ["helper.py", "zoo.py"]
    assert made.reference == f"torch {torch.__version__} eager"
    _check(made, infer)


def test_a_package(export: Callable[..., Exported], infer: Callable[..., list[Any]]) -> None:
    made = export("pack.mod:Scale", "x=float32[2,4]")
    assert "mod.py" in [path.name for path in made.sources]
    _check(made, infer)


def test_weights_are_the_same_at_every_export(export: Callable[..., Exported]) -> None:
    first = export("zoo.py:Scale", "x=float32[2,4]").goldens[0].outputs["output"]
    np.testing.assert_array_equal(export("zoo.py:Scale", "x=float32[2,4]").goldens[0].outputs["output"], first)


def test_example_inputs_as_a_tuple(export: Callable[..., Exported], infer: Callable[..., list[Any]]) -> None:
    made = export("zoo.py:with_tuple")
    assert [str(spec) for spec in made.inputs] == ["left=float32[2,4]", "right=float32[2,4]"]
    np.testing.assert_array_equal(made.goldens[0].inputs["left"], np.full((2, 4), 3.0, np.float32))
    np.testing.assert_array_equal(made.goldens[0].outputs["output"], np.ones((2, 4), np.float32))
    _check(made, infer)


def test_example_inputs_as_a_dict_go_by_name(export: Callable[..., Exported], infer: Callable[..., list[Any]]) -> None:
    made = export("zoo.py:with_dict")
    np.testing.assert_array_equal(made.goldens[0].outputs["output"], np.ones((2, 4), np.float32))
    _check(made, infer)


def test_an_example_that_is_one_tensor(export: Callable[..., Exported]) -> None:
    assert [str(spec) for spec in export("zoo.py:with_tensor").inputs] == ["x=float32[2,4]"]


def test_keyword_inputs_in_any_order(export: Callable[..., Exported], infer: Callable[..., list[Any]]) -> None:
    made = export("zoo.py:Two", "right=float32[2,4]", "left=float32[2,4]")
    one = made.goldens[0]
    np.testing.assert_allclose(one.outputs["output"], one.inputs["left"] - 2 * one.inputs["right"], rtol=1e-5)
    _check(made, infer)


def test_names_that_forward_does_not_have_go_by_position(
    export: Callable[..., Exported], infer: Callable[..., list[Any]]
) -> None:
    made = export("zoo.py:Two", "a=float32[n,4]", "b=float32[n,4]", dims=("n=1..3",))
    assert [spec.name for spec in made.inputs] == ["a", "b"]
    one = made.goldens[0]
    np.testing.assert_allclose(one.outputs["output"], one.inputs["a"] - 2 * one.inputs["b"], rtol=1e-5)
    _check(made, infer)


def test_dynamic_batch_and_sequence(export: Callable[..., Exported], infer: Callable[..., list[Any]]) -> None:
    made = export(
        "zoo.py:Sequence", "ids=int64[batch,seq]:0..49", "mask=float32[batch,seq]", dims=("batch=1..4@2", "seq=3..9@5")
    )
    assert [(one.label, one.inputs["ids"].shape) for one in made.goldens] == [
        ("opt", (2, 5)), ("min", (1, 3)), ("max", (4, 9)),
    ]  # fmt: skip
    assert [str(spec) for spec in made.outputs] == ["output=float32[batch,8]"]
    _check(made, infer)


def test_nested_outputs_are_named_by_their_place(
    export: Callable[..., Exported], infer: Callable[..., list[Any]]
) -> None:
    made = export("zoo.py:Nested", "x=float32[2,4]")
    assert [spec.name for spec in made.outputs] == ["logits", "states.0", "states.1.0"]
    x = made.goldens[0].inputs["x"]
    np.testing.assert_allclose(made.goldens[0].outputs["states.1.0"], x + 3)
    _check(made, infer)


def test_outputs_of_a_tuple_and_integers(export: Callable[..., Exported], infer: Callable[..., list[Any]]) -> None:
    made = export("zoo.py:Pair", "x=float32[2,4]")
    assert [(spec.name, spec.dtype) for spec in made.outputs] == [("output_0", "float32"), ("output_1", "int64")]
    _check(made, infer)


def test_no_path_and_no_stack_trace_is_kept(export: Callable[..., Exported], folder: Path) -> None:
    data = export("zoo.py:Scale", "x=float32[2,4]").path.read_bytes()
    for word in (str(folder), 'File "', "site-packages", "stack_trace"):
        assert word.encode() not in data


def test_modules_of_nodes_are_kept(export: Callable[..., Exported]) -> None:
    import onnx_ir as ir

    from planc.passes import ORIGIN

    made = export("zoo.py:Scale", "x=float32[2,4]")
    assert "lin" in {node.metadata_props.get(ORIGIN) for node in ir.load(made.path).graph}


def test_what_torch_writes_for_no_module_is_none() -> None:
    told = {"made": "['', 'block', 'block.conv', 'conv2d']", "unmade": f"['', 'block', '{frontend._NOWHERE}', 'add']"}
    nodes = [
        ir.node("Relu", [ir.Value(name="x")], name=name, metadata_props={"pkg.torch.onnx.name_scopes": scopes})
        for name, scopes in told.items()
    ]
    model = ir.Model(ir.Graph([], [], nodes=nodes), ir_version=10)
    frontend._keep_origins(model)
    assert [node.metadata_props.get(ORIGIN) for node in nodes] == ["block.conv", "block"]


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    """A .pt2 with a dynamic batch of 2 to 16."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    dim = torch.export.Dim("batch", min=2, max=16)
    made = torch.export.export(module.eval(), (torch.ones(4, 4),), dynamic_shapes=({0: dim},))
    torch.export.save(made, folder / "net.pt2")
    return folder / "net.pt2"


def test_pt2_with_a_dynamic_dim(
    program: Path, export: Callable[..., Exported], infer: Callable[..., list[Any]]
) -> None:
    made = export("net.pt2", dims=("input_0=2..8@4",))
    assert [str(spec) for spec in (*made.inputs, *made.outputs)] == [
        "input=float32[input_0,4]", "output=float32[input_0,3]",
    ]  # fmt: skip
    assert [one.inputs["input"].shape[0] for one in made.goldens] == [4, 2, 8]
    assert [path.name for path in made.sources] == ["net.pt2"]
    _check(made, infer)


def test_pt2_dims_are_named_by_input(program: Path, export: Callable[..., Exported]) -> None:
    made = export("net.pt2", "input=float32[n,4]", dims=("n=2..4",))
    assert str(made.inputs[0]) == "input=float32[n,4]"


def test_pt2_needs_sizes_within_its_own(program: Path, export: Callable[..., Exported]) -> None:
    with pytest.raises(UsageError, match=r"'input_0' without sizes.*Add --dim input_0=2\.\.8@2"):
        export("net.pt2")
    with pytest.raises(UsageError, match=r"outside what net\.pt2 was exported for: 2\.\.16"):
        export("net.pt2", dims=("input_0=1..64",))


def test_a_file_that_is_no_pt2(export: Callable[..., Exported], folder: Path) -> None:
    (folder / "bad.pt2").write_bytes(b"rubbish")
    with pytest.raises(UsageError, match=r"bad\.pt2 is not a torch.export archive"):
        export("bad.pt2")


def test_pickles_need_trust(export: Callable[..., Exported], folder: Path, infer: Callable[..., list[Any]]) -> None:
    torch.save(torch.nn.Linear(4, 3), folder / "net.pt")
    with pytest.raises(UsageError, match=r"runs code from it.*--trust-pickle"):
        export("net.pt", "input=float32[2,4]")
    _check(export("net.pt", "input=float32[2,4]", trust_pickle=True), infer)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights(export: Callable[..., Exported], folder: Path, suffix: str) -> None:
    import safetensors.torch

    weight, bias = torch.full((3, 4), 0.5), torch.tensor([0.0, 1.0, 2.0])
    state = {"lin.weight": weight, "lin.bias": bias}
    path = folder / f"state{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(state, path)
    made = export("zoo.py:Scale", "x=float32[2,4]", weights=path)
    one = made.goldens[0]
    expected = 2 * (one.inputs["x"] @ weight.numpy().T + bias.numpy())
    np.testing.assert_allclose(one.outputs["output"], expected, rtol=1e-5, atol=1e-6)
    assert path in made.sources


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return Path.write_text, (self.victim, "pwned")


def test_a_state_dict_with_code_is_refused_and_does_not_run(
    export: Callable[..., Exported], folder: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    torch.save({"lin.weight": Evil(victim)}, folder / "evil.pt")
    with pytest.raises(UsageError, match="holds pickled code"):
        export("zoo.py:Scale", "x=float32[2,4]", weights=folder / "evil.pt")
    assert not victim.exists()


def test_weights_that_do_not_fit(export: Callable[..., Exported], folder: Path) -> None:
    torch.save({"other": torch.ones(1)}, folder / "other.pt")
    with pytest.raises(UsageError, match=r"does not fit the module.*lin\.weight"):
        export("zoo.py:Scale", "x=float32[2,4]", weights=folder / "other.pt")
    state = torch.nn.Linear(4, 3).state_dict()
    inner = {f"lin.{name}": tensor for name, tensor in state.items()}
    for saved, hint in (
        ({"epoch": 5, "model": inner}, "Its 'model' seems to be the state dict"),
        ({f"module.{name}": tensor for name, tensor in inner.items()}, "Its keys begin with 'module.'"),
        ({"other": torch.ones(1)}, "Give the state dict of this module"),
    ):
        torch.save(saved, folder / "wrapped.pt")
        with pytest.raises(UsageError, match="does not fit") as caught:
            export("zoo.py:Scale", "x=float32[2,4]", weights=folder / "wrapped.pt")
        assert hint in caught.value.hint
    torch.save([1, 2], folder / "list.pt")
    with pytest.raises(UsageError, match="holds list, not a state dict"):
        export("zoo.py:Scale", "x=float32[2,4]", weights=folder / "list.pt")
    (folder / "cut.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(UsageError, match=r"cut\.safetensors"):
        export("zoo.py:Scale", "x=float32[2,4]", weights=folder / "cut.safetensors")


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        ("zoo.py:Scal", [], "zoo.py has no 'Scal'. Did you mean 'Scale'?"),
        ("zoo.py:number", [], "gave int, not a torch.nn.Module"),
        ("zoo.py:raises", [], "raised ValueError: bad day at zoo.py:"),
        ("zoo.py:Scale", [], "needs the shapes of its inputs: forward(x)"),
        ("zoo.py:Scale", ["x=float32[2,5]"], "running the forward of zoo.py:Scale raised RuntimeError"),
        ("zoo.py:Broken", ["x=float32[2,5]"], "RuntimeError: no luck today at zoo.py:"),
        ("zoo.py:Two", ["left=float32[2]", "rihgt=float32[2]"], "Did you mean 'right'?"),
        ("no.such.package:net", [], "raised ModuleNotFoundError"),
        ("zoo.py:Open", ["left=float32[2]", "rihgt=float32[2]"], "Did you mean 'right'?"),
        ("zoo.py:Random", ["x=float32[2,4]"], "gives other outputs at each call: its forward draws random numbers"),
        ("pack/inner.py:net", [], "A module of a package is given as pack.inner:net"),
    ],
)
def test_user_errors_are_one_line(export: Callable[..., Exported], model: str, inputs: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        export(model, *inputs)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said", "hint"),
    [
        ("Branch", r"torch cannot export zoo\.py:Branch", "depends on the values of a tensor there: torch.where"),
        ("Loop", "specialized", "Give that dimension one size: --dim rows=2"),
        ("Count", "torch exported 2 outputs of zoo.py:Count, its forward gives 1", "returns tensors only"),
    ],
)
def test_what_torch_cannot_export_is_a_build_failure(
    model: str, said: str, hint: str, export: Callable[..., Exported]
) -> None:
    with pytest.raises(BuildFailed, match=said) as caught:
        export(f"zoo.py:{model}", "x=float32[rows,4]", dims=("rows=1..4@2",))
    assert hint in caught.value.hint


def test_a_name_may_be_a_module(export: Callable[..., Exported], infer: Callable[..., list[Any]]) -> None:
    _check(export("zoo.py:made", "x=float32[2,4]"), infer)


def test_a_file_of_a_package_imports_from_where_the_package_is(
    export: Callable[..., Exported], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(folder)])
    monkeypatch.chdir("/")
    assert export(f"{folder}/pack/outer.py:net", "x=float32[2,4]").outputs


def test_real_inputs_become_golden_data(export: Callable[..., Exported], folder: Path) -> None:
    x = np.full((2, 4), 5, np.float32)
    np.savez(folder / "real.npz", x=x)
    made = export("zoo.py:Nested", "x=float32[n,4]", dims=("n=1..4@2",), data=folder / "real.npz")
    np.testing.assert_array_equal(made.goldens[0].inputs["x"], x)
    np.testing.assert_array_equal(made.goldens[0].outputs["logits"], x + 1)
    assert folder / "real.npz" in made.sources

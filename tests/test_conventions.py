"""House rules that a linter cannot know: one file per thing, named alike everywhere, with a mirrored test."""

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from planc.compiler import plugins, target
from planc.compiler.errors import EXIT_CODES
from planc.compiler.target import TARGETS, Precision, find_target, target_names
from planc.passes import EXTRA, PRESETS
from planc.passes._base import Pass

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ("calibration", "cli", "compiler", "passes") for path in (ROOT / folder).rglob("*.py")
)
PASSES = sorted(path.stem for path in (ROOT / "passes").glob("*.py") if not path.stem.startswith("_"))
BACKENDS = plugins.names("backends")
FRONTENDS = plugins.names("frontends")

HEAVY = {
    "torch": {"compiler/frontends/torch.py", "compiler/frontends/_module.py", "compiler/frontends/_program.py"},
    "onnxruntime": set(),
    "openvino": set(),
    "onnxscript": set(),
    "matplotlib": set(),
    "jinja2": set(),
    "onnx": set(),
    "polygraphy": set(),
    "tensorrt": set(),
    "tensorrt_rtx": set(),
}
"""Package -> files that may import it at module level; everything else imports it where it is used."""


def _imports(path: Path) -> Iterator[str]:
    """Packages that a file imports when it is imported: not those for type checkers, nor those in functions."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("stem", PASSES)
def test_a_pass_is_named_alike_everywhere(stem: str) -> None:
    module = import_module(f"planc.passes.{stem}")
    class_name = "".join(word.capitalize() for word in stem.split("_"))
    cls = getattr(module, class_name)
    assert issubclass(cls, Pass)
    assert cls().name == stem.replace("_", "-")
    assert module.__doc__
    assert cls.__doc__
    own = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]
    assert own == [cls]
    assert cls.__dataclass_params__.frozen
    assert (ROOT / "tests" / "passes" / f"test_{stem}.py").is_file()


def test_each_pass_is_in_a_preset_or_says_why_not() -> None:
    listed = {one.name for preset in PRESETS.values() for one in preset}
    extra = {one.name for one in EXTRA}
    assert not listed & extra
    assert listed | extra == {stem.replace("_", "-") for stem in PASSES}
    assert all("In no preset: " in (one.__doc__ or "") for one in EXTRA)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_keeps_the_contract(name: str) -> None:
    module = plugins.load("backends", name)
    assert module.__doc__
    assert module.Options.__doc__
    assert module.Options.__dataclass_params__.frozen
    assert module.Options() == module.Options()
    assert isinstance(module.TRIALS, bool)
    assert isinstance(module.ORIGINS, bool)
    assert isinstance(module.STEADY, bool)
    assert isinstance(module.RUNS, bool)
    assert set(Precision) >= module.LOWERED
    assert all(isinstance(version, str) for version in module.fingerprint().values())
    parameters = {
        function: [parameter.strip("_") for parameter in inspect.signature(getattr(module, function)).parameters]
        for function in ("why_not", "unverifiable", "build", "load")
    }
    assert parameters == {
        "why_not": ["target", "precision", "options"],
        "unverifiable": ["target"],
        "build": ["request"],
        "load": ["folder", "session"],
    }
    assert (ROOT / "tests" / "compiler" / "backends" / f"test_{name}.py").is_file()
    assert any(find_target(one).backend == name for one in target_names()), "no target uses it"


@pytest.mark.parametrize("name", FRONTENDS)
def test_a_frontend_keeps_the_contract(name: str) -> None:
    module = plugins.load("frontends", name)
    assert module.__doc__
    assert list(inspect.signature(module.export).parameters) == ["source", "folder", "emit"]
    assert (ROOT / "tests" / "compiler" / "frontends" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_described_and_has_what_it_names(name: str) -> None:
    found = find_target(name)
    assert found.description
    assert "\n" not in found.description
    assert found.family in PRESETS
    assert bool(found.backend) != bool(found.candidates), "a backend or candidates"
    assert not found.backend or found.backend in BACKENDS
    assert set(found.candidates) <= set(target_names())
    assert not any(find_target(one).candidates for one in found.candidates)
    assert set(tomllib.loads((TARGETS / f"{name}.toml").read_text())) <= {
        "description", "backend", "family", "candidates", "options", "arch", "flavours", "memory_gb", "precisions",
    }  # fmt: skip
    assert f"`{name}`" in (ROOT / "README.md").read_text(), "README's table of targets"


def test_each_module_of_the_compiler_has_a_test() -> None:
    modules = {path.stem for path in (ROOT / "compiler").glob("*.py") if not path.stem.startswith("_")}
    without = {stem for stem in modules if not (ROOT / "tests" / "compiler" / f"test_{stem}.py").is_file()}
    assert without <= {"reference"}, "reference.py is what the tests of the frontends and backends compare with"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert not {package for package in _imports(path) if name not in HEAVY.get(package, {name})}


def test_the_front_door_loads_nothing_heavy(python: Callable[..., str]) -> None:
    code = """
import sys
import planc, planc.cli
import planc.compiler.artifact, planc.compiler.doctor, planc.compiler.pipeline, planc.compiler.project
heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "onnxscript", "numpy", "rich"}
print("loaded:", *sorted(heavy & set(sys.modules)))
"""
    assert python(code).strip() == "loaded:"


def test_passes_and_calibration_run_without_torch_and_runtimes(python: Callable[..., str]) -> None:
    code = """
import sys
import planc.passes, planc.calibration
print("loaded:", *sorted({"torch", "onnxruntime", "openvino"} & set(sys.modules)))
"""
    assert python(code).strip() == "loaded:"


def test_the_readme_has_the_exit_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+?) \|", (ROOT / "README.md").read_text(), re.M)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_no_module_level_mutable_state() -> None:
    """Module-level names are constants: nothing rebinds them with `global`."""
    for path in SOURCES:
        assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Global)], path


def test_nothing_names_the_machine_that_it_was_written_on() -> None:
    words = ("/work/", "/root/", "/home/")
    for path in [*SOURCES, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        assert not [word for word in words if word in path.read_text()], path


def _skeletons(language: str) -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_the_skeletons_of_contributing_keep_the_contracts(conv_model: ir.Model) -> None:
    a_pass, a_backend, a_method = _skeletons("python")
    made: dict[str, Any] = {"__name__": "planc.passes.fuse_x", "__package__": "planc.passes"}
    exec(a_pass, made)
    assert made["FuseX"]().name == "fuse-x"
    assert not made["FuseX"](max_size=3)(conv_model).modified

    real = plugins.load("backends", "null")
    backend: dict[str, Any] = {"__name__": "planc.compiler.backends.x", "__package__": "planc.compiler.backends"}
    exec(a_backend, backend)
    assert isinstance(backend["TRIALS"], bool)
    assert isinstance(backend["ORIGINS"], bool)
    assert isinstance(backend["STEADY"], bool)
    assert isinstance(backend["RUNS"], bool)
    assert set(Precision) >= backend["LOWERED"]
    for name in ("why_not", "unverifiable", "fingerprint", "build", "load"):
        parameters = [one.strip("_") for one in inspect.signature(backend[name]).parameters]
        assert parameters == [one.strip("_") for one in inspect.signature(getattr(real, name)).parameters]
    assert backend["why_not"](find_target("null"), Precision.FP32, backend["Options"]()) is None
    assert backend["Options"]().threads == 0
    compile(a_method, "method", "exec")


def test_the_target_of_contributing_has_known_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = _skeletons("toml")
    (tmp_path / "x-cpu.toml").write_text(text)
    monkeypatch.setattr(target, "TARGETS", tmp_path)
    assert find_target("x-cpu").options == {"threads": 4}

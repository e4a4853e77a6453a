"""planc.lock: each thing that drifts is named; what only looks different does not drift."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from planc.compiler import files, host, keys, lock, project
from planc.compiler.errors import GateFailed, UsageError

Write = Callable[..., Path]

TOML = """
[model.net]
source = "net.onnx"
dims = { n = "1..4@2" }
calibration = "data"
eval = "eval.npz"
real_inputs = "real.npz"
exclude = ["@keep.txt"]
[model.other]
source = "other.py:net"
inputs = { x = "float32[n,64]" }
dims = { n = "1..4@2" }
weights = "other.safetensors"
[model.packaged]
source = "package.nets:net"
inputs = { x = "float32[n,64]" }
dims = { n = "1..4@2" }
[[build]]
targets = ["null", "onnxruntime-cpu"]
precisions = ["fp32", "int8"]
models = ["net"]
[[build]]
targets = ["onnxruntime-cpu"]
models = ["other", "packaged"]
[[build]]
targets = ["l4"]
models = ["net"]
"""
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,64] x) => (float[n,16] y) { y = MatMul(x, w) }"""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, onnx_file: Write) -> Path:
    """A project with its lock."""
    folder, rng = tmp_path_factory.mktemp("locked"), np.random.default_rng(1)
    plain = onnx_file(folder / "plain.onnx", GRAPH, w=rng.standard_normal((64, 16), dtype=np.float32))
    onnx.save(onnx.load(plain), folder / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    (folder / "data").mkdir()
    (folder / "package").mkdir()
    for name in ("data/0.npz", "data/1.npz", "eval.npz", "real.npz"):
        np.savez(folder / name, x=rng.standard_normal((4, 64), dtype=np.float32))
    for name in ("other.py", "other.safetensors", "package/nets.py", "keep.txt"):
        (folder / name).write_text(f"# {name}\n")
    (folder / "planc.toml").write_text(TOML)
    assert _lock(folder) == "built"
    return folder


@pytest.fixture
def site(locked: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed at will."""
    return Path(shutil.copytree(locked, tmp_path / "site"))


def _lock(site: Path) -> str:
    return lock.write(site / "planc.toml", project.load(site / "planc.toml").jobs, files.digest)


def _require(site: Path, *only: str) -> None:
    lock.require(site / "planc.toml", project.select(project.load(site / "planc.toml").jobs, only), files.digest)


def test_it_is_small_sorted_and_stable(site: Path) -> None:
    text = (site / "planc.lock").read_text()
    document = json.loads(text)
    assert text == json.dumps(document, indent=2, sort_keys=True) + "\n"
    assert set(document["models"]["net"]["files"]) == {"net.onnx", "data/", "eval.npz", "real.npz", "keep.txt"}
    assert document["models"]["net"]["external"] == {"net.data": files.digest(site / "net.data")}
    assert set(document["models"]["other"]["files"]) == {"other.py", "other.safetensors"}
    assert set(document["models"]["packaged"]["files"]) == {"package/nets.py"}
    assert {"planc", "python", "torch", "onnx", "onnxruntime", "numpy"} <= set(document["tools"])
    assert document["tools"]["onnxruntime"] == host.version("onnxruntime")
    assert str(site) not in text


def test_what_is_as_it_was_is_not_told(site: Path) -> None:
    _require(site)
    for path in site.rglob("*"):
        os.utime(path, (1, 1))
    (site / "data" / "notes.txt").write_text("not data")
    (site / "unrelated.py").write_text("# new")
    _require(site)
    moved = site.rename(site.parent / "elsewhere")
    _require(moved)
    _require(moved, "net-null-fp32")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("net.onnx", "model net: net.onnx changed"),
        ("net.data", "model net: net.data changed"),
        ("data/1.npz", "model net: data/ changed"),
        ("data/2.npz", "model net: data/ changed"),
        ("eval.npz", "model net: eval.npz changed"),
        ("real.npz", "model net: real.npz changed"),
        ("keep.txt", "model net: keep.txt changed"),
        ("other.py", "model other: other.py changed"),
        ("other.safetensors", "model other: other.safetensors changed"),
        ("package/nets.py", "model packaged: package/nets.py changed"),
    ],
)
def test_each_file_that_drifts_is_named(name: str, told: str, site: Path) -> None:
    with (site / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(GateFailed) as caught:
        _require(site)
    assert str(caught.value) == f"{site / 'planc.lock'}: {told}. If that is meant, run planc lock"


def test_more_drifts_are_counted(site: Path) -> None:
    (site / "net.data").unlink()
    (site / "eval.npz").write_bytes((site / "real.npz").read_bytes())
    (site / "other.py").write_text("# edited\n")
    with pytest.raises(GateFailed, match=r"model net: eval.npz changed \(and 2 more\)"):
        _require(site)
    _require(site, "packaged-*")
    with pytest.raises(GateFailed, match=r"model net: net.data is gone\. "):
        _require(site, "net-null-fp32")


def test_what_planc_toml_names_anew_drifts(site: Path) -> None:
    text = TOML.replace('eval = "eval.npz"', 'eval = "more.npz"') + '[model.new]\nsource = "plain.onnx"\n'
    (site / "more.npz").write_bytes((site / "real.npz").read_bytes())
    (site / "planc.toml").write_text(text)
    with pytest.raises(GateFailed, match=r"model net: more.npz is not in it\. "):
        _require(site)
    (site / "planc.toml").write_text(text + '[[build]]\nmodels = ["new"]\ntargets = ["null"]\n')
    with pytest.raises(GateFailed, match=r"model new is not in it\. "):
        _require(site, "new-*")


@pytest.mark.parametrize("tool", ["torch", "onnx", "onnxruntime"])
def test_a_tool_of_another_version_drifts(tool: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = host.version
    monkeypatch.setattr(host, "version", lambda package: "99.0" if package == tool else version(package))
    with pytest.raises(GateFailed, match=rf"planc.lock: {tool} {version(tool)} -> 99\.0\. ".replace("+", r"\+")):
        _require(site)
    if tool == "torch":
        _require(site, "net-*")  # that no torch touches


def test_another_planc_drifts(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "own_digest", lambda: "0" * 64)
    with pytest.raises(GateFailed, match=r"planc .*\+[0-9a-f]{12} -> .*\+0{12}\. "):
        _require(site)


def test_a_tool_that_was_not_there_is_named(site: Path) -> None:
    path = site / "planc.lock"
    document = json.loads(path.read_text())
    del document["tools"]["onnxruntime"]
    path.write_text(json.dumps(document))
    with pytest.raises(GateFailed, match=r"onnxruntime \S+ is not in it\. "):
        _require(site)


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "no such file: "), ("{", "is damaged: "), ("[]", "is no lock of this planc"), ("{}", "is no lock of")],
)
def test_a_lock_that_cannot_be_read(content: str | None, told: str, site: Path) -> None:
    (site / "planc.lock").unlink()
    if content is not None:
        (site / "planc.lock").write_text(content)
    with pytest.raises(UsageError, match=told) as caught:
        _require(site)
    assert "planc lock writes it" in caught.value.hint


def test_the_command_line(site: Path, planc: Callable[..., Any]) -> None:
    before = (site / "planc.lock").stat().st_mtime_ns
    assert planc("lock", "--cache", "cache", cwd=site).stdout == "unchanged planc.lock\n"
    assert (site / "planc.lock").stat().st_mtime_ns == before
    for verb in ("plan", "build"):
        (site / "keep.txt").write_text("# another\n")
        words = (verb, "--locked", "--cache", "cache", "--only", "net-null-*")
        assert planc(*words, cwd=site, expect=1).stderr == (
            "planc: planc.lock: model net: keep.txt changed. If that is meant, run planc lock\n"
        )
    assert json.loads(planc("lock", "--format", "json", cwd=site).stdout)["status"] == "replaced"
    assert planc("plan", "--locked", "--cache", "cache", "--only", "net-null-*", cwd=site).stdout
    (site / "planc.lock").unlink()
    assert planc("build", "--locked", "--cache", "cache", cwd=site, expect=2).stderr == (
        "planc: --locked: no such file: planc.lock. planc lock writes it\n"
    )
    assert not (site / "out").exists()


def test_a_check_imports_no_tool(site: Path, python: Callable[..., str]) -> None:
    code = """
import sys
from planc import cli
sys.argv = ["planc", "plan", "--locked", "--cache", "cache"]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 0, end.code
print(sorted({"torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "numpy", "fsspec"} & set(sys.modules)))
"""
    assert python(code, cwd=site).splitlines()[-1] == "[]"

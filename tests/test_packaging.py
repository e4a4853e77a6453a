"""The wheel, built for real: exactly the package, nothing beside it."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

KEPT = ("py.typed", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("calibration", "cli", "compiler", "passes")


@pytest.fixture(scope="module")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made from, with strays that must not ship."""
    folder = tmp_path_factory.mktemp("checkout") / "some-name"
    folder.mkdir()
    for path in (*map(repository.joinpath, KEPT), *repository.glob("*.py")):
        shutil.copy(path, folder)
    for name in FOLDERS:
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "bench", "examples", "build/types"):
        (folder / name).mkdir(parents=True)
        (folder / name / "stray.py").write_text("raise SystemExit('must not ship')\n")
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> zipfile.ZipFile:
    made = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", checkout.parent / "dist"],
        cwd=checkout, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    (path,) = (checkout.parent / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_exactly_the_package_ships(wheel: zipfile.ZipFile, repository: Path) -> None:
    sources = [
        path.relative_to(repository)
        for folder in FOLDERS
        for path in (repository / folder).rglob("*")
        if path.suffix in (".jinja", ".json", ".py", ".toml")
    ]
    expected = {"__init__.py", "__main__.py", "py.typed", *map(str, sources)}
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == {f"planc/{name}" for name in expected}, "a stray .py of the root ships: the root is the package"


def test_every_sub_package_is_listed(repository: Path) -> None:
    listed = set(tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(("planc", *path.parent.relative_to(repository).parts))
        for folder in FOLDERS
        for path in (repository / folder).rglob("*.py")
    }
    assert listed == found | {"planc"}


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = message_from_bytes(wheel.read(name))
    assert metadata["Name"] == "planc"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "torch", "openvino", "tensorrt-rtx", "tensorrt", "gpu", "onnxruntime-openvino", "onnxruntime-tensorrt-rtx",
        "dask", "s3", "watch", "report", "test", "bench",
    }  # fmt: skip
    assert "planc compile" in str(metadata.get_payload())
    (points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert b"planc = planc.__main__:main" in wheel.read(points)


def test_the_wheel_works_without_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Run from the unpacked wheel alone: no file of the checkout is needed."""
    wheel.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop()); import planc; sys.argv = ['planc', 'targets']\n"
        "print(planc.__file__); from planc.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, tmp_path / "site"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == str(tmp_path / "site" / "planc" / "__init__.py")
    assert any(line.startswith("openvino-cpu") for line in lines)

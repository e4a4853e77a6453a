"""The same model in two checkouts gives the same bytes, and no byte tells where or by whom it was built."""

import getpass
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from planc.compiler.files import digest

TARGETS = ("onnxruntime-cpu", "openvino-cpu")
WORDS = ("--input", "x=float32[batch,3,8,8]", "--dim", "batch=1..4@2")


@pytest.fixture(scope="module")
def checkouts(workshop: Path, tmp_path_factory: pytest.TempPathFactory, planc: Callable[..., Any]) -> list[Path]:
    """Two folders of different names, built one after the other with a different hash seed and time zone each."""
    base = tmp_path_factory.mktemp("checkouts")
    folders = [base / "first", base / "a second, longer name"]
    seeds = [("1", "UTC"), ("2", "Asia/Kolkata")]

    def build(folder: Path, seed: str, zone: str) -> None:
        folder.mkdir()
        shutil.copy(workshop / "net.py", folder)
        for target in TARGETS:
            planc(
                "compile", "net.py:net", *WORDS, "-t", target, "-o", f"out/{target}",
                cwd=folder, PYTHONHASHSEED=seed, TZ=zone,
            )  # fmt: skip
        planc("export", folder / "net.py:net", *WORDS, "-o", "net.onnx", cwd=folder, PYTHONHASHSEED=seed, TZ=zone)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(build, folder, *seed) for folder, seed in zip(folders, seeds, strict=True)]:
            done.result()
    return folders


def _files(folder: Path) -> dict[str, Path]:
    paths = [folder / "net.onnx", *(folder / "out").rglob("*")]
    return {str(path.relative_to(folder)): path for path in paths if path.is_file()}


@pytest.mark.slow
def test_the_same_bytes(checkouts: list[Path]) -> None:
    first, second = (
        {name: digest(path) for name, path in _files(folder).items() if path.name != "report.json"}
        for folder in checkouts
    )
    assert first == second
    assert {"net.onnx", "out/onnxruntime-cpu/model.onnx", "out/openvino-cpu/model.bin"} <= first.keys()
    assert {f"out/{target}/{name}" for target in TARGETS for name in ("manifest.json", "golden.npz")} <= first.keys()


@pytest.mark.slow
def test_no_byte_tells_where_when_or_by_whom(checkouts: list[Path], repository: Path) -> None:
    today = date.today()
    words = [
        'File "', "site-packages", "stack_trace", "net.py\", line", "/tmp/", str(repository), str(Path.home()) + "/",
        today.isoformat(), today.strftime("%Y%m%d"), *(str(folder) for folder in checkouts),
        *(name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4),  # shorter ones occur by chance
    ]  # fmt: skip
    for name, path in _files(checkouts[0]).items():
        data = path.read_bytes()
        found = [word for word in words if word.encode() in data or word.encode("utf-16-le") in data]
        assert not found, f"{name} holds {found}"


@pytest.mark.slow
def test_artifacts_of_one_checkout_verify_in_the_other(
    checkouts: list[Path], planc: Callable[..., Any], tmp_path: Path
) -> None:
    for target in TARGETS:
        moved = shutil.copytree(checkouts[0] / "out" / target, tmp_path / target)
        planc("verify", moved, cwd=checkouts[1])

"""Does what the README says, in its order."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SET_UP = ("make demo", "make test")


@dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that its first line names, as in `# net.py`."""
        match = re.fullmatch(r"# (\S+\.(?:py|toml))", self.text.splitlines()[0])
        return match[1] if match else None

    @property
    def commands(self) -> list[str]:
        """Its lines without comments and empty ones."""
        lines = (line.partition("  #")[0].strip() for line in self.text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def _blocks() -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    return [Block(language, text) for language, text in found]


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_every_block_is_one_that_this_test_executes() -> None:
    blocks = _blocks()
    assert {block.language for block in blocks} == {"sh", "python", "toml"}
    assert all(block.file for block in blocks if block.language != "sh")
    commands = [command for block in blocks if block.language == "sh" for command in block.commands]
    assert [command for command in commands if not command.startswith("planc ")] == list(SET_UP)
    verbs = {command.split()[1] for command in commands if command.startswith("planc ")}
    assert verbs == {
        "compile",
        "build",
        "plan",
        "lock",
        "cache",
        "calibrate",
        "quantize",
        "verify",
        "inspect",
        "report",
        "run",
        "bench",
        "diff",
        "export",
        "optimize",
        "passes",
        "bisect",
        "targets",
        "doctor",
    }


@pytest.mark.slow
def test_the_quick_start(tmp_path: Path) -> None:
    """Python blocks are written to the file that they name; all but the model's are run where they stand."""
    for block in _blocks():
        if block.language != "sh":
            assert block.file
            (tmp_path / block.file).write_text(block.text)
            if block.file not in ("net.py", "data.py", "planc.toml"):
                _run(f"python {block.file}", tmp_path)
            continue
        for command in block.commands:
            if command not in SET_UP:
                _run(command, tmp_path)
    assert (tmp_path / "y.npz").is_file()
    made = {path.name for path in (tmp_path / "out").iterdir()}
    jobs = {
        f"net-{target}-{precision}"
        for target in ("onnxruntime-cpu", "openvino-cpu", "l4")
        for precision in ("fp32", "int8")
    }
    names = {"net", "net-ort", "net-fp16", "net-portable", "net-int8", "net-int8-ort", "net-rtx", "net-l4", "net-auto"}
    assert made == names | jobs
    assert {"ranges.json", "net.int8.onnx", "report.html", "net.html"} <= {path.name for path in tmp_path.iterdir()}


def test_make_test_runs_the_linters_and_pytest() -> None:
    """Only planned (`make -n`): running it would run this test again, without end."""
    plan = _run("make --no-print-directory -n test", ROOT).splitlines()
    assert [line.partition("bin/pytest")[2] for line in plan[-2:]] == [
        " -n 2 --dist loadfile --no-loadscope-reorder -m 'not alone' --durations 15",
        " -m alone",
    ]
    for tool in ("ruff format --check", "ruff check", "mypy -p planc", "lint-imports"):
        assert any(tool in line for line in plan), tool


@pytest.mark.slow
def test_make_demo() -> None:
    """Only planned: tests/examples runs the script."""
    plan = _run("make --no-print-directory -n demo -o .venv/.ready", ROOT)
    assert plan.split()[-1] == "examples/01_two_targets/compare.py"


def test_every_link_leads_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{name}: {target}"


def _run(command: str, folder: Path) -> str:
    made = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=_environment())
    assert made.returncode == 0, f"$ {command}\n{made.stdout}{made.stderr}"
    return made.stdout

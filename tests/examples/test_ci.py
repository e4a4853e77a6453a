"""The files of 04_ci run elsewhere: here each is linted, and its planc commands are held against planc's options."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
import yaml

CI = Path(__file__).parents[2] / "examples" / "04_ci"
WORKFLOW = CI / ".github" / "workflows" / "models.yml"
PIPELINE = CI / ".gitlab-ci.yml"
DOCKERFILE = CI / "Dockerfile"
LINTERS = {
    "github-workflows": ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW],
    "zizmor": ["zizmor", "--offline", "--no-progress", WORKFLOW],
    "gitlab-ci": ["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", PIPELINE],
    "hadolint": ["hadolint", DOCKERFILE],
}


def _run(command: list[object]) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run([tool, *command[1:]], capture_output=True, text=True)


@pytest.mark.parametrize("linter", LINTERS)
def test_the_file_is_as_its_linter_wants_it(linter: str) -> None:
    done = _run(LINTERS[linter])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("linter", "old", "new"),
    [
        ("github-workflows", "runs-on", "run-on"),
        ("zizmor", "run: planc plan", "run: planc plan --only '${{ github.event.pull_request.title }}'"),
        ("gitlab-ci", "junit:", "junitt: 1\n      junit:"),
        ("hadolint", "USER 65534", "USER root"),
    ],
)
def test_the_linter_finds_what_is_wrong(linter: str, old: str, new: str, tmp_path: Path) -> None:
    *command, path = LINTERS[linter]
    wrong = tmp_path / path.name
    wrong.write_text(path.read_text().replace(old, new, 1))
    assert _run([*command, wrong]).returncode != 0


def _lines() -> dict[str, list[str]]:
    """Shell lines by file."""
    workflow, pipeline = yaml.safe_load(WORKFLOW.read_text()), yaml.safe_load(PIPELINE.read_text())
    return {
        "models.yml": [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step],
        ".gitlab-ci.yml": [line for job in pipeline.values() if "script" in job for line in job["script"]],
        "Dockerfile": [
            re.sub(r"^(RUN|CMD)( --mount=\S+)? ", "", line).translate(str.maketrans("", "", '[],"'))
            for line in DOCKERFILE.read_text().splitlines()
            if line.startswith(("RUN", "CMD"))
        ],
    }


COMMANDS = [
    (file, shlex.split(line.strip())[1:])
    for file, lines in _lines().items() for line in lines if line.strip().startswith("planc ")
]  # fmt: skip


def test_each_file_has_commands() -> None:
    assert {file for file, _ in COMMANDS} == set(_lines())
    assert ["build", "--require", "net-*", "--github", "--junit", "build.xml"] in [words for _, words in COMMANDS]


@pytest.mark.parametrize(("file", "words"), COMMANDS, ids=[f"{file} {words[0]}" for file, words in COMMANDS])
def test_each_command_is_one_of_plancs(file: str, words: list[str]) -> None:
    """typer parses the words, and refuses what it does not know; nothing runs."""
    verb, *rest = words
    command = typer.main.get_command(import_module(f"planc.cli.{verb}").app)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    context = command.make_context(verb, rest)
    assert context.params


def test_a_command_that_is_none_would_be_found() -> None:
    command = typer.main.get_command(import_module("planc.cli.build").app)
    with pytest.raises(Exception, match="No such option: --junitt"):
        command.make_context("build", ["--junitt", "x"])

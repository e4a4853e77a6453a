"""The command line, as a user types it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from planc.compiler.errors import EXIT_CODES
from planc.compiler.target import target_names

PLANC = str(Path(sys.executable).with_name("planc"))
ESCAPE = "\x1b"


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def _shell(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script, "bash", PLANC],
        cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


# Help, versions, completion


def test_help_lists_every_exit_code(planc: Callable[..., Any], tmp_path: Path) -> None:
    text = " ".join(planc("--help", cwd=tmp_path).stdout.split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in text


def test_every_command_has_help(planc: Callable[..., Any], tmp_path: Path) -> None:
    commands = re.findall(r"^  ([a-z]+)  +[A-Z]", planc("--help", cwd=tmp_path).stdout.partition("Commands:")[2], re.M)
    assert {"compile", "export", "verify", "run", "inspect", "targets", "doctor"} <= set(commands)
    for command in commands:
        assert f"Usage: planc {command}" in planc(command, "--help", cwd=tmp_path).stdout


def test_init(planc: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    made = json.loads(planc("init", "app", "--format", "json", cwd=tmp_path).stdout)
    assert made == {"schema_version": 1, "status": "built", "files": ["app/planc.toml", "app/planc.schema.json"]}
    assert "app/planc.toml exists. Edit it" in planc("init", "app", cwd=tmp_path, expect=2).stderr
    assert planc("init", cwd=tmp_path).stdout == "built planc.toml, and planc.schema.json for editors\n"


def test_no_arguments_show_help(planc: Callable[..., Any], tmp_path: Path) -> None:
    assert planc(cwd=tmp_path).stdout == planc("--help", cwd=tmp_path).stdout
    lines = planc("cache", cwd=tmp_path, expect=2).stderr.splitlines()
    assert lines[0].startswith("Usage: planc cache")
    assert any(line.lstrip().startswith("prune ") for line in lines), "a line for each verb of its own"


def test_version(planc: Callable[..., Any], tmp_path: Path) -> None:
    lines = dict(line.split() for line in planc("--version", cwd=tmp_path).stdout.splitlines())
    assert lines["planc"] == metadata.version("planc")
    assert lines["onnxruntime"] == metadata.version("onnxruntime")


@pytest.mark.parametrize(
    ("words", "count", "offered"),
    [
        ("planc compile -t op", "3", {"openvino-cpu"}),
        ("planc compile --target ", "3", set(target_names())),
        ("planc compile -p f", "3", {"fp32", "fp16"}),
        ("planc ins", "1", {"inspect"}),
    ],
)
def test_completion(words: str, count: str, offered: set[str], planc: Callable[..., Any], tmp_path: Path) -> None:
    done = planc(cwd=tmp_path, _PLANC_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("words", [["--help"], ["compile", "--help"], []])
def test_help_imports_nothing_heavy(words: list[str], python: Callable[..., str]) -> None:
    code = """
import sys
sys.argv = ["planc", *sys.argv[1:]]
from planc.cli import main
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "numpy", "rich"}
print("loaded:", *sorted(heavy & set(sys.modules)))
"""
    assert python(code, *words).splitlines()[-1].strip() == "loaded:"


def test_completion_imports_nothing_heavy(tmp_path: Path) -> None:
    script = '"$1"'
    done = _shell(
        script, tmp_path,
        _PLANC_COMPLETE="complete_bash", COMP_WORDS="planc compile -t o", COMP_CWORD="3", PYTHONPROFILEIMPORTTIME="1",
    )  # fmt: skip
    assert "openvino-cpu" in done.stdout
    assert not re.findall(r"\| +(?:torch|onnx|onnxruntime|openvino|numpy|rich)$", done.stderr, re.M)


# Output: text, JSON, colours, errors


JSON_COMMANDS = (
    "targets", "doctor", "inspect", "inspect-onnx", "verify", "run", "compile", "export", "optimize", "bisect",
)  # fmt: skip


@pytest.mark.parametrize("command", JSON_COMMANDS)
def test_json_is_one_document_on_stdout(
    command: str, planc: Callable[..., Any], ort_artifact: Path, workshop: Path, tmp_path: Path, image: np.ndarray
) -> None:
    np.savez(tmp_path / "in.npz", x=image)
    model = (workshop / "conv.onnx", "--dim", "batch=1..4@2")
    words = {
        "targets": ("targets",),
        "doctor": ("doctor",),
        "inspect": ("inspect", ort_artifact),
        "inspect-onnx": ("inspect", workshop / "conv.onnx"),
        "verify": ("verify", ort_artifact),
        "run": ("run", ort_artifact, "--inputs", "in.npz"),
        "compile": ("compile", *model, "-t", "null", "-o", "art"),
        "export": ("export", *model, "-o", "out.onnx"),
        "optimize": ("optimize", *model, "-o", "out.onnx", "--check"),
        "bisect": ("bisect", *model),
    }[command]
    done = planc(*words, "--format", "json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    keys = {
        "targets": {"targets"},
        "doctor": {"versions", "host", "targets"},
        "inspect": {"graph", "job", "files", "effective_precision"},
        "inspect-onnx": {"operators", "inputs", "outputs", "opset"},
        "verify": {"passed", "points", "tolerance"},
        "run": {"outputs"},
        "compile": {"status", "output", "manifest", "report"},
        "export": {"status", "output", "facts", "reference"},
        "optimize": {"status", "output", "before", "after", "passes", "skipped", "checked"},
        "bisect": {"fault", "passes", "points", "output"},
    }[command]
    assert keys <= document.keys()


def test_errors_as_json(planc: Callable[..., Any], tmp_path: Path) -> None:
    done = planc("inspect", "gone.onnx", "--format", "json", cwd=tmp_path, expect=2)
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert document["error"]["exit_code"] == 2
    assert document["error"]["what"] == "no such file: gone.onnx"
    assert document["error"]["hint"]
    assert done.stderr == f"planc: {document['error']['what']}. {document['error']['hint']}\n"


@pytest.mark.parametrize("words", [["compile", "--no-such-option"], ["no-such-command"], ["compile", "net.py:net"]])
def test_usage_errors_are_one_line_with_exit_code_2(
    words: list[str], planc: Callable[..., Any], tmp_path: Path
) -> None:
    done = planc(*words, cwd=tmp_path, expect=2)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "--help" in done.stderr
    document = json.loads(planc(*words, "--format=json", cwd=tmp_path, expect=2).stdout)
    assert document["error"]["exit_code"] == 2


def test_an_unknown_format(planc: Callable[..., Any], tmp_path: Path) -> None:
    assert "--format 'yaml' is unknown" in planc("targets", "--format", "yaml", cwd=tmp_path, expect=2).stderr


def test_no_escape_codes_off_a_terminal(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    words = ("compile", workshop / "conv.onnx", "--dim", "batch=1..2", "-t", "null", "-o", "art")
    done = planc(*words, cwd=tmp_path)
    assert ESCAPE not in done.stdout + done.stderr
    assert "planc: build" in done.stderr.splitlines()


def test_no_color_on_a_terminal(workshop: Path, tmp_path: Path) -> None:
    """`script` gives planc a terminal: NO_COLOR must silence its colours there."""
    if not shutil.which("script"):
        pytest.skip("needs script(1)")
    words = f"{PLANC} compile {workshop / 'conv.onnx'} --dim batch=1..2 -t null -o art --overwrite"
    loud = _shell(f"script -qec '{words}' /dev/null", tmp_path, TERM="xterm-256color")
    plain = _shell(f"script -qec '{words}' /dev/null", tmp_path, TERM="xterm-256color", NO_COLOR="1")
    colour = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")
    assert colour.search(loud.stdout)
    assert "art" in plain.stdout
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|9[0-7]|38)(?:;[0-9;]*)?m", plain.stdout)


def test_debug_shows_the_traceback(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def net():\n    raise ValueError('a bad day')\n")
    words = ("compile", "bad.py:net", "--input", "x=float32[1]", "-t", "null", "-o", "art")
    quiet = planc(*words, cwd=tmp_path, expect=2)
    assert "Traceback" not in quiet.stderr
    assert "raised ValueError: a bad day at bad.py:2" in quiet.stderr
    loud = planc(*words, "--debug", cwd=tmp_path, expect=2)
    assert "Traceback" in loud.stderr
    assert 'bad.py", line 2, in net' in loud.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_broken_pipe_is_no_error(unbuffered: str, workshop: Path, tmp_path: Path) -> None:
    script = f'"$1" inspect {workshop / "conv.onnx"} | head -c 1; echo " ${{PIPESTATUS[0]}}"'
    done = _shell(script, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert done.stdout.split()[-1] == "0"
    assert done.stderr == ""
    closed = _shell('"$1" targets | true; echo "${PIPESTATUS[0]}"', tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert closed.stdout.strip() == "0"
    assert closed.stderr == ""


def test_work_goes_on_where_nobody_reads_of_it(workshop: Path, tmp_path: Path) -> None:
    for words, code in (("--dim batch=2", 0), ("", 2)):
        script = f'"$1" compile {workshop / "conv.onnx"} {words} -t null -o art{code} 2>&1 | head -c 1'
        assert _shell(f'{script}; echo " ${{PIPESTATUS[0]}}"', tmp_path).stdout.split()[-1] == str(code)
        assert (tmp_path / f"art{code}" / "manifest.json").exists() == (code == 0)


def test_closed_streams_are_no_error(workshop: Path, tmp_path: Path) -> None:
    model = workshop / "conv.onnx"
    script = (
        f'"$1" optimize {model} -o a.onnx <&- >&- 2>&-; echo $?; "$1" targets >&-; echo $?; "$1" absent 2>&-; echo $?'
    )
    assert _shell(script, tmp_path).stdout.split() == ["0", "0", "2"]
    assert onnx.load(tmp_path / "a.onnx").graph.node


@pytest.mark.parametrize("verb", ["compile", "quantize"])
def test_data_to_judge_by_wants_a_bound(verb: str, planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    words = ("-p", "int8", "-t", "openvino-cpu", "--calibration", "x.npz", "--eval", "x.npz", "-o", "o.onnx")
    answer = planc(verb, workshop / "conv.onnx", "--dim", "batch=1", *words, cwd=tmp_path, expect=2)
    assert "--eval is data to judge by. Add --max-drop METRIC=VALUE" in answer.stderr


def test_a_full_disk_behind_stdout_is_told(tmp_path: Path) -> None:
    done = _shell('"$1" targets > /dev/full; echo $?', tmp_path)
    assert done.stdout.strip() == "5"
    assert "standard output cannot be written: No space left on device" in done.stderr


# The verbs


def test_targets(planc: Callable[..., Any], tmp_path: Path) -> None:
    lines = planc("targets", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == target_names()
    assert "fp32" in next(line for line in lines if line.startswith("onnxruntime-cpu"))


def test_doctor(planc: Callable[..., Any], tmp_path: Path) -> None:
    text = planc("doctor", cwd=tmp_path).stdout
    assert re.search(rf"^onnxruntime +{re.escape(metadata.version('onnxruntime'))}$", text, re.M)
    assert re.search(r"^onnxruntime-cpu +builds fp32 int8; runs here$", text, re.M)
    assert re.search(r"^ +not fp16: ", text, re.M)
    one = planc("doctor", "-t", "onnxruntime-cpu", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in one] == ["cpu", "gpu", "onnxruntime-cpu", "not", "not"]
    assert "--model is asked of a target" in planc("doctor", "--model", "m.onnx", cwd=tmp_path, expect=2).stderr


def test_inspect_onnx(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    text = planc("inspect", workshop / "conv.onnx", cwd=tmp_path).stdout
    assert "inputs: x=float32[batch,3,8,8]" in text
    assert "  BatchNormalization: 1" in text
    assert "parameters: 597" in text


def test_inspect_artifact(planc: Callable[..., Any], openvino_artifact: Path, tmp_path: Path) -> None:
    text = planc("inspect", openvino_artifact, cwd=tmp_path).stdout
    assert "  id: conv-openvino-cpu-fp32" in text
    assert "requested_precision: fp32" in text


def test_verify_says_yes(planc: Callable[..., Any], ort_artifact: Path, tmp_path: Path) -> None:
    done = planc("verify", ort_artifact, cwd=tmp_path)
    assert done.stdout.startswith("verified against onnxruntime")
    for point in ("opt", "min", "max"):
        assert re.search(rf"^  {point} +y: max_abs ", done.stdout, re.M)


def test_verify_says_no(planc: Callable[..., Any], ort_artifact: Path, tmp_path: Path) -> None:
    words = ("verify", ort_artifact, "--tolerance", "atol=0", "--tolerance", "cosine=1.1")
    done = planc(*words, cwd=tmp_path, expect=1)
    assert "differs from its reference" in done.stderr
    document = json.loads(planc(*words, "--format", "json", cwd=tmp_path, expect=1).stdout)
    assert document["passed"] is False
    assert document["failures"]


def test_verify_of_tampered_files(planc: Callable[..., Any], copied: Path, tmp_path: Path) -> None:
    data = bytearray((copied / "golden.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (copied / "golden.npz").write_bytes(data)
    done = planc("verify", copied, cwd=tmp_path, expect=5)
    assert "golden.npz is not the file that was built" in done.stderr


def test_verify_of_other_golden_data(planc: Callable[..., Any], copied: Path, tmp_path: Path) -> None:
    """Files that fit their digests but not each other: the gate says no."""
    from planc.compiler import files, golden

    ones = [
        golden.Golden(one.label, one.inputs, {name: array + 1 for name, array in one.outputs.items()})
        for one in golden.load(copied / "golden.npz")
    ]
    golden.save(copied / "golden.npz", ones)
    manifest = json.loads((copied / "manifest.json").read_text())
    path = copied / "golden.npz"
    manifest["files"]["golden.npz"] = {"bytes": path.stat().st_size, "sha256": files.digest(path)}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    done = planc("verify", copied, cwd=tmp_path, expect=1)
    assert "output 'y' at opt" in done.stderr


def test_verify_of_what_runs_nowhere(planc: Callable[..., Any], null_artifact: Path, tmp_path: Path) -> None:
    assert "runs nowhere" in planc("verify", null_artifact, cwd=tmp_path, expect=3).stderr


def test_run(
    planc: Callable[..., Any], ort_artifact: Path, workshop: Path, tmp_path: Path, image: np.ndarray,
    infer: Callable[..., list[Any]],
) -> None:  # fmt: skip
    np.savez(tmp_path / "in.npz", x=image)
    done = planc("run", ort_artifact, "--inputs", "in.npz", "-o", "out.npz", cwd=tmp_path)
    assert done.stdout.startswith("y=float32[2,5] ")
    assert done.stdout.rstrip().endswith("...")
    expected = infer(workshop / "conv.onnx", x=image)[0]
    with np.load(tmp_path / "out.npz") as written:
        np.testing.assert_allclose(written["y"], expected, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "bad.npz", y=image)
    assert "there is no input 'y'" in planc("run", ort_artifact, "--inputs", "bad.npz", cwd=tmp_path, expect=2).stderr


def test_compile_twice(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    words = ("compile", workshop / "conv.onnx", "--dim", "batch=1..4@2", "-t", "onnxruntime-cpu", "-o", "out/art")
    first = planc(*words, cwd=tmp_path)
    assert first.stdout.startswith("built out/art: conv-onnxruntime-cpu-fp32, ")
    assert "verified against" in first.stdout
    times = _times(tmp_path / "out" / "art")
    second = planc(*words, cwd=tmp_path)
    assert second.stdout.startswith("unchanged out/art: ")
    assert _times(tmp_path / "out" / "art") == times
    third = planc(*words, "-O", "threads=1", cwd=tmp_path)
    assert third.stdout.startswith("replaced out/art: ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["art"]


def test_a_folder_that_planc_did_not_make(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    words = ("compile", workshop / "conv.onnx", "--dim", "batch=1..2", "-t", "null", "-o", "mine")
    for more in ((), ("--overwrite",)):
        assert "is not an artifact of planc" in planc(*words, *more, cwd=tmp_path, expect=2).stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_symbol_without_sizes(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    done = planc("compile", workshop / "conv.onnx", "-t", "null", "-o", "art", cwd=tmp_path, expect=2)
    assert done.stderr.splitlines()[-1].endswith("Add --dim batch=1..8@1, or fix it with --dim batch=1")
    assert list(tmp_path.iterdir()) == []


def test_unavailable_is_exit_code_3(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    words = ("compile", workshop / "conv.onnx", "--dim", "batch=1", "-t", "onnxruntime-cpu", "-p", "fp16", "-o", "art")
    assert "onnxruntime-cpu" in planc(*words, cwd=tmp_path, expect=3).stderr


def test_a_build_failure_says_how_to_repeat_it(
    planc: Callable[..., Any], onnx_file: Callable[..., Path], tmp_path: Path
) -> None:
    text = """<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>
    g (float[2,8] x) => (float[2,4] y) { y = com.microsoft.CDist<metric="euclidean">(x, w) }"""
    onnx_file(tmp_path / "cdist.onnx", text, w=np.ones((4, 8), np.float32))
    words = ("compile", "cdist.onnx", "-t", "openvino-cpu", "-o", "art")
    done = planc(*words, cwd=tmp_path, expect=4)
    assert "CDist" in done.stderr
    assert f"planc {' '.join(words)} --debug" in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["cdist.onnx"]


def test_a_gate_is_exit_code_1(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    done = planc(
        "compile", workshop / "conv.onnx", "--dim", "batch=1..2", "-t", "openvino-cpu", "-p", "fp16", "-o", "art",
        "--tolerance", "sqnr_db=200", "--tolerance", "atol=0", cwd=tmp_path, expect=1,
    )  # fmt: skip
    assert "SQNR" in done.stderr
    assert not (tmp_path / "art").exists()


def test_export(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    words = ("export", workshop / "conv.onnx", "--dim", "batch=1..4@2", "-o", "out/made.onnx")
    assert planc(*words, cwd=tmp_path).stdout.startswith("built out/made.onnx: 6 nodes, ")
    out = tmp_path / "out" / "made.onnx"
    time = out.stat().st_mtime_ns
    assert planc(*words, cwd=tmp_path).stdout.startswith("unchanged out/made.onnx: ")
    assert out.stat().st_mtime_ns == time
    shutil.copy(workshop / "conv.onnx", out)
    assert "--overwrite" in planc(*words, cwd=tmp_path, expect=2).stderr
    assert out.read_bytes() == (workshop / "conv.onnx").read_bytes()
    assert planc(*words, "--overwrite", cwd=tmp_path).stdout.startswith("replaced out/made.onnx: ")


def test_export_of_pytorch_with_a_depfile(planc: Callable[..., Any], workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    shutil.copy(workshop / "net.py", tmp_path / "src")
    words = ("--input", "x=float32[batch,3,8,8]", "--dim", "batch=1..4@2", "--depfile", "net.d")
    done = planc("export", "src/net.py:net", *words, "-o", "net.onnx", cwd=tmp_path)
    assert "verified against torch" in done.stdout
    first, *rest = (tmp_path / "net.d").read_text().splitlines()
    assert first.startswith("net.onnx: ")
    assert first.endswith("src/net.py")
    assert rest[0].endswith("src/net.py:")


def test_termination_leaves_nothing(workshop: Path, tmp_path: Path) -> None:
    import signal
    import time

    (tmp_path / "slow.py").write_text("import time\n\ndef net():\n    time.sleep(60)\n")
    child = subprocess.Popen(
        [PLANC, "compile", "slow.py:net", "-t", "null", "-o", "art"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not list(tmp_path.glob(".art.planc-*")):
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert said.splitlines()[-1].startswith("planc: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["slow.py"]

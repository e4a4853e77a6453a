"""Bad input: one clear line, the exit code of the table, and nothing half-written. Nothing here is a mock."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ._run import Answer, Disturb, ahead, check_refusal, descendants, disk, names_in, planc, wait_for

MODULE_FILE = """
import ctypes, os, signal, subprocess, sys, time
import torch

FOREVER = [sys.executable, "-c", "import time; time.sleep(600)"]


class Acts(torch.nn.Module):
    def __init__(self, action):
        super().__init__()
        self.action = action

    def forward(self, x):
        self.action()
        return x + 1


class Branches(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x - 1


class Nans(torch.nn.Module):
    def forward(self, x):
        return x / 0 * 0


class Texts(torch.nn.Module):
    def forward(self, x):
        return "no tensor"


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def fail():
    raise ValueError("what the module says")


def unspeakable_error():
    raise Unspeakable


def nest(depth=0):
    return nest(depth + 1)


def overflow():
    ctypes.string_at(0)


def eat():
    kept = []
    while True:
        kept.append(bytearray(16 << 20))
        time.sleep(0.005)


def eat_in_a_child():
    if os.fork() == 0:
        eat()
    time.sleep(600)


def talk():
    while True:
        print("talk " * 10000)


def leave_a_child():
    subprocess.Popen(FOREVER)


def leave_a_daemon():
    subprocess.Popen(FOREVER, start_new_session=True)


def leave_a_fork_that_holds_the_pipe():
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os._exit(0)


def close_everything():
    os.closerange(0, 4096)


def close_everything_and_stay():
    os.closerange(0, 4096)
    time.sleep(600)


def scribble_into_every_file():
    for number in range(3, 64):
        try:
            os.write(number, b"\\x05" + bytes(7) + b"junk!" * 3)
        except OSError:
            pass
    time.sleep(600)


def net():
    return Acts(lambda: None)


def raises():
    return Acts(fail)


def raises_unspeakable():
    return Acts(unspeakable_error)


def recurses():
    return Acts(nest)


def exits():
    return Acts(lambda: sys.exit(0))


def exits_at_once():
    return Acts(lambda: os._exit(0))


def killed():
    return Acts(lambda: os.kill(os.getpid(), signal.SIGKILL))


def segfaults():
    return Acts(overflow)


def eats():
    return Acts(eat)


def eats_in_a_child():
    return Acts(eat_in_a_child)


def talks():
    return Acts(talk)


def leaves_a_fork():
    return Acts(leave_a_fork_that_holds_the_pipe)


def leaves_children_and_raises():
    leave_a_child()
    leave_a_daemon()
    return Acts(fail)


def closes():
    return Acts(close_everything)


def closes_and_stays():
    return Acts(close_everything_and_stay)


def scribbles():
    return Acts(scribble_into_every_file)


def branches():
    return Branches()


def nans():
    return Nans()


def texts():
    return Texts()


def fails_itself():
    raise KeyError("weights")


def no_module():
    return 42
"""


def _value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _save(path: Path, nodes: list[onnx.NodeProto], weights: list[TensorProto], *shape: int | str) -> None:
    graph = helper.make_graph(nodes, "g", [_value("x", shape)], [_value("y", shape)], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def _external(path: Path, location: str) -> None:
    weights = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, "offset": "0", "length": "24"}.items():
        weights.external_data.add(key=key, value=text)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [_value("x", [2, 3])], [_value("y", [2, 3])], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def _make(folder: Path) -> Path:
    """Fills a folder with good and bad input."""
    add = helper.make_node("Add", ["x", "w"], ["y"])
    ones = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    _save(folder / "good.onnx", [add], [ones], 2, 3)
    _save(folder / "dynamic.onnx", [helper.make_node("Relu", ["x"], ["y"])], [], "batch", 3)
    _save(folder / "nan.onnx", [helper.make_node("Sqrt", ["x"], ["y"])], [], 2, 3)
    big = numpy_helper.from_array(np.random.default_rng(0).standard_normal((1000, 1000), np.float32), "w")
    _save(folder / "big.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [big], 2, 1000)
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "v"], ["w"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("c", TensorProto.BOOL, []), _value("v", [2, 3])],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), _value("w", [2, 3])],
    )  # fmt: skip
    numbers = [numpy_helper.from_array(np.array(2**62), "n"), numpy_helper.from_array(np.array(True), "t")]
    _save(folder / "endless.onnx", [helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body)], numbers, 2, 3)
    whole = (folder / "good.onnx").read_bytes()
    (folder / "empty.onnx").touch()
    for share in (1, 5, 9):
        (folder / f"cut{share}.onnx").write_bytes(whole[: len(whole) * share // 10])
    (folder / "random.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "zeros.onnx").write_bytes(bytes(5000))
    (folder / "text.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n" * 3)
    (folder / "folder.onnx").mkdir()
    os.mkfifo(folder / "fifo.onnx")
    (folder / "loop.onnx").symlink_to("loop.onnx")
    (folder / "link.bin").symlink_to("/etc/passwd")
    for name, location in {
        "absent": "none.bin", "above": "../../etc/passwd", "absolute": "/etc/passwd", "link": "link.bin",
        "short": "good.npz",
    }.items():  # fmt: skip
        _external(folder / f"data_{name}.onnx", location)
    (folder / "bad.py").write_text(MODULE_FILE)
    (folder / "syntax.py").write_text("def net(:\n")
    (folder / "raises.py").write_text("import no_such_module\n")
    ok = np.ones((2, 3), np.float32)
    np.savez(folder / "good.npz", x=ok)
    np.savez(folder / "names.npz", z=ok)
    np.savez(folder / "more.npz", x=ok, z=ok)
    np.savez(folder / "shape.npz", x=np.ones((2, 4), np.float32))
    np.savez(folder / "dtype.npz", x=np.ones((2, 3), np.float64))
    np.savez(folder / "pickle.npz", x=np.array([{}], dtype=object))
    np.save(folder / "single.npy", ok)
    (folder / "random.npz").write_bytes(np.random.default_rng(0).bytes(500))
    (folder / "weights.pt").write_bytes(b"\x80\x04N.")
    (folder / "file").write_text("a file\n")
    (folder / "others").mkdir()
    (folder / "others" / "thesis.txt").write_text("not ours\n")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path / "cache"))  # what another test built would skip its stages
    folder = tmp_path / "here"
    folder.mkdir()
    return _make(folder)


def _refused(here: Path, code: int, words: Sequence[object], *names: str, disturb: Disturb | None = None) -> None:
    """Runs the command line and asserts one clear line, the exit code, and a folder as it was before."""
    before = _all_names(here)
    answer = planc(*words, cwd=here, disturb=disturb)
    check_refusal(answer, code, *names)
    assert _all_names(here) == before


def _all_names(folder: Path) -> set[str]:
    return names_in(folder) | names_in(folder / "others")


# --- words -------------------------------------------------------------------------------------------------------

COMPILE = "compile good.onnx -t null -o out/a"
EXPORT = "-o out/a.onnx"
WORDS: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "missing file": (2, "compile none.onnx -t null -o out/a", ("none.onnx",)),
    "misspelt file": (2, "compile goood.onnx -t null -o out/a", ("goood.onnx", "Did you mean 'good.onnx'?")),
    "empty file": (2, "compile empty.onnx -t null -o out/a", ("empty.onnx", "empty")),
    "a tenth of a file": (2, f"export cut1.onnx {EXPORT}", ("cut1.onnx",)),
    "half a file": (2, f"export cut5.onnx {EXPORT}", ("cut5.onnx",)),
    "nine tenths of a file": (2, f"export cut9.onnx {EXPORT}", ("cut9.onnx",)),
    "random bytes": (2, "compile random.onnx -t onnxruntime-cpu -o out/a", ("random.onnx", "not an ONNX")),
    "zeros": (2, "inspect zeros.onnx", ("zeros.onnx",)),
    "a git-lfs pointer": (2, "inspect text.onnx", ("text.onnx",)),
    "a folder as a model": (2, "compile folder.onnx -t null -o out/a", ("folder.onnx", "not a regular file")),
    "a FIFO as a model": (2, "compile fifo.onnx -t null -o out/a", ("fifo.onnx", "not a regular file")),
    "a link to itself": (2, "compile loop.onnx -t null -o out/a", ("loop.onnx",)),
    "data missing": (2, f"export data_absent.onnx {EXPORT}", ("none.bin", "missing")),
    "data above its folder": (2, f"export data_above.onnx {EXPORT}", ("../../etc/passwd", "outside")),
    "data at an absolute path": (2, "inspect data_absolute.onnx", ("/etc/passwd", "outside")),
    "data behind a link": (2, "compile data_link.onnx -t null -o out/a", ("link.bin", "link")),
    "no kind of model": (2, "compile good -t null -o out/a", ("'good'", "model.onnx")),
    "a pickle": (2, f"export weights.pt {EXPORT}", ("weights.pt", "--trust-pickle")),
    "unknown target": (2, "compile good.onnx -t toaster -o out/a", ("toaster",)),
    "misspelt target": (2, "compile good.onnx -t onnxruntime-cup -o out/a", ("Did you mean 'onnxruntime-cpu'?",)),
    "unknown precision": (2, f"{COMPILE} -p fp33", ("fp33",)),
    "precision that the target lacks": (3, "compile good.onnx -t onnxruntime-cpu -p fp16 -o out/a", ("not FP16",)),
    "misspelt flag": (2, "compile good.onnx --tarrget null -o out/a", ("--tarrget",)),
    "missing flag": (2, "compile good.onnx -t null", ("--output",)),
    "misspelt verb": (2, "complie good.onnx", ("complie",)),
    "misspelt option": (2, "compile good.onnx -t onnxruntime-cpu -O thread=2 -o out/a", ("Did you mean 'threads'?",)),
    "option of another type": (2, "compile good.onnx -t onnxruntime-cpu -O threads=two -o out/a", ("threads=two",)),
    "option without a value": (2, f"{COMPILE} -O threads", ("threads",)),
    "unknown bound": (2, f"{COMPILE} --tolerance cosin=1", ("Did you mean 'cosine'?",)),
    "unknown format": (2, f"{COMPILE} --format xml", ("xml",)),
    "no time": (2, f"{COMPILE} --time-limit 0", ("--time-limit",)),
    "time that is no number": (2, f"{COMPILE} --time-limit nan", ("--time-limit",)),
    "memory that is no size": (2, f"{COMPILE} --memory-limit much", ("much",)),
    "memory without end": (2, f"{COMPILE} --memory-limit inf", ("inf",)),
    "dynamic dimension without sizes": (2, "compile dynamic.onnx -t null -o out/a", ("batch", "--dim batch=")),
    "misspelt dimension": (
        2, "compile dynamic.onnx -t null -o out/a --dim btach=1..4", ("btach", "Did you mean 'batch'?"),
    ),
    "dimension of a fixed model": (2, f"{COMPILE} --dim batch=1..4", ("batch",)),
    "dimension upside down": (2, "compile dynamic.onnx -t null -o out/a --dim batch=4..1", ("batch=4..1",)),
    "dimension zero": (2, "compile dynamic.onnx -t null -o out/a --dim batch=0", ("batch=0",)),
    "misspelt input": (2, f"{COMPILE} --input xx=float32[2,3]", ("xx", "Did you mean 'x'?")),
    "input of another shape": (2, f"{COMPILE} --input x=float32[2,4]", ("x=float32[2,3]",)),
    "unknown dtype": (2, f"{COMPILE} --input x=flaot32[2,3]", ("Did you mean 'float32'?",)),
    "inputs missing": (2, f"{COMPILE} --inputs none.npz", ("none.npz",)),
    "inputs of another name": (2, f"{COMPILE} --inputs names.npz", ("'z'",)),
    "one input too many": (2, f"{COMPILE} --inputs more.npz", ("'z'",)),
    "inputs of another shape": (2, f"{COMPILE} --inputs shape.npz", ("x=float32[2,3]",)),
    "inputs of another dtype": (2, f"{COMPILE} --inputs dtype.npz", ("float64",)),
    "inputs that are pickles": (2, f"{COMPILE} --inputs pickle.npz", ("pickle.npz",)),
    "inputs without a name": (2, f"{COMPILE} --inputs single.npy", ("single.npy",)),
    "inputs of random bytes": (2, f"{COMPILE} --inputs random.npz", ("random.npz",)),
    "NaN from a graph": (2, "compile nan.onnx -t null -o out/a", ("'y'", "NaN")),
    "output on a stranger's folder": (2, "compile good.onnx -t null -o others", ("others", "not an artifact")),
    "output on a stranger's file": (2, "export good.onnx -o file", ("file", "--overwrite")),
    "output on a folder": (2, "export good.onnx --overwrite -o others", ("others", "folder")),
    "output below a file": (5, "compile good.onnx -t null -o file/out", ("file",)),
    "output with an endless name": (5, f"export good.onnx -o {'n' * 300}.onnx", ("name too long",)),
    "depfile below a file": (5, "export good.onnx -o others/a.onnx --depfile file/a.d", ("file",)),
    "artifact missing": (2, "verify none", ("none",)),
    "no artifact": (2, "verify others", ("others", "not an artifact")),
    "run of a model": (2, "run good.onnx --inputs good.npz", ("good.onnx", "not an artifact")),
    "a file that is no Python": (2, f"export syntax.py:net {EXPORT}", ("syntax.py",)),
    "a file that fails to import": (2, f"export raises.py:net {EXPORT}", ("no_such_module", "raises.py:1")),
    "a callable that is not there": (2, f"export bad.py:nett {EXPORT}", ("Did you mean 'net'?",)),
    "a module without shapes": (2, f"export bad.py:net {EXPORT}", ("--input", "x=float32")),
}  # fmt: skip


MODULES: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "raises": (2, (), ("ValueError: what the module says", "bad.py:")),
    "raises_unspeakable": (2, (), ("Unspeakable", "bad.py:")),
    "recurses": (2, (), ("RecursionError",)),
    "fails_itself": (2, (), ("KeyError", "bad.py:")),
    "no_module": (2, (), ("int", "torch.nn.Module")),
    "nans": (2, (), ("NaN", "--inputs")),
    "texts": (2, (), ("str",)),
    "exits": (2, (), ("SystemExit", "bad.py:")),
    "branches": (4, (), ("cannot export", "bad.py:")),
    "exits_at_once": (4, (), ("exited with code 0", "reference")),
    "killed": (4, (), ("SIGKILL", "reference")),
    "segfaults": (4, (), ("SIGSEGV", "reference")),
    "eats": (4, ("--memory-limit", "1GiB"), ("memory limit", "--memory-limit")),
    "eats_in_a_child": (4, ("--memory-limit", "1GiB"), ("memory limit", "--memory-limit")),
    "talks": (4, ("--time-limit", "12"), ("12 s", "--time-limit")),
    "leaves_a_fork": (4, (), ("exited with code 0",)),
    "leaves_children_and_raises": (2, (), ("ValueError",)),
    "closes": (4, (), ("the worker",)),
    "closes_and_stays": (4, (), ("the worker",)),
    "scribbles": (4, ("--time-limit", "30"), ("the worker",)),
}


def _lines() -> dict[str, tuple[str, ...]]:
    """The words of each case, by name."""
    shape = ("--input", "x=float32[2,3]", "-o", "out/a.onnx")
    modules = {name: ("export", f"bad.py:{name}", *shape, *flags) for name, (_, flags, _) in MODULES.items()}
    return modules | {name: tuple(line.split()) for name, (_, line, _) in WORDS.items()}


def _answer(name: str, folder: Path) -> tuple[Answer, set[str]]:
    """The answer to one case, and the names that it left behind."""
    before = _all_names(_make(folder))
    answer = planc(*_lines()[name], cwd=folder)
    return answer, _all_names(folder) - before


@pytest.fixture(scope="module")
def answers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[tuple[Answer, set[str]]]"]]:
    with ahead(request, tmp_path_factory, _answer) as futures:
        yield futures


@pytest.mark.parametrize("name", WORDS)
def test_words(name: str, answers: dict[str, "Future[tuple[Answer, set[str]]]"]) -> None:
    code, _, names = WORDS[name]
    answer, left = answers[name].result()
    check_refusal(answer, code, *names)
    # With a bad depfile the model itself is written: the depfile is a second output.
    assert left == ({"a.onnx"} if name.startswith("depfile") else set())


def test_json_says_the_same_on_stdout(here: Path) -> None:
    answer = planc("inspect", "random.onnx", "--format", "json", cwd=here)
    check_refusal(answer, 2, "random.onnx")
    assert json.loads(answer.stdout)["error"]["exit_code"] == 2


# --- artifacts ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = _make(tmp_path_factory.mktemp("artifact"))
    answer = planc("compile", "good.onnx", "-t", "onnxruntime-cpu", "-o", "art", cwd=folder)
    assert answer.code == 0, answer.stderr
    assert not answer.left
    return folder


@pytest.mark.parametrize(
    ("inputs", "names"),
    [("names.npz", ("'z'",)), ("shape.npz", ("x=float32[2,3]",)), ("random.npz", ("random.npz",))],
)
def test_run_on_wrong_inputs(artifact: Path, inputs: str, names: tuple[str, ...]) -> None:
    _refused(artifact, 2, ("run", "art", "--inputs", inputs, "-o", "results.npz"), *names)


def test_a_result_that_cannot_be_written(artifact: Path) -> None:
    _refused(artifact, 5, ("run", "art", "--inputs", "good.npz", "-o", "file/results.npz"), "file")


def test_a_damaged_artifact(artifact: Path) -> None:
    payload = artifact / "art" / "model.onnx"
    whole = payload.read_bytes()
    payload.write_bytes(whole[:-1])
    try:
        _refused(artifact, 5, ("verify", "art"), "model.onnx")
        _refused(artifact, 5, ("run", "art", "--inputs", "good.npz"), "model.onnx")
    finally:
        payload.write_bytes(whole)


def test_an_artifact_that_computes_something_else(artifact: Path) -> None:
    from planc.compiler import files

    manifest, golden = artifact / "art" / "manifest.json", artifact / "art" / "golden.npz"
    kept = manifest.read_bytes(), golden.read_bytes()
    arrays = {key: array + (1 if "outputs" in key else 0) for key, array in files.load_arrays(golden).items()}
    files.save_arrays(golden, arrays)
    facts = json.loads(kept[0])
    facts["files"]["golden.npz"] = {"sha256": files.digest(golden), "bytes": golden.stat().st_size}
    manifest.write_text(json.dumps(facts))
    try:
        _refused(artifact, 1, ("verify", "art"), "'y'", "differs")
    finally:
        manifest.write_bytes(kept[0])
        golden.write_bytes(kept[1])


def test_a_failed_build_leaves_the_old_artifact(artifact: Path) -> None:
    before = {file.name: file.read_bytes() for file in (artifact / "art").iterdir()}
    _refused(artifact, 2, ("compile", "nan.onnx", "-t", "onnxruntime-cpu", "-o", "art", "--overwrite"), "NaN")
    assert {file.name: file.read_bytes() for file in (artifact / "art").iterdir()} == before


# --- modules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str, answers: dict[str, "Future[tuple[Answer, set[str]]]"]) -> None:
    code, _, names = MODULES[name]
    answer, left = answers[name].result()
    check_refusal(answer, code, *names)
    assert not left


def test_inputs_of_a_module_by_a_wrong_name(here: Path) -> None:
    words = ("export", "bad.py:net", "--input", "x=float32[2,3]", "--input", "y=float32[2]", "-o", "out/a.onnx")
    _refused(here, 2, words, "y", "parameter")


# --- the machine -------------------------------------------------------------------------------------------------

ENDLESS = ("compile", "endless.onnx", "-t", "null", "-o", "out/a")


def _in_stage(stage: str, act: Callable[["subprocess.Popen[bytes]"], None]) -> Disturb:
    """Acts once stderr says that the stage has begun."""

    def disturb(process: "subprocess.Popen[bytes]", stderr: Callable[[], str]) -> None:
        wait_for(lambda: f"planc: {stage}\n" in stderr(), f"stage {stage}")
        act(process)

    return disturb


def test_no_answer_in_time(here: Path) -> None:
    _refused(here, 4, (*ENDLESS, "--time-limit", "4"), "4 s", "--time-limit")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], ids=lambda number: number.name)
def test_a_worker_killed_from_outside(here: Path, number: signal.Signals) -> None:
    def kill(process: "subprocess.Popen[bytes]") -> None:
        os.kill(descendants(process.pid)[0], number)

    _refused(here, 4, ENDLESS, number.name, "reference", disturb=_in_stage("reference", kill))


def _interrupt_many_times(process: "subprocess.Popen[bytes]") -> None:
    for _ in range(20):
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)


INTERRUPTIONS: dict[str, Callable[["subprocess.Popen[bytes]"], None]] = {
    "the process alone": lambda process: process.send_signal(signal.SIGINT),
    "its group": lambda process: os.killpg(process.pid, signal.SIGINT),
    "it and its worker": lambda process: [
        os.kill(pid, signal.SIGINT) for pid in (*descendants(process.pid), process.pid)
    ] and None,
    "many times": _interrupt_many_times,
    "SIGTERM": lambda process: process.send_signal(signal.SIGTERM),
    "SIGHUP": lambda process: process.send_signal(signal.SIGHUP),
}  # fmt: skip


@pytest.mark.parametrize("name", INTERRUPTIONS)
def test_interrupted(here: Path, name: str) -> None:
    _refused(here, 130, ENDLESS, "interrupted", disturb=_in_stage("reference", INTERRUPTIONS[name]))


@pytest.mark.parametrize("stage", ["load", "build", "verify"])
def test_interrupted_in_each_stage(here: Path, stage: str) -> None:
    words = ("compile", "good.onnx", "-t", "null", "-o", "out/a")
    answer = planc(*words, cwd=here, disturb=_in_stage(stage, lambda process: process.send_signal(signal.SIGINT)))
    if answer.code == 0:  # it was done first
        assert names_in(here / "out") == {"a"}
        return
    check_refusal(answer, 130, "interrupted")
    assert not names_in(here / "out")


def test_a_killed_command_line_leaves_no_worker_and_the_next_run_cleans_up(here: Path) -> None:
    answer = planc(*ENDLESS, cwd=here, disturb=_in_stage("reference", lambda process: process.kill()))
    assert answer.code == -signal.SIGKILL
    assert not answer.left
    assert all(name.startswith(".a.planc-") for name in names_in(here / "out"))
    assert planc("compile", "good.onnx", "-t", "null", "-o", "out/a", cwd=here).code == 0
    assert names_in(here / "out") == {"a"}


# --- disks -------------------------------------------------------------------------------------------------------

WRITERS: dict[str, tuple[str, ...]] = {
    "export": ("export", "big.onnx", "-o", "disk/out.onnx"),
    "null": ("compile", "big.onnx", "-t", "null", "-o", "disk/out"),
    "onnxruntime": ("compile", "big.onnx", "-t", "onnxruntime-cpu", "-o", "disk/out"),
    "openvino": ("compile", "big.onnx", "-t", "openvino-cpu", "-o", "disk/out"),
}


def _fill(place: Path, spare: int = 0) -> None:
    with (place / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 20)):
                pass
        except OSError:
            os.truncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - spare))


@pytest.mark.parametrize("name", ["export", "null"])
def test_a_disk_with_little_space_is_seen_before_the_work(here: Path, name: str) -> None:
    with disk(here / "disk", "9m") as place:
        answer = planc(*WRITERS[name], cwd=here)
        check_refusal(answer, 5, "no space left", "disk")
        assert "planc: reference" not in answer.stderr.splitlines()
        assert not names_in(place)


def test_a_disk_too_small_for_the_weights_is_seen_before_the_work(here: Path) -> None:
    weights = numpy_helper.from_array(np.zeros((3000, 1000), np.float32), "w")
    _save(here / "wide.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [weights], 2, 3000)
    with disk(here / "disk", "30m") as place:
        answer = planc("export", "wide.onnx", "-o", "disk/out.onnx", cwd=here)
        check_refusal(answer, 5, "no space left", "are needed")
        assert "planc: reference" not in answer.stderr.splitlines()
        assert not names_in(place)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("export", "load"), ("null", "optimize"), ("null", "build"), ("onnxruntime", "load"), ("onnxruntime", "build"),
        ("openvino", "build"),
    ],
)  # fmt: skip
def test_a_disk_that_fills_up_during_the_work(here: Path, name: str, stage: str) -> None:
    with disk(here / "disk", "40m") as place:
        full = _in_stage(stage, lambda _process: _fill(place))
        answer = planc(*WRITERS[name], cwd=here, disturb=full)
        if answer.code == 0:  # it had written all of it before the disk was full
            assert not answer.left
            return
        check_refusal(answer, 5, "no space left", "disk")
        assert names_in(place) == {"ballast"}


@pytest.mark.parametrize("name", ["export", "null"])
def test_a_read_only_disk(here: Path, name: str) -> None:
    with disk(here / "disk", "40m") as place:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        answer = planc(*WRITERS[name], cwd=here)
        check_refusal(answer, 5, "cannot write to disk", "Read-only")
        assert "planc: reference" not in answer.stderr.splitlines()


def test_results_on_a_full_disk(artifact: Path) -> None:
    with disk(artifact / "disk", "9m") as place:
        answer = planc("run", "art", "--inputs", "good.npz", "-o", "disk/results.npz", cwd=artifact)
        check_refusal(answer, 5, "no space left", "disk")
        assert not names_in(place)


# --- no telemetry ------------------------------------------------------------------------------------------------


def test_nothing_is_written_into_the_home(artifact: Path, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        assert planc("compile", "good.onnx", "-t", target, "-o", f"home-{target}", cwd=artifact, env=home).code == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

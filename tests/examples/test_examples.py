"""Runs each example as its README says, and reads its results."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import planc

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_two_targets_agree_with_pytorch_and_are_faster(tmp_path):
    script = EXAMPLES / "01_two_targets" / "compare.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == ["PyTorch eager", "onnxruntime-cpu", "openvino-cpu"]
    for _, top1, agreed, cosine, megabytes, latency, speed_up in rows[2:]:
        assert int(top1.removesuffix(" of 20")) >= 15
        assert agreed == "20 of 20"
        assert float(cosine) >= 0.99999
        assert 18 < float(megabytes) < 20
        assert float(latency) > 0
        assert float(speed_up.removesuffix("x")) >= 1  # bench/ measures it; this machine may be busy
    assert "$ planc compile examples/01_two_targets/model.py:efficientnet_lite0" in done.stdout


@pytest.mark.slow
def test_make_builds_once_and_follows_what_the_network_imports(tmp_path):
    folder = copy_of_the_project(tmp_path)

    first = make(folder)
    assert first.count("compile net.py:digits") == 2
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        assert accuracy(folder / f"build/digits-{target}") > 0.9
    assert "Nothing to be done" in make(folder)

    touch(folder / "layers.py")  # the Makefile does not name it: the depfile does
    again = make(folder)
    assert again.count("compile net.py:digits") == again.count("unchanged build/digits-") == 2
    assert "train.py" not in again
    assert "Nothing to be done" in make(folder)

    helper = folder / "layers.py"
    helper.write_text(helper.read_text().replace("nn.ReLU()", "nn.SiLU()"))
    touch(helper)
    assert make(folder).count("replaced build/digits-") == 2
    assert "Nothing to be done" in make(folder)


@pytest.mark.slow
def test_make_compiles_again_after_the_weights_change_and_after_a_failure(tmp_path):
    folder, goal = copy_of_the_project(tmp_path), "build/digits-onnxruntime-cpu/manifest.json"
    make(folder, goal)
    touch(folder / "build/digits.safetensors")
    assert "unchanged build/digits-onnxruntime-cpu" in make(folder, goal)

    net = folder / "net.py"
    text = net.read_text()
    net.write_text(text.replace("128, 10", "127, 10"))
    touch(net)
    broken = run_make(folder, goal)
    assert broken.returncode != 0 and "size mismatch" in broken.stderr
    assert run_make(folder, goal).returncode != 0  # it was not marked as done
    net.write_text(text)
    touch(net)
    assert "unchanged build/digits-onnxruntime-cpu" in make(folder, goal)


@pytest.mark.slow
def test_ninja_builds_once_and_then_what_a_helper_touches(tmp_path):
    folder = copy_of_the_project(tmp_path, "03_ninja")
    made = ninja(folder)
    assert made.count("2 jobs: 2 built") == 2
    for model in ("image", "text"):
        for target in ("onnxruntime-cpu", "openvino-cpu"):
            assert planc.load(folder / f"out/{model}-{target}-fp32")
    assert "no work to do" in ninja(folder)

    touch(folder / "blocks.py")  # build.ninja does not name it: the depfile does
    touched = ninja(folder)
    assert touched.count("2 jobs: 2 cached") == 1
    assert "text" not in touched
    assert "no work to do" in ninja(folder)

    times = {path: path.stat().st_mtime_ns for path in folder.glob("out/*/manifest.json")}
    (folder / "blocks.py").write_text((folder / "blocks.py").read_text().replace("nn.ReLU()", "nn.SiLU()"))
    assert "2 jobs: 2 built" in ninja(folder)
    changed = {path.parent.name for path, old in times.items() if path.stat().st_mtime_ns != old}
    assert changed == {"image-onnxruntime-cpu-fp32", "image-openvino-cpu-fp32"}
    assert "no work to do" in ninja(folder)


@pytest.mark.slow
def test_the_ci_builds_its_plan_without_a_gpu(tmp_path):
    folder = copy_of_the_project(tmp_path, "04_ci")
    command = [Path(sys.executable).with_name("planc"), "build", "--only", "*-edge-*", "--require", "net-*"]
    done = subprocess.run([*command, "--junit", "build.xml"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "net-edge-fp16" / "model.plan").is_file()
    assert 'errors="0"' in (folder / "build.xml").read_text()


def copy_of_the_project(tmp_path, name="02_makefile"):
    ignore = shutil.ignore_patterns("build", "out", "__pycache__")
    return shutil.copytree(EXAMPLES / name, tmp_path / "project", ignore=ignore)


def ninja(folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["ninja", "-v"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(folder, *goals):
    done = run_make(folder, *goals)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_make(folder, *goals):
    planc_command = Path(sys.executable).with_name("planc")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", f"PLANC={planc_command}", f"PYTHON={sys.executable}", *goals]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def touch(path):
    """`touch`, but surely newer than what was built a moment ago."""
    time.sleep(0.02)
    path.touch()


def accuracy(folder):
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    images, labels = data.images[1500:, None].astype(np.float32), data.target[1500:]
    session = planc.load(folder)
    batches = [session(x=images[start : start + 32])["output"] for start in range(0, len(images), 32)]
    return np.mean(np.concatenate(batches).argmax(1) == labels)

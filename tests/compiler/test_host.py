"""Facts of this machine, held against other sources of the same facts."""

import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from planc.compiler import host


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_cpu_flags_are_the_kernels() -> None:
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert host.cpu_flags() <= words
    for flag in ("avx", "avx2", "avx512f", "amx_bf16", "avx512_bf16"):
        assert (flag in host.cpu_flags()) == (flag in words)
    assert host.has_bf16() == bool({"amx_bf16", "avx512_bf16", "bf16"} & words)
    assert host.vector_width() in {*words, os.uname().machine}
    assert host.cpu_name()


def test_cores_are_those_that_this_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from planc.compiler import host; print(host.cores())"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "1"
    assert host.cores() >= 1


def test_memory() -> None:
    total = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) << 10
    assert abs(host.memory_bytes() - total) < 1 << 20


def test_versions() -> None:
    assert host.version("numpy") == metadata.version("numpy")
    assert host.version("no-such-package") is None


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'NVIDIA L4, 8.9, 570.1'", ["NVIDIA L4, 8.9, 570.1"]),
        ("echo broken; exit 9", []),
        ("exit 0", []),
    ],
)
def test_gpus_are_what_nvidia_smi_tells(
    script: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert host.gpus.__wrapped__() == tuple(found)


def test_no_gpu_without_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.gpus.__wrapped__() == ()


@pytest.mark.parametrize(("name", "text", "wanted"), [
    ("memory.max", "1073741824\n", 1 << 30),
    ("memory.max", "max\n", None),
    ("memory/memory.limit_in_bytes", "2147483648\n", 1 << 31),
    ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
])  # fmt: skip
def test_memory_of_a_container(tmp_path: Path, name: str, text: str, wanted: int | None) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert host.memory_bytes(tmp_path) == (wanted or host.memory_bytes(tmp_path / "none"))


def test_busy_seconds(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(f"cpu  {ticks} {ticks} {ticks} 999 999 {ticks} {ticks} {ticks} 0 0\ncpu0 1 2\n")
    assert host.busy_seconds(tmp_path / "stat") == 6.0
    assert host.busy_seconds(tmp_path / "gone") == 0.0
    before = host.busy_seconds()
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        pass
    assert host.busy_seconds() > before

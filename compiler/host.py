"""Facts of this machine that decide what can be built and run on it. Standard library only."""

import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

_FLAGS_THAT_MATTER = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512vl", "avx512bw", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip


@cache
def cpu_flags() -> frozenset[str]:
    """Returns the CPU features that change what a kernel does, by their Linux names; empty where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return frozenset(flags) & frozenset(_FLAGS_THAT_MATTER)


@cache
def cpu_name() -> str:
    """Returns the CPU's marketing name, or the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def has_vnni() -> bool:
    """Whether products of 8-bit integers add up without saturating at 16 bits, as they do on x86 before VNNI."""
    x86 = platform.machine() in ("x86_64", "AMD64", "i686")
    return not x86 or bool(cpu_flags() & {"avx_vnni", "avx512_vnni", "amx_int8"})


def vector_width() -> str:
    """Returns the widest vector extension: it decides ONNX Runtime's blocked layouts."""
    return next((flag for flag in ("avx512f", "avx2", "avx") if flag in cpu_flags()), platform.machine())


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the memory that this process may use, in bytes: the machine's, or its container's where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2, v1
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int((cgroup / name).read_text()))
    return min(found)


@cache
def gpus() -> tuple[str, ...]:
    """Returns name and driver of each NVIDIA GPU, as nvidia-smi tells them; empty without one."""
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if not tool:
        return ()
    query = [tool, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """Returns the CPU time of all processes since the start, with what the hypervisor took; 0 where unknown."""
    try:
        user, nice, system, _idle, _wait, irq, soft_irq, steal = map(int, stat.read_text().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


@cache
def version(package: str) -> str | None:
    """Returns the installed version of a distribution, or None."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

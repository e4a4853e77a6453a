"""Players as processes: started, stopped between turns, in turns, and dead."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import files, rounds, subjects
from planc.compiler._subject import Setting, Subject
from planc.compiler.errors import UsageError, WorkerDied


@pytest.fixture
def inputs(tmp_path: Path, image: np.ndarray) -> Path:
    path = tmp_path / "inputs.npz"
    files.save_arrays(path, {"x": image})
    return path


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _alive(pid: int) -> bool:
    try:
        return _state(pid) != "Z"
    except FileNotFoundError:
        return False


def test_measured_in_turns_in_processes_of_their_own(ort_artifact: Path, openvino_artifact: Path, inputs: Path) -> None:
    found = subjects.find([str(ort_artifact), str(openvino_artifact)])
    told: list[str] = []
    seen = rounds.measure(
        found, Setting(threads=1), inputs, seconds=0.2, processes=2, emit=lambda _kind, value: told.append(value)
    )
    assert told[0] == "measure onnxruntime-cpu, openvino-cpu (1 of 2)"
    for measured in seen.values():
        lengths = [len(process) for process in measured.blocks]
        assert len(lengths) == 2
        assert lengths[0] == lengths[1] >= 3, "as many rounds in each process"
        assert len({len(block) for process in measured.blocks for block in process}) == 1
        for cold in measured.cold:
            assert cold.keys() == {"process_ms", "load_ms", "first_run_ms"}
            assert min(cold.values()) > 0
            assert cold["load_ms"] > cold["first_run_ms"]
        assert all(20e6 < peak < 2e9 for peak in measured.peaks)
    one, other = seen.values()
    assert len(one.blocks[0]) == len(other.blocks[0])
    more = rounds.measure(
        found, Setting(threads=1), inputs, seconds=9, processes=1, emit=lambda _kind, _value: None, found=seen
    )
    assert more is seen
    for measured in more.values():
        assert len(measured.blocks) == len(measured.cold) == len(measured.peaks) == 3
        assert len({len(process) for process in measured.blocks}) == 1, "as many rounds as before, whatever the seconds"
        assert len({len(block) for process in measured.blocks for block in process}) == 1


def test_a_player_stands_still_between_turns(ort_artifact: Path, inputs: Path) -> None:
    with rounds.stage(subjects.find([str(ort_artifact)]), Setting(cores=(_core(),), threads=1), inputs) as parts:
        (part,) = parts.values()
        pid = part.process.pid
        assert os.sched_getaffinity(pid) == {_core()}
        assert len(part.turn("block", 3)) == 3
        deadline = time.monotonic() + 5
        while _state(pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _state(pid) == "T"
    assert not Path(f"/proc/{pid}").exists()


def test_the_death_of_a_player_is_told(ort_artifact: Path, inputs: Path) -> None:
    with rounds.stage(subjects.find([str(ort_artifact)]), Setting(threads=1), inputs) as parts:
        (part,) = parts.values()
        part.process.send_signal(signal.SIGKILL)
        with pytest.raises(WorkerDied, match="onnxruntime-cpu was killed by SIGKILL while it was measured"):
            part.turn("block", 3)


def test_a_stopped_player_dies_with_its_conductor(ort_artifact: Path, inputs: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from planc.compiler import rounds, subjects
from planc.compiler._subject import Setting
with rounds.stage(subjects.find([sys.argv[1]]), Setting(threads=1), Path(sys.argv[2])) as parts:
    print([part.process.pid for part in parts.values()][0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, ort_artifact, inputs], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(pid)


def test_errors_of_a_player_keep_their_class(workshop: Path, inputs: Path) -> None:
    broken = Subject("torch:x", "torch", f"{workshop / 'net.py'}:nett")
    with pytest.raises(UsageError, match="no 'nett'") as raised, rounds.stage([broken], Setting(), inputs):
        pass
    assert "Did you mean 'net'" in raised.value.hint


def test_throughput_by_size(ort_artifact: Path, tmp_path: Path) -> None:
    paths = {size: tmp_path / f"{size}.npz" for size in (1, 4)}
    for size, path in paths.items():
        files.save_arrays(path, {"x": np.ones((size, 3, 8, 8), np.float32)})
    setting = Setting(threads=1, streams=2)
    found = rounds.throughput(subjects.find([str(ort_artifact)]), setting, paths, seconds=0.05, rounds=2)
    assert {size: len(rates) for size, rates in found["onnxruntime-cpu"].items()} == {1: 2, 4: 2}
    assert min(min(rates) for rates in found["onnxruntime-cpu"].values()) > 100


def test_the_order_of_turns_is_balanced() -> None:
    orders = [rounds._turn_order("ab", number) for number in range(4)]
    assert orders == [["a", "b"], ["b", "a"], ["b", "a"], ["a", "b"]]
    firsts = [rounds._turn_order("abc", number)[0] for number in range(6)]
    assert sorted(firsts) == list("aabbcc")


def test_energy_is_of_the_packages(tmp_path: Path) -> None:
    assert rounds.energy_joules(tmp_path) is None
    for name, joules in (("intel-rapl:0", 3), ("intel-rapl:1", 4), ("intel-rapl:0:0", 9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{joules * 10**6}\n")
    assert rounds.energy_joules(tmp_path) == 7.0


def test_other_work_is_seen() -> None:
    found: dict[str, float] = {}
    with rounds.watching(found):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
    assert 0 <= found["others_share"] <= 1


def _core() -> int:
    return min(os.sched_getaffinity(0))

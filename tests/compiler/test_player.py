"""The process that runs one subject: here its class, in this process; rounds.py starts it for real."""

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import artifact, player, subjects
from planc.compiler._subject import Setting
from planc.compiler.errors import BuildFailed
from planc.compiler.player import Player


@pytest.mark.parametrize("kind", ["ort", "openvino", "onnx", "torch"])
def test_each_kind_computes_the_same(
    kind: str, ort_artifact: Path, openvino_artifact: Path, workshop: Path, image: np.ndarray
) -> None:
    texts = {"ort": str(ort_artifact), "openvino": str(openvino_artifact), "onnx": str(workshop / "conv.onnx")}
    if kind == "torch":
        (_, subject) = subjects.find([str(ort_artifact)], f"torch:{workshop / 'net.py'}:net")
    else:
        (subject,) = subjects.find([texts[kind]])
    runs = player.load(subject, Setting(threads=1, streams=2))
    assert len(runs) == 2
    (made,) = runs[1]({"x": image})
    assert made.shape == (2, 5)
    if kind != "torch":
        expected = artifact.load(ort_artifact)(x=image)["y"]
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4)
        bounds = ["cosine=0.01"]
        lost = Player(runs, {"x": image}).losses(ort_artifact / "golden.npz", bounds)
        assert lost["losses"]["cosine=0.01"] < 1e-6
        assert lost["samples"] == 2 + 1 + 4, "batch sizes opt, min and max"


def test_warm_up_ends_when_it_is_stable() -> None:
    pauses = iter([0.03] * 12)

    def slow_at_first(_inputs: object) -> list[np.ndarray]:
        time.sleep(next(pauses, 0.01))
        return []

    told = Player([slow_at_first], {}).warm(10.0)
    assert told["stable"]
    assert told["calls"] >= 12 + 10
    assert told["seconds"] < 3
    beats = iter(range(10**6))
    unsteady = Player([lambda _inputs: time.sleep(0.002 * 3 ** (next(beats) // 8 % 3)) or []], {}).warm(0.6)
    assert unsteady["seconds"] < 2


def test_a_block_does_not_count_the_first_call() -> None:
    pauses = iter([0.05])

    def run(_inputs: object) -> list[np.ndarray]:
        time.sleep(next(pauses, 0.001))
        return []

    block = Player([run], {}).block(4)
    assert len(block) == 4
    assert 1 <= max(block) < 40


def test_streams_run_at_once() -> None:
    most, now, lock = 0, 0, threading.Lock()

    def run(_inputs: object) -> list[np.ndarray]:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return []

    rate = Player([run] * 3, {}).together(0.3)
    assert most == 3
    assert 100 < rate <= 300


def test_a_stream_that_fails_fails_all() -> None:
    def broken(_inputs: object) -> list[np.ndarray]:
        raise BuildFailed("no")

    with pytest.raises(BuildFailed, match="no"):
        Player([broken, lambda _inputs: []], {}).together(0.2)


def test_messages() -> None:
    pipe = io.BytesIO()
    player.send(pipe, ("block", 3))
    pipe.seek(0)
    assert player.receive(pipe) == ("block", 3)
    with pytest.raises(EOFError):
        player.receive(pipe)


def test_peak_memory_counts_what_was_let_go(python: Callable[..., str]) -> None:
    before = player.peak_bytes()
    held = np.ones(1 << 27, np.uint8)
    del held
    assert player.peak_bytes() >= max(before, 1 << 27)
    code = "import planc.compiler.player as p; print(p.peak_bytes())"
    assert int(python(code)) < 1 << 27, "the peak of its parent is not its own"

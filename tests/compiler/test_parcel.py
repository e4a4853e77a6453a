"""What a task reads lies on another machine as it lay here, and leads to the same keys."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import build, keys, observe, parcel, project
from planc.compiler.cache import Damaged, Store
from planc.compiler.errors import Unavailable, UsageError
from planc.compiler.remote import Shared
from planc.compiler.stages import trail
from planc.compiler.worker import Limits

Write = Callable[..., Path]

GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,64] x) => (float[n,16] y) {
  y = MatMul(x, w)
}"""
TOML = """
[model.net]
source = "models/net.onnx"
dims = { n = "1..4@2" }
calibration = "calib"
eval = "data.py:batches"
[[build]]
targets = ["null"]
precisions = ["int8"]
gates = { max_drop = { "metrics.py:closeness" = 0.5 } }
"""


@pytest.fixture
def site(tmp_path: Path, onnx_file: Write) -> Path:
    import onnx

    folder = tmp_path / "site"
    (folder / "store").mkdir(parents=True)
    (folder / "models").mkdir()
    inline = onnx_file(tmp_path / "inline.onnx", GRAPH, w=np.ones((64, 16), np.float32))
    onnx.save_model(onnx.load(inline), folder / "store" / "abc", save_as_external_data=True, location="w.bin")
    shutil.move(folder / "store" / "w.bin", folder / "models" / "w.bin")  # beside the name that the user gives
    (folder / "models" / "net.onnx").symlink_to("../store/abc")
    (folder / "calib").mkdir()
    for number in range(2):
        np.save(folder / "calib" / f"{number}.npy", np.ones((2, 64), np.float32))
    (folder / "data.py").write_text("from lib.helper import batches\n")
    (folder / "lib").mkdir()
    (folder / "lib" / "helper.py").write_text("def batches():\n    yield {}\n")
    (folder / "metrics.py").write_text("def closeness(a, b):\n    return 1.0\n")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "other.py").write_text("")
    (folder / "planc.toml").write_text(TOML)
    return folder


def _task(site: Path) -> build.Build:
    entry = project.load(site / "planc.toml").jobs[0]
    return build.Build(entry, Limits(seconds=60), Store(site / "cache"), overwrite=False)


def _there(site: Path, packed: parcel.Parcel) -> tuple[Any, Path]:
    """The job on another machine, and the folder of its files."""
    place = parcel._unpack(packed, site.parent / "there", Store(site / "cache"))
    task = packed.task
    assert isinstance(task, build.Build)

    def move(path: Path) -> Path:
        return place / path.parent.resolve().relative_to(packed.root) / path.name

    return parcel.moved(task.entry.job, move), place


def test_what_is_here_already_travels_by_a_url_too(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are in the local store since a build without the URL; the other machine has a store of its own."""
    lines = "import numpy as np", "def batches():", "    yield {'x': np.ones((2, 64), np.float32)}", ""
    (site / "lib" / "helper.py").write_text("\n".join(lines))
    parcel.pack(_task(site))
    url = (site.parent / "place").as_uri()
    packed = parcel.pack(replace(_task(site), store=Shared(site / "cache", url=url)))
    monkeypatch.setenv("PLANC_CACHE_DIR", str(site.parent / "own"))
    done = parcel.run(pickle.loads(pickle.dumps(packed)), site.parent / "there", lambda _kind, _value: None)
    assert done.value.status == "built"
    here = Shared(site.parent / "third", url=url)
    landed = parcel.land(replace(_task(site), store=here), done)
    assert landed.status == "built" and (Path(landed.out) / "manifest.json").is_file()


def test_all_that_a_job_names_travels_and_no_more(site: Path) -> None:
    packed = parcel.pack(_task(site))
    names = {str(Path(name).relative_to("site")) for name in packed.files}
    assert names == {
        "store/abc", "models/w.bin", "calib/0.npy", "calib/1.npy", "data.py", "lib/helper.py", "metrics.py",
    }  # fmt: skip
    assert packed.links == {"site/models/net.onnx": "site/store/abc"}
    assert {path.stat().st_mode & 0o200 for path in site.rglob("*.py")} == {0o200}  # not blobs


def test_keys_are_the_same_there(site: Path) -> None:
    task = _task(site)
    packed = pickle.loads(pickle.dumps(parcel.pack(task)))
    here, (there, place) = task.entry.job, _there(site, packed)
    store = Store(site / "cache")
    assert keys.model_file(there) == place / "site" / "models" / "net.onnx"
    assert keys.components("export", here, {}, store.digest) == keys.components("export", there, {}, store.digest)
    for data in (here.quantization.calibration.data, here.quantization.guard.data):
        assert str(site) in data
    assert str(site) not in repr(there)
    calibration, guard = there.quantization.calibration, there.quantization.guard
    assert keys._data(calibration.data, store.digest) == keys._data(here.quantization.calibration.data, store.digest)
    assert [keys._bound(one, store.digest) for one in guard.bounds] == [
        keys._bound(one, store.digest) for one in here.quantization.guard.bounds
    ]


def test_a_changed_file_alone_is_kept_anew(site: Path) -> None:
    def inputs() -> int:
        return sum(row["stage"] == "input" for row in Store(site / "cache").listing())

    first = parcel.pack(_task(site))
    before = inputs()
    (site / "lib" / "helper.py").write_text("def batches():\n    yield {'x': 1}\n")
    second = parcel.pack(_task(site))
    assert first.digest != second.digest
    assert inputs() == before + 1
    assert parcel.pack(_task(site)).digest == second.digest


def test_a_parcel_is_unpacked_once(site: Path) -> None:
    packed = parcel.pack(_task(site))
    _, place = _there(site, packed)
    made = place.stat().st_mtime_ns
    assert _there(site, packed)[1].stat().st_mtime_ns == made
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name]


def test_what_is_not_in_the_store_is_damage(site: Path) -> None:
    packed = parcel.pack(_task(site))
    for blob in (site / "cache" / "blobs").iterdir():
        blob.unlink()
    with pytest.raises(Damaged):
        parcel.run(packed, site.parent / "there", lambda *_: None)
    shutil.rmtree(site / "cache")
    with pytest.raises(Damaged, match="not in the cache"):
        parcel.run(packed, site.parent / "there", lambda *_: None)


def test_another_planc_is_refused(site: Path) -> None:
    packed = replace(parcel.pack(_task(site)), planc="0" * 64)
    with pytest.raises(Unavailable, match="another planc"):
        parcel.run(packed, site.parent / "there", lambda *_: None)


def test_a_folder_of_everything_is_refused(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "MOST_PYTHON", 2)
    with pytest.raises(UsageError, match="more than 2 Python files"):
        parcel.pack(_task(site))


def test_memory_is_bounded_by_the_machine_or_by_the_user(site: Path) -> None:
    task = _task(site)
    job = task.entry.job
    packed = parcel.pack(replace(task, limits=Limits(60, 1 << 30, 1 << 30)))
    assert not packed.own_limits
    assert parcel._limits(packed, job, 0).cap == 1 << 30
    assert parcel._limits(packed, job, 1 << 20).cap == 1 << 20


def test_an_artifact_that_was_made_there_lands_here(site: Path, onnx_file: Write) -> None:
    (site / "planc.toml").write_text(
        TOML.partition("calibration =")[0] + '[[build]]\ntargets = ["null"]\nprecisions = ["fp32"]\n'
    )
    task = _task(site)
    delivery = parcel.run(parcel.pack(task), site.parent / "there", lambda *_: None)
    assert not task.entry.out.exists()
    outcome = parcel.land(task, delivery)
    assert (outcome.status, outcome.out) == ("built", str(task.entry.out))
    made = {path: path.stat().st_mtime_ns for path in task.entry.out.iterdir()}
    assert {path.name for path in made} >= {"manifest.json", "model.onnx"}
    done, missing, _ = trail(task.entry.job, task.store)
    assert missing == ""
    again = parcel.land(task, parcel.run(parcel.pack(task), site.parent / "there", lambda *_: None))
    assert again.status == "cached"
    assert {path: path.stat().st_mtime_ns for path in task.entry.out.iterdir()} == made
    assert observe.holds(done["export"].reads, keys.anchor(task.entry.job), task.store.digest)

"""The store: what is damaged is never used, what two want at once is made once, what is unused can go."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from planc.compiler import cache, files, pipeline, recipe
from planc.compiler.cache import Damaged, Entry, Store, key_of
from planc.compiler.errors import IOFailed, UsageError
from planc.compiler.worker import Limits

LIMITS = Limits(300)


def _entry(stage: str = "optimize", **components: Any) -> Entry:
    return Entry(stage, "", {"stage": stage, **components}, {}, {}, {"fact": 1})


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _saved(store: Store, tmp_path: Path, content: bytes = b"weights", **components: Any) -> Entry:
    return store.save(_entry(**components), {"model.onnx": _file(tmp_path / "made", content)})


def _blob(store: Store, content: bytes = b"weights") -> Path:
    (path,) = (path for path in (store.root / "blobs").iterdir() if path.read_bytes() == content)
    return path


def test_what_is_saved_is_found_and_restored(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    entry = _saved(store, tmp_path, a=1)
    found = store.find(key_of(entry.components), lambda _: False)
    assert found == entry
    assert store.find(key_of({**entry.components, "a": 2}), lambda _: True) is None
    store.restore(entry, lambda name: tmp_path / "out" / name, copied=True)
    out = tmp_path / "out" / "model.onnx"
    assert out.read_bytes() == b"weights"
    assert out.stat().st_nlink == 1  # the user may write to it
    assert os.access(out, os.W_OK)


def test_reads_decide_among_the_results_of_one_base(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    base = {"stage": "export"}
    old = store.save(Entry("export", "", base, {"files": {"a.py": "1"}}, {}, {"n": 1}), {})
    new = store.save(Entry("export", "", base, {"files": {"a.py": "2"}}, {}, {"n": 2}), {})
    assert store.find(key_of(base), lambda reads: reads["files"]["a.py"] == "1") == old
    assert store.find(key_of(base), lambda reads: reads["files"]["a.py"] == "2") == new
    assert store.find(key_of(base), lambda _: False) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_blob_is_never_given(damage: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    entry = _saved(store, tmp_path)
    blob = _blob(store)
    blob.chmod(0o644)
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(b"weighss" if damage == "flip" else b"weig")
    with pytest.raises(Damaged):
        store.restore(entry, lambda name: tmp_path / "out" / name)
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert store.find(key_of(entry.components), lambda _: True) is None
    assert _saved(store, tmp_path) == entry


@pytest.mark.parametrize("kind", ["entries", "traces"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1, "sealed": "", "content": {}}'])
def test_a_damaged_entry_is_none(kind: str, content: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    entry = _saved(store, tmp_path)
    (path,) = (store.root / kind).iterdir()
    path.write_bytes(content)
    assert store.find(key_of(entry.components), lambda _: True) is None


def test_a_changed_number_breaks_the_seal() -> None:
    text = cache.sealed({"bytes": 12})
    assert cache.unsealed(text) == {"bytes": 12}
    assert cache.unsealed(text.replace("12", "13")) is None


def test_an_artifact_of_a_damaged_store_is_built_again(workshop: Path, tmp_path: Path) -> None:
    source = recipe.source(str(workshop / "conv.onnx"), dims=["batch=1..4@2"])
    job, store = recipe.job(source, "null", "fp32"), Store(tmp_path / "cache")
    pipeline.run(job, tmp_path / "one", limits=LIMITS, store=store)
    for blob in (store.root / "blobs").iterdir():
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.chmod(0o644)
        blob.write_bytes(content)
    notes: list[str] = []
    again = pipeline.run(
        job,
        tmp_path / "two",
        limits=LIMITS,
        store=store,
        on_event=lambda kind, value: notes.append(str(value)) if kind == "note" else None,
    )
    assert again.made == ("export", "optimize", "build")  # verify kept what export keeps: whole again
    assert any("damaged" in note for note in notes)
    for name in ("model.onnx", "golden.npz", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert store.verify()[1] == []


def test_the_memo_of_digests_sees_what_a_clock_does_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    path = _file(tmp_path / "w.bin", b"a" * 100)
    assert store.digest(path) == files.digest(path)  # just written: not remembered on disk
    assert not (store.root / "digests").exists()
    facts = path.stat()
    path.write_bytes(b"b" * 100)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # the old size and time: its change time tells
    assert Store(store.root).digest(path) == files.digest(path)


def test_an_old_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path / "w.bin", b"a" * 100)
    monkeypatch.setattr(cache, "_RACY_NS", -1)
    expected = Store(tmp_path / "cache").digest(path)
    monkeypatch.setattr(files, "digest", lambda _: pytest.fail("the file is read again"))
    assert Store(tmp_path / "cache").digest(path) == expected


def _make_once(root: Path, log: Path) -> None:
    store, components = Store(root), {"stage": "build"}
    with store.lock(key_of(components), lambda: None):
        if store.find(key_of(components), lambda _: True) is None:
            with log.open("a") as file:
                file.write("made\n")
            time.sleep(0.2)
            store.save(_entry("build"), {})


def test_eight_at_once_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_make_once, args=(tmp_path / "cache", tmp_path / "log")) for _ in range(8)]
    for one in running:
        one.start()
    for one in running:
        one.join(60)
    assert [one.exitcode for one in running] == [0] * 8
    assert (tmp_path / "log").read_text() == "made\n"


def _hold(root: Path, ready: Path) -> None:
    with Store(root).lock("k", lambda: None):
        ready.touch()
        time.sleep(60)


def test_a_killed_holder_frees_its_lock(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "cache", tmp_path / "ready"))
    holder.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    waited: list[bool] = []

    def kill() -> None:
        waited.append(True)
        os.kill(holder.pid or 0, signal.SIGKILL)

    with Store(tmp_path / "cache").lock("k", kill):
        assert waited == [True]
    holder.join(10)


def test_a_place_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    _file(tmp_path / "cache", b"a file")
    with pytest.raises(IOFailed) as caught:
        _saved(Store(tmp_path / "cache"), tmp_path)
    assert caught.value.what.startswith("cache: ")
    assert "--no-cache" in caught.value.hint


def test_prune_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    entries = [_saved(store, tmp_path, bytes([number]) * 100, number=number) for number in range(4)]
    shared = _saved(store, tmp_path, bytes([3]) * 100, number=9)
    for age, entry in enumerate(reversed([*entries, shared])):
        os.utime(store.root / "entries" / f"{entry.key}.json", (1e9 - age, 1e9 - age))
    assert store.bytes() == 400
    assert store.find(key_of(entries[0].components), lambda _: True)  # used just now
    assert store.prune(200) == (2, 200)
    assert {row["key"] for row in store.listing()} == {entries[0].key, entries[3].key, shared.key}
    store.restore(shared, lambda name: tmp_path / "out" / name)
    assert store.prune(0) == (3, 200)


def test_verify_finds_and_removes_damage(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    _saved(store, tmp_path)
    whole, damaged = store.verify()
    assert (whole, damaged) == (3, [])
    blob = _blob(store)
    blob.chmod(0o644)
    blob.write_bytes(b"weighss")
    assert store.verify() == (2, [f"blobs/{blob.name}"])
    assert not blob.exists()


def test_an_entry_is_named_by_the_start_of_its_key(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    entry = _saved(store, tmp_path)
    assert store.named(entry.key[:8]) == entry
    with pytest.raises(UsageError, match="0 entries"):
        store.named("xyz")


def test_nothing_is_left_beside_the_final_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "cache")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "link_or_copy", full)
    with pytest.raises(IOFailed, match="no space left"):
        _saved(store, tmp_path)
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == []


def test_the_last_build_is_remembered_by_job_and_stage(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    entry = _saved(store, tmp_path, a=1)
    assert store.last("net", "optimize") is None
    store.note_last("net", entry)
    assert json.loads(json.dumps(store.last("net", "optimize")))["components"] == {"stage": "optimize", "a": 1}
    assert store.last("other", "optimize") is None

"""A shared cache: runners take from each other what is whole, and build without it where it is not there."""

import json
import logging
import pickle
import socket
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import build, project, remote
from planc.compiler.cache import Entry, Store, key_of, sealed
from planc.compiler.errors import Unavailable, UsageError
from planc.compiler.executors import local
from planc.compiler.remote import Shared

Write = Callable[..., Path]

TOML = """
[model.one]
source = "one.onnx"
dims = { n = "1..4@2" }
calibration = "calib.npz"
[[build]]
targets = ["onnxruntime-cpu"]
precisions = ["int8"]
"""
GRAPH = """<ir_version: 8, opset_import: ["": 18]>
g (float[n,64] x) => (float[n,16] y) {
  a = MatMul(x, w)
  y = Relu(a)
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, onnx_file: Write) -> Path:
    folder, rng = tmp_path_factory.mktemp("site"), np.random.default_rng(1)
    onnx_file(folder / "one.onnx", GRAPH, w=rng.standard_normal((64, 16), dtype=np.float32))
    np.savez(folder / "calib.npz", x=rng.standard_normal((16, 64), dtype=np.float32))
    (folder / "planc.toml").write_text(TOML)
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A bucket of a server on this machine, as an fsspec file system."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key-of-a-runner")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-a-runner")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        found = s3fs.S3FileSystem(use_listings_cache=False)
        found.mkdir("bucket")
        yield found
    server.stop()


@pytest.fixture(autouse=True)
def anew() -> None:
    """A file system of fsspec keeps the endpoint of the environment that it was made in."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: [one.getMessage() for one in caplog.records if one.name.startswith("planc")]


class Runner(Shared):
    """A runner's store; knows what was made."""

    def share(self, entry: Entry) -> None:
        self._made.append(entry.stage)
        super().share(entry)

    @cached_property
    def _made(self) -> list[str]:
        return []


def _run(site: Path, folder: Path, url: str, *overrides: str) -> list[str]:
    """Builds as a runner does that has nothing but the sources and the URL; returns the stages that it made."""
    read = project.load(site / "planc.toml", overrides=[f"output={folder / 'out'}", *overrides])
    store = Runner(folder / "cache", url=url)
    rows = build.run(read, read.jobs, store=store, executor=local.create(2))
    assert not [row.reason for row in rows if row.status == "failed"]
    return sorted(store._made)


def _content(s3: Any, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(s3.cat_file(name))["content"]
    return content


def _payloads(folder: Path) -> dict[str, bytes]:
    assert folder.is_dir()
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("model.onnx")}


ALL = sorted(["export", "optimize", "calibrate", "lower", "build", "verify"])


@pytest.fixture(scope="module")
def shared(site: Path, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a first runner has built, and shared as s3://bucket/shared."""
    folder = tmp_path_factory.mktemp("first")
    assert _run(site, folder, "s3://bucket/shared") == ALL
    return folder


def _entry(**components: Any) -> Entry:
    return Entry("export", "", {"stage": "export", **components}, {}, {}, {"n": 1})


def _saved(store: Store, folder: Path, content: str = "graph", **components: Any) -> Entry:
    path = folder / "made" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(content)
    return store.save(_entry(**components), {"model.onnx": path})


def _found(store: Store, entry: Entry) -> Entry | None:
    return store.find(key_of(entry.components), lambda _: True)


# Builds


def test_a_second_runner_gets_all_stages_from_s3(site: Path, s3: Any, shared: Path, tmp_path: Path) -> None:
    entries, blobs = s3.find("bucket/shared/entries"), s3.find("bucket/shared/blobs", detail=True)
    assert len(entries) == len(ALL)
    assert _run(site, tmp_path, "s3://bucket/shared") == []
    assert _payloads(tmp_path) == _payloads(shared)
    assert len(list((tmp_path / "cache" / "blobs").iterdir())) < len(blobs)  # what the artifact needs
    assert s3.find("bucket/shared/blobs", detail=True) == blobs
    text = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    text += "".join(s3.cat_file(name).decode() for name in entries)
    assert not [word for word in ("secret-of", "key-of", "bucket") if word in text]


def test_what_is_here_needs_no_server(site: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_within", lambda *_: pytest.fail("the place was asked"))
    assert _run(site, shared, "s3://bucket/shared") == []


def test_a_lost_stage_is_made_from_what_others_have_left(site: Path, s3: Any, shared: Path, tmp_path: Path) -> None:
    s3.copy("bucket/shared", "bucket/lost", recursive=True)
    blobs = s3.find("bucket/lost/blobs", detail=True)
    (name,) = (name for name in s3.find("bucket/lost/entries") if _content(s3, name)["stage"] == "build")
    s3.rm_file(name)
    assert _run(site, tmp_path, "s3://bucket/lost") == ["build", "verify"]  # its worker knows what is here only
    assert s3.find("bucket/lost/blobs", detail=True) == blobs  # nothing is uploaded that is there


def test_shards_of_a_calibration_come_from_others(site: Path, s3: Any, shared: Path, tmp_path: Path) -> None:
    s3.copy("bucket/shared", "bucket/shards", recursive=True)
    lost = [one for one in s3.find("bucket/shards/entries") if _content(s3, one)["stage"] == "calibrate"]
    s3.rm_file(*lost)
    shards = "model.one.shards=2"
    assert _run(site, tmp_path / "1", "s3://bucket/shards", shards) == ["calibrate", "shard 1/2", "shard 2/2"]
    s3.rm_file(*lost)
    assert _run(site, tmp_path / "2", "s3://bucket/shards", shards) == ["calibrate"]
    assert _payloads(tmp_path / "2") == _payloads(shared)


def test_an_edit_that_changes_no_graph_leads_to_what_others_have_made(
    site: Path, s3: Any, shared: Path, tmp_path: Path
) -> None:
    import onnx

    s3.copy("bucket/shared", "bucket/edited", recursive=True)
    (tmp_path / "site").mkdir()
    for name in ("planc.toml", "calib.npz"):
        (tmp_path / "site" / name).write_bytes((site / name).read_bytes())
    model = onnx.load(site / "one.onnx")
    model.producer_name = "another"
    onnx.save(model, tmp_path / "site" / "one.onnx")
    made = _run(tmp_path / "site", tmp_path, "s3://bucket/edited")
    assert "export" in made
    assert "build" not in made


def test_a_bit_flipped_blob_is_refused_made_again_and_replaced(
    site: Path, s3: Any, shared: Path, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    s3.copy("bucket/shared", "bucket/flipped", recursive=True)
    (built,) = (one for name in s3.find("bucket/flipped/entries") if (one := _content(s3, name))["stage"] == "build")
    name = f"bucket/flipped/blobs/{built['outputs']['payload/model.onnx']['sha256']}"
    whole = s3.cat_file(name)
    s3.pipe_file(name, bytes([whole[0] ^ 1]) + whole[1:])
    assert _run(site, tmp_path / "second", "s3://bucket/flipped") == ["build"]
    assert _payloads(tmp_path / "second") == _payloads(shared)
    assert [line.partition(":")[0] for line in warnings()] == ["planc"]
    assert warnings()[0].endswith("is damaged there, and not used")
    assert s3.cat_file(name) == whole
    assert _run(site, tmp_path / "third", "s3://bucket/flipped") == []


def test_entries_without_their_blobs_are_made_again_and_uploaded(
    site: Path, s3: Any, shared: Path, tmp_path: Path
) -> None:
    s3.copy("bucket/shared/entries", "bucket/half/entries", recursive=True)
    made = _run(site, tmp_path, "s3://bucket/half")
    assert made == [stage for stage in ALL if stage != "verify"]  # it left facts only
    assert s3.find("bucket/half/blobs") == [name.replace("shared", "half") for name in s3.find("bucket/shared/blobs")]


def test_a_server_that_is_gone_is_told_once(site: Path, tmp_path: Path, monkeypatch: Any, warnings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://key:secret@127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert _run(site, tmp_path, "s3://key:secret@bucket/gone?token=secret") == ALL
    (line,) = warnings()
    assert "the shared cache s3://bucket/gone: " in line
    assert line.endswith("; this build goes on without it")
    assert "secret" not in line


# The command line


def test_the_command_line_takes_a_url_or_that_of_planc_toml(
    site: Path, s3: Any, shared: Path, tmp_path: Path, planc: Callable[..., Any]
) -> None:
    url = "s3://bucket/shared"
    for name, words in {"flag": ["--cache", url], "file": ["--set", f"cache.url={url}"]}.items():
        place = {"cwd": site, "PLANC_CACHE_DIR": str(tmp_path / name)}
        done = planc("plan", *words, "--format", "json", **place)
        assert {row["state"] for one in json.loads(done.stdout)["jobs"] for row in one["stages"]} == {"cached"}
        done = planc("build", *words, "--set", f"output={tmp_path / name / 'out'}", "--format", "json", **place)
        assert [(row["status"], row["made"]) for row in json.loads(done.stdout)["jobs"]] == [("cached", [])]
        assert _payloads(tmp_path / name / "out") == _payloads(shared / "out")


def test_the_command_line_keeps_secrets(
    site: Path, planc: Callable[..., Any], tmp_path: Path, onnx_file: Write
) -> None:
    url = "s3://key:secret@bucket/a?token=secret"
    words = ("--cache", url, "-t", "openvino-cpu", "-o", "art")
    text = """<ir_version: 8, opset_import: ["" : 18, "com.microsoft": 1]>
    g (float[2,8] x) => (float[2,4] y) { y = com.microsoft.CDist<metric="euclidean">(x, w) }"""
    onnx_file(tmp_path / "cdist.onnx", text, w=np.ones((4, 8), np.float32))
    done = planc("compile", "cdist.onnx", *words, cwd=tmp_path, expect=4)
    assert "--cache 's3://bucket/a'" in done.stderr
    assert done.stderr.count("this build goes on without it") == 1
    assert "secret" not in done.stdout + done.stderr
    done = planc("plan", "--cache", url.replace("s3", "no"), cwd=site, expect=2)
    assert done.stderr.startswith("planc: --cache no://bucket/a: ")
    assert "secret" not in done.stderr


# Single entries


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """A server that takes connections and never answers."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield [server]


def test_a_server_that_hangs_is_asked_once(silent: Any, tmp_path: Path, monkeypatch: Any, warnings: Any) -> None:
    monkeypatch.setattr(remote, "_SECONDS", 0.5)
    asked = []
    within = remote._within
    monkeypatch.setattr(remote, "_within", lambda *words: (asked.append(words), within(*words))[1])
    store = Shared(tmp_path / "cache", url="s3://bucket/silent")
    for number in range(3):
        entry = _entry(number=number)
        assert _found(store, entry) is None
        assert _found(store, _saved(store, tmp_path, number=number))
    assert len(asked) == 1
    assert warnings() == [
        "planc: the shared cache s3://bucket/silent: it does not answer; this build goes on without it"
    ]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_an_entry_travels(kind: str, tmp_path: Path) -> None:
    url = f"{kind}://{tmp_path}/shared"
    entry = _saved(Shared(tmp_path / "a", url=url), tmp_path)
    other = Shared(tmp_path / "b", url=url)
    assert _found(other, entry) == entry
    assert _found(other.local, entry) == entry
    other.restore(entry, lambda name: tmp_path / "out" / name, copied=True)
    assert (tmp_path / "out" / "model.onnx").read_text() == "graph"
    assert other.verify()[1] == []


def test_two_runners_keep_what_they_saw_read_beside_each_other(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shared"
    stores = [Shared(tmp_path / name, url=url) for name in "ab"]
    base = {"stage": "export"}
    for number, store in enumerate(stores):
        store.save(Entry("export", "", base, {"files": {"helper.py": str(number)}}, {}, {"n": number}), {})
    fresh = Shared(tmp_path / "c", url=url)
    for number in range(2):
        found = fresh.find(key_of(base), lambda reads, number=number: reads["files"]["helper.py"] == str(number))
        assert found is not None
        assert found.facts == {"n": number}
    assert fresh.find(key_of(base), lambda _: False) is None


def _damaged(text: str) -> str:
    return text.replace('"n": 1', '"n": 2')


def _of_another(text: str) -> str:
    content = json.loads(text)["content"]
    return sealed({**content, "components": {"stage": "export", "a": 2}})


def _with_a_key_of_another(text: str) -> str:
    return sealed({**json.loads(text)["content"], "key": "0" * 64})


def _leading_away(text: str) -> str:
    content = json.loads(text)["content"]
    return sealed({**content, "outputs": {"../../model.onnx": content["outputs"]["model.onnx"]}})


def _cut(text: str) -> str:
    return text[: len(text) // 2]


@pytest.mark.parametrize("damage", [_damaged, _of_another, _with_a_key_of_another, _leading_away, _cut])
def test_an_entry_that_is_not_what_was_asked_for_is_refused(
    damage: Callable[[str], str], tmp_path: Path, warnings: Any
) -> None:
    url = f"file://{tmp_path}/shared"
    entry = _saved(Shared(tmp_path / "a", url=url), tmp_path)
    (path,) = (tmp_path / "shared" / "entries").rglob("*.json")
    whole = path.read_text()
    path.write_text(damage(whole))
    other = Shared(tmp_path / "b", url=url)
    assert _found(other, entry) is None
    assert "is damaged there, and not used" in warnings()[0]
    _saved(other, tmp_path)
    assert path.read_text() == whole


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
def test_a_blob_that_is_not_whole_is_refused_once_and_uploaded_anew(damage: str, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shared"
    entry = _saved(Shared(tmp_path / "a", url=url), tmp_path)
    (path,) = (tmp_path / "shared" / "blobs").iterdir()
    if damage == "missing":
        path.unlink()
    else:
        path.chmod(0o644)
        path.write_text("Graph" if damage == "flipped" else "gra")
    other = Shared(tmp_path / "b", url=url)
    assert _found(other, entry) == entry
    other.fetch(entry)
    assert _found(other, entry) is None  # no second try, so that a build comes to its end
    _saved(other, tmp_path)
    assert path.read_text() == "graph"


def test_a_place_that_is_read_only_is_read(tmp_path: Path, monkeypatch: Any, warnings: Any) -> None:
    url = f"file://{tmp_path}/shared"
    entry = _saved(Shared(tmp_path / "a", url=url), tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Access Denied")

    store = Shared(tmp_path / "b", url=url)
    fs, _ = store._remote._open()
    monkeypatch.setattr(fs, "put_file", refuse)
    _saved(store, tmp_path, "other", number=2)
    _saved(store, tmp_path, "another", number=3)
    assert _found(store, entry) == entry
    (line,) = warnings()
    assert line.endswith("Access Denied; nothing is written there")


# Opening


def test_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path))
    assert remote.open_store(None) == Store(tmp_path)
    assert remote.open_store("cache", "s3://bucket") == Store(Path("cache"))
    assert remote.open_store(None, "s3://bucket") == Shared(tmp_path, url="s3://bucket")
    assert remote.open_store("s3://mine", "s3://bucket") == Shared(tmp_path, url="s3://mine")


def test_a_copy_for_another_process_knows_the_place_and_shows_no_secret(tmp_path: Path) -> None:
    store = Shared(tmp_path, url="s3://key:secret@bucket")
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert copy._remote.url == store.url
    assert type(store.local) is Store
    assert "secret" not in repr(store)


def test_an_unknown_protocol(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--cache nonsense://place: .*nonsense") as caught:
        _found(Shared(tmp_path, url="nonsense://key:secret@place"), _entry())
    assert "secret" not in str(caught.value)


def test_a_protocol_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(Unavailable, match=r"--cache gs://bucket: .*gcsfs"):
        _found(Shared(tmp_path, url="gs://bucket"), _entry())

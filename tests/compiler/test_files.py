"""Files that are whole or not there."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from planc.compiler import files, html
from planc.compiler.errors import IOFailed, UsageError


def _dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_staging_leaves_nothing_behind(tmp_path: Path) -> None:
    final = tmp_path / "a" / "b" / "out"
    with files.staging(final) as folder:
        assert folder.parent == final.parent
        (folder / "x").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_staging_leaves_nothing_behind_after_an_error(tmp_path: Path) -> None:
    final = tmp_path / "new" / "out"
    with pytest.raises(KeyError), files.staging(final):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_published_into_stays(tmp_path: Path) -> None:
    final = tmp_path / "new" / "out.txt"
    with files.staging(final) as folder:
        (folder / "out.txt").write_text("whole")
        files.publish(folder / "out.txt", final)
    assert final.read_text() == "whole"
    assert [path.name for path in final.parent.iterdir()] == ["out.txt"]


def test_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    dead = tmp_path / f".out.planc-{_dead_process()}"
    alive = tmp_path / f".out.planc-{os.getppid()}"
    other = tmp_path / f".other.planc-{_dead_process()}"
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / "big").write_text("x")
    with files.staging(tmp_path / "out"):
        assert not dead.exists()
        assert alive.exists()
        assert other.exists()


def test_publish_replaces_a_folder_whole(tmp_path: Path) -> None:
    final = tmp_path / "out"
    final.mkdir()
    (final / "old").write_text("old")
    with files.staging(final) as folder:
        (folder / "made").mkdir()
        (folder / "made" / "new").write_text("new")
        files.publish(folder / "made", final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_below_a_file_is_an_io_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IOFailed) as caught, files.staging(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_place_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(IOFailed, match="cannot write"), files.staging(tmp_path / "out"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot write to"), (errno.EIO, "I/O error")]
)
def test_io_failure_says_what_and_where(number: int, said: str, tmp_path: Path) -> None:
    place = tmp_path / "not" / "yet" / "there"
    failure = files.io_failure(OSError(number, os.strerror(number).replace("Input/output", "I/O")), place)
    assert said in failure.what
    assert str(place) in failure.what
    assert failure.hint


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_arrays_come_back_and_their_bytes_depend_on_them_only(tmp_path: Path) -> None:
    arrays = {"b": np.arange(3), "a/x": np.ones((2, 2), np.float16)}
    first, second = tmp_path / "1.npz", tmp_path / "2.npz"
    files.save_arrays(first, arrays)
    os.utime(first, (0, 0))
    files.save_arrays(second, dict(reversed(arrays.items())))
    assert first.read_bytes() == second.read_bytes()
    back = files.load_arrays(first)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_load_arrays_refuses_pickles_and_rubbish(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    np.save(tmp_path / "single.npy", np.ones(3))
    (tmp_path / "rubbish.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty.npz").touch()
    for name in ("pickled.npz", "single.npy", "rubbish.npz", "empty.npz", "missing.npz"):
        with pytest.raises(UsageError) as caught:
            files.load_arrays(tmp_path / name)
        assert name in caught.value.what
        assert caught.value.hint


def test_require_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("x")
    files.require_file(tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=r"no such file.*Did you mean 'model\.onnx'"):
        files.require_file(tmp_path / "modle.onnx")
    with pytest.raises(UsageError, match="not a regular file"):
        files.require_file(tmp_path)


def test_depfile_is_read_by_make(tmp_path: Path) -> None:
    names = ["plain.py", "with space.py", "dollar$.py", "hash#.py"]
    for name in names:
        (tmp_path / name).write_text("")
    files.write_depfile(tmp_path / "out.d", {Path("out dir"): [Path(name) for name in names]})
    assert (tmp_path / "out.d").read_text().startswith("out\\ dir: plain.py with\\ space.py dollar$$.py hash\\#.py\n")
    (tmp_path / "Makefile").write_text("all: out\\ dir\nout\\ dir:\n\t@echo made from $(words $^)\ninclude out.d\n")

    def make() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["make", "--no-print-directory"], cwd=tmp_path, capture_output=True, text=True)

    assert "made from" in make().stdout
    (tmp_path / "out dir").write_text("")
    assert "made from" not in make().stdout
    for name in names:
        os.utime(tmp_path / name, (2**31, 2**31))
        assert "made from" in make().stdout, name
        os.utime(tmp_path / name, (0, 0))
        assert "made from" not in make().stdout, name
    (tmp_path / "plain.py").unlink()  # a source that vanished must not break the build
    assert make().returncode == 0


def test_a_depfile_has_a_rule_for_each_output_and_names_what_is_below_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared, own, far = tmp_path / "src" / "shared.py", tmp_path / "own.py", Path("/far/weights.bin")
    files.write_depfile(Path("out.d"), {Path("out/a"): [shared, own], Path("out/b"): [shared, far]})
    rules = ["out/a: src/shared.py own.py", "out/b: src/shared.py /far/weights.bin"]
    assert Path("out.d").read_text().splitlines() == [*rules, "src/shared.py:", "own.py:", "/far/weights.bin:"]


def test_the_model_itself_is_replaced_only_by_name(workshop: Path) -> None:
    from planc.compiler import optimize, single
    from planc.compiler.worker import Limits

    model = workshop / "made.onnx"
    single.optimize_file(workshop / "conv.onnx", model, optimize.Recipe(embed=True), limits=Limits(60))
    before = model.read_bytes()
    with pytest.raises(UsageError, match=r"is the model itself. Give another -o; --overwrite replaces the model"):
        single.optimize_file(model, model, optimize.Recipe(embed=True), limits=Limits(60))
    assert model.read_bytes() == before
    single.optimize_file(model, model, optimize.Recipe(embed=True), limits=Limits(60), overwrite=True)


class TestTexts:
    """JUnit files, depfiles and documents of a bench: what they replace."""

    def test_one_of_the_kind_and_what_is_empty_may_be_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "a.d").write_text("out/net/manifest.json: net.py\n")
        (tmp_path / "a.xml").write_text('<?xml version="1.0"?>\n<testsuites/>\n')
        (tmp_path / "a.html").write_text("<!doctype html>\n<html>")
        (tmp_path / "empty").touch()
        files.require_text("--html", tmp_path / "a.html", *html.BEGINS)
        files.require_text("--depfile", tmp_path / "a.d", holds="manifest.json:")
        files.require_text("--junit", tmp_path / "a.xml", "<?xml")
        for out in (tmp_path / "empty", tmp_path / "absent", Path("/dev/null"), None):
            files.require_text("--junit", out, "<?xml")

    def test_no_other(self, tmp_path: Path) -> None:
        (tmp_path / "net.py").write_text("def net():\n    return 1\n")
        with pytest.raises(UsageError, match=r"--depfile .*net\.py exists and is no file of that kind"):
            files.require_text("--depfile", tmp_path / "net.py", holds="manifest.json:")
        with pytest.raises(UsageError, match=r"--junit .* exists"):
            files.require_text("--junit", tmp_path / "net.py", "<?xml")
        with pytest.raises(UsageError, match=r"--html .* exists"):
            files.require_text("--html", tmp_path / "net.py", *html.BEGINS)
        with pytest.raises(UsageError, match="is a folder"):
            files.require_text("--junit", tmp_path, "<?xml")

    def test_links_are_followed_and_devices_stay(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_text("old")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        files.write_text(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == "new"
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        files.write_text(tmp_path / "pipe", "into it")
        assert os.read(reader, 100) == b"into it"
        os.close(reader)
        assert (tmp_path / "pipe").is_fifo()

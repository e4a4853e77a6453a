"""Lists of layers that stay in floating point: written, read, refused."""

from pathlib import Path

import pytest

from planc.compiler import exclusions, recipe
from planc.compiler.errors import UsageError

ROWS = (
    {"name": "/a/Conv", "origin": "net.a", "noise": 0.001},
    {"name": "b#1", "origin": "", "noise": 0.5},
)


def test_what_is_written_is_read_costliest_first(tmp_path: Path) -> None:
    path = tmp_path / "new" / "list.txt"
    exclusions.write(path, ROWS, ("head.*",))
    assert exclusions.read(path) == ["b#1", "/a/Conv", "head.*"]
    assert path.read_text().splitlines()[1:] == [
        "b#1  # noise 0.5 alone",
        "/a/Conv  # net.a, noise 0.001 alone",
        "head.*  # by --exclude",
    ]
    assert [one.name for one in path.parent.iterdir()] == ["list.txt"]


def test_an_empty_list_is_a_file_that_excludes_nothing(tmp_path: Path) -> None:
    exclusions.write(tmp_path / "list.txt", (), ())
    assert recipe.quantization(keep=[f"@{tmp_path / 'list.txt'}"]).keep == ()


def test_a_list_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("# ours\n\n  conv1  \nconv2\t# why\n")
    assert exclusions.read(tmp_path / "own.txt") == ["conv1", "conv2"]


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text"):
        exclusions.read(tmp_path / "list.txt")


def test_only_a_list_of_plancs_is_replaced(tmp_path: Path) -> None:
    exclusions.write(tmp_path / "list.txt", (), ())
    exclusions.require_replaceable(tmp_path / "list.txt")
    (tmp_path / "net.py").write_text("import torch\n")
    for taken, told in (("net.py", "exists and is no file of that kind"), (".", "is a folder")):
        with pytest.raises(UsageError, match=f"--write-exclude .* {told}"):
            recipe.quantization(max_drop=["cosine=0.1"], listing=tmp_path / taken)


@pytest.mark.parametrize("option", ["state", "listing"])
def test_a_search_is_wanted(option: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="goes with a search"):
        recipe.quantization(**{option: tmp_path / "list.txt"})

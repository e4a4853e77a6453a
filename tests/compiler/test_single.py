"""Each stage alone, from file to file."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.compiler import recipe, single
from planc.compiler.cache import Store
from planc.compiler.errors import UsageError
from planc.compiler.worker import Limits

LIMITS = Limits(300)


def test_export_file(workshop: Path, tmp_path: Path, infer: Callable[..., list[Any]], image: np.ndarray) -> None:
    source = recipe.source(str(workshop / "conv.onnx"), dims=["batch=1..4@2"])
    out = tmp_path / "made.onnx"
    made = single.export_file(source, out, limits=LIMITS)
    assert made["status"] == "built"
    assert made["facts"]["producer"] == "planc"
    expected = infer(workshop / "conv.onnx", x=image)[0]
    np.testing.assert_array_equal(infer(out, x=image)[0], expected)
    os.utime(out, (1, 1))
    assert single.export_file(source, out, limits=LIMITS)["status"] == "unchanged"
    assert out.stat().st_mtime == 1
    foreign = Path(shutil.copy(workshop / "conv.onnx", tmp_path / "foreign.onnx"))
    with pytest.raises(UsageError, match=r"was not made by planc.*--overwrite"):
        single.export_file(source, foreign, limits=LIMITS)
    assert single.export_file(source, foreign, limits=LIMITS, overwrite=True)["status"] == "replaced"


def test_calibrate_file_takes_its_table_from_the_store(workshop: Path, tmp_path: Path) -> None:
    source = recipe.source(str(workshop / "conv.onnx"), dims=["batch=1..4@2"])
    job = recipe.job(source, "null", "int8", quantization=recipe.quantization(random=True))
    store = Store(tmp_path / "store")
    made = single.calibrate_file(job, tmp_path / "one.json", limits=LIMITS, store=store)
    again = single.calibrate_file(job, tmp_path / "two.json", limits=LIMITS, store=store)
    assert "calibrate" in made["seconds"]
    assert "calibrate" not in again["seconds"]
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()

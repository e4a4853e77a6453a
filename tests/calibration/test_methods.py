"""All methods: ranges have zero in them, are within what was seen, and odd tensors break none."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from planc import calibration
from planc.calibration import METHODS
from planc.calibration._quantize import error, grid, quality
from planc.calibration.observers import Observer

ROOT = Path(calibration.__file__).parent
RANGES = {name: import_module(f"planc.calibration.{name.replace('-', '_')}").ranges for name in METHODS}
KINDS = ("relu", "normal", "laplace", "silu", "heavy", "outlier", "negative", "shifted", "huge")
ODD = {
    "nothing": [],
    "zeros": [0, 0, -0.0],
    "constant": [5, 5, 5],
    "negative constant": [-5, -5],
    "one": [1e-30],
    "denormals": [1e-45, -3e-42, 0],
    "extremes": [3.4e38, -3.4e38],
    "not finite": [np.nan, np.inf, -np.inf, 1, 2],
    "only nan": [np.nan],
}


def sqnr_of(values: np.ndarray, low: float, high: float, *, symmetric: bool) -> float:
    """SQNR in dB of quantizing the values themselves."""
    step, least, most = grid(low, high, symmetric=symmetric)
    exact = values.astype(np.float64)
    noise = np.square(np.clip(np.rint(exact / step), least, most) * step - exact).sum()
    return 10 * np.log10(np.square(exact).sum() / noise)


def test_each_method_is_one_file() -> None:
    other = {
        "__init__", "_archive", "_quantize", "bounds", "dataset", "metrics", "observers", "sensitivity", "shard",
        "table",
    }  # fmt: skip
    files = {path.stem for path in ROOT.glob("*.py")} - other
    assert files == {name.replace("-", "_") for name in METHODS}
    assert all((Path(__file__).parent / f"test_{name}.py").is_file() for name in files)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_tensors(name: str, odd: str, symmetric: bool, observe) -> None:
    statistics = observe(ODD[odd])
    low, high = RANGES[name](statistics, symmetric=symmetric)
    assert np.isfinite([low, high]).all()
    assert low <= 0 <= high
    assert not symmetric or low == -high
    if odd not in ("extremes", "denormals", "not finite"):
        found = quality(statistics, low, high, symmetric=symmetric)
        assert found.saturated == 0
        assert found.sqnr_db is None or found.sqnr_db > 40


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30, deadline=None)
@given(data=hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_a_range_has_zero_in_it_and_is_within_what_was_seen(name: str, symmetric: bool, data: np.ndarray) -> None:
    observer = Observer()
    observer.update(data)
    low, high = RANGES[name](observer.statistics(), symmetric=symmetric)
    least, most = min(data.min(), 0), max(data.max(), 0)
    if symmetric:
        assert low == -high
        least, most = -max(-least, most), max(-least, most)
    assert least * 1.000001 <= low <= 0 <= high <= most * 1.000001


# Not "outlier": all its power is in one value, whose place within its bin is not known.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "outlier"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_the_expected_sqnr_is_that_of_the_values(name: str, symmetric: bool, kind: str, draw, observe) -> None:
    values = draw(kind)
    statistics = observe(values)
    low, high = RANGES[name](statistics, symmetric=symmetric)
    found = quality(statistics, low, high, symmetric=symmetric)
    assert found.sqnr_db is not None
    assert found.sqnr_db == pytest.approx(sqnr_of(values, low, high, symmetric=symmetric), abs=0.5)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_error_is_what_an_integral_gives(bits: int, symmetric: bool, draw, observe) -> None:
    histogram = observe(draw("laplace", size=300)).histogram
    low, high = (-4.0, 4.0) if symmetric else (-1.5, 4.0)
    step, least, most = grid(low, high, symmetric=symmetric, bits=bits)
    places = (np.arange(400) + 0.5) / 400
    points = histogram.left[:, None] + (histogram.right - histogram.left)[:, None] * places
    squares = np.square(np.clip(np.rint(points / step), least, most) * step - points)
    found = error(histogram, low, high, symmetric=symmetric, bits=bits)
    assert found == pytest.approx(float((squares.mean(axis=1) * histogram.counts).sum()), rel=2e-3)


def test_zero_is_on_the_grid() -> None:
    assert grid(0, 255, symmetric=False) == (1, 0, 255)
    assert grid(-128, 127, symmetric=False) == (1, -128, 127)
    assert grid(-254, 0, symmetric=True) == (1, -127, 127)
    assert grid(0, 0, symmetric=False) == (0, 0, 255)


def test_saturated_is_what_clipping_moves_further_than_rounding(observe) -> None:
    statistics = observe(np.linspace(-1, 1, 20001))
    assert quality(statistics, -1, 1, symmetric=True).saturated == 0
    assert quality(statistics, -0.5, 0.5, symmetric=True).saturated == pytest.approx(0.5 - 0.5 / 127 / 2, abs=1e-3)
    assert quality(statistics, 0, 1, symmetric=False).saturated == pytest.approx(0.5 - 0.5 / 255 / 2, abs=1e-3)

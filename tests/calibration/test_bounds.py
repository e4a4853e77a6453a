"""The bounds of `--max-drop`; more of them in test_metrics.py."""

from collections.abc import Callable

import pytest

from planc.calibration import bounds, metrics


@pytest.mark.parametrize(
    ("text", "limit"), [("top1=0.5pp", 0.005), ("cosine=0.01", 0.01), ("sqnr=20dB", 20), ("mse = 1e-3", 0.001)]
)
def test_parse(text: str, limit: float) -> None:
    metric, found = bounds.parse(text)
    assert text.startswith(metric)
    assert found == pytest.approx(limit)


def test_each_metric_is_measured() -> None:
    assert tuple(metrics.METRICS) == bounds.METRICS


def test_bounds_are_read_without_numpy(python: Callable[..., str]) -> None:
    code = "import sys; from planc.calibration.bounds import parse; parse('mse=1'); print('numpy' in sys.modules)"
    assert python(code).strip() == "False"

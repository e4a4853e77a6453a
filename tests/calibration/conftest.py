"""Tensors as networks have them, and odd ones."""

from collections.abc import Callable

import numpy as np
import pytest

from planc.calibration.observers import Observer, Statistics


def _draw(kind: str, rng: np.random.Generator, size: int) -> np.ndarray:
    normal = rng.standard_normal(size)
    drawn = {
        "relu": lambda: np.maximum(normal, 0),
        "normal": lambda: normal,
        "laplace": lambda: rng.laplace(size=size),
        "silu": lambda: 3 * normal / (1 + np.exp(-3 * normal)),
        "heavy": lambda: rng.standard_t(2, size),
        "outlier": lambda: np.append(normal[1:], 1e6),
        "negative": lambda: -rng.gamma(2, size=size),
        "shifted": lambda: 40 + normal,
        "huge": lambda: rng.uniform(-3e38, 3e38, size),
    }
    return drawn[kind]().astype(np.float32)


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """`draw(kind, seed=0, size=4000)`: float32[size]."""
    return lambda kind, seed=0, size=4000: _draw(kind, np.random.default_rng(seed), size)


@pytest.fixture
def observe() -> Callable[..., Statistics]:
    """`observe(sample, ...)`: statistics of the samples."""

    def observe(*samples: np.ndarray) -> Statistics:
        observer = Observer()
        for sample in samples:
            observer.update(np.asarray(sample, np.float32))
        return observer.statistics()

    return observe

"""Prints what the conformance tests counted at the end of the run."""

from collections.abc import Callable

import pytest

LINES: pytest.StashKey[dict[str, list[str]]] = pytest.StashKey()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line on onnx.backend.test to the run's summary."""
    return _section(request, "conformance of the graph passes to onnx.backend.test")


@pytest.fixture
def tell_export(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line on an exported network to the run's summary."""
    return _section(request, "nodes of exported networks")


@pytest.fixture
def tell_plans(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line on what TensorRT-RTX takes of onnx.backend.test to the run's summary."""
    return _section(request, "onnx.backend.test in TensorRT-RTX")


def _section(request: pytest.FixtureRequest, title: str) -> Callable[[str], None]:
    return request.config.stash.setdefault(LINES, {}).setdefault(title, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, lines in config.stash.get(LINES, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)

"""Prints the conformance counts at the end of the run."""

import pytest

COUNTS: pytest.StashKey[list[str]] = pytest.StashKey()


@pytest.fixture
def tell(request: pytest.FixtureRequest):
    """Adds a line to the run's summary."""
    return request.config.stash.setdefault(COUNTS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(COUNTS, [])
    if lines:
        terminalreporter.section("conformance of the graph passes to onnx.backend.test")
        for line in lines:
            terminalreporter.line(line)

"""Bounds on what was measured. A gate fails where the whole confidence interval is beyond its bound, and only there."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from .errors import UsageError
from .results import Row

if TYPE_CHECKING:
    from .bootstrap import Estimate

_NUMBER = r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*"
_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Gates:
    """What the user allows; None where it does not matter.

    Attributes:
        max_p99_ms: 99th percentile of the latency.
        min_speedup: how many times as fast as what it is compared with.
        max_slowdown: the inverse, 1.05 for `--max-regression 5%`.
        max_size_bytes: of the files to deploy.
        max_rss_bytes: peak resident memory of a process that runs it.
        max_drop: bounds on the loss of accuracy on golden data, as `calibration.metrics.parse` takes them.
    """

    max_p99_ms: float | None = None
    min_speedup: float | None = None
    max_slowdown: float | None = None
    max_size_bytes: int | None = None
    max_rss_bytes: int | None = None
    max_drop: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return any(getattr(self, one.name) not in (None, ()) for one in fields(self))

    @property
    def timed(self) -> bool:
        """Whether there is any that takes running it."""
        return replace(self, max_size_bytes=None).given

    @property
    def compare(self) -> bool:
        """Whether something to compare with is needed."""
        return self.min_speedup is not None or self.max_slowdown is not None


@dataclass(frozen=True)
class Figures:
    """What is known of one subject.

    Attributes:
        p99: of its latency, in ms.
        rss: peak resident memory in bytes.
        size_bytes: None where it has no files.
        speedup: over what it is compared with; None without that.
        than: what that is.
        losses: by bound of `max_drop`; None where it has no golden data.
        samples: of golden data.
    """

    p99: "Estimate"
    rss: "Estimate"
    size_bytes: int | None
    speedup: "Estimate | None" = None
    than: str = ""
    losses: Mapping[str, float] | None = None
    samples: int = 0


def gates(
    *,
    max_p99: str = "",
    min_speedup: str = "",
    max_regression: str = "",
    max_size: str = "",
    max_rss: str = "",
    max_drop: Sequence[str] = (),
) -> Gates:
    """Returns the gates that the words of a command line mean.

    Raises:
        UsageError: one of them is not of its form.
    """
    from ..calibration import metrics
    from .recipe import bytes_of

    for text in max_drop:
        try:
            metrics.parse(text)
        except ValueError as error:
            raise UsageError(str(error), hint="Write --max-drop top1=0.5pp or cosine=0.005") from error
    return Gates(
        milliseconds("--max-p99", max_p99) if max_p99 else None,
        factor("--min-speedup", min_speedup) if min_speedup else None,
        1 + share("--max-regression", max_regression) if max_regression else None,
        bytes_of(max_size) if max_size else None,
        bytes_of(max_rss) if max_rss else None,
        tuple(max_drop),
    )


def judge(name: str, figures: Figures, gates: Gates, confidence: float) -> list[Row]:
    """Returns a row for each gate on one subject."""
    rows = [_row(name, one, confidence) for one in _measured(figures, gates)]
    if gates.max_size_bytes is not None:
        rows.append(size_row(name, figures.size_bytes, gates.max_size_bytes))
    return rows + [_drop_row(name, text, figures) for text in gates.max_drop]


def undecided(figures: Figures, gates: Gates, confidence: float) -> bool:
    """Whether a figure is beyond its bound and its interval is not: measuring more would tell."""
    return any(one.beyond and not one.proven(confidence) for one in _measured(figures, gates))


@dataclass(frozen=True)
class _Bound:
    """A gate on a figure that has an interval.

    Attributes:
        gate: its option.
        estimate: the figure.
        limit: the bound.
        unit: writes either.
        what: the figure is.
        least: whether the figure must not be below the limit, else not above.
    """

    gate: str
    estimate: "Estimate"
    limit: float
    unit: Callable[[float], str]
    what: str
    least: bool = False

    @property
    def beyond(self) -> bool:
        """Whether the figure itself is."""
        return self.estimate.value < self.limit if self.least else self.estimate.value > self.limit

    def proven(self, confidence: float) -> bool:
        """Whether its whole interval is."""
        low, high = self.estimate.interval(confidence)
        return high < self.limit if self.least else low > self.limit


def _measured(figures: Figures, gates: Gates) -> Iterator[_Bound]:
    """Yields the gates on what was measured."""
    if gates.max_p99_ms is not None:
        yield _Bound("max-p99", figures.p99, gates.max_p99_ms, _ms, "p99")
    if figures.speedup is not None:
        if gates.min_speedup is not None:
            yield _Bound("min-speedup", figures.speedup, gates.min_speedup, _times, f"over {figures.than}", least=True)
        if gates.max_slowdown is not None:
            slowdown = figures.speedup.inverse()
            yield _Bound("max-regression", slowdown, gates.max_slowdown, _percent, f"against {figures.than}")
    if gates.max_rss_bytes is not None:
        yield _Bound("max-rss", figures.rss, gates.max_rss_bytes, _bytes, "peak memory")


def _row(name: str, one: _Bound, confidence: float) -> Row:
    gate = f"{name} --{one.gate} {one.unit(one.limit).lstrip('+')}"
    above = one.estimate.above(one.limit)
    certain = sure(above if one.beyond is not one.least else 1 - above)
    low, high = map(one.unit, one.estimate.interval(confidence))
    word = ("below" if one.least else "above") if one.beyond else ("at least" if one.least else "within")
    told = (
        f"{one.what} {one.unit(one.estimate.value)} ({low} to {high}) is {word} {one.unit(one.limit)}: {certain} sure"
    )
    if one.beyond and one.proven(confidence):
        return Row(gate, "failed", message=told)
    more = ", which is not enough to fail: --seconds 60 or --processes 20 tells more" if one.beyond else ""
    return Row(gate, "passed", message=f"{told}{more}")


def size_row(name: str, size: int | None, limit: int) -> Row:
    """Returns the row of the gate on the bytes to deploy; None for a subject without files."""
    gate = f"{name} --max-size {_bytes(limit)}"
    if size is None:
        return Row(gate, "skipped", message="it has no files to deploy")
    bad = size > limit
    return Row(gate, "failed" if bad else "passed", message=f"{_bytes(size)} to deploy{', counted' if bad else ''}")


def _drop_row(name: str, text: str, figures: Figures) -> Row:
    from ..calibration import metrics

    gate = f"{name} --max-drop {text}"
    if figures.losses is None:
        return Row(gate, "skipped", message="it has no golden data")
    bound, loss = metrics.parse(text), figures.losses[text]
    status = "passed" if bound.holds(loss) else "failed"
    told = f"{-loss:.4g} dB" if bound.metric == "sqnr" else f"{loss:.4g}"
    return Row(gate, status, message=f"{told} on {figures.samples} golden samples, computed and not estimated")


def milliseconds(flag: str, text: str) -> float:
    """Parses `5ms`, `800us` or `0.5s`.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(_NUMBER + r"(?P<unit>us|µs|ms|s)", text.strip())
    if not match or float(match["number"]) == 0:
        raise UsageError(f"{flag} {text!r} is not a time", hint=f"Write {flag} 5ms")
    return float(match["number"]) * _MS[match["unit"]]


def factor(flag: str, text: str) -> float:
    """Parses `2x` or `1.5`.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(_NUMBER + "x?", text.strip())
    if not match or float(match["number"]) == 0:
        raise UsageError(f"{flag} {text!r} is not a factor", hint=f"Write {flag} 2x")
    return float(match["number"])


def share(flag: str, text: str, *, such: str = "5%") -> float:
    """Parses `5%` or `0.05` as 0.05; `such` is an example for who gets it wrong.

    Raises:
        UsageError: it is not of that form, or more than 100 %.
    """
    match = re.fullmatch(_NUMBER + "(?P<percent>%?)", text.strip())
    value = float(match["number"]) / (100 if match["percent"] else 1) if match else math.nan
    if not 0 <= value <= 1:
        raise UsageError(f"{flag} {text!r} is not a share", hint=f"Write {flag} {such}")
    return value


def sure(share: float) -> str:
    """Returns a probability (0 to 1) for the reader: a bootstrap never proves 100%."""
    return ">99.9%" if share > 0.999 else f"{share:.1%}"


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def _times(value: float) -> str:
    return f"{value:.3g}x"


def _percent(value: float) -> str:
    return f"{value - 1:+.1%}"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.4g} GB"

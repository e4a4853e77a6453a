"""Whether what was made computes what it should: by golden data first, else by the guard's bounds on all its data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BuildFailed, GateFailed
from .keys import is_lowered
from .target import Precision
from .tolerance import loosened, tolerance
from .worker import Emit

if TYPE_CHECKING:
    from .frontends import Exported
    from .golden import Golden
    from .stages import Work

REAL = "--inputs FILE.npz or --eval DATA gives real ones"


def held(
    work: "Work",
    session: Callable[..., Mapping[str, Any]],
    what: str,
    goldens: "Sequence[Golden]",
    *,
    emit: Emit,
) -> dict[str, Any]:
    """Holds what was made against the golden data, or else against the bounds of the guard (in a worker).

    Raises:
        GateFailed: it misses both.
    """
    from . import verify

    job = work.job
    result = verify.verify(session, goldens, tolerance(job.precision, job.tolerance))
    if not result["passed"] and work.guarded and not job.tolerance:
        result = _reconsidered(work, session, what, goldens, result, emit=emit)
    if not result["passed"]:
        raise GateFailed(difference(what, work.model, result), hint=_hint(work, result))
    return result


def _reconsidered(
    work: "Work",
    session: Callable[..., Mapping[str, Any]],
    what: str,
    goldens: "Sequence[Golden]",
    result: Mapping[str, Any],
    *,
    emit: Emit,
) -> dict[str, Any]:
    """Returns the verification of what golden data alone fail, where `--max-drop` holds in it on all the data.

    A few samples say less of the accuracy than the user's own bounds. They still tell whether the runtime computes what
    its graph says: outputs that those bounds look at may lose on golden data twice what the lowered graph itself loses
    there in ONNX Runtime, and the others nothing more than before.
    """
    from . import emulate, guard, verify

    if any("differs" in metrics for outputs in result["points"].values() for metrics in outputs.values()):
        return dict(result)
    judged = guard.judge(session, work.job, work.graph, work.model.inputs, emit=emit)
    if not judged.holds:
        return {**result, "failures": [f"it misses --max-drop, {judged.told}", *result["failures"]]}
    run, bounds = emulate.runner(work.source), tolerance(work.job.precision)
    own = verify.verify(lambda **inputs: run(inputs), goldens, bounds)["points"]
    lost = [metrics for outputs in own.values() for name, metrics in outputs.items() if name in judged.outputs]
    allowed = loosened(result["tolerance"], lost)
    looser = replace(bounds, **allowed)
    failures = verify.failures(result["points"], lambda name: looser if name in judged.outputs else bounds)
    if failures:
        return {**result, "failures": failures}
    told = f"{judged.told} on {judged.samples} samples"
    emit("note", f"golden data miss the bounds of {work.job.precision.upper()}, --max-drop holds in {what}: {told}")
    held_by = {"loss": judged.loss, "samples": judged.samples, "failures": result["failures"]}
    return {**result, "passed": True, "failures": [], "tolerance": allowed, "held_by": held_by}


def hold_against_reference(path: Path, exported: "Exported") -> None:
    """Checks that an exported graph computes what the model computes.

    Raises:
        BuildFailed: ONNX Runtime cannot load it.
        GateFailed: it does not.
    """
    from . import verify
    from .reference import runner

    try:
        run = runner(path)
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime cannot load what was exported: {error}") from error
    result = verify.verify(lambda **inputs: run(inputs), exported.goldens, tolerance(Precision.FP32))
    if not result["passed"]:
        raise GateFailed(difference("the exported graph", exported, result))


def _hint(work: "Work", result: Mapping[str, Any]) -> str:
    """What to do where a payload differs: random numbers may be to blame, or one layer."""
    words = []
    if is_lowered(work.job) and work.goldens != work.real:
        words.append(f"It ran on random numbers: {REAL}")
    if is_lowered(work.job) and not work.job.quantization.guard.bounds:
        words.append("--max-drop METRIC=VALUE keeps the layers in float that cost most")
    found = [metrics for outputs in result["points"].values() for metrics in outputs.values()]
    allowed = loosened(result["tolerance"], found)
    looser = [f"--tolerance {name}={value:g}" for name, value in allowed.items() if value != result["tolerance"][name]]
    if looser:
        words.append(f"Only if you accept the error: {' '.join(looser)}")
    return ". ".join(words)


def difference(what: str, model: "Exported", result: Mapping[str, Any]) -> str:
    """One line about a payload that does not compute what it should."""
    return f"{what} does not compute what {model.reference} computes: {'; '.join(result['failures'][:3])}"

"""What TensorRT-RTX takes of onnx.backend.test, before and after planc's passes, and whether planc says so rightly.

The parser and the builder may crash or hang: cases run in a child process, and the next one goes on where it died.
"""

import multiprocessing
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import onnx
import onnx_ir as ir

from planc.compiler import doctor
from planc.compiler.backends import Request, _flavours, _networks, tensorrt
from planc.compiler.errors import BuildFailed, UsageError
from planc.compiler.optimize import apply
from planc.compiler.target import Precision, find_target
from planc.passes import PRESETS

TARGET = find_target("l4")
SECONDS = 60.0
SLOW = ("test_gru_batchwise",)
"""The builder searches for 30 s here, and for longer beside other work: left out."""


@dataclass(frozen=True)
class Verdict:
    """What is said of one case; empty words are a yes.

    Attributes:
        parsed_before: by the parser, before planc's passes.
        parsed: by the parser, after them.
        built_before: by the builder, before planc's passes; None where it was not asked.
        built: by `tensorrt.build`, after them.
        told: by planc (`tensorrt.unsupported`), after them.
    """

    parsed_before: str
    parsed: str
    built_before: str | None = None
    built: str | None = None
    told: str | None = None


def main() -> None:
    models = cases()
    found = dict(judge(models, build=models.keys() - SLOW))
    print("## onnx.backend.test in TensorRT-RTX\n")
    print("\n".join(f"- {line}" for line in [*summary(found), f"left to the parser alone: {', '.join(SLOW)}"]))
    for title, ones in (("Lost by a pass", lost(found)), ("Said wrongly", wrong(found))):
        for name, one in ones.items():
            print(f"- {title}: {name}: {one}")


def cases() -> dict[str, onnx.ModelProto]:
    """All node cases by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case.model for case in load_model_tests(kind="node")}


def one_of_each(models: Mapping[str, onnx.ModelProto]) -> list[str]:
    """Names of the first case of each operator, or set of operators."""
    firsts: dict[frozenset[str], str] = {}
    for name, model in models.items():
        if name not in SLOW:
            firsts.setdefault(frozenset(node.op_type for node in model.graph.node), name)
    return list(firsts.values())


def lost(found: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Cases that planc's passes made refused."""
    return {
        name: one
        for name, one in found.items()
        if (one.parsed and not one.parsed_before) or (one.built and one.built_before == "")
    }


def wrong(found: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Cases of which planc says what the builder does not."""
    return {name: one for name, one in found.items() if one.built is not None and bool(one.told) != bool(one.built)}


def summary(found: Mapping[str, Verdict]) -> list[str]:
    """Counts, one line each."""
    built = [one for one in found.values() if one.built is not None]
    late = sum(not one.parsed and bool(one.built) for one in built)
    return [
        f"{len(found)} cases: the parser takes {_taken(found.values(), 'parsed_before')} before planc's passes, "
        f"{_taken(found.values(), 'parsed')} after",
        f"{len(built)} of them built: {_taken(built, 'built_before')} plans before, {_taken(built, 'built')} after; "
        f"{late} are taken by the parser and refused by the builder; planc says so in {len(built) - len(wrong(found))}",
    ]


def _taken(verdicts: Iterable[Verdict], field: str) -> int:
    return sum(getattr(one, field) == "" for one in verdicts)


def judge(models: Mapping[str, onnx.ModelProto], *, build: Collection[str]) -> Iterator[tuple[str, Verdict]]:
    """Offers each case to the parser, and those named in `build` to the builder too."""
    _flavours.FLAVOURS["tensorrt-rtx"].load()  # once, for all children
    left = list(models)
    while left:
        answers, end = multiprocessing.get_context("fork").Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=_answer, args=([(models[name], name in build) for name in left], end)
        )
        child.start()
        end.close()
        try:
            while left and answers.poll(SECONDS):
                verdict = answers.recv()
                yield left.pop(0), verdict
        except EOFError:
            pass
        child.kill()
        child.join()
        if left:
            yield left.pop(0), Verdict("", "died or hung")


def _answer(questions: Sequence[tuple[onnx.ModelProto, bool]], end: Connection) -> None:
    """Judges in order (in a child)."""
    tensorrt._prove = lambda *_: None  # what the parser takes is asked, not in which precision it computes
    for model, build in questions:
        with tempfile.TemporaryDirectory() as folder:
            end.send(_verdict(model, build, Path(folder)))


def _verdict(source: onnx.ModelProto, build: bool, folder: Path) -> Verdict:
    optimized, *_ = apply(lambda: ir.from_proto(source), PRESETS[TARGET.family])
    before, after = _request(source, folder / "before"), _request(ir.to_proto(optimized), folder / "after")
    verdict = Verdict(_parse(before), _parse(after))
    if not build:
        return verdict
    told = "; ".join(map(str, tensorrt.unsupported(after)))
    return replace(verdict, built_before=_build(before), built=_build(after), told=told)


def _request(model: onnx.ModelProto, folder: Path) -> Request:
    """What `planc doctor` asks."""
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(model, path)
    try:
        return doctor.request(path, TARGET)
    except UsageError:  # a type that planc has no inputs of
        return Request(path, Precision.FP32, tensorrt.Options(), folder, TARGET)


def _parse(request: Request) -> str:
    library = _flavours.FLAVOURS["tensorrt-rtx"].load()
    answer = _networks.parse(library, library.Logger(library.Logger.INTERNAL_ERROR), request.model)
    return "" if isinstance(answer, _networks.Network) else "; ".join(map(str, answer)) or "it did not say why"


def _build(request: Request) -> str:
    try:
        tensorrt.build(request)
    except BuildFailed as error:
        return error.what
    return ""

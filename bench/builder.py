"""The build stage of a plan beside `polygraphy convert` on the same graph, in turns: whole processes.

The graph is that of `planc optimize`: the parser refuses what torch exports of ResNet-50. The stage alone runs in a
process of its own, from the file to the plan.
"""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

from planc.compiler import doctor
from planc.compiler.backends import tensorrt
from planc.compiler.shapes import parse_dim
from planc.compiler.target import find_target

from .accuracy import call
from .common import MINILM, PLANC, RESNET50, ROOT, Case, print_table
from .passes import Cost, figures, run

CASES = (RESNET50, MINILM)
ROUNDS = 3
TARGET = "tensorrt-rtx:sm89"
ENDS = ("min", "opt", "max")
STAGE = """
import pickle, sys
from planc.compiler import child
child.put_off_imports()  # as a worker begins: without sympy
from planc.compiler.backends import tensorrt
tensorrt.build(pickle.load(open(sys.argv[1], "rb")))
"""
ENV = ("/usr/bin/env", "POLYGRAPHY_USE_TENSORRT_RTX=1")


def main() -> None:
    print(f"## Build stage beside polygraphy, {TARGET}")
    for case in CASES:
        folder = ROOT / "out/bench/builder" / case.model
        folder.mkdir(parents=True, exist_ok=True)
        case.export(folder / "raw.onnx")
        call("optimize", folder / "raw.onnx", "-o", folder / "model.onnx", "--overwrite")
        measure(case, folder)


def measure(case: Case, folder: Path) -> None:
    """Prints the table of one model."""
    tools = commands(case, folder)
    costs: dict[str, list[Cost]] = {tool: [] for tool in tools}
    for _ in range(ROUNDS):
        for tool, words in tools.items():
            if (cost := run(words)) is not None:
                costs[tool].append(cost)
    print(f"\n### {case.title}: {ROUNDS} rounds, medians")
    print_table(["process", "wall s", "CPU s", "peak MB"], [[tool, *figures(one)] for tool, one in costs.items()])


def commands(case: Case, folder: Path) -> dict[str, list[str | Path]]:
    """What is compared: the whole of each process counts."""
    model = folder / "model.onnx"
    sizes = [f"--dim={text}" for text in case.dims]
    drawn = [f"--input={text}" for text in case.inputs]
    shapes = [*drawn, *sizes, "-t", TARGET]
    compiling = [PLANC, "compile", model, *shapes, "-o", folder / "out", "--overwrite", "--no-cache"]
    return {
        "polygraphy convert": [
            *ENV, PLANC.with_name("polygraphy"), "convert", model, "-o", folder / "peer.plan",
            "--compute-capabilities", "8.9", *profile(model, case.dims),
        ],
        "planc, build stage": [sys.executable, "-c", STAGE, _request(case, folder)],
        "planc compile": compiling,
    }  # fmt: skip


def profile(model: Path, dims: tuple[str, ...]) -> list[str]:
    """The shapes of planc's profile, as polygraphy takes them."""
    request = doctor.request(model, find_target(TARGET), [parse_dim(text) for text in dims])
    (shapes,) = tensorrt._profiles(request.inputs, request.dims)
    words = []
    for end, name in enumerate(ENDS):
        words += [
            f"--trt-{name}-shapes",
            *(f"{key}:{list(sizes[end])}".replace(" ", "") for key, sizes in shapes.items()),
        ]
    return words


def _request(case: Case, folder: Path) -> Path:
    """What the stage is asked for, as a file."""
    asked = doctor.request(folder / "model.onnx", find_target(TARGET), [parse_dim(text) for text in case.dims])
    (folder / "stage").mkdir(exist_ok=True)
    path = folder / "request.pickle"
    path.write_bytes(pickle.dumps(replace(asked, folder=folder / "stage")))
    return path

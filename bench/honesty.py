"""Whether `planc bench` tells the truth: a copy of an artifact is never called slower, one that is 5 % slower is.

In each trial an artifact, a copy of it, and one with 5 % more of the same layers are measured in turns, by the code of
`planc bench`, on one thread. The gate is `--max-regression 1%` at 99 %.
"""

import json
import shutil
import subprocess
import time
from typing import Any

import numpy as np

from planc.compiler import bench, gates
from planc.compiler.worker import Limits

from .common import PLANC, ROOT, print_table

FOLDER = ROOT / "out/bench/honesty"
LAYERS = {"original": 40, "slowed": 42}
MARGINS = (0.0, 0.01, 0.02, 0.03)
GATE = 0.01


def main(*, trials: int = 100, processes: int = 8, seconds: float = 3.0) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, layers in LAYERS.items():
        build(name, layers)
    shutil.copytree(FOLDER / "original", FOLDER / "copy", dirs_exist_ok=True)
    begin = time.monotonic()
    seen = []
    for _ in range(trials):
        seen.append(trial(processes, seconds))
        (FOLDER / "trials.json").write_text(json.dumps(seen, indent=1) + "\n")
    report(seen, time.monotonic() - begin)


def build(name: str, layers: int) -> None:
    """A chain of equal convolutions: 42 of them are 5 % more work than 40."""
    import onnx
    import onnx.parser

    names = ["x", *(f"t{index}" for index in range(layers))]
    body = "\n".join(f"{names[i + 1]} = Conv<pads=[1,1,1,1]>({names[i]}, w{i})" for i in range(layers))
    shape = "float[batch,16,16,16]"
    text = f'<ir_version: 8, opset_import: ["": 18]>\nchain ({shape} x) => ({shape} {names[-1]}) {{\n{body}\n}}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((16, 16, 3, 3), dtype=np.float32) / 12 for _ in range(layers))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(one, f"w{i}") for i, one in enumerate(weights))
    onnx.save(model, FOLDER / f"{name}.onnx")
    command = [PLANC, "compile", FOLDER / f"{name}.onnx", "--dim", "batch=1..4@1", "-t", "onnxruntime-cpu"]
    subprocess.run([*command, "-o", FOLDER / name], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def trial(processes: int, seconds: float) -> dict[str, Any]:
    """Measures once; returns the verdicts and how many times as fast each is as the original, with intervals."""
    plan = bench.plan(
        [str(FOLDER / "copy"), str(FOLDER / "slowed")],
        against=str(FOLDER / "original"),
        gates=gates.gates(max_regression=f"{GATE:.0%}"),
        threads=1,
        pin="0",
        processes=processes,
        seconds=seconds,
    )
    document = bench.run(plan, limits=Limits())
    failed = {row["name"].partition(" ")[0] for row in document["gates"] if row["status"] == "failed"}
    return {
        "others_share": document["machine"]["others_share"],
        **{
            one["name"]: {
                "failed": one["name"] in failed,
                "speedup": one["speedup"],
                "interval": one["speedup_interval"],
            }
            for one in document["comparisons"]
        },
    }


def report(seen: list[dict[str, Any]], seconds: float) -> None:
    share = float(np.median([one["others_share"] for one in seen]))
    print(f"## Honesty\n\n{len(seen)} trials in {seconds:.0f} s; other work took {share:.0%} of the cores (median).")
    rows = []
    for margin in MARGINS:
        slower = {name: sum(1 / one[name]["interval"][1] > 1 + margin for one in seen) for name in ("copy", "slowed")}
        faster = sum(one["copy"]["interval"][0] > 1 + margin for one in seen)
        gate = f"--max-regression {margin:.0%}{' (the gate)' if margin == GATE else ''}"
        rows.append([gate, str(slower["copy"]), str(faster), str(slower["slowed"])])
    print_table(["bound", "copy called slower", "copy called faster", "slowed copy found"], rows)
    for name in ("copy", "slowed"):
        slowdowns = [1 / one[name]["speedup"] - 1 for one in seen]
        wide = [(1 / one[name]["interval"][0] - 1 / one[name]["interval"][1]) / 2 for one in seen]
        print(
            f"- {name}: slower by {np.median(slowdowns):+.2%} (median), from {min(slowdowns):+.2%} to "
            f"{max(slowdowns):+.2%}; half width of the interval {np.median(wide):.2%} (median)"
        )
    gated = {name: sum(one[name]["failed"] for one in seen) for name in ("copy", "slowed")}
    print(
        f"- exit code 1: {gated['copy']} of {len(seen)} copies (wanted 0), {gated['slowed']} slowed ones (wanted 95%)"
    )


if __name__ == "__main__":
    main()

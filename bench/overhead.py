"""Where the time of `planc compile` goes, and what planc adds to load, export, reference, backend and verification."""

from .common import EFFICIENTNET, MINILM, print_table

STEPS = ("export.load", "export.reference", "export.export", "optimize", "build", "verify", "total", "own")


def main() -> None:
    print("## Time of `planc compile`")
    print("\nSeconds, from report.json; own: total less load, reference, export, build and verify.")
    rows = []
    for case in (EFFICIENTNET, MINILM):
        for target in ("onnxruntime-cpu", "openvino-cpu"):
            seconds = case.compile(target, "fp32")["report"]["seconds"]
            rows.append([f"{case.model}, {target}", *(f"{seconds[step]:.1f}" for step in STEPS)])
    print_table(["job", *(step.removeprefix("export.") for step in STEPS)], rows)

"""`python -m bench [TOPIC ...]`: runs the benchmarks, prints Markdown."""

import argparse
import os

from .common import machine

TOPICS = (
    "cli",
    "overhead",
    "passes",
    "calibration",
    "latency",
    "end_to_end",
    "accuracy",
    "plans",
    "builder",
    "verdicts",
    "build",
    "honesty",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures planc on this machine.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"{', '.join(TOPICS)}; all without one")
    parser.add_argument("--no-torch-compile", action="store_true", help="leave out torch.compile (it takes minutes)")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="of torch and artifacts; 1 measures CPU time"
    )
    words = parser.parse_args()
    unknown = set(words.topics) - set(TOPICS)
    if unknown:
        parser.error(f"unknown topic {sorted(unknown)[0]!r}: give {', '.join(TOPICS)}")
    chosen = words.topics or TOPICS
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the peers' bytecode came with pip, planc's comes with a first run
    print(f"{machine()}\n", flush=True)
    if "cli" in chosen:
        from . import cli

        cli.main()
    if "overhead" in chosen:
        from . import overhead

        overhead.main()
    if "passes" in chosen:
        from . import passes

        passes.main(threads=words.threads)
    if "calibration" in chosen:
        from . import calibration

        calibration.main(threads=words.threads)
    if "latency" in chosen:
        from . import latency

        latency.main(threads=words.threads, torch_compile=not words.no_torch_compile)
    if "end_to_end" in chosen:
        from . import end_to_end

        end_to_end.main()
    if "accuracy" in chosen:
        from . import accuracy

        accuracy.main()
    if "plans" in chosen:
        from . import plans

        plans.main()
    if "builder" in chosen:
        from . import builder

        builder.main()
    if "verdicts" in chosen:
        from . import verdicts

        verdicts.main()
    if "build" in chosen:
        from . import build

        build.main()
    if "honesty" in chosen:
        from . import honesty

        honesty.main()


if __name__ == "__main__":
    main()

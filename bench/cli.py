"""Wall time of `planc --help` beside `python -c pass`, in turns."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from .common import PLANC, print_table

ROUNDS = 31
COMMANDS = {"python -c pass": (sys.executable, "-c", "pass"), "planc --help": (str(PLANC), "--help")}


def main() -> None:
    print(f"## Start of the command line\n\nMedians of {ROUNDS} alternated runs.")
    for command in COMMANDS.values():
        wall(command)  # writes the .pyc files
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(wall(command))
    rows = [[name, f"{statistics.median(one):.0f}", f"{min(one):.0f}"] for name, one in times.items()]
    print_table(["command", "median ms", "least ms"], rows)


def wall(command: Sequence[str]) -> float:
    """Milliseconds from start to end of a process."""
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begin) * 1e3

"""Processes that wait for a request. Light: a command line starts one before it imports anything else.

Such a process runs `child`, which imports a module while whoever started it is still busy with its own imports.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO

MARK = "PLANC_WORKER"
_CODE = f"from {__package__}.child import main; main()"
_KEPT_WORDS = 1 << 20
_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime 1.31 writes files into the user's cache on import without it
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # glibc gives arrays back to the system, which clears each page anew:
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),  # a twentieth of a calibration
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


class Process:
    """A process that waits for its request.

    Attributes:
        reader: file descriptor of what it answers.
        mark: in its environment and in that of all that it starts.
        popen: the process.
        words: the end of what it prints.
    """

    def __init__(self, *, module: str = "", steady: bool = False) -> None:
        self.reader, writer = os.pipe()
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE, str(writer), str(os.getpid()), module, "steady" if steady else ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(writer,),
            env={**os.environ, **_ENVIRONMENT, MARK: self.mark}, start_new_session=True,
        )  # fmt: skip
        os.close(writer)
        assert self.popen.stdout
        self.words = Words(self.popen.stdout)


class Words:
    """The end of what a child prints. It is read all the time, so that a talkative child fills no disk."""

    def __init__(self, stream: IO[bytes]) -> None:
        os.set_blocking(stream.fileno(), False)
        self.stream: IO[bytes] | None = stream
        self._pipe = stream
        self.kept = bytearray()

    def read(self) -> None:
        """Takes what is there."""
        assert self.stream
        with suppress(BlockingIOError):
            chunk = os.read(self.stream.fileno(), 1 << 20)
            self.kept += chunk
            del self.kept[:-_KEPT_WORDS]
            if not chunk:
                self.stream = None

    def read_rest(self) -> None:
        """Takes what a dead child left in the pipe: at most what a pipe holds."""
        for _ in range(4):
            if self.stream:
                self.read()

    def close(self) -> None:
        """Takes the rest, and closes the pipe."""
        self.read_rest()
        self._pipe.close()

    def text(self) -> str:
        """The words."""
        return self.kept.decode(errors="replace").strip()


SPARES: list[Process] = []
"""Those that wait, for `worker.call` to take."""


def prepare(module: str) -> None:
    """Starts the child of the next call, which imports a module while the caller is still busy with its own imports.

    Where no call comes, the child ends with this process.
    """
    SPARES.append(Process(module=module))

"""GNU Make's jobserver: `make -jN` shares its N jobs with what it starts, so that together they are no more than N.

A client has one job for itself. It reads a byte, a token, from the server's pipe for each job beside it, and writes the
same byte back when that job has ended, however it ended.
"""

import fcntl
import os
import re
import stat
from contextlib import suppress

_AUTH = re.compile(r"--jobserver-(?:auth|fds)=(?:fifo:(?P<fifo>\S+)|(?P<reader>-?\d+),(?P<writer>-?\d+))")
_HINT = "one job at a time. Put + before planc in the recipe, or give -j N"


class Jobserver:
    """The tokens that this process holds; used by one thread at a time.

    Attributes:
        note: why there is no server, for the user; empty where there is one.
    """

    def __init__(self, reader: int | None = None, writer: int | None = None, *, note: str = "") -> None:
        self.reader = reader
        self.writer = writer
        self.note = note
        self.tokens: list[bytes] = []

    def take(self) -> bool:
        """Takes a token if there is one; does not wait."""
        if self.reader is None:
            return False
        with suppress(BlockingIOError):
            token = os.read(self.reader, 1)
            if not token:  # make has gone
                self.reader = None
                return False
            self.tokens.append(token)
            return True
        return False

    def give(self) -> None:
        """Gives a token back."""
        token = self.tokens.pop()
        if self.writer is not None:
            with suppress(BrokenPipeError):
                os.write(self.writer, token)


def connect(flags: str) -> Jobserver | None:
    """Connects to the server that MAKEFLAGS names, the last one if there are several.

    Args:
        flags: the value of MAKEFLAGS.

    Returns:
        None where it names none; one without tokens where that cannot be reached, as make does then.
    """
    found = [*_AUTH.finditer(flags)]
    if not found:
        return None
    fifo, reader, writer = found[-1].group("fifo", "reader", "writer")
    try:
        if fifo:
            pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
            return Jobserver(pipe, pipe)
        return _by_descriptors(int(reader), int(writer))
    except OSError as error:
        return Jobserver(note=f"make's jobserver cannot be reached ({error.strerror}): {_HINT}")


def _by_descriptors(reader: int, writer: int) -> Jobserver:
    """Opens the reader's pipe anew: an O_NONBLOCK of ours must not reach make and its other children."""
    for number, mode in ((reader, os.O_RDONLY), (writer, os.O_WRONLY)):
        is_pipe = number >= 0 and stat.S_ISFIFO(os.fstat(number).st_mode)
        if not is_pipe or fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE not in (mode, os.O_RDWR):
            return Jobserver(note=f"make's jobserver is not open here: {_HINT}")
    return Jobserver(os.open(f"/dev/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK), writer)

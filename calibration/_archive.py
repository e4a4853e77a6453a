"""Arrays of an .npz, read row by row: a data set need not fit into memory."""

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

_MEMBER = ".npy"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Rows:
    """An array whose rows are read when they are asked for, in their order; as a whole it can be read once.

    Attributes:
        shape: of all of it.
        dtype: of its elements.
    """

    def __init__(self, stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._stream = stream
        self._next = 0
        self.shape = shape
        self.dtype = dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: int | slice) -> np.ndarray:
        """Reads the next rows, which must be those asked for."""
        rows = range(len(self))[which if isinstance(which, slice) else slice(which, which + 1)]
        if rows.start != self._next or rows.step != 1:
            raise IndexError(f"row {rows.start} is asked for, {self._next} is the next")
        self._next = rows.stop
        read = self._read((len(rows), *self.shape[1:]), last=rows.stop == len(self))
        return read if isinstance(which, slice) else read[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all of it, as numpy's functions want it."""
        return self._read(self.shape, last=True).astype(dtype or self.dtype, copy=bool(copy))

    def _read(self, shape: tuple[int, ...], *, last: bool) -> np.ndarray:
        size = int(np.prod(shape, dtype=object)) * self.dtype.itemsize
        read = self._stream.read(size) if size else b""
        if len(read) < size or (last and self._stream.read(1)):  # the checksum is looked at behind the last byte
            raise zipfile.BadZipFile("the array's size is not what its header says")
        return np.frombuffer(bytearray(read), self.dtype).reshape(shape)


@contextmanager
def rows(path: Path) -> Iterator[dict[str, Rows | np.ndarray]]:
    """Opens an .npz for the time of the block; what is stored column by column is read whole.

    Raises:
        ValueError: it holds Python objects.
        zipfile.BadZipFile: it is damaged; so may zlib and numpy say in their own words, now or in the block.
    """
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        yield {name.removesuffix(_MEMBER): _member(stack, archive, name) for name in archive.namelist()}


def _member(stack: ExitStack, archive: zipfile.ZipFile, name: str) -> Rows | np.ndarray:
    stream = stack.enter_context(archive.open(name))
    header = _HEADERS.get(npy.read_magic(stream))
    if header is not None:
        shape, by_column, dtype = header(stream)
        if not by_column and not dtype.hasobject:
            return Rows(stream, shape, dtype)
    with archive.open(name) as again:
        whole: np.ndarray = npy.read_array(again, allow_pickle=False)
        return whole

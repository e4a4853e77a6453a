"""Many samples in little memory: arrays by name, in a file once they are large, read one sample at a time."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

_MOST_BYTES = 16 << 20
"""What a spool holds in memory."""


class Spool:
    """Dicts of arrays, appended once and read as often as wanted."""

    def __init__(self, folder: Path) -> None:
        """Makes an empty one; its file has no name and vanishes with it."""
        self._file = tempfile.SpooledTemporaryFile(_MOST_BYTES, dir=str(folder))  # noqa: SIM115  as long as the spool
        self._places: list[dict[str, int]] = []

    def append(self, sample: Mapping[str, np.ndarray]) -> None:
        """Adds a sample."""
        places = {}
        for name, array in sample.items():
            places[name] = self._file.seek(0, 2)
            np.lib.format.write_array(self._file, np.asanyarray(array), allow_pickle=False)
        self._places.append(places)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return self._file.seek(0, 2)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: self.read(index, name) for name in self._places[index]}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def read(self, index: int, name: str) -> np.ndarray:
        """Returns one array of one sample."""
        self._file.seek(self._places[index][name])
        array: np.ndarray = np.lib.format.read_array(self._file, allow_pickle=False)
        return array


@dataclass(frozen=True)
class Column(Sequence[np.ndarray]):
    """The arrays of one name over the first samples of a spool.

    Attributes:
        spool: what they lie in.
        name: theirs.
        length: how many samples.
    """

    spool: Spool
    name: str
    length: int

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        places = range(self.length)[index]
        if isinstance(places, range):
            return [self.spool.read(place, self.name) for place in places]
        return self.spool.read(places, self.name)

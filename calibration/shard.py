"""What one part of the calibration data left: parts that were observed apart merge to the bits of one run."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import observers
from .observers import Observer

_OBSERVERS = "observers.npz"
_REST = "shard.npz"


@dataclass
class Shard:
    """Statistics of tensors on some samples, and what is known of all the data.

    Attributes:
        observers: by tensor.
        channels: least and greatest value of each channel, by tensor.
        first: the first samples of the data, whoever's they are.
        samples: of the data, not only those that were observed here.
        dropped: rows of the data that fill no sample.
        digest: of the data, see `dataset.Tally`.
    """

    observers: dict[str, Observer]
    channels: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    first: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    samples: int = 0
    dropped: int = 0
    digest: str = ""

    def update(self, arrays: Mapping[str, np.ndarray], channelled: Collection[str]) -> None:
        """Adds one sample: an array by tensor; those called `channelled` are seen channel by channel too."""
        for name, array in arrays.items():
            self.observers[name].update(array)
            if name in channelled and array.size:
                rows = array.reshape(-1, array.shape[-1])
                self._widen(name, rows.min(axis=0), rows.max(axis=0))

    def merge(self, other: "Shard") -> None:
        """Adds what another part of the same data has left."""
        for name, observer in other.observers.items():
            self.observers[name].merge(observer)
        for name, (low, high) in other.channels.items():
            self._widen(name, low, high)

    def save(self, folder: Path) -> None:
        """Writes it into a new folder."""
        folder.mkdir()
        observers.save(folder / _OBSERVERS, self.observers)
        names, inputs = sorted(self.channels), sorted(self.first[0]) if self.first else []
        arrays = {
            "channels": np.array(names, np.str_),
            "inputs": np.array(inputs, np.str_),
            "counts": np.array([self.samples, self.dropped, len(self.first)], np.int64),
            "digest": np.array(self.digest),
            **{f"channel{index}": np.stack(self.channels[name]) for index, name in enumerate(names)},
            **{
                f"sample{place}_{index}": sample[name]
                for place, sample in enumerate(self.first)
                for index, name in enumerate(inputs)
            },
        }
        with (folder / _REST).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def _widen(self, name: str, low: np.ndarray, high: np.ndarray) -> None:
        known = self.channels.get(name, (low, high))
        self.channels[name] = np.minimum(low, known[0]), np.maximum(high, known[1])


def load(folder: Path) -> Shard:
    """Reads what `Shard.save` wrote."""
    with np.load(folder / _REST, allow_pickle=False) as kept:
        samples, dropped, first = (int(count) for count in kept["counts"])
        return Shard(
            observers.load(folder / _OBSERVERS),
            {str(name): tuple(kept[f"channel{index}"]) for index, name in enumerate(kept["channels"])},
            [
                {str(name): kept[f"sample{place}_{index}"] for index, name in enumerate(kept["inputs"])}
                for place in range(first)
            ],
            samples,
            dropped,
            str(kept["digest"]),
        )

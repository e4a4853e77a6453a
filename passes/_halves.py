"""The 16-bit floating-point types, and whether the numbers of a constant fit into one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from ._base import Miss
from ._stored import own_view

_CHUNK = 1 << 20  # elements
_EAGER = 1 << 12  # elements up to which a constant is converted at once
FAR = -1e9
"""Numbers that are lower stand for minus infinity: what masks add to scores."""


@dataclass(frozen=True)
class Half:
    """A 16-bit floating-point type.

    Attributes:
        dtype: its code.
        greatest: the greatest number that it holds.
        least: the least one that it holds with full precision.
        unit: the greatest relative error of rounding.
    """

    dtype: ir.DataType
    greatest: float
    least: float
    unit: float

    @property
    def text(self) -> str:
        """Name, as in `float16`."""
        return self.dtype.name.lower()

    @property
    def tensor(self) -> str:
        """Name in the standard's schemas."""
        return f"tensor({self.text})"


HALVES = {
    "float16": Half(ir.DataType.FLOAT16, 65504.0, 2.0**-14, 2.0**-11),
    "bfloat16": Half(ir.DataType.BFLOAT16, (2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-8),
}


@dataclass(frozen=True)
class Fit:
    """What becomes of a constant's numbers.

    Attributes:
        worst: the one that is farthest beyond the type's range; 0 where all are within, masks apart.
        mask: whether some stand for minus infinity and are beyond the range.
        lost: whether one of them, not 0, becomes 0 or keeps too few bits.
        rough: whether the constant as a whole loses more than rounding does.
        example: one of those that lose most.
    """

    worst: float = 0.0
    mask: bool = False
    lost: bool = False
    rough: bool = False
    example: float = 0.0


@dataclass
class Constants:
    """The constants of a graph, each looked at once, piece by piece.

    Attributes:
        half: the type that they shall have.
        fits: what was found, by constant and by whether each number counts.
    """

    half: Half
    fits: dict[tuple[ir.Value, bool], Fit] = field(default_factory=dict)

    def require_fit(self, value: ir.Value, *, strict: bool, masks: bool, bounds: bool) -> None:
        """Checks that a constant may become 16 bits wide.

        Args:
            value: the constant, or anything else.
            strict: whether each number counts by itself, as divisors and scales do.
            masks: whether numbers that stand for minus infinity may become half of the lowest number.
            bounds: whether numbers beyond the range may become its ends.

        Raises:
            Miss: it may not.
        """
        tensor = constant_tensor(value)
        if tensor is None:
            return
        each = strict or tensor.size == 1
        if (value, each) not in self.fits:
            plain = not each and _fits_plainly(tensor, self.half)
            self.fits[value, each] = Fit() if plain else _fit(tensor, self.half)
        fit, text = self.fits[value, each], self.half.text
        if fit.worst and not bounds:
            raise Miss(f"the constant {value.name!r} holds {fit.worst:.4g}, which {text} does not")
        if fit.mask and not (masks or bounds):
            raise Miss(f"the constant {value.name!r} holds numbers below {-self.half.greatest:.4g}")
        if fit.lost if each else fit.rough:
            raise Miss(f"the constant {value.name!r} holds {fit.example:.4g}, which {text} rounds too much")


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Returns the tensor of an initializer that is no graph input, or of a Constant; None elsewhere."""
    if value is None or value.is_graph_input():
        return None
    node = value.producer()
    if node is None:
        return value.const_value if value.is_initializer() else None
    if node.domain != "" or node.op_type != "Constant":
        return None
    for name in ("value", "value_float", "value_floats"):
        found = node.attributes.get(name)
        if found is not None and not found.is_ref():
            return found.as_tensor() if name == "value" else ir.tensor(np.array(found.value, np.float32))
    return None


def halved(tensor: ir.TensorProtocol, half: Half, name: str | None) -> ir.TensorProtocol:
    """Returns the tensor in 16 bits; one that is not small is computed when it is written."""
    make = partial(_halved, tensor, half, name)
    if tensor.size <= _EAGER:
        return make()
    return ir.LazyTensor(make, half.dtype, ir.Shape(tensor.shape.numpy()), name=name)


def clamped(array: np.ndarray, half: Half) -> np.ndarray:
    """Replaces what is beyond the range: by half of the lowest number where minus infinity is meant, else by its end.

    Half of it, so that a score may be added.
    """
    limit = np.float32(half.greatest)
    if not array.size or -limit <= array.min() <= array.max() <= limit:
        return array
    low = np.where(array <= FAR, -limit / 2, -limit)
    fixed: np.ndarray = np.where(array > limit, limit, np.where(array < -limit, low, array))
    return np.where(np.isfinite(array), fixed, array).astype(array.dtype)


def _halved(tensor: ir.TensorProtocol, half: Half, name: str | None) -> ir.TensorProtocol:
    array = own_view(tensor).numpy()
    made = np.empty(array.shape, half.dtype.numpy())
    flat, target = array.reshape(-1), made.reshape(-1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for at in range(0, flat.size, _CHUNK):
            target[at : at + _CHUNK] = clamped(flat[at : at + _CHUNK], half)
    return ir.Tensor(made, dtype=half.dtype, name=name)


def _fits_plainly(tensor: ir.TensorProtocol, half: Half) -> bool:
    """Whether numbers are within the range, and so great that as a whole they lose little: most weights do.

    A number loses `unit` of itself, or `unit * least` where it is smaller than `least`: where the root of the mean
    square is not, that is 2 units at most. So nothing is rounded, and a weight is read at the speed of memory.
    """
    flat, total = own_view(tensor).numpy().reshape(-1), 0.0
    for at in range(0, flat.size, _CHUNK):
        chunk = flat[at : at + _CHUNK]
        if not -half.greatest <= chunk.min() <= chunk.max() <= half.greatest:  # false for NaN
            return False
        total += float(np.dot(chunk, chunk))
    return total >= flat.size * half.least**2


def _fit(tensor: ir.TensorProtocol, half: Half) -> Fit:
    """Reads a constant once; its error as a whole is the root of the sum of squares, beside that of the numbers."""
    worst, mask, example = 0.0, False, 0.0
    most, error, total = 0.0, 0.0, 0.0
    for exact in _chunks(tensor):
        over = exact[abs(exact) > half.greatest]
        mask |= bool((over <= FAR).any())
        over = over[over > FAR]
        if over.size:
            worst = max(worst, float(over[abs(over).argmax()]), key=abs)
        within = exact[abs(exact) <= half.greatest]
        difference = abs(within.astype(half.dtype.numpy()).astype(np.float64) - within)
        relative = np.divide(difference, abs(within), out=np.zeros_like(within), where=within != 0)
        if relative.size and relative.max() > most:
            most, example = float(relative.max()), float(within[relative.argmax()])
        error += float(np.square(difference).sum())
        total += float(np.square(within).sum())
    rough = error > (2 * half.unit) ** 2 * total
    return Fit(worst, mask, most > 2 * half.unit, rough, example)


def _chunks(tensor: ir.TensorProtocol) -> Iterator[np.ndarray]:
    flat = own_view(tensor).numpy().reshape(-1)
    for at in range(0, flat.size, _CHUNK):
        chunk = flat[at : at + _CHUNK].astype(np.float64)
        yield chunk[np.isfinite(chunk)]

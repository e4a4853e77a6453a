"""Integers for real numbers: scale, zero point, and weights that are quantized when they are written.

real = scale * (integer - zero_point), of ONNX's QuantizeLinear: round half to even, then saturate.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from ._stored import own_view

_LEAST = float(np.finfo(np.float32).tiny)
_DEAD = 2.0**-20
"""Scale of a channel of zeros, against the greatest one."""
_MOST_BIAS = float(2**31 - 1) * (1 - 2**-20)


@dataclass(frozen=True)
class Grid:
    """The numbers that an integer tensor can hold.

    Attributes:
        scale: float32, of shape () or [channels].
        zero_point: of the integers' dtype, of the same shape.
    """

    scale: np.ndarray
    zero_point: np.ndarray


def grid(low: float, high: float, dtype: ir.DataType, within: tuple[float, float] = (-np.inf, np.inf)) -> Grid:
    """Returns scale and zero point of 8-bit activations whose values lie in [low, high]; zero is one of the numbers.

    UINT8 takes any zero point, INT8 takes 0 and -127 to 127, so that no number is without its opposite.

    Args:
        low: least value.
        high: greatest one.
        dtype: UINT8 or INT8.
        within: bounds with zero between them, beyond which no number of UINT8 lies.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if dtype is ir.DataType.INT8:
        scale = max(-low, high) / 127
        return Grid(np.array(max(scale, _LEAST) if scale else 1, np.float32), np.array(0, np.int8))
    scale = (high - low) / 255
    scale = max(scale, _LEAST) if scale else 1.0
    zero = int(np.clip(round(-low / scale), 0, 255))
    most = min(-within[0] / zero if zero else np.inf, within[1] / (255 - zero) if zero < 255 else np.inf)
    step = np.float32(min(scale, most) if most > 0 else scale)
    while step > most > 0:  # float32 rounded it up
        step = np.nextafter(step, np.float32(0))
    return Grid(np.array(step, np.float32), np.array(zero, np.uint8))


def weight_scale(tensor: ir.TensorProtocol, axis: int | None, bits: int) -> np.ndarray:
    """Returns the symmetric scale of a weight, float32: of shape [channels], or () where `axis` is None.

    Args:
        tensor: the weight.
        axis: the one that has the output channels.
        bits: 8, or 7 where the sum of two products must fit into 16 bits (x86 without VNNI).
    """
    array = own_view(tensor).numpy()
    others = None if axis is None else tuple(one for one in range(array.ndim) if one != axis % array.ndim)
    greatest = np.maximum(array.max(axis=others, initial=0), -array.min(axis=others, initial=0)).astype(np.float64)
    return np.asarray(greatest / (2 ** (bits - 1) - 1))


def with_room_for_bias(scale: np.ndarray, bias: np.ndarray | None, step: np.float32) -> np.ndarray:
    """Returns the weight's scale, float32 and never 0, no smaller than the int32 bias of the same product needs.

    A channel of zeros has a scale of zero: it gets a small one, so that its bias has room and is exact.

    Args:
        scale: of shape [channels] or ().
        bias: float32[channels]; None where it is no integer.
        step: scale of the product's input.
    """
    greatest = float(scale.max(initial=0))
    enough = np.where(scale == 0, greatest * _DEAD or _DEAD, scale)
    if bias is not None:
        room = np.abs(bias.astype(np.float64)) / (float(step) * _MOST_BIAS)
        enough = np.maximum(enough, room if scale.ndim else room.max(initial=0))
    result: np.ndarray = np.maximum(enough, _LEAST / min(float(step), 1.0)).astype(np.float32)
    return result


def integers(array: np.ndarray, scale: np.ndarray, axis: int | None, dtype: np.dtype, bits: int) -> np.ndarray:
    """Quantizes symmetrically: round half to even, saturated to the numbers that have their opposite."""
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    wide = np.dtype(np.float64 if bits > 16 else np.float32)
    most = 2 ** (bits - 1) - 1
    steps = scale.reshape(shape if axis is not None else ())
    quotient = np.divide(array, steps, dtype=wide)
    result: np.ndarray = np.clip(np.rint(quotient, out=quotient), -most, most, out=quotient).astype(dtype)
    return result


def lazy(
    tensor: ir.TensorProtocol, scale: np.ndarray, axis: int | None, bits: int, name: str, *, transposed: bool = False
) -> ir.TensorProtocol:
    """Returns the int8 weight; the float one is read and quantized when it is written.

    Args:
        tensor: the float weight.
        scale: float32, of shape () or [channels].
        axis: of the channels in `tensor`.
        bits: see `weight_scale`.
        name: of the result.
        transposed: whether the result is the transposed matrix.
    """
    sizes = tensor.shape.numpy()

    def make(source: ir.TensorProtocol) -> ir.TensorProtocol:
        array = integers(own_view(source).numpy(), scale, axis, np.dtype(np.int8), bits)
        return ir.Tensor(np.ascontiguousarray(array.T) if transposed else array, name=name)

    shape = ir.Shape(sizes[::-1] if transposed else sizes)
    return ir.LazyTensor(partial(make, tensor), ir.DataType.INT8, shape, name=name)

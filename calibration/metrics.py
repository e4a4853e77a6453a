"""Metrics of the accuracy guard: how far a quantized model is from its reference, and how far it may be.

`--max-drop METRIC=VALUE` bounds a loss, which is 0 for a model that gives what the reference gives:

| metric | value of the metric | loss that is bounded | bound |
|---|---|---|---|
| top1 | share of answers that are the label, or the reference's | reference's top1 - model's | `0.5pp`, `0.005` |
| cosine | mean cosine to the reference, -1 to 1 | 1 - cosine | `0.005` |
| sqnr | signal-to-noise ratio to the reference, in dB | none: the ratio itself is bounded from below | `20`, `20dB` |
| mse | mean squared error over the reference's mean square | the metric itself | `0.01` |

`mse` is relative, so that one bound serves outputs of any scale; 0.01 is the same as 20 dB.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from . import bounds

Outputs = Sequence[np.ndarray]
"""One output over a list of samples, each with a leading batch axis."""


def top1(outputs: Outputs, references: Outputs, labels: Outputs | None = None) -> float:
    """Returns the share of positions whose argmax over the last axis is the label, or else the reference's.

    Raises:
        ValueError: labels are missing or too many, or no label is the number of a class.
    """
    _check(outputs, references)
    right = total = possible = classes = 0
    for index, (output, reference) in enumerate(zip(outputs, references, strict=True)):
        answer = _answer(output)
        wanted = _answer(reference) if labels is None else np.asarray(labels[index])
        if wanted.size != answer.size:
            raise ValueError(f"sample {index}: {wanted.size} labels for {answer.size} answers")
        classes = output.shape[-1]
        possible += _possible(wanted, classes)
        right += int((answer == wanted.reshape(answer.shape)).sum())
        total += answer.size
    if labels is not None and not possible:
        raise ValueError(
            f"no label is the number of a class, 0 to {classes - 1}; the first is {np.ravel(labels[0])[0]}"
        )
    return right / total


def _possible(labels: np.ndarray, classes: int) -> int:
    """Counts the labels that are the number of a class; others, such as 255 for what is left out, are never right."""
    if labels.dtype.kind not in "biuf":
        return 0
    return int(((labels >= 0) & (labels < classes) & (labels == np.floor(labels))).sum())


def cosine(outputs: Outputs, references: Outputs) -> float:
    """Returns the mean over samples of the cosine between output and reference; that of two zeros is 1."""
    _check(outputs, references)
    return float(np.mean([_cosine(*pair) for pair in zip(outputs, references, strict=True)]))


def sqnr(outputs: Outputs, references: Outputs) -> float:
    """Returns 10 log10(sum of reference^2 / sum of (output - reference)^2) in dB over all samples; inf where equal."""
    noise = mse(outputs, references)
    return math.inf if noise == 0 else -10 * math.log10(noise) if math.isfinite(noise) else -math.inf


def mse(outputs: Outputs, references: Outputs) -> float:
    """Returns sum of (output - reference)^2 / sum of reference^2 over all samples; inf where only the latter is 0."""
    _check(outputs, references)
    noise = power = 0.0
    for output, reference in zip(outputs, references, strict=True):
        wide = reference.astype(np.float64)
        noise += float(np.square(output.astype(np.float64) - wide).sum())
        power += float(np.square(wide).sum())
    if not math.isfinite(noise):
        return math.inf
    return noise / power if power else math.inf if noise else 0.0


METRICS: dict[str, Callable[[Outputs, Outputs], float]] = {"top1": top1, "cosine": cosine, "sqnr": sqnr, "mse": mse}
"""By the name that `--max-drop` takes."""

HIGHER_IS_BETTER = {"top1": True, "cosine": True, "sqnr": True, "mse": False}


@dataclass(frozen=True)
class Bound:
    """What `--max-drop` allows.

    Attributes:
        metric: key of METRICS.
        limit: the greatest loss, as a fraction; of sqnr the least ratio, in dB.
    """

    metric: str
    limit: float

    def loss(self, outputs: Outputs, references: Outputs, labels: Outputs | None = None) -> float:
        """Returns what is bounded, the less the better: for sqnr its negative, in dB.

        A model that answers better than its reference has a negative loss.
        """
        if self.metric == "top1":
            return top1(references, references, labels) - top1(outputs, references, labels)
        value = METRICS[self.metric](outputs, references)
        return {"cosine": 1 - value, "sqnr": -value, "mse": value}[self.metric]

    @property
    def most(self) -> float:
        """The greatest loss within the bound."""
        return -self.limit if self.metric == "sqnr" else self.limit

    def holds(self, loss: float) -> bool:
        """Returns whether a loss is within the bound; NaN is not."""
        return loss <= self.most + 1e-12  # 1 - 0.995 is more than 0.005

    def __str__(self) -> str:
        unit = {"top1": "pp", "sqnr": "dB"}.get(self.metric, "")
        return f"{self.metric}={self.limit * (100 if self.metric == 'top1' else 1):g}{unit}"


def parse(text: str) -> Bound:
    """Parses what follows `--max-drop`, see `bounds.parse`."""
    return Bound(*bounds.parse(text))


def _answer(output: np.ndarray) -> np.ndarray:
    """The greatest of the last axis; integers are answers themselves.

    Raises:
        ValueError: there is nothing to choose among.
    """
    if output.dtype.kind in "iu":
        return output
    if not output.ndim or output.shape[-1] < 2:
        raise ValueError(f"top1 chooses among the last axis, and the output has the shape {output.shape}")
    answer: np.ndarray = output.argmax(axis=-1)
    return answer


def _cosine(output: np.ndarray, reference: np.ndarray) -> float:
    a, b = output.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else float(np.array_equal(a, b))


def _check(outputs: Outputs, references: Outputs) -> None:
    if not references or len(outputs) != len(references):
        raise ValueError(f"{len(outputs)} outputs for {len(references)} references: as many are needed, and at least 1")
    for index, (output, reference) in enumerate(zip(outputs, references, strict=True)):
        if output.shape != reference.shape:
            raise ValueError(
                f"sample {index}: the output has the shape {output.shape}, the reference {reference.shape}"
            )

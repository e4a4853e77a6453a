"""Accuracy of INT8 on real trained models and real data, beside FP32 on the same runtime."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import planc
from planc.compiler import emulate

from . import data
from .common import PLANC, ROOT, print_table

TARGETS = ("onnxruntime-cpu", "openvino-cpu", "tensorrt-rtx")
PLANS = ("tensorrt-rtx",)
"""Targets whose plans need a GPU: their lowered graph is judged, in ONNX Runtime, Q/DQ as they stand."""
FOLDER = ROOT / "out/bench/accuracy"

Run = Callable[..., Mapping[str, np.ndarray]]
Scores = dict[str, float]


@dataclass(frozen=True)
class Proof:
    """A model, and what it may lose.

    Attributes:
        title: for the reader.
        name: of the callable in bench/models.py, or of the ONNX file that `export` makes.
        inputs: as for --input.
        dims: as for --dim.
        calibration: name of the callable in bench/data.py.
        answers: runs the model on what it is judged by.
        scores: of answers, beside those of FP32 on the same runtime.
        bounds: by metric: the least value, or the greatest loss where it is preceded by "-".
        words: more options of `planc compile -p int8`.
        onnx: gives the path of an ONNX file that is taken as it is.
        prepare: makes the weights; returns more options of `planc export`.
    """

    title: str
    name: str
    calibration: str
    answers: Callable[[Run], list[np.ndarray]]
    scores: Callable[[list[np.ndarray], list[np.ndarray]], Scores]
    bounds: Mapping[str, str]
    inputs: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    onnx: Callable[[], Path] | None = None
    prepare: Callable[[], tuple[str, ...]] | None = None

    def source(self) -> Path:
        """The FP32 graph, exported once."""
        if self.onnx is not None:
            return self.onnx()
        out = FOLDER / f"{self.name}.onnx"
        more = self.prepare() if self.prepare else ()
        inputs = [f"--input={text}" for text in self.inputs]
        call("export", f"bench/models.py:{self.name}", *inputs, *self._sizes(), *more, "-o", out)
        return out

    def compile(self, source: Path, target: str, precision: str, *words: str) -> dict[str, Any]:
        """Runs `planc compile` and returns its JSON document, which holds an `error` where it refused."""
        out = FOLDER / f"{self.name}-{target}-{precision}"
        data_words = self._int8() if precision == "int8" else []
        return call("compile", source, *self._sizes(), "-t", target, "-p", precision, "-o", out, *data_words, *words)

    def lower(self, source: Path, target: str, out: Path) -> dict[str, Any]:
        """Runs `planc quantize` and returns its JSON document."""
        return call("quantize", source, *self._sizes(), "-t", target, "-o", out, "--overwrite", *self._int8())

    def _int8(self) -> list[str]:
        return [f"--calibration=bench/data.py:{self.calibration}", *self.words]

    def _sizes(self) -> list[str]:
        inputs = [] if self.onnx is None else [f"--input={text}" for text in self.inputs]
        return [*inputs, *(f"--dim={text}" for text in self.dims)]


def call(*words: object) -> dict[str, Any]:
    """Runs planc and returns its JSON document."""
    command = [PLANC, *map(str, words), "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def run_images(run: Run) -> list[np.ndarray]:
    return [output(run(x=image)) for image, _ in data.images()]


def image_scores(answers: list[np.ndarray], references: list[np.ndarray]) -> Scores:
    right = [int(one.argmax()) in labels for one, (_, labels) in zip(answers, data.images(), strict=True)]
    agreed = [one.argmax() == other.argmax() for one, other in zip(answers, references, strict=True)]
    return {"top-1": float(np.mean(right)), "agreement": float(np.mean(agreed))}


def run_tones(run: Run) -> list[np.ndarray]:
    frames, _ = data.tones(2000, seed=0)
    return [output(run(frames=frames[start : start + 200])) for start in range(0, len(frames), 200)]


def tone_scores(answers: list[np.ndarray], _references: list[np.ndarray]) -> Scores:
    return {"raw pitch accuracy, 0 dB": data.pitch_accuracy(np.concatenate(answers), data.tones(2000, seed=0)[1])}


def run_lines(run: Run) -> list[np.ndarray]:
    return [output(run(x=image)) for image, _ in data.lines(100, seed=0)]


def line_scores(answers: list[np.ndarray], _references: list[np.ndarray]) -> Scores:
    labels = [text for _, text in data.lines(100, seed=0)]
    return {"1 - character error rate": data.character_accuracy(answers, labels)}


def run_digits(run: Run) -> list[np.ndarray]:
    images = data.digits()[0][data.TRAINED :]
    return [output(run(x=images[start : start + 100])) for start in range(0, len(images), 100)]


def digit_scores(answers: list[np.ndarray], _references: list[np.ndarray]) -> Scores:
    labels = data.digits()[1][data.TRAINED :]
    return {"accuracy": float(np.mean(np.concatenate(answers).argmax(axis=1) == labels))}


def run_texts(run: Run) -> list[np.ndarray]:
    """Eight texts at a time, padded: the mask counts."""
    found, known = [], data.texts()
    for start in range(0, len(known), 8):
        feed = data.tokens(known[start : start + 8])
        found.append(data.sentence(run(**feed)["last_hidden_state"], feed["attention_mask"]))
    return found


def text_scores(answers: list[np.ndarray], references: list[np.ndarray]) -> Scores:
    made, wanted = np.concatenate(answers), np.concatenate(references)
    cosines = (made * wanted).sum(axis=1)
    return {"mean cosine": float(cosines.mean()), "least cosine": float(cosines.min()), **data.text_scores(made)}


def output(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


def ocr_file() -> Path:
    return data.package("rapidocr_onnxruntime") / "models/ch_PP-OCRv4_rec_infer.onnx"


def train_digits() -> tuple[str, ...]:
    """Trains the CNN once; returns where its weights are."""
    import torch

    from . import models

    path = FOLDER / "mnist.pt"
    if not path.exists():
        images, labels = data.digits()
        known = torch.from_numpy(images[: data.TRAINED]), torch.from_numpy(labels[: data.TRAINED])
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(models.train_mnist(*known).state_dict(), path)
    return "--weights", str(path)


PROOFS = (
    Proof(
        "EfficientNet-Lite0",
        "efficientnet_lite0",
        "image_calibration",
        run_images,
        image_scores,
        {"top-1": "-0.02", "agreement": "0.92"},
        ("x=float32[batch,3,224,224]",),
        ("batch=1..8@1",),
    ),
    Proof(
        "CREPE tiny",
        "crepe_tiny",
        "tone_calibration",
        run_tones,
        tone_scores,
        {"raw pitch accuracy, 0 dB": "-0.005"},
        ("frames=float32[batch,1024]",),
        ("batch=1..256@16",),
    ),
    Proof(
        "PP-OCRv4 rec",
        "ocr_rec",
        "line_calibration",
        run_lines,
        line_scores,
        {"1 - character error rate": "-0.01"},
        words=(
            "--max-drop",
            "bench/data.py:character_accuracy=0.005",
            "--eval",
            "bench/data.py:line_trial",
        ),
        onnx=ocr_file,
        inputs=("x=float32[batch,3,48,width]",),
        dims=("batch=1", "width=48..1280@320"),
    ),
    Proof(
        "MNIST CNN",
        "mnist",
        "digit_calibration",
        run_digits,
        digit_scores,
        {"accuracy": "-0.003"},
        ("x=float32[batch,1,28,28]",),
        ("batch=1..128@1",),
        prepare=train_digits,
    ),
    Proof(
        "MiniLM-L6",
        "minilm",
        "text_calibration",
        run_texts,
        text_scores,
        {"mean cosine": "0.995", "SimLex": "-0.01", "WordSim": "-0.01", "Lee": "-0.01"},
        ("input_ids=int64[batch,seq]:0..30521", "attention_mask=int64[batch,seq]:1..1"),
        ("batch=1..8@1", "seq=2..128@64"),
    ),
)


@dataclass(frozen=True)
class Result:
    """One model on one target: scores of both precisions, and what INT8 is made of."""

    fp32: Scores
    int8: Scores
    bytes: int
    ratio: float
    kept: int
    layers: int
    refusal: str = ""


def main(names: Sequence[str] = ()) -> None:
    print("## Accuracy of INT8\n")
    print(f"{len(data.images())} images of 1000 classes: agreement with FP32 says more than top-1.")
    rows = []
    for proof in PROOFS:
        if not names or proof.name in names:
            rows += measure(proof)
    headers = ["model", "metric", "bound"]
    for target in TARGETS:
        headers += [f"{target} FP32", "INT8", "MB (of FP32)", "in float"]
    print_table(headers, rows)


def measure(proof: Proof) -> list[list[str]]:
    """Rows of one model, one for each metric."""
    source = proof.source()
    results = [judge(proof, source, target) for target in TARGETS]
    metrics = next((list(one.int8) for one in results if one.int8), list(proof.bounds))
    rows = []
    for metric in metrics:
        row = [proof.title, metric, proof.bounds.get(metric, "")]
        for one in results:
            if one.refusal:
                row += [one.refusal, "", "", ""]
                continue
            missed = "" if holds(one, metric, proof.bounds.get(metric, "")) else " **missed**"
            size = f"{one.bytes / 1e6:.2f} ({one.ratio:.2f})"
            row += [f"{one.fp32[metric]:.4f}", f"{one.int8[metric]:.4f}{missed}", size, f"{one.kept} of {one.layers}"]
        rows.append(row)
    return rows


def judge(proof: Proof, source: Path, target: str) -> Result:
    """Builds both precisions and scores them."""
    if target in PLANS:
        return judge_graph(proof, source, target)
    plain, whole = (proof.compile(source, target, precision) for precision in ("fp32", "int8"))
    for document in (plain, whole):
        if "error" in document:
            return refused(document)
    references, answers = (proof.answers(planc.load(document["output"])) for document in (plain, whole))
    products, kept = whole["manifest"]["quantization"]["products"], whole["manifest"]["quantization"]["kept"]
    return Result(
        fp32=proof.scores(references, references),
        int8=proof.scores(answers, references),
        bytes=payload(whole),
        ratio=payload(whole) / payload(plain),
        kept=len(kept),
        layers=sum(one["nodes"] for one in products.values()),
    )


def judge_graph(proof: Proof, source: Path, target: str) -> Result:
    """Lowers the graph and scores it beside the one that it comes from."""
    out = FOLDER / f"{proof.name}-{target}.onnx"
    document = proof.lower(source, target, out)
    if "error" in document:
        return refused(document)
    references, answers = (proof.answers(_keywords(emulate.runner(path))) for path in (source, out))
    return Result(
        fp32=proof.scores(references, references),
        int8=proof.scores(answers, references),
        bytes=out.stat().st_size,
        ratio=out.stat().st_size / source.stat().st_size,
        kept=sum(layer["decision"] == "float" for layer in document["layers"]),
        layers=sum(one["nodes"] for one in document["products"].values()),
    )


def _keywords(run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> Run:
    return lambda **feed: run(feed)


def refused(document: Mapping[str, Any]) -> Result:
    """What a refusal leaves: its words."""
    return Result({}, {}, 0, 0, 0, 0, refusal=f"{document['error']['what']} ({document['error']['exit_code']})")


def holds(result: Result, metric: str, bound: str) -> bool:
    """Whether a score is within its bound."""
    if not bound:
        return True
    least = result.fp32[metric] + float(bound) if bound.startswith("-") else float(bound)
    return result.int8[metric] >= least - 1e-12


def payload(document: Mapping[str, Any]) -> int:
    """Bytes of what is deployed."""
    skipped = ("golden.npz", "ranges.json")
    return sum(one["bytes"] for name, one in document["manifest"]["files"].items() if name not in skipped)

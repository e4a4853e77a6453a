"""What the benchmarks share: running planc, describing the machine, printing Markdown tables."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planc.compiler import host

ROOT = Path(__file__).parents[1]
PLANC = Path(sys.executable).with_name("planc")
VERSIONS = ("planc", "torch", "onnxruntime", "openvino", "onnxscript", "onnx-ir", "transformers", "numpy")


@dataclass(frozen=True)
class Case:
    """A model of bench/models.py with its shapes.

    Attributes:
        title: for the reader.
        model: name of the callable.
        inputs: as for --input.
        dims: as for --dim.
        onnx: package and path in it of an ONNX file that is taken as it is, instead of a callable.
    """

    title: str
    model: str
    inputs: tuple[str, ...]
    dims: tuple[str, ...]
    onnx: tuple[str, str] | None = None

    @property
    def source(self) -> str:
        """What planc compiles."""
        if self.onnx is None:
            return f"bench/models.py:{self.model}"
        from .data import package

        return str(package(self.onnx[0]) / self.onnx[1])

    def compile(self, target: str, precision: str, *words: str) -> dict[str, Any]:
        """Runs `planc compile` and returns its JSON document, which holds an `error` where it refused."""
        shapes = [f"--input={text}" for text in self.inputs] + [f"--dim={text}" for text in self.dims]
        out = ROOT / "out/bench" / f"{self.model}-{'-'.join(self.dims)}-{target}-{precision}"
        command = [PLANC, "compile", self.source, *shapes, "-t", target, "-p", precision, "-o", out]
        done = subprocess.run(
            [*command, *words, "--format", "json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def export(self, out: Path) -> None:
        """Runs `planc export`: the graph as the dynamo exporter gives it, unoptimised."""
        shapes = [f"--input={text}" for text in self.inputs] + [f"--dim={text}" for text in self.dims]
        command = [PLANC, "export", self.source, *shapes, "-o", out]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def export_by_torchscript(self, out: Path) -> None:
        """Runs the old exporter, constant folding off."""
        command = [sys.executable, "-m", "bench._torchscript", self.model, out, *self.inputs, *self.dims]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


_IDS = ("input_ids=int64[batch,seq]:0..30521", "attention_mask=int64[batch,seq]:1..1")
_IMAGES = ("x=float32[batch,3,224,224]",)

RESNET50 = Case("ResNet-50 (random weights), batch 1 of 1..8", "resnet50", _IMAGES, ("batch=1..8@1",))
EFFICIENTNET = Case("EfficientNet-Lite0, batch 1 of 1..8", "efficientnet_lite0", _IMAGES, ("batch=1..8@1",))
VIT = Case("ViT-S/16 (random weights), batch 1 of 1..8", "vit", _IMAGES, ("batch=1..8@1",))
MINILM = Case("MiniLM-L6, batch 1 of 1..8, sequence 128 of 8..256", "minilm", _IDS, ("batch=1..8@1", "seq=8..256@128"))
MINILM_8 = Case(
    "MiniLM-L6, batch 8 of 1..8, sequence 128 of 8..256", "minilm", _IDS, ("batch=1..8@8", "seq=8..256@128")
)
CREPE = Case("CREPE tiny, batch 16 of 1..256", "crepe_tiny", ("frames=float32[batch,1024]",), ("batch=1..256@16",))
OCR = Case(
    "PP-OCRv4 rec, width 320 of 48..1280",
    "ocr_rec",
    ("x=float32[batch,3,48,width]",),
    ("batch=1", "width=48..1280@320"),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
)
GPT2 = Case(
    "GPT-2 of 6 layers (random weights), a step with 64 of 1..512 tokens in the KV cache",
    "gpt2_step",
    ("ids=int64[batch,1]:0..50256", "past=float32[6,2,batch,6,past,64]"),
    ("batch=1..4@1", "past=1..512@64"),
)
MINILM_FIXED = Case("MiniLM-L6 compiled for batch 1, sequence 128 only", "minilm", _IDS, ("batch=1", "seq=128"))


def machine() -> str:
    """Describes what the figures depend on."""
    versions = ", ".join(f"{name} {host.version(name)}" for name in VERSIONS)
    flags = " ".join(flag for flag in sorted(host.cpu_flags()) if flag.startswith(("avx", "amx"))) or "no AVX"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    return f"{host.cpu_name()}, {host.cores()} cores ({flags}), {load}; Python {sys.version.split()[0]}, {versions}"


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table: names to the left, figures to the right."""
    print(f"\n| {' | '.join(headers)} |")
    print(f"|---|{'--:|' * (len(headers) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)

"""EfficientNet-Lite0 for two CPU runtimes, beside PyTorch: accuracy on real photos, size and latency."""

import importlib.util
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from model import efficientnet_lite0
from PIL import Image

import planc
from planc.compiler.bench import interleaved, summary
from planc.compiler.rounds import watching

ROOT = Path(__file__).resolve().parents[2]
MODEL = "examples/01_two_targets/model.py:efficientnet_lite0"
TARGETS = ("onnxruntime-cpu", "openvino-cpu")
BUSY = 0.1

Classifier = Callable[[np.ndarray], np.ndarray]
"""Images float32[1,3,224,224] -> logits float32[1,1000]."""


def main() -> None:
    artifacts = {target: compile_for(target) for target in TARGETS}
    net = efficientnet_lite0().eval()
    networks = {"PyTorch eager": eager(net), **{name: runtime(folder) for name, folder in artifacts.items()}}
    megabytes = {"PyTorch eager": sum(tensor.nbytes for tensor in net.state_dict().values()) / 1e6}
    megabytes |= {name: payload_bytes(folder) / 1e6 for name, folder in artifacts.items()}
    images, labels = photos()
    logits = {name: np.concatenate([run(image) for image in images]) for name, run in networks.items()}
    machine: dict[str, float] = {}
    with watching(machine):
        latencies = interleaved({name: lambda run=run: run(images[0]) for name, run in networks.items()}, seconds=10)
    print_table(logits, labels, megabytes, {name: summary(one)["latency_p50_ms"] for name, one in latencies.items()})
    if machine["others_share"] > BUSY:
        print(f"\nOther work took {machine['others_share']:.0%} of the cores meanwhile: the latencies mean little.")


def compile_for(target: str) -> Path:
    """Runs `planc compile`, as one would type it in the repository's root; an unchanged artifact stays as it is."""
    out = f"out/efficientnet_lite0-{target}"
    shapes = ["--input", "x=float32[batch,3,224,224]", "--dim", "batch=1..8@1"]
    words = ["compile", MODEL, *shapes, "-t", target, "-o", out]
    print("$ planc", shlex.join(words), flush=True)
    subprocess.run([Path(sys.executable).with_name("planc"), *words], cwd=ROOT, check=True)
    return ROOT / out


def eager(net: torch.nn.Module) -> Classifier:
    def run(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(image)).numpy()

    return run


def runtime(folder: Path) -> Classifier:
    session = planc.load(folder)
    return lambda image: session(x=image)[session.outputs[0].name]


def photos() -> tuple[list[np.ndarray], np.ndarray]:
    """The ImageNet photos inside the foolbox package, which is found but not imported; names end in the label."""
    package = importlib.util.find_spec("foolbox")
    if package is None or not package.submodule_search_locations:
        sys.exit("The photos are in the foolbox package: pip install --no-deps foolbox==3.3.4")
    paths = sorted(Path(package.submodule_search_locations[0], "data").glob("imagenet_*.jpg"))
    return [load_image(path) for path in paths], np.array([int(path.stem.rpartition("_")[2]) for path in paths])


def load_image(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    return ((pixels - 127) / 128).transpose(2, 0, 1)[None].copy()


def payload_bytes(folder: Path) -> int:
    """Size of what is deployed: the golden data is for `planc verify` only."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return sum(facts["bytes"] for name, facts in files.items() if name != "golden.npz")


def print_table(
    logits: dict[str, np.ndarray], labels: np.ndarray, megabytes: dict[str, float], latency: dict[str, float]
) -> None:
    reference, count = logits["PyTorch eager"], len(labels)
    print(f"\n{count} ImageNet photos: enough to see agreement, too few to state an accuracy.")
    print("Latency: batch 1, median of alternated bursts on this machine.\n")
    print("| runtime         | top-1    | same top-1 | worst cosine | size MB | latency ms | speed-up |")
    print("|-----------------|----------|------------|--------------|---------|------------|----------|")
    for name, one in logits.items():
        hits = f"{np.sum(one.argmax(1) == labels)} of {count}"
        agreed = f"{np.sum(one.argmax(1) == reference.argmax(1))} of {count}"
        speed_up = f"{latency['PyTorch eager'] / latency[name]:.2f}x"
        figures = f"{worst_cosine(one, reference):12.7f} | {megabytes[name]:7.1f} | {latency[name]:10.2f}"
        print(f"| {name:15} | {hits:8} | {agreed:10} | {figures} | {speed_up:>8} |")


def worst_cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(np.min(np.sum(one * other, 1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))))


if __name__ == "__main__":
    main()

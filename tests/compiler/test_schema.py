"""The published schema, and the small validator beside the one that everybody uses."""

import json
import tomllib
from typing import Any

import jsonschema
import pytest

from planc.calibration import METHODS
from planc.calibration.bounds import METRICS
from planc.compiler import recipe, schema
from planc.compiler.errors import UsageError
from planc.compiler.target import Precision

PUBLISHED = json.loads(schema.PLANC.read_text())
KNOWN = schema.read()
NET = '[model.net]\nsource = "net.onnx"\n'
BUILD = '[[build]]\ntargets = ["cpu"]\n'

GOOD = [
    "",
    NET + BUILD,
    'output = "dist"\n' + NET,
    NET + 'dims = { batch = 8, "a.b" = "1..8" }\nsamples = 3\nsmoothing = 1\nexclude = ["a", "b*"]\n',
    NET + 'method = "moving-average"\ntrust_pickle = true\ntolerance = { cosine = 1, atol = 1e-3 }\n',
    '[target.edge]\nbackend = "openvino"\nmemory = "8GiB"\nresources = { l4 = 1, gpu = 0.5 }\noptions = { b = true }\n',
    BUILD + 'gates = { max_drop = { top1 = "0.5pp", mse = 0.1 }, max_p99 = "5 ms", min_speedup = "1.5x" }\n',
    BUILD + 'gates = { min_speedup = 2, max_regression = "5%", max_size = "50MB", max_rss = "1073741824" }\n',
    '[cache]\nurl = "s3://bucket/x"\n[limits]\ntime = 90\n',
    '[limits]\ntime = "1.5h"\nmemory = "500 MB"\n',
]
BAD = [
    ("outptu = 1\n", "top level: unknown key 'outptu'. Did you mean 'output'?"),
    ("output = 3\n", 'output: 3 is an integer, not a text. Write output = "dist"'),
    ('output = ""\n', 'output: "" is not of the right form. Write output = "dist"'),
    ("model = 3\n", "model: 3 is an integer, not a table. Write model = "),
    ("[model]\nnet = 3\n", '[model.net]: 3 is an integer, not a table. Write net = { source = "net.py:net" }'),
    ("[model.net]\n", "[model.net]: 'source' is missing. Add source = \"net.py:net\""),
    ('[model."a b"]\nsource = "x"\n', 'model: "a b" cannot be a name. Use letters'),
    ('[model."../x"]\nsource = "x"\n', 'model: "../x" cannot be a name'),
    (NET + "calibraton = 'x'\n", "[model.net]: unknown key 'calibraton'. Did you mean 'calibration'?"),
    (NET + "samples = 'many'\n", '[model.net] samples: "many" is a text, not an integer. Write samples = 64'),
    (NET + "samples = true\n", "[model.net] samples: true is not an integer. Write samples = 64"),
    (NET + "samples = 0\n", "[model.net] samples: 0 is less than 1. Write samples = 64"),
    (NET + "samples = 2026-01-01\n", "[model.net] samples: 2026-01-01 is a date or time, not an integer"),
    (NET + "dims = { batch = 0.5 }\n", "[model.net] dims.batch: 0.5 is a number, not an integer or a text. Write batc"),
    (NET + "dims = { batch = -1 }\n", '[model.net] dims.batch: -1 is less than 1. Write batch = "1..8@2"'),
    (NET + "inputs = ['x=float32[3]']\n", "[model.net] inputs: [\"x=float32[3]\"] is a list, not a table. Write input"),
    (NET + "inputs = { 'a b' = 1 }\n", '[model.net] inputs."a b": 1 is an integer, not a text. Write "a b" = "float32'),
    (NET + "method = 'mes'\n", "[model.net] method: unknown \"mes\". Did you mean 'mse'?"),
    (NET + "smoothing = 2\n", "[model.net] smoothing: 2 is more than 1. Write smoothing = 0.5"),
    (NET + "exclude = 'head'\n", '[model.net] exclude: "head" is a text, not a list. Write exclude = ["head.*"]'),
    (NET + "trust_pickle = 'yes'\n", '[model.net] trust_pickle: "yes" is a text, not true or false. Write trust_pickl'),
    ("[target.edge]\narch = 'sm86'\n", "[target.edge]: 'backend' is missing. Add backend = \"tensorrt-rtx\""),
    ("[target.edge]\nbackend = 'l4'\nmemory = '8 GB of it'\n", '[target.edge] memory: "8 GB of it" is not of the righ'),
    ("[target.edge]\nbackend = 'l4'\nresources = { l4 = '1' }\n", '[target.edge] resources.l4: "1" is a text, not a n'),
    ("[build]\ntargets = ['cpu']\n", 'build: { targets = ["cpu"] } is a table, not a list. Write [[build]]'),
    ("[[build]]\n", "[[build]] 1: 'targets' is missing. Add targets = [\"onnxruntime-cpu\", \"openvino-cpu\"]"),
    (BUILD + BUILD + "precision = 'int8'\n", "[[build]] 2: unknown key 'precision'. Did you mean 'precisions'?"),
    (BUILD + "precisions = ['int9']\n", "[[build]] 1: precisions: unknown \"int9\". Did you mean 'int8'?"),
    (BUILD + "precisions = []\n", '[[build]] 1: precisions: nothing is listed. Write precisions = ["fp32", "int8"]'),
    (BUILD + "models = [3]\n", '[[build]] 1: models: 3 is an integer, not a text. Write models = ["net"]'),
    (BUILD + "gates = { max_p99 = 5 }\n", '[[build]] 1: gates.max_p99: 5 is an integer, not a text. Write max_p99 = "'),
    (BUILD + "gates = { max_p99 = '5' }\n", '[[build]] 1: gates.max_p99: "5" is not of the right form. Write max_p99 '),
    (BUILD + "gates = { max_p95 = '5ms' }\n", "[[build]] 1: gates: unknown key 'max_p95'. Did you mean 'max_p99'?"),
    (BUILD + "gates = { max_size = '5' , max_rss = 'x' }\n", '[[build]] 1: gates.max_rss: "x" is not of the right for'),
    (BUILD + "gates = { min_speedup = 0 }\n", "[[build]] 1: gates.min_speedup: 0 is not more than 0"),
    (BUILD + "options = { threads = [1] }\n", "[[build]] 1: options.threads: [1] is a list, not true or false or an i"),
    ("[cache]\nurl = 'bucket'\n", '[cache] url: "bucket" is not of the right form. Write url = "s3://bucket/planc"'),
    ("[limits]\ntime = '1d'\n", '[limits] time: "1d" is not of the right form. Write time = "30min"'),
    ("[limits]\ntimes = 1\n", "[limits]: unknown key 'times'. Did you mean 'time'?"),
]  # fmt: skip


def test_the_published_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    assert schema.unknown(PUBLISHED) == set()


@pytest.mark.parametrize("text", GOOD)
def test_both_validators_take_what_is_right(text: str) -> None:
    document = tomllib.loads(text)
    schema.check(document, KNOWN)
    jsonschema.validate(document, PUBLISHED)


@pytest.mark.parametrize(("text", "message"), BAD)
def test_both_validators_refuse_what_is_wrong(text: str, message: str) -> None:
    document = tomllib.loads(text)
    with pytest.raises(UsageError) as caught:
        schema.check(document, KNOWN)
    assert str(caught.value).startswith(message)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, PUBLISHED)


def _keys(node: Any, path: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, one in node.get("properties", {}).items():
        found += [(f"{path}.{name}", one), *_keys(one, f"{path}.{name}")]
    for inner in (node.get("items"), node.get("additionalProperties")):
        found += _keys(inner, path) if isinstance(inner, dict) else []
    return found


@pytest.mark.parametrize(("path", "node"), _keys(KNOWN), ids=[path for path, _ in _keys(KNOWN)])
def test_each_key_is_described_with_an_example_that_holds(path: str, node: Any) -> None:
    assert node["description"].endswith((".", ")"))
    for example in [*node["examples"], *([node["default"]] if "default" in node else [])]:
        schema.check(example, node)


def test_the_schema_and_the_code_have_one_truth() -> None:
    model = KNOWN["properties"]["model"]["additionalProperties"]["properties"]
    assert tuple(model["method"]["enum"]) == METHODS
    assert model["method"]["default"] == recipe.Calibration.method
    assert model["shards"]["default"] == recipe.Calibration.shards
    assert model["smoothing"]["default"] == recipe.Quantization.smoothing
    build = KNOWN["properties"]["build"]["items"]["properties"]
    assert build["precisions"]["items"]["enum"] == [*Precision, recipe.AUTO]
    assert all(metric in build["gates"]["properties"]["max_drop"]["description"] for metric in METRICS)


def test_numbers_are_finite() -> None:
    with pytest.raises(UsageError, match="smoothing: nan is no number"):
        schema.check(tomllib.loads(NET + "smoothing = nan\n"), KNOWN)


def test_texts_end_where_they_end() -> None:
    for text in ('[model."net\\n"]\nsource = "x"\n', NET + 'weights = "x\\u0000"\n', '[limits]\nmemory = "8GiB\\n"\n'):
        with pytest.raises(UsageError):
            schema.check(tomllib.loads(text), KNOWN)


def test_filled_has_the_defaults_and_keeps_what_is_given() -> None:
    document = schema.filled(tomllib.loads(NET + 'method = "entropy"\n' + BUILD), KNOWN)
    assert document["output"] == "out"
    assert document["model"]["net"]["method"] == "entropy"
    assert document["model"]["net"]["smoothing"] == 0.7
    assert "weights" not in document["model"]["net"]
    assert document["build"][0]["precisions"] == ["fp32"]
    assert document["build"][0]["gates"] == {"max_drop": {}}

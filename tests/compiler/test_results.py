"""Results for other programs, read back as they read them."""

import xml.etree.ElementTree as ElementTree

from planc.compiler import results
from planc.compiler.results import Row

ROWS = (
    Row("a --max-p99 5 ms", "passed", 1.5, "p99 4 ms"),
    Row("b <c> & \x07d", "failed", 0.25, "100% worse\nthan | it was"),
    Row("e", "skipped", message="no data"),
    Row("f, g: h", "error", message="it died"),
)


def test_junit() -> None:
    text = results.junit("planc bench", ROWS)
    top = ElementTree.fromstring(text.partition("\n")[2])
    assert top.attrib == {
        "name": "planc bench", "tests": "4", "failures": "1", "errors": "1", "skipped": "1", "time": "1.750",
    }  # fmt: skip
    cases = {case.get("name"): case for case in top}
    assert [[child.tag for child in case] for case in top] == [["system-out"], ["failure"], ["skipped"], ["error"]]
    failed = cases["b <c> & \N{REPLACEMENT CHARACTER}d"]
    assert failed.get("time") == "0.250"
    assert failed[0].get("message") == "100% worse\nthan | it was"
    assert cases["a --max-p99 5 ms"][0].text == "p99 4 ms"


def test_markdown() -> None:
    text = results.markdown("planc bench", ("", "ms"), [["a|b", "1"]], ROWS[:2])
    assert text.splitlines() == [
        "### planc bench",
        "",
        "|  | ms |",
        "|---|--:|",
        "| a\\|b | 1 |",
        "",
        "- ✅ a --max-p99 5 ms: p99 4 ms",
        "- ❌ b <c> & \x07d: 100% worse than \\| it was",
    ]
    assert results.markdown("t", (), [], [Row("x", "passed")]) == "### t\n\n- ✅ x\n"


def test_annotations_are_one_line_each_and_leave_out_what_passed() -> None:
    assert results.annotations("planc build", ROWS) == [
        "::error title=planc build%3A b <c> & \x07d::100%25 worse%0Athan | it was",
        "::warning title=planc build%3A e::no data",
        "::error title=planc build%3A f%2C g%3A h::it died",
    ]

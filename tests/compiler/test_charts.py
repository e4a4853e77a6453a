"""Charts: valid SVG in the page's colours, with all names on it, and nothing where there is nothing."""

import re
import xml.etree.ElementTree as ElementTree

from planc.compiler import charts
from planc.compiler.report import Point

POINTS = [
    Point("fast", 1.0, 0.99, 1000, kept=True),
    Point("good", 3.0, 0.9999, 4000, kept=True),
    Point("worse", 4.0, 0.99, 4000, kept=False),
    Point("exact", 5.0, 1.0, 4000, kept=True),
]


def _texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}text")]


def test_nothing_where_there_is_nothing() -> None:
    assert (charts.pareto([]), charts.spread({}, []), charts.panels({}, ""), charts.ranked({}, "")) == ("",) * 4
    assert charts.shares({"float": 0}) == ""


def test_pareto_names_each_point() -> None:
    made = charts.pareto(POINTS)
    assert {"fast", "good", "worse", "exact", "median latency, ms"} <= set(_texts(made))
    assert 'role="img"' in made
    assert "4 ways" in made


def test_pareto_of_one_exact_way() -> None:
    for cosine in (1.0 + 1e-15, 0.9, 0.99968):
        texts = _texts(charts.pareto([Point("only", 1.0, cosine, 10, kept=True)]))
        assert "only" in texts
        assert [one for one in texts if re.fullmatch(r"1e-\d\d", one)]
        assert not [one for one in texts if "$" in one]


def test_the_front_is_what_no_other_beats() -> None:
    assert [one.name for one in charts._front(POINTS)] == ["fast", "good", "exact"]


def test_names_are_text() -> None:
    name = "<b>&$x$"
    for made in (
        charts.pareto([Point(name, 1.0, 0.9, 10, kept=True)]),
        charts.spread({name: [1.0, 2.0]}, [1.5]),
        charts.panels({name: {"a": 1.0, "b": 2.0}}, "x"),
        charts.ranked({name: 1.0}, "ms", ["int8"]),
    ):
        assert name in _texts(made)


def test_all_colours_are_those_of_the_page() -> None:
    for made in (
        charts.pareto(POINTS),
        charts.spread({"a": [1.0, 2.0]}, [1.5]),
        charts.panels({"a": {"b": 1.0, "c": 2.0}}, "x"),
        charts.ranked({"a": 1.0, "b": 2.0}, "ms", ["int8", "other"]),
        charts.shares({"i8": 90, "f32": 10}),
    ):
        assert "var(--" in made
        assert set(re.findall(r"#[0-9a-f]{6}", made)) == set()


def test_shares() -> None:
    made = charts.shares({"i8": 90, "f32": 10})
    assert _texts(made) == ["i8 90%", "f32 10%"]
    assert 'aria-label="i8 90.0%, f32 10.0%"' in made


def test_the_same_figures_give_the_same_bytes() -> None:
    assert charts.pareto(POINTS) == charts.pareto(POINTS)

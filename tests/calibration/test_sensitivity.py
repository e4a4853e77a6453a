"""Sensitivity: the set that stays in higher precision is small, was seen to hold, and no loss is computed twice."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planc.calibration.sensitivity import Memo, search

COSTS = {"a": 1, "b": 8, "c": 2, "d": 16, "e": 4, "f": 0}


class Model:
    """A loss that is the sum of what the quantized nodes cost, and a record of who asked."""

    def __init__(self, costs: dict[str, float], stop: float = math.inf) -> None:
        self.costs, self.stop, self.asked = costs, stop, []

    def __call__(self, kept: frozenset[str]) -> float:
        if len(self.asked) >= self.stop:
            raise KeyboardInterrupt
        self.asked.append(kept)
        return sum(cost for name, cost in self.costs.items() if name not in kept)


def test_one_evaluation_where_all_can_be_quantized() -> None:
    found = search(list(COSTS), Model(COSTS), lambda loss: loss <= 31)
    assert (found.excluded, found.holds, found.loss, found.evaluations, found.costs) == ((), True, 31, 1, {})


def test_the_shortest_prefix_is_found() -> None:
    found = search(list(COSTS), Model(COSTS), lambda loss: loss <= 7)
    assert (found.excluded, found.holds, found.loss) == (("b", "d"), True, 7)
    assert found.costs == COSTS


def test_nodes_that_are_not_needed_are_given_back() -> None:
    def loss(kept: frozenset[str]) -> float:  # only c hurts where all are together; alone, three others look worse
        return 0.0 if "c" in kept else 10.0

    found = search(list(COSTS), loss, lambda value: value <= 0, rank=Model(COSTS))
    assert (found.excluded, found.loss) == (("c",), 0)
    assert search(list(COSTS), loss, lambda value: value <= 0, rank=Model(COSTS), budget=11).excluded != ("c",)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abcdefgh", min_size=1), st.floats(0, 100), min_size=1), st.floats(0, 300))
def test_with_losses_that_add_up_no_set_is_smaller(costs: dict[str, float], bound: float) -> None:
    found = search(list(costs), Model(costs), lambda loss: loss <= bound)
    assert found.holds
    assert found.loss == Model(costs)(frozenset(found.excluded)) <= bound
    fewest = next(
        n for n in range(len(costs) + 1) if sum(sorted(costs.values())[: len(costs) - n]) <= bound * (1 + 1e-9)
    )
    assert len(found.excluded) <= fewest + 1


def test_the_best_is_told_where_nothing_holds() -> None:
    found = search(list(COSTS), Model(COSTS), lambda loss: loss < 0)
    assert (found.holds, found.loss) == (False, 0)


def test_nan_is_worse_than_anything() -> None:
    found = search(["a", "b"], lambda kept: math.nan if "a" not in kept else 1.0, lambda loss: loss <= 1)
    assert (found.excluded, found.holds) == (("a",), True)
    assert not search(["a"], lambda kept: math.nan, lambda loss: loss <= 1).holds


@pytest.mark.parametrize("budget", range(1, 14))
def test_the_budget_is_kept(budget: int) -> None:
    model = Model(COSTS)
    found = search(list(COSTS), model, lambda loss: loss <= 7, budget=budget)
    assert len(model.asked) == found.evaluations <= budget
    assert found.holds == (budget >= 9)


@pytest.mark.parametrize("stop", range(12))
def test_a_search_that_was_stopped_computes_nothing_twice(stop: int, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    whole = search(list(COSTS), Model(COSTS), lambda loss: loss <= 7)
    first, second = Model(COSTS, stop), Model(COSTS)
    try:
        search(list(COSTS), first, lambda loss: loss <= 7, memo=Memo(path, "digest"))
    except KeyboardInterrupt:
        assert len(first.asked) == stop
    found = search(list(COSTS), second, lambda loss: loss <= 7, memo=Memo.load(path, "digest"))
    assert (found.excluded, found.loss, found.costs) == (whole.excluded, whole.loss, whole.costs)
    asked = first.asked + second.asked
    assert len(asked) == len(set(asked)) == whole.evaluations
    assert found.evaluations == len(second.asked)


def test_a_state_of_other_inputs_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    search(list(COSTS), Model(COSTS), lambda loss: loss <= 7, memo=Memo(path, "digest"))
    assert Memo.load(path, "digest").losses
    assert not Memo.load(path, "other").losses
    assert not Memo.load(tmp_path / "none.json", "digest").losses


def test_a_file_keeps_a_search_of_each_name(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for name, loss in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        memo = Memo.load(path, "digest", name=name)
        memo.losses["kept"] = loss
        memo.save()
    assert [Memo.load(path, "digest", name=name).losses for name in "abc"] == [{"kept": 3.0}, {"kept": 2.0}, {}]


def test_losses_that_json_lacks_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    Memo(path, "d", losses={"a": math.inf, "b": math.nan, "c": 0.1}).save()
    json.loads(path.read_text(), parse_constant=pytest.fail)
    losses = Memo.load(path, "d").losses
    assert (losses["a"], losses["c"]) == (math.inf, 0.1)
    assert math.isnan(losses["b"])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 2, "searches": {"": {"digest": "d", "losses": {"a": []}}}}']
)
def test_a_broken_state_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not the state of a sensitivity search"):
        Memo.load(path, "d")


def test_names_are_distinct() -> None:
    with pytest.raises(ValueError, match="named twice"):
        search(["a", "a"], Model({"a": 1}), lambda loss: True)

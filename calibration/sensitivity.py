"""Which nodes must stay in higher precision for a bound to hold: a search that knows nodes by name only.

1. Rank: each node is quantized alone, and its loss is its cost.
2. Prefix: the costliest 0, 1, 2, 4, ... nodes stay in higher precision until the bound holds; bisection then shortens
   the prefix. Losses add up only roughly, so the bisection may miss a shorter one; what it returns was seen to hold.
3. Return: from the cheapest on, nodes are quantized again, one by one, as long as the bound holds.

Every loss is remembered, and with a state file across runs: a search that was stopped goes on where it was.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Outcome:
    """What a search has found.

    Attributes:
        excluded: nodes that stay in higher precision, in the order of `nodes`.
        costs: loss of quantizing each node alone, by node; only the nodes that the budget sufficed for.
        loss: with `excluded` in higher precision and all others quantized.
        holds: whether the bound holds; where it does not, `excluded` has the least loss that was seen.
        evaluations: losses that were computed by this search, without those it was resumed with.
    """

    excluded: tuple[str, ...]
    costs: dict[str, float]
    loss: float
    holds: bool
    evaluations: int


@dataclass
class Memo:
    """Losses by the set of nodes in higher precision, kept in a file where there is one.

    Attributes:
        path: JSON file, written after each loss; None: kept in memory only.
        digest: of all that a loss depends on besides the set: the model, the data, the ranges. Losses of another digest
            are not used.
        name: of the search: a file keeps one of each name.
        losses: by a digest of the set; of the ranking and of the search apart, which may use different samples.
        others: searches of other names, as the file has them.
    """

    path: Path | None = None
    digest: str = ""
    name: str = ""
    losses: dict[str, float] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, digest: str, *, name: str = "") -> "Memo":
        """Reads the state of an earlier search; empty where there is none or it is of another digest.

        Raises:
            ValueError: the file holds something else.
            OSError: the file cannot be read.
        """
        if not path.exists():
            return cls(path, digest, name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version, searches = content["schema_version"], dict(content["searches"])
            if version != SCHEMA_VERSION:
                return cls(path, digest, name)
            own = searches.pop(name, {"digest": digest, "losses": {}})
            found = {str(key): float(value) for key, value in own["losses"].items()}
            return cls(path, digest, name, found if own["digest"] == digest else {}, searches)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not the state of a sensitivity search") from error

    def save(self) -> None:
        """Writes the state whole or not at all."""
        if self.path is None:
            return
        # As text, for a loss may be infinite or NaN, which JSON does not have.
        losses = {key: repr(value) for key, value in self.losses.items()}
        searches = {**self.others, self.name: {"digest": self.digest, "losses": losses}}
        content = {"schema_version": SCHEMA_VERSION, "searches": searches}
        beside = self.path.with_name(f"{self.path.name}.tmp")
        beside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        beside.replace(self.path)


class OutOfBudget(Exception):
    """The evaluations that were allowed are spent."""


def search(
    nodes: Sequence[str],
    loss: Callable[[frozenset[str]], float],
    holds: Callable[[float], bool],
    *,
    rank: Callable[[frozenset[str]], float] | None = None,
    budget: int | None = None,
    memo: Memo | None = None,
) -> Outcome:
    """Returns as small a set of nodes as it finds that makes the bound hold in higher precision.

    Args:
        nodes: names of all nodes that are quantized.
        loss: from the nodes that stay in higher precision to the loss that `holds` judges; the less the better, and
            infinite or NaN where the model cannot be evaluated.
        holds: whether a loss is within the bound.
        rank: as `loss`, for the ranking, on fewer samples; None: `loss`.
        budget: the most evaluations, at least one; None: no limit. The ranking takes one for each node: less than that
            finds nothing but whether all nodes can be quantized.
        memo: what is known already, and where new losses go.
    """
    if len(set(nodes)) != len(nodes):
        raise ValueError("a node is named twice")
    run = _Run(tuple(nodes), loss, holds, rank or loss, math.inf if budget is None else max(budget, 1), memo or Memo())
    best = run.search()
    return Outcome(
        excluded=tuple(name for name in nodes if name in best),
        costs=run.costs,
        loss=run.known[best],
        holds=bool(holds(run.known[best])),
        evaluations=run.evaluations,
    )


@dataclass
class _Run:
    nodes: tuple[str, ...]
    loss: Callable[[frozenset[str]], float]
    holds: Callable[[float], bool]
    rank: Callable[[frozenset[str]], float]
    budget: float
    memo: Memo
    evaluations: int = 0
    costs: dict[str, float] = field(default_factory=dict)
    known: dict[frozenset[str], float] = field(default_factory=dict)

    def search(self) -> frozenset[str]:
        try:
            if not self.good(frozenset()):
                ranked = self.ranked()
                self.give_back(ranked, self.prefix(ranked))
        except OutOfBudget:
            pass
        good = [kept for kept, loss in self.known.items() if self.holds(loss)]
        if good:
            return min(good, key=lambda kept: (len(kept), _order(self.known[kept]), sorted(kept)))
        return min(self.known, key=lambda kept: (_order(self.known[kept]), len(kept), sorted(kept)))

    def ranked(self) -> list[str]:
        """Nodes by falling cost; ties stay in the order of the graph."""
        everything = frozenset(self.nodes)
        for name in self.nodes:
            kind = "loss" if self.rank is self.loss else "rank"
            self.costs[name] = self.remembered(kind, everything - {name}, self.rank)
        return sorted(self.nodes, key=lambda name: -_order(self.costs[name]))

    def prefix(self, ranked: Sequence[str]) -> int:
        """Returns the length of a prefix that holds; 0 where none does."""
        low, high = 0, 1
        while not self.good(frozenset(ranked[:high])):
            if high >= len(ranked):
                return 0
            low, high = high, min(2 * high, len(ranked))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.good(frozenset(ranked[:middle])) else (middle, high)
        return high

    def give_back(self, ranked: Sequence[str], length: int) -> None:
        kept = frozenset(ranked[:length])
        for name in reversed(ranked[: max(length - 1, 0)]):  # without the last of the prefix it was seen not to hold
            if self.good(kept - {name}):
                kept -= {name}

    def good(self, kept: frozenset[str]) -> bool:
        self.known[kept] = self.remembered("loss", kept, self.loss)
        return bool(self.holds(self.known[kept]))

    def remembered(self, kind: str, kept: frozenset[str], compute: Callable[[frozenset[str]], float]) -> float:
        key = f"{kind}:{_digest(kept)}"
        if key not in self.memo.losses:
            if self.evaluations >= self.budget:
                raise OutOfBudget
            self.evaluations += 1
            self.memo.losses[key] = float(compute(kept))
            self.memo.save()
        return self.memo.losses[key]


def _order(loss: float) -> float:
    """NaN is worse than anything."""
    return math.inf if math.isnan(loss) else loss


def _digest(kept: frozenset[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(kept)).encode()).hexdigest()

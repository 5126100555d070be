"""Decisions of two routers side by side: how many agree, and whether random choices have one distribution."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy import stats

from conformance.ours import Decision

BAR = 0.99
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Agreement:
    """Decisions of a rule without randomness, or with ties only."""

    equal: int
    tied: int
    different: int
    bar: float = BAR

    @classmethod
    def of(cls, decisions: Iterable[Decision], bar: float) -> "Agreement":
        """Counts the outcomes."""
        outcomes = Counter(decision.outcome for decision in decisions)
        return cls(outcomes["equal"], outcomes["tied"], outcomes["different"], bar)

    @property
    def decisions(self) -> int:
        """How many were compared."""
        return self.equal + self.tied + self.different

    @property
    def share(self) -> float:
        """Share of the decisions that are equal or tied."""
        return (self.equal + self.tied) / self.decisions

    @property
    def holds(self) -> bool:
        """Whether the bar is met."""
        return self.share >= self.bar


@dataclass(frozen=True)
class Distribution:
    """How often each instance was drawn at one state of the cluster, by the peer and by us."""

    theirs: Sequence[int]
    ours: Sequence[int]

    @classmethod
    def of(cls, decisions: Sequence[Decision], instances: int) -> "Distribution":
        """Counts the first choice of each decision."""
        theirs = Counter(decision.theirs[0] for decision in decisions)
        ours = Counter(decision.ours[0] for decision in decisions)
        return cls([theirs[n] for n in range(instances)], [ours[n] for n in range(instances)])

    @property
    def p_value(self) -> float:
        """Probability of a difference at least as large, if both draw from one distribution (chi-square)."""
        drawn = [pair for pair in zip(self.theirs, self.ours, strict=True) if any(pair)]
        if len(drawn) < 2:
            return 1.0
        return float(stats.chi2_contingency([list(row) for row in zip(*drawn, strict=True)]).pvalue)

    @property
    def holds(self) -> bool:
        """Whether the difference is within chance at 1 %."""
        return self.p_value >= SIGNIFICANCE


def homes_agree(decisions: Sequence[Decision], keys: Sequence[int]) -> list[Decision]:
    """The decisions on keys whose first request both sides sent to the same instance.

    The hash of a router's ring is its own, so that most keys live elsewhere there than here; what happens to a key can
    be compared where both homes happen to be the same instance. The first request of each key is not compared.
    """
    agrees: dict[int, bool] = {}
    kept = []
    for decision, key in zip(decisions, keys, strict=True):
        if key not in agrees:
            agrees[key] = decision.outcome == "equal"
        elif agrees[key]:
            kept.append(decision)
    return kept

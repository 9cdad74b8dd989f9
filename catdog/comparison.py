"""Comparison: is a challenger no worse than the champion, by pictures that both answered and neither was made with?

Each picture is its own control, so only those count that one of the two had right and the other had not: the champion's `losses` and
the challenger's `wins`. If the two were equally good, each such picture would be a fair coin; that a coin shows at least so many losses is
the exact one-sided test of McNemar (Psychometrika 12, 1947, 153-157), recommended for two classifiers that are each trained once by
Dietterich (Neural Computation 10, 1998, 1895-1923).

That a difference is not significant does not show that there is none (Altman and Bland, BMJ 311, 1995, 485): on 200 pictures such a test
at 5 % lets three of four challengers pass that are two points worse (1 % wins, 3 % losses). So the burden of proof is the challenger's, who
is not needed, as another one answers. The rule below stops nine of ten of them; its price is that of equally good ones four of ten are
stopped too, by a picture or two, which costs somebody a look at the figures and a `force`:

    it has at least as many pictures right                                    no_worse
    it has fewer, and that it has lost less than MARGIN is shown, one-sided   no_worse
    at the level ALPHA, and that it is worse is not
    else                                                                      worse
    fewer than MIN_PICTURES                                                   not_comparable

The second line is for large test splits, where chance alone lets one of two equally good models have a few pictures fewer. The bound in it
is the adjusted Wald interval for a difference of paired proportions (Bonett and Price, Journal of Educational and Behavioral Statistics
37, 2012, 479-488).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal, Self

ALPHA = 0.05
"""How often either test may be wrong by chance: the convention since Fisher, Statistical Methods for Research Workers, 1925."""
MARGIN = 0.005
"""The loss of accuracy that is no loss: half a point."""
MIN_PICTURES = 50
"""With fewer one picture more or less is two points and more."""

Verdict = Literal["no_worse", "worse", "not_comparable"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many pictures two models had right, together and alone."""

    both: int
    wins: int
    """The challenger alone."""
    losses: int
    """The champion alone."""
    neither: int

    @classmethod
    def of(cls, answers: Iterable[tuple[bool, bool]]) -> Self:
        """Count what challenger and champion, in this order, had right."""
        counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for challenger, champion in answers:
            counts[bool(challenger), bool(champion)] += 1
        return cls(*counts.values())

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gives."""
        return cls(**{name: int(fields[name]) for name in cls.__slots__})

    def to_dict(self) -> dict[str, Any]:
        """The counts, and what follows from them, as JSON has it."""
        return asdict(self) | {
            "pictures": self.pictures, "accuracy": self.accuracy, "p_value": self.p_value, "loss_at_most": self.loss_at_most,
            "verdict": self.verdict,
        }

    @property
    def pictures(self) -> int:
        """How many both answered."""
        return self.both + self.wins + self.losses + self.neither

    @property
    def accuracy(self) -> dict[str, float]:
        """Of challenger and champion; 0 where there are no pictures."""
        pictures = max(self.pictures, 1)
        return {"challenger": (self.both + self.wins) / pictures, "champion": (self.both + self.losses) / pictures}

    @property
    def p_value(self) -> float:
        """The chance of at least so many losses among the wins and losses, were the two equally good."""
        decided = self.wins + self.losses
        as_many = sum(math.comb(decided, losses) for losses in range(self.losses, decided + 1))
        return as_many / (1 << decided)

    @property
    def loss_at_most(self) -> float:
        """What the challenger's accuracy lies below the champion's, at most: the upper bound at the level ALPHA. Below 0 is a gain."""
        pictures = self.pictures + 2
        lost, won = (self.losses + 1) / pictures, (self.wins + 1) / pictures
        error = math.sqrt((lost + won - (lost - won) ** 2) / pictures)
        return lost - won + NormalDist().inv_cdf(1 - ALPHA) * error

    @property
    def verdict(self) -> Verdict:
        """What is to be thought of the challenger; the rule stands above."""
        if self.pictures < MIN_PICTURES:
            return "not_comparable"
        is_no_worse = self.losses <= self.wins or (self.loss_at_most < MARGIN and self.p_value >= ALPHA)
        return "no_worse" if is_no_worse else "worse"

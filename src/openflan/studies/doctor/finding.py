"""What a check gives: how far two ways differ, how far they may, and what that means.

Read next: `patient.py`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["pass", "falls back", "fail", "not applicable"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One difference between two ways of getting the same thing, and the largest that rounding explains."""

    what: str
    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; one that is not a number never is."""
        return self.difference <= self.tolerance

    @property
    def share(self) -> float:
        """The difference as a share of the tolerance; infinite where that is exceeded without bound."""
        if not math.isfinite(self.difference):
            return math.inf
        return self.difference / self.tolerance if self.tolerance else math.inf if self.difference else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data; null for a difference that is not finite."""
        finite = math.isfinite(self.difference)
        return {
            "what": self.what,
            "difference": self.difference if finite else None,
            "tolerance": self.tolerance,
            "holds": self.holds,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    outcome: Outcome
    said: str
    """One line in plain words: what was found, and what to do about it."""
    measures: tuple[Measure, ...] = ()
    cost: str = ""
    """What the slower way takes, where the outcome is "falls back"."""

    @property
    def worst(self) -> Measure | None:
        """The measure nearest to its tolerance, or furthest beyond."""
        return max(self.measures, key=lambda measure: measure.share, default=None)


def judged(measures: Iterable[Measure], *, said: str, otherwise: str) -> Finding:
    """ "pass" with `said` where every measure holds; else "fail" naming those that do not, then `otherwise`."""
    found = tuple(measures)
    broken = [one for one in found if not one.holds]
    if not broken:
        return Finding("pass", said, found)
    named = ", ".join(f"{one.what} by {one.difference:.1e} (allowed {one.tolerance:.0e})" for one in broken)
    return Finding("fail", f"{named} differ: {otherwise}", found)


def not_applicable(why: str) -> Finding:
    """There is nothing to check here."""
    return Finding("not applicable", why)

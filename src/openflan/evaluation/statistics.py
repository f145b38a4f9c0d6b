"""How sure a number is: intervals, paired tests, and what a sample could have shown.

Takes sums of a metric by group of items, gives draws, intervals and p-values. Read next: `evaluate.py`.

Letters: G = groups (items that share a passage are one group), T = templates, S = sums a metric keeps, B = resamples.
Groups, not rows, are drawn: a second question about a passage, or a second template on an item, is no second item.
Groups are drawn alike for all tasks of a cluster: a second task on the same passages is no second sample of passages.
An arm's value is the mean over templates of the metric over items (Wei et al. 2022 section 3), so templates are nested
in items: each draw takes all templates of the items it takes.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit  # Student's t, without the half second that scipy.stats takes

from openflan.seeding import generator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Finish = Callable[[Floats], Floats]

RESAMPLES = 2000
CONFIDENCE = 0.95
POWER = 0.80
LEVEL = 0.05
SAME = 1e-12
"""Numbers that are equal on paper come out a rounding error apart."""
SMALLEST_P = 1e-6
"""No p is told more exactly than this: its tails are those of a distribution that is assumed."""
BLOCK_CELLS = 4_000_000
"""Most entries of a weight matrix that exist at one time (32 MB)."""


Reading = Literal["higher", "lower", "not shown"]
"""What a sample says of a difference; `not shown` is no evidence that there is none."""


class Interval(NamedTuple):
    """Bounds of a percentile interval."""

    low: float
    high: float


class Error(NamedTuple):
    """How far a mean may be off: its variance, and with how many degrees of freedom that is known."""

    variance: float
    freedom: float
    """Infinite where the variance is as good as known."""

    def plus(self, other: "Error") -> "Error":
        """Of a sum of two independent parts; Satterthwaite's degrees of freedom."""
        variance = self.variance + other.variance
        doubt = sum(one.variance**2 / one.freedom for one in (self, other))
        return Error(variance, variance**2 / doubt if doubt > 0 else math.inf)

    def interval(self, mean: float, confidence: float = CONFIDENCE) -> Interval:
        """Student's t."""
        margin = self._quantile((1 + confidence) / 2) * math.sqrt(self.variance)
        return Interval(mean - margin, mean + margin)

    def p(self, mean: float) -> float:
        """Two-sided, of a true mean of zero. One where nothing differed; never 0."""
        if abs(mean) <= SAME:
            return 1.0
        if self.variance <= SAME**2:
            return SMALLEST_P
        return max(SMALLEST_P, float(2 * stdtr(self.freedom, -abs(mean) / math.sqrt(self.variance))))

    def smallest_detectable(self) -> float | None:
        """The true mean that is told from zero with 80 % power at the two-sided 5 % level.

        None where nothing varied, which leaves the error unknown rather than zero.
        """
        if self.variance <= SAME**2:
            return None
        return (self._quantile(1 - LEVEL / 2) + self._quantile(POWER)) * math.sqrt(self.variance)

    def _quantile(self, probability: float) -> float:
        return float(stdtrit(self.freedom, probability))


def replicate_error(values: Floats, factors: Sequence[Sequence[Hashable]]) -> Error:
    """Of the mean of values [R], one for each replicate, whose levels in each factor `factors` [F][R] names.

    Values of one level go together, in whichever factor. The variance is that of multiway clustering (Cameron, Gelbach
    and Miller 2011): by each factor, less what two of them both count, and so on, each with its correction for few
    levels, L / (L - 1); at least that of any one. Degrees of freedom: Satterthwaite's over the factors' own, L - 1. A
    factor with one level is left out.
    """
    varied = [factor for factor in factors if len(set(factor)) > 1]
    if not varied:
        return Error(0.0, math.inf)
    alone = [(_between(values, factor), len(set(factor)) - 1) for factor in varied]
    shared = 0.0
    for number in range(1, len(varied) + 1):
        for some in itertools.combinations(varied, number):
            shared -= (-1) ** number * _between(values, list(zip(*some, strict=True)))
    whole = _between(values, list(zip(*varied, strict=True)))
    variance = max(shared, whole, *(one for one, _ in alone))
    doubt = sum(one**2 / freedom for one, freedom in alone)
    return Error(variance, sum(one for one, _ in alone) ** 2 / doubt if doubt > 0 else math.inf)


def _between(values: Floats, levels: Sequence[Hashable]) -> float:
    """The variance of the values' mean where those of one level go together; 0 for one level."""
    sums: dict[Hashable, float] = {}
    for value, level in zip(values - values.mean(), levels, strict=True):
        sums[level] = sums.get(level, 0.0) + float(value)
    if len(sums) == 1:
        return 0.0
    return sum(one**2 for one in sums.values()) / len(values) ** 2 * len(sums) / (len(sums) - 1)


def group_sums(statistics: Floats, groups: Ints, templates: Ints, *, num_groups: int, num_templates: int) -> Floats:
    """Rows [N, S] with their group and template [N], summed: [G, T, S]."""
    sums = np.zeros((num_groups, num_templates, statistics.shape[-1]))
    np.add.at(sums, (groups, templates), statistics)
    return sums


def spread(sums: Floats, group_ids: Ints, all_ids: Ints) -> Floats:
    """Sums of the groups `group_ids` laid out over `all_ids` (sorted): [G, ...] -> [len(all_ids), ...], else zero.

    Tasks laid out over the same groups, and drawn with the same seed and names, are drawn together.
    """
    laid = np.zeros((len(all_ids), *sums.shape[1:]))
    laid[np.searchsorted(all_ids, group_ids)] = sums
    return laid


def sharing(groups: Sequence[Ints]) -> list[tuple[list[int], Ints]]:
    """Which of several sets of groups have some in common, with each other or through others: numbers and all groups.

    >>> sharing([np.array([1, 2]), np.array([3]), np.array([2, 5]), np.array([5, 6])])
    [([0, 2, 3], array([1, 2, 5, 6]))]
    """
    found: list[tuple[list[int], set[int]]] = []
    for number, own in enumerate(groups):
        members, every = [number], set(own.tolist())
        apart: list[tuple[list[int], set[int]]] = []
        for other in found:
            if other[1].isdisjoint(every):
                apart.append(other)
            else:
                members, every = other[0] + members, other[1] | every
        found = [*apart, (members, every)]
    return [(sorted(members), np.array(sorted(every), np.int64)) for members, every in found if len(members) > 1]


def over_templates(sums: Floats, finish: Finish) -> Floats:
    """Sums [..., T, S] -> [...], the mean over templates of the first component; templates without rows drop out."""
    values = finish(sums)[..., 0]
    there = ~np.isnan(values)
    total: Floats = np.where(there, values, 0.0).sum(-1)
    return np.divide(total, there.sum(-1), out=np.full(total.shape, math.nan), where=there.any(-1))


def bootstrap(
    sums: Sequence[Floats], finish: Finish, *, seed: int, names: Sequence[str | int], resamples: int = RESAMPLES
) -> list[Floats]:
    """For each of several arms over the same groups, sums [G, T, S], its value in every resample: [B].

    All arms see the same resamples, so the difference of two results is a paired bootstrap. The draws depend on (seed,
    names) and the number of groups alone.
    """
    num_groups = len(sums[0])
    draw = generator(seed, "bootstrap", *names)
    found: list[list[Floats]] = [[] for _ in sums]
    for size in _blocks(resamples, num_groups):
        picked = draw.integers(0, num_groups, (size, num_groups))
        offsets = np.arange(size)[:, None] * num_groups
        weights = np.bincount((picked + offsets).ravel(), minlength=size * num_groups).reshape(size, num_groups)
        for values, arm in zip(found, sums, strict=True):
            values.append(over_templates(_weighted(weights.astype(float), arm), finish))
    return [np.concatenate(values) for values in found]


def exchange_test(
    first: Floats, second: Floats, finish: Finish, *, seed: int, names: Sequence[str | int], resamples: int = RESAMPLES
) -> tuple[float, Floats]:
    """The difference of two arms, sums [G, T, S], and the differences [B] when each group's arms are exchanged.

    Approximate randomisation (Noreen 1989): for a metric that is a mean this is the sign-flip test on group
    differences, for a corpus metric its like. A group is exchanged whole, with all its items and templates.
    `exchange_p` makes a p-value of it. Paired by construction: what both arms find equally hard cancels.
    """
    draw = generator(seed, "exchange", *names)
    gain = second - first
    totals = first.sum(0), second.sum(0)
    draws: list[Floats] = []
    for size in _blocks(resamples, len(first)):
        moved = _weighted(draw.integers(0, 2, (size, len(first))).astype(float), gain)
        draws.append(over_templates(totals[0] + moved, finish) - over_templates(totals[1] - moved, finish))
    observed = over_templates(totals[0], finish) - over_templates(totals[1], finish)
    return float(observed), np.concatenate(draws)


def exchange_p(observed: float, draws: Floats) -> float:
    """Two-sided p: the share of exchanges at least as far from zero, the observed one counted among them (never 0)."""
    return float((1 + (np.abs(draws) >= abs(observed) - SAME).sum()) / (1 + len(draws)))


def interval(draws: Floats, confidence: float = CONFIDENCE) -> Interval:
    """The percentile interval of bootstrap draws; draws in which nothing could be scored are left out."""
    low, high = np.nanquantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Exact two-sided McNemar p for two arms' 0/1 values on the same items: a binomial test on those that differ."""
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(b > a for a, b in zip(first, second, strict=True))
    differing = only_first + only_second
    tail = sum(math.comb(differing, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**differing)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: compare them with the level wanted for the whole family.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def reading(low: float, high: float, p: float | None) -> Reading:
    """Which way a difference points; neither way where its interval includes zero or its p is not below `LEVEL`.

    Both are asked for: an interval from few groups is too narrow, and one from a single group is a point.

    >>> reading(0.01, 0.05, 0.003), reading(0.01, 0.05, 0.25), reading(-0.01, 0.05, None)
    ('higher', 'not shown', 'not shown')
    """
    if low <= 0 <= high or (p is not None and p >= LEVEL):
        return "not shown"
    return "higher" if low > 0 else "lower"


def smallest_detectable(draws: Floats) -> float | None:
    """The true difference a sample like this one finds with 80 % power at the two-sided 5 % level.

    From the standard error the bootstrap of the difference shows. None where all groups differed by the same, or not at
    all, which leaves the error unknown rather than zero.
    """
    return Error(float(np.nanvar(draws)), math.inf).smallest_detectable()


def most_unseen(groups: int, confidence: float = CONFIDENCE) -> float:
    """The largest share of groups that may differ though none of this many did: where it is larger, some would have.

    >>> round(most_unseen(60), 3)  # near the rule of three, 3 / 60
    0.049
    """
    return 1 - (1 - confidence) ** (1 / groups)


def mean_if_all(values: Iterable[float | None]) -> float | None:
    """The mean of values that are all there; None where one is missing, so that no mean is over other things."""
    there = list(values)
    known = [value for value in there if value is not None]
    return float(np.mean(known)) if there and len(known) == len(there) else None


def _blocks(resamples: int, num_groups: int) -> list[int]:
    # The block size must not change what is drawn, so it depends on the number of groups alone.
    size = max(1, BLOCK_CELLS // num_groups)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _weighted(weights: Floats, sums: Floats) -> Floats:
    """[B, G] and [G, ...] -> [B, ...]."""
    return (weights @ sums.reshape(len(sums), -1)).reshape(len(weights), *sums.shape[1:])

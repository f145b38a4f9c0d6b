"""Two sets of answers to the same items: their difference, its interval, its tests.

Takes answers as sums of a metric by row, gives a `Pair` for a task and a `Difference` for one or several. What a run
says of its arms and what a comparison says of two runs are made here alike. Read next: `statistics.py`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from openflan.evaluation import statistics
from openflan.evaluation.metrics import Metric
from openflan.evaluation.result import Difference
from openflan.evaluation.statistics import Finish, Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One side's scored answers to one task: N rows, S sums of its metric."""

    measure: Metric
    templates: tuple[str, ...]
    items: Ints
    """[N], numbered alike on both sides"""
    groups: Ints
    """[N], numbered alike on both sides and in all tasks of a cluster"""
    template_of: Ints
    """[N], places in `templates`"""
    sums: Floats
    """[N, S]"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sides on one task, over the items both answered: B resamples."""

    first: float
    second: float
    n: int
    """Items."""
    groups: Ints
    """[G]"""
    draws: Floats
    """[B], first minus second in every resample"""
    observed: float
    """What the exchange test tests: the difference, of answers averaged over templates where these are not the same."""
    exchanges: Floats
    """[B]"""
    mcnemar: float | None
    finish: Finish
    sums: tuple[Floats, Floats]
    """First and second, [G, T, S] each"""
    exchanged: tuple[Floats, Floats]
    """The same as the exchange test takes them"""

    @property
    def mean(self) -> float:
        """First minus second."""
        return self.first - self.second


def pair(
    one: Answers,
    other: Answers,
    *,
    seed: int,
    names: Sequence[str | int],
    resamples: int,
    own_templates: bool = False,
) -> Pair | None:
    """The paired comparison, one minus other; None where they share no item.

    Through templates that both sides have answers to, only an item's answers through those that both gave are taken: a
    prompt too long for one of them is left out for both. Where there are none, or with `own_templates` where the sides
    have not the same ones, all answers to a shared item.
    """
    shared = tuple(name for name in one.templates if name in other.templates)
    if shared and not (own_templates and one.templates != other.templates):
        one, other = (_through(side, shared) for side in (one, other))
        one, other = _same_prompts(one, other), _same_prompts(other, one)
    common = np.intersect1d(one.items, other.items)
    if not common.size:
        return None
    finish = one.measure.finish
    sides = [_restricted(side, common) for side in (one, other)]
    first, second = (float(statistics.over_templates(side.sums.sum(0), finish)) for side in sides)
    # Through other templates there is no single answer to exchange, only an item's mean over them.
    alike = one.templates == other.templates
    made = Pair(
        first=first,
        second=second,
        n=int(common.size),
        groups=sides[0].groups,
        draws=np.zeros(0),
        observed=0.0,
        exchanges=np.zeros(0),
        mcnemar=_mcnemar(one, other, sides),
        finish=finish,
        sums=(sides[0].sums, sides[1].sums),
        exchanged=(sides[0].sums, sides[1].sums) if alike else (sides[0].averaged[:, None], sides[1].averaged[:, None]),
    )
    return _drawn(made, sides[0].groups, seed, names, resamples)


def together(pairs: Sequence[Pair], *, seed: int, names: Sequence[str | int], resamples: int) -> list[Pair]:
    """Pairs of several tasks of one cluster, drawn anew: groups that tasks share are drawn, and exchanged, as one.

    Ten words asked about in five tasks are ten groups, not fifty.
    """
    found = list(pairs)
    for members, groups in statistics.sharing([pair.groups for pair in pairs]):
        for number in members:
            found[number] = _drawn(pairs[number], groups, seed, [*names, int(groups[0])], resamples)
    return found


def _drawn(pair: Pair, groups: Ints, seed: int, names: Sequence[str | int], resamples: int) -> Pair:
    """The pair with draws of these groups, among which are its own."""
    sums, exchanged = (
        [statistics.spread(side, pair.groups, groups) for side in both] for both in (pair.sums, pair.exchanged)
    )
    draws = statistics.bootstrap(sums, pair.finish, seed=seed, names=names, resamples=resamples)
    observed, exchanges = statistics.exchange_test(
        exchanged[0], exchanged[1], pair.finish, seed=seed, names=names, resamples=resamples
    )
    return dataclasses.replace(pair, draws=draws[0] - draws[1], observed=observed, exchanges=exchanges)


def difference(pairs: Sequence[Pair]) -> Difference:
    """A task's difference, or the unweighted mean of the differences of several tasks drawn `together`.

    `p_holm` is left at 1: `adjust` fills it in, once the whole family is known.
    """
    draws = np.mean([pair.draws for pair in pairs], axis=0)
    low, high = statistics.interval(draws)
    observed = float(np.mean([pair.observed for pair in pairs]))
    found: Difference = {
        "mean": float(np.mean([pair.mean for pair in pairs])),
        "low": low,
        "high": high,
        "p": statistics.exchange_p(observed, np.mean([pair.exchanges for pair in pairs], axis=0)),
        "p_holm": 1.0,
        "n": sum(pair.n for pair in pairs),
        "smallest_detectable": statistics.smallest_detectable(draws),
    }
    if len(pairs) == 1 and pairs[0].mcnemar is not None:
        found["p_mcnemar"] = pairs[0].mcnemar
    return found


def adjust(family: Sequence[Difference]) -> None:
    """Fill in Holm's adjusted p-values over a family of differences."""
    for one, p in zip(family, statistics.holm([one["p"] for one in family]), strict=True):
        one["p_holm"] = p


@dataclass(frozen=True, slots=True)
class _Side:
    """A side's answers to the items both share: I items in G groups."""

    groups: Ints
    """[G]"""
    sums: Floats
    """[G, T, S]"""
    averaged: Floats
    """[G, S], each item averaged over its templates first"""
    by_item: Floats
    """[I, S], averaged over templates"""


def _through(one: Answers, templates: tuple[str, ...]) -> Answers:
    """The answers given through some of the templates."""
    place = np.array([templates.index(name) if name in templates else -1 for name in one.templates], np.int64)
    kept = place[one.template_of] >= 0
    return _kept(dataclasses.replace(one, templates=templates, template_of=place[one.template_of]), kept)


def _same_prompts(one: Answers, other: Answers) -> Answers:
    """The answers of one to what the other, asked through the same templates, answered too."""
    prompts = [side.items * len(side.templates) + side.template_of for side in (one, other)]
    return _kept(one, np.isin(prompts[0], prompts[1]))


def _kept(one: Answers, kept: npt.NDArray[np.bool_]) -> Answers:
    return dataclasses.replace(
        one, items=one.items[kept], groups=one.groups[kept], template_of=one.template_of[kept], sums=one.sums[kept]
    )


def _restricted(one: Answers, common: Ints) -> _Side:
    kept = np.isin(one.items, common)
    items = np.searchsorted(common, one.items[kept])
    group_ids, groups = np.unique(one.groups[kept], return_inverse=True)
    group_of_item = np.zeros(len(common), np.int64)
    group_of_item[items] = groups
    by_item = np.zeros((len(common), one.sums.shape[-1]))
    np.add.at(by_item, items, one.sums[kept])
    by_item /= np.bincount(items, minlength=len(common))[:, None]
    averaged = np.zeros((len(group_ids), one.sums.shape[-1]))
    np.add.at(averaged, group_of_item, by_item)
    sums = statistics.group_sums(
        one.sums[kept], groups, one.template_of[kept], num_groups=len(group_ids), num_templates=len(one.templates)
    )
    return _Side(group_ids, sums, averaged, by_item)


def _mcnemar(one: Answers, other: Answers, sides: Sequence[_Side]) -> float | None:
    if not one.measure.is_mean or len(one.templates) != 1 or len(other.templates) != 1:
        return None
    # Questions on one passage are no independent trials, as a binomial test would have them.
    if len(sides[0].sums) != len(sides[0].by_item):
        return None
    values: list[Any] = [side.by_item[:, 0].tolist() for side in sides]
    if not set(values[0]) | set(values[1]) <= {0.0, 1.0}:
        return None
    return statistics.mcnemar(values[0], values[1])

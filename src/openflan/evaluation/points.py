"""Points of a figure: means over replicates, with intervals over replicates and items, and paired differences.

Takes readings (what one system scored on one cluster in one replicate), gives `Point`s and `Contrast`s.

A replicate is one combination of a base model (one pretraining seed), a tuning seed and an order of clusters. There are
two or three of each, too few to be resampled: a bootstrap over L levels shows (L - 1) / L of the variance and none of
the doubt about it. So the variance of a mean is that over items, from the bootstrap, plus that over replicates, from
the spread of the levels of each factor (`statistics.replicate_error`), and intervals are Student's t with as many
degrees of freedom as these allow. A factor with one level leaves no trace of its variance: the interval is then without
it, and `Point.by_replicate` says how many levels there were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openflan.errors import RunError
from openflan.evaluation import statistics
from openflan.evaluation.evaluate import ClusterDraws
from openflan.evaluation.statistics import Floats


@dataclass(frozen=True, slots=True, order=True)
class Replicate:
    """What differs between repetitions of one and the same experiment."""

    model: str
    """The base model; several of one kind are several pretraining seeds."""
    seed: int
    """Of mixture and tuning."""
    order: int = 0
    """Which order clusters are added in, where an experiment has one."""


@dataclass(frozen=True, slots=True)
class Point:
    """A series' mean at one place of the horizontal axis."""

    mean: float
    low: float
    high: float
    """95 %, over items and replicates, within what a metric can be"""
    n: int
    """Different items."""
    by_replicate: Mapping[Replicate, float]
    clusters: tuple[str, ...]
    chance: float | None
    majority: float | None
    templates_std: float
    """Standard deviation over templates, averaged over tasks and replicates."""
    draws: Floats
    """[B], over items, the replicates being these"""


@dataclass(frozen=True, slots=True)
class Contrast:
    """One point less another, paired by items and replicates."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of Student's t; no less than exchanging so many items could give."""
    smallest_detectable: float | None
    """The difference that would have been shown four times in five."""


Readings = Mapping[tuple[Replicate, str], ClusterDraws]
"""By replicate and cluster."""


def point(readings: Readings) -> Point:
    """The mean over clusters and over replicates, each replicate weighing the same.

    Raises RunError where a replicate lacks a cluster that another has.
    """
    clusters = sorted({cluster for _, cluster in readings})
    replicates = sorted({replicate for replicate, _ in readings})
    missing = [f"{r.model} seed {r.seed}: {c}" for r in replicates for c in clusters if (r, c) not in readings]
    if missing or not replicates:
        raise RunError(f"a point lacks readings: {', '.join(missing) or 'all of them'}")
    table = [[readings[replicate, cluster] for cluster in clusters] for replicate in replicates]
    means = np.array([[one.mean for one in row] for row in table]).mean(1)
    draws = np.array([[one.draws for one in row] for row in table]).mean((0, 1))
    low, high = _error(means, draws, replicates).interval(float(means.mean()))
    least = 0.0 if min(means.min(), np.nanmin(draws)) >= 0 else -1.0  # a correlation may be below zero
    every = [one for row in table for one in row]
    return Point(
        mean=float(means.mean()),
        low=max(low, least),
        high=min(high, 1.0),
        n=sum(one.n for one in table[0]),
        by_replicate=dict(zip(replicates, means.tolist(), strict=True)),
        clusters=tuple(clusters),
        chance=statistics.mean_if_all(one.chance for one in every),
        majority=statistics.mean_if_all(one.majority for one in every),
        templates_std=float(np.mean([one.templates_std for one in every])),
        draws=draws,
    )


def contrast(first: Point, second: Point) -> Contrast:
    """`first` less `second`. Raises RunError where they are not over the same replicates: nothing pairs them then."""
    replicates = sorted(first.by_replicate)
    if replicates != sorted(second.by_replicate):
        raise RunError("a difference of points that are not over the same replicates")
    gains = np.array([first.by_replicate[one] - second.by_replicate[one] for one in replicates])
    error = _error(gains, first.draws - second.draws, replicates)
    mean = first.mean - second.mean
    low, high = error.interval(mean)
    # Of a few items that all differ alike the bootstrap shows no error at all; there are 2 ** n ways to exchange them.
    least = 2.0 ** (1 - min(first.n, second.n))
    return Contrast(mean, low, high, max(error.p(mean), least), error.smallest_detectable())


def _error(means: Floats, draws: Floats, replicates: Sequence[Replicate]) -> statistics.Error:
    """Of the mean of a value for each replicate, [R], and its draws over items, [B]."""
    factors = [[getattr(one, factor) for one in replicates] for factor in ("model", "seed", "order")]
    over_items = statistics.Error(float(np.nanvar(draws)), np.inf)
    return over_items.plus(statistics.replicate_error(means, factors))

"""Points of a figure: means over replicates, with intervals over replicates and items, and paired differences.

Takes readings (what one system scored on one cluster in one replicate), gives `Point`s and `Contrast`s.

A replicate is one combination of a base model (one pretraining seed), a tuning seed and an order of clusters. These are
crossed factors, so each is resampled by itself, together with the items (the "pigeonhole" bootstrap of Owen 2007, which
errs towards wide intervals). A factor with one level cannot be resampled: the interval then leaves its variance out,
and `Point.replicates` says how many levels there were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openflan.errors import RunError
from openflan.evaluation import statistics
from openflan.evaluation.evaluate import ClusterDraws
from openflan.evaluation.statistics import Floats
from openflan.seeding import generator


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
    """95 %, over items and replicates"""
    n: int
    """Different items."""
    by_replicate: Mapping[Replicate, float]
    clusters: tuple[str, ...]
    chance: float | None
    majority: float | None
    templates_std: float
    """Standard deviation over templates, averaged over tasks and replicates."""
    draws: Floats
    """[B]"""


@dataclass(frozen=True, slots=True)
class Contrast:
    """One point less another, paired by items and replicates."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of the bootstrap."""
    smallest_detectable: float | None
    """The difference that would have been shown four times in five."""


def point(
    readings: Mapping[tuple[Replicate, str], ClusterDraws], *, seed: int, clusters: Sequence[str] | None = None
) -> Point:
    """The mean over `clusters` (all there are, by default) and over replicates, each replicate weighing the same.

    Points over equal replicates, made with an equal seed, are resampled together, so that differences are paired.
    Raises RunError where a replicate lacks a cluster that another has.
    """
    wanted = sorted({cluster for _, cluster in readings}) if clusters is None else list(clusters)
    replicates = sorted({replicate for replicate, _ in readings})
    missing = [f"{r.model} seed {r.seed}: {c}" for r in replicates for c in wanted if (r, c) not in readings]
    if missing or not replicates:
        raise RunError(f"a point lacks readings: {', '.join(missing) or 'all of them'}")
    table = [[readings[replicate, cluster] for cluster in wanted] for replicate in replicates]
    means = np.array([[one.mean for one in row] for row in table]).mean(1)
    draws = np.array([[one.draws for one in row] for row in table]).mean(1)  # [R, B]
    weights = _replicate_weights(replicates, draws.shape[1], seed)
    drawn = (weights * draws).sum(0) / weights.sum(0)
    low, high = statistics.interval(drawn)
    every = [one for row in table for one in row]
    return Point(
        mean=float(means.mean()),
        low=low,
        high=high,
        n=sum(one.n for one in table[0]),
        by_replicate=dict(zip(replicates, means.tolist(), strict=True)),
        clusters=tuple(wanted),
        chance=statistics.mean_if_all(one.chance for one in every),
        majority=statistics.mean_if_all(one.majority for one in every),
        templates_std=float(np.mean([one.templates_std for one in every])),
        draws=drawn,
    )


def contrast(first: Point, second: Point) -> Contrast:
    """`first` less `second`."""
    draws = first.draws - second.draws
    low, high = statistics.interval(draws)
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    return Contrast(
        mean=first.mean - second.mean,
        low=low,
        high=high,
        p=float(min(1.0, 2 * (1 + beyond) / (1 + len(draws)))),
        smallest_detectable=statistics.smallest_detectable(draws),
    )


def _replicate_weights(replicates: Sequence[Replicate], resamples: int, seed: int) -> Floats:
    """[R, B]: how often each replicate is in each resample.

    Where every combination was run the levels of each factor are drawn by themselves, else whole replicates.
    """
    factors = [[getattr(one, factor) for one in replicates] for factor in ("model", "seed", "order")]
    if np.prod([len(set(levels)) for levels in factors]) > len(replicates):
        factors = [list(range(len(replicates)))]
    weights = np.ones((len(replicates), resamples))
    for number, factor in enumerate(factors):
        levels = sorted(set(factor))
        draw = generator(seed, "replicates", number, len(levels))
        picked = draw.integers(0, len(levels), (resamples, len(levels)))
        counts = np.array([(picked == level).sum(1) for level in range(len(levels))])
        weights *= counts[[levels.index(level) for level in factor]]
    return weights

"""A metric on the clean and on the dirty rows of a task, and how far the clean rows are from all.

Takes one arm's samples of one task and which rows are dirty. Read next: `statistics.py`.
"""

from collections.abc import Collection, Sequence
from typing import Literal, TypedDict

import numpy as np
import polars as pl

from openflan.evaluation import statistics
from openflan.evaluation.evaluate import row_sums
from openflan.evaluation.metrics import Metric
from openflan.evaluation.statistics import Floats

FEWEST_GROUPS = 10
"""Groups a subset needs before a difference is read: an interval from fewer is too narrow."""


class SubsetDifference(TypedDict):
    """A subset's score minus another's."""

    mean: float
    low: float | None
    high: float | None
    reading: Literal["higher", "lower", "not shown", "too few"]


class Subsets(TypedDict):
    """An arm's scores on a task; values 0..1, means over templates; None over nothing."""

    metric: str
    templates: int
    n: int
    """Rows answered and scored."""
    n_clean: int
    n_dirty: int
    groups_clean: int
    groups_dirty: int
    all: float
    clean: float | None
    dirty: float | None
    clean_minus_all: SubsetDifference | None
    clean_minus_dirty: SubsetDifference | None
    relative: float | None
    """(clean - all) / all, as the paper's appendix reports it; None where `all` is 0."""


def on_subsets(
    samples: pl.DataFrame,
    measure: Metric,
    dirty: Collection[str],
    *,
    seed: int,
    names: Sequence[str | int],
    resamples: int,
) -> Subsets:
    """Scores of one arm on one task's test rows: on all, on those not in `dirty` (row ids), and on those in it.

    Intervals: groups are drawn whole, clean and dirty rows together, so that a subset's size varies as it would in
    another sample of rows.
    """
    rows = samples.filter(pl.col("value").is_not_null())
    is_dirty = rows["row_id"].is_in(list(dirty)).to_numpy()
    sums = row_sums(rows, measure)
    groups = rows["group"].rank("dense").cast(pl.Int64).to_numpy() - 1
    templates = rows["template"].rank("dense").cast(pl.Int64).to_numpy() - 1
    num_groups, num_templates = int(groups.max()) + 1, int(templates.max()) + 1

    def summed(chosen: statistics.Ints) -> Floats:
        return statistics.group_sums(
            sums[chosen], groups[chosen], templates[chosen], num_groups=num_groups, num_templates=num_templates
        )

    every = summed(np.arange(rows.height))
    clean, soiled = summed(np.flatnonzero(~is_dirty)), summed(np.flatnonzero(is_dirty))
    draws = statistics.bootstrap([every, clean, soiled], measure.finish, seed=seed, names=names, resamples=resamples)
    values = [_value(part, measure) for part in (every, clean, soiled)]
    assert values[0] is not None, "there is a scored row"
    sizes = [len(np.unique(groups[chosen])) for chosen in (~is_dirty, is_dirty)]

    def difference(other: int) -> SubsetDifference | None:
        first, second = values[1], values[other]
        if first is None or second is None:
            return None
        made = draws[1] - draws[other]
        mean = first - second
        if min(sizes) < 2 or np.isnan(made).all():
            return {"mean": mean, "low": None, "high": None, "reading": "too few"}
        low, high = statistics.interval(made)
        few = min(sizes) < FEWEST_GROUPS
        return {
            "mean": mean,
            "low": low,
            "high": high,
            "reading": "too few" if few else statistics.reading(low, high, None),
        }

    return {
        "metric": measure.name,
        "templates": num_templates,
        "n": rows["row_id"].n_unique(),
        "n_clean": rows.filter(~is_dirty)["row_id"].n_unique(),
        "n_dirty": rows.filter(is_dirty)["row_id"].n_unique(),
        "groups_clean": sizes[0],
        "groups_dirty": sizes[1],
        "all": values[0],
        "clean": values[1],
        "dirty": values[2],
        "clean_minus_all": difference(0),
        "clean_minus_dirty": difference(2),
        "relative": None if values[1] is None or not values[0] else (values[1] - values[0]) / values[0],
    }


def _value(sums: Floats, measure: Metric) -> float | None:
    value = float(statistics.over_templates(sums.sum(0), measure.finish))
    return None if np.isnan(value) else value

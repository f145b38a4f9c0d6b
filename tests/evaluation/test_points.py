"""Points over replicates: by hand, and against what intervals promise."""

import numpy as np
import pytest

from openflan.errors import RunError
from openflan.evaluation.evaluate import ClusterDraws
from openflan.evaluation.points import Replicate, contrast, point

RESAMPLES = 400


def reading(mean, noise=0.0, seed=0, n=50):
    draws = mean + noise * np.random.default_rng(seed).standard_normal(RESAMPLES)
    return ClusterDraws(mean, draws, n, ("a", "b"), 0.25, 0.5, 0.01)


def crossed(models, seeds):
    return [Replicate(model, seed) for model in models for seed in seeds]


def test_a_point_is_the_mean_over_clusters_then_over_replicates():
    one, two = crossed(["m"], [1, 2])
    readings = {(one, "x"): reading(0.2), (one, "y"): reading(0.4), (two, "x"): reading(0.6), (two, "y"): reading(1.0)}
    found = point(readings, seed=0)
    assert found.mean == pytest.approx(0.55)
    assert dict(found.by_replicate) == pytest.approx({one: 0.3, two: 0.8})
    assert (found.n, found.clusters, found.chance, found.majority) == (100, ("x", "y"), 0.25, 0.5)
    assert point(readings, seed=0, clusters=["y"]).mean == pytest.approx(0.7)
    # Two seeds, drawn twice: both the one, both the other, or one of each.
    assert set(np.round(found.draws, 6)) == {0.3, 0.55, 0.8}


def test_a_replicate_that_lacks_a_cluster_is_named():
    one, two = crossed(["m"], [1, 2])
    with pytest.raises(RunError, match="m seed 2: y"):
        point({(one, "x"): reading(0.2), (one, "y"): reading(0.4), (two, "x"): reading(0.6)}, seed=0)
    with pytest.raises(RunError):
        point({}, seed=0)


def test_a_difference_is_paired_by_items_and_by_replicates():
    replicates = crossed(["m0", "m1"], [1, 2])
    rng = np.random.default_rng(0)
    level = {one: rng.uniform(0.3, 0.7) for one in replicates}
    first = point({(one, "x"): reading(level[one] + 0.05, 0.1, seed=3) for one in replicates}, seed=0)
    second = point({(one, "x"): reading(level[one], 0.1, seed=3) for one in replicates}, seed=0)
    assert first.high - first.low > 0.2
    found = contrast(first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert found.p == pytest.approx(2 / (1 + RESAMPLES))
    assert contrast(first, first).p == 1


def test_orders_that_go_with_one_model_each_are_drawn_whole():
    replicates = [Replicate(f"m{i % 2}", i % 3, i) for i in range(4)]
    found = point({(one, "x"): reading(float(i)) for i, one in enumerate(replicates)}, seed=0)
    assert found.mean == 1.5
    assert found.draws.min() < 1 and found.draws.max() > 2
    assert np.allclose(found.draws * 4, np.round(found.draws * 4))  # four replicates in each resample


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    replicates, held = crossed(range(6), range(6)), 0
    for trial in range(200):
        of_model, of_seed = rng.normal(0, 0.05, 6), rng.normal(0, 0.05, 6)
        items = rng.normal(0, 0.03)
        readings = {}
        for one in replicates:
            mean = 0.5 + of_model[int(one.model)] + of_seed[one.seed] + items
            readings[one, "x"] = reading(mean, 0.03, seed=trial)
        found = point(readings, seed=trial)
        held += found.low <= 0.5 <= found.high
    assert 0.86 <= held / 200 <= 0.99

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
    found = point(readings)
    assert found.mean == pytest.approx(0.55)
    assert dict(found.by_replicate) == pytest.approx({one: 0.3, two: 0.8})
    assert (found.n, found.clusters, found.chance, found.majority) == (100, ("x", "y"), 0.25, 0.5)
    assert (found.low, found.high) == (0, 1)
    # Two values a twentieth apart: the standard error is half of that, with one degree of freedom.
    near = point({(one, "x"): reading(0.50), (two, "x"): reading(0.55)})
    assert (near.low, near.high) == pytest.approx((0.525 - 12.706 * 0.025, 0.525 + 12.706 * 0.025), rel=1e-4)


def test_a_replicate_that_lacks_a_cluster_is_named():
    one, two = crossed(["m"], [1, 2])
    with pytest.raises(RunError, match="m seed 2: y"):
        point({(one, "x"): reading(0.2), (one, "y"): reading(0.4), (two, "x"): reading(0.6)})
    with pytest.raises(RunError):
        point({})
    with pytest.raises(RunError, match="same replicates"):
        contrast(point({(one, "x"): reading(0.2)}), point({(two, "x"): reading(0.2)}))


def test_a_difference_is_paired_by_items_and_by_replicates():
    replicates = crossed(["m0", "m1"], [1, 2])
    rng = np.random.default_rng(0)
    level = {one: rng.uniform(0.3, 0.7) for one in replicates}
    first = point({(one, "x"): reading(level[one] + 0.05, 0.1, seed=3) for one in replicates})
    second = point({(one, "x"): reading(level[one], 0.1, seed=3) for one in replicates})
    assert first.high - first.low > 0.2
    found = contrast(first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert found.p < 1e-5
    assert contrast(first, first).p == 1


@pytest.mark.parametrize(("items", "p"), [(1, 1), (3, 1 / 4), (6, 1 / 32), (50, 1e-6)])
def test_a_few_items_that_all_differ_alike_prove_little(items: int, p: float) -> None:
    one = Replicate("m", 0)
    first, second = (point({(one, "x"): reading(mean, n=items)}) for mean in (1.0, 0.0))
    assert contrast(first, second).p == pytest.approx(p)
    assert contrast(first, first).p == 1


@pytest.mark.parametrize(
    ("models", "seeds", "spread"),
    [(3, 2, (0.03, 0.0, 0.0, 0.01)), (3, 2, (0.03, 0.03, 0.0, 0.01)), (3, 2, (0.02, 0.02, 0.02, 0.02)),
     (3, 2, (0.0, 0.0, 0.03, 0.01)), (3, 1, (0.03, 0.0, 0.01, 0.03)), (6, 6, (0.05, 0.05, 0.0, 0.03))],
)  # fmt: skip
def test_few_levels_keep_what_an_interval_promises(models: int, seeds: int, spread: tuple[float, ...]) -> None:
    """A bootstrap over these levels held the truth in 72 to 91 of 100 cases; t over their spread does in 92 to 98."""
    rng = np.random.default_rng(1)
    replicates, held, trials = crossed(map(str, range(models)), range(seeds)), 0, 500
    of_model, of_seed, of_both, of_items = spread
    for trial in range(trials):
        model, seed = rng.normal(0, of_model, models), rng.normal(0, of_seed, seeds)
        items = rng.normal(0, of_items)
        readings = {
            (one, "x"): reading(0.5 + model[int(one.model)] + seed[one.seed] + items + rng.normal(0, of_both),
                                of_items, seed=trial)
            for one in replicates
        }  # fmt: skip
        found = point(readings)
        held += found.low <= 0.5 <= found.high
    assert 0.915 <= held / trials <= 0.99


def test_orders_that_go_with_one_model_each_count_once():
    replicates = [Replicate(f"m{i % 3}", i % 2, i) for i in range(6)]
    values = np.random.default_rng(0).normal(0.5, 0.02, 6)
    found = point({(one, "x"): reading(value) for one, value in zip(replicates, values, strict=True)})
    alone = values.std(ddof=1) / np.sqrt(6)
    assert (found.high - found.mean) / alone > 2  # no less than six draws of one kind
    # All six of two models: as sure as two values are, however many orders were run.
    twins = [Replicate(f"m{i % 2}", 0, i) for i in range(6)]
    same = point({(one, "x"): reading(0.49 if one.model == "m0" else 0.51) for one in twins})
    assert same.high - same.mean > 5 * 0.01

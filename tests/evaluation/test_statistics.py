"""Intervals and tests against theory, hand-made examples and scipy."""

import math
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from openflan.evaluation import statistics
from openflan.evaluation.metrics import METRICS, ranked

MEAN = METRICS["accuracy"].finish


def rows_of(values):
    """0/1 values [N] as the sums an accuracy keeps, [N, 2]."""
    return np.stack([np.asarray(values, float), np.ones(len(values))], axis=-1)


def exchange(first, second, **settings):
    """The exchange test of 0/1 values [N] asked with one template."""
    sums = (rows_of(values)[:, None] for values in (first, second))
    return statistics.exchange_test(*sums, MEAN, **{"seed": 0, "names": ["t"]} | settings)


def one_template(values, groups=None):
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    templates = np.zeros(len(values), int)
    return statistics.group_sums(rows_of(values), groups, templates, num_groups=groups.max() + 1, num_templates=1)


def interval_of(sums, seed=0):
    (draws,) = statistics.bootstrap([sums], MEAN, seed=seed, names=["t"])
    return statistics.interval(draws)


def test_the_interval_of_a_proportion_is_near_the_normal_one():
    values = np.arange(400) < 240
    low, high = interval_of(one_template(values))
    error = np.sqrt(0.6 * 0.4 / 400)
    assert low == pytest.approx(0.6 - 1.96 * error, abs=0.006)
    assert high == pytest.approx(0.6 + 1.96 * error, abs=0.006)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        low, high = interval_of(one_template(rng.random(80) < 0.7), seed=trial)
        hits += low <= 0.7 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_duplicated_items_do_not_shrink_the_interval():
    values = np.random.default_rng(0).random(60) < 0.5
    once = interval_of(one_template(values))
    copies = one_template(np.tile(values, 10), np.tile(np.arange(60), 10))
    assert interval_of(copies) == pytest.approx(once)
    # The same copies taken for items of their own would.
    careless = interval_of(one_template(np.tile(values, 10)))
    assert careless.high - careless.low < 0.5 * (once.high - once.low)


def test_templates_are_nested_in_items():
    values = np.random.default_rng(0).random(60) < 0.5
    groups, templates = np.tile(np.arange(60), 8), np.repeat(np.arange(8), 60)
    eight = statistics.group_sums(rows_of(np.tile(values, 8)), groups, templates, num_groups=60, num_templates=8)
    assert interval_of(eight) == pytest.approx(interval_of(one_template(values)))


def test_draws_depend_on_seed_and_name_alone():
    sums = one_template(np.arange(50) % 3 == 0)
    draw = lambda seed, name: statistics.bootstrap([sums], MEAN, seed=seed, names=[name])[0]  # noqa: E731
    assert (draw(0, "a") == draw(0, "a")).all()
    assert (draw(0, "a") != draw(0, "b")).any()
    assert (draw(0, "a") != draw(1, "a")).any()


def test_blocks_do_not_change_what_is_drawn(monkeypatch):
    sums = one_template(np.arange(50) % 3 == 0)
    (whole,) = statistics.bootstrap([sums], MEAN, seed=0, names=["a"])
    monkeypatch.setattr(statistics, "BLOCK_CELLS", 50 * 7)
    (parts,) = statistics.bootstrap([sums], MEAN, seed=0, names=["a"])
    assert (whole == parts).all()


def test_the_exchange_test_equals_the_full_enumeration():
    rng = np.random.default_rng(3)
    first, second = (rng.random(10) < 0.8, rng.random(10) < 0.4)
    difference = first.astype(float) - second
    every = np.array([np.dot(signs, difference) for signs in product([-1, 1], repeat=10)])
    expected = (np.abs(every) >= abs(difference.sum()) - 1e-9).mean()
    observed, draws = exchange(first, second, resamples=20_000)
    assert observed == pytest.approx(difference.mean())
    assert statistics.exchange_p(observed, draws) == pytest.approx(expected, abs=0.012)


def test_five_items_cannot_be_significant():
    # All five better: the smallest two-sided p there is with five pairs is 2/32.
    observed, draws = exchange([1] * 5, [0] * 5)
    assert statistics.exchange_p(observed, draws) == pytest.approx(2 / 32, abs=0.02)


def test_equal_arms_have_p_one_and_no_smallest_detectable_effect():
    observed, draws = exchange([1, 0, 1, 1], [1, 0, 1, 1])
    assert statistics.exchange_p(observed, draws) == 1.0
    assert statistics.smallest_detectable(np.zeros(100)) is None


def test_pairing_finds_what_an_unpaired_test_misses():
    rng = np.random.default_rng(0)
    hard = rng.random(200) < 0.5
    first = hard.copy()
    first[np.flatnonzero(~hard)[:9]] = True  # right wherever the other is, and on nine more
    observed, draws = exchange(first, hard)
    unpaired = stats.ttest_ind(first.astype(float), hard.astype(float)).pvalue
    assert statistics.exchange_p(observed, draws) < 0.05 < unpaired
    assert statistics.mcnemar(first.astype(float), hard.astype(float)) < 0.05


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(5)
    p_values = []
    for trial in range(300):
        first, second = rng.random((2, 60)) < 0.6
        observed, draws = exchange(first, second, seed=trial, resamples=400)
        p_values.append(statistics.exchange_p(observed, draws))
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.08


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_exact_binomial_test(pairs):
    first, second = ([float(value) for value in column] for column in zip(*pairs, strict=True))
    only = [sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)]
    expected = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_rule_rejects(p_values):
    adjusted = statistics.holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[index] * (len(p_values) - step) > level:
                break
            rejected.add(index)
        assert {index for index, p in enumerate(adjusted) if p <= level} == rejected


def test_the_smallest_detectable_effect_is_detected_four_times_in_five():
    rng = np.random.default_rng(2)
    size, flips = 300, 0.2
    effect = statistics.smallest_detectable(rng.choice([-1, 0, 1], (4000, size), p=[0.1, 0.8, 0.1]).mean(1))
    found = 0
    for _ in range(400):
        up = (flips + effect) / 2
        difference = rng.choice([1.0, -1.0, 0.0], size, p=[up, flips - up, 1 - flips])
        found += stats.ttest_1samp(difference, 0).pvalue < 0.05
    assert effect == pytest.approx(2.80 * np.sqrt(0.2 / size), rel=0.05)
    assert found / 400 == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize("groups", [1, 10, 300])
def test_what_may_stay_unseen_is_the_exact_binomial_bound(groups):
    expected = stats.binomtest(0, groups, alternative="less").proportion_ci(0.95).high
    assert statistics.most_unseen(groups) == pytest.approx(expected)


def test_a_corpus_metric_is_recomputed_in_every_resample():
    measure = METRICS["f1a"]
    rng = np.random.default_rng(0)
    rows = [ranked(("no", "yes"), [int(g)], int(p)) for p, g in rng.integers(0, 2, (50, 2))]
    sums = measure.statistics(rows)[:, None]
    (draws,) = statistics.bootstrap([sums], measure.finish, seed=0, names=["t"], resamples=200)
    from openflan.seeding import generator

    picked = generator(0, "bootstrap", "t").integers(0, 50, (200, 50))
    expected = [measure.over([rows[index] for index in row])["f1a"] for row in picked]
    assert draws == pytest.approx(expected)


def test_resampling_costs_a_small_part_of_computing_the_metric_on_each_resample():
    rows = [ranked(("no", "yes"), [i % 2], int(i % 3 == 0)) for i in range(1000)]
    measure = METRICS["f1"]
    sums = measure.statistics(rows)[:, None]

    def least(work: Callable[[], object], times: int) -> float:
        """CPU seconds, the least of several: other work on the machine only adds to them."""
        taken: list[float] = []
        for _ in range(times):
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
        return min(taken)

    ours = least(lambda: statistics.bootstrap([sums], measure.finish, seed=0, names=["t"], resamples=2000), 5)
    assert ours < least(lambda: [measure.over(rows) for _ in range(100)], 5) * 2000 / 100 / 5


def test_the_error_of_replicates_is_that_of_levels_where_only_they_differ() -> None:
    models, seeds = ["a", "a", "b", "b", "c", "c"], [1, 2] * 3
    values = np.array([0.1, 0.1, 0.2, 0.2, 0.6, 0.6])
    found = statistics.replicate_error(values, [models, seeds, [0] * 6])
    assert found.variance == pytest.approx(np.var([0.1, 0.2, 0.6], ddof=1) / 3)
    assert found.freedom == pytest.approx(2)
    alone = statistics.replicate_error(values[::2], [models[::2], [1] * 3])
    assert alone == pytest.approx(found)
    assert statistics.replicate_error(values, [[0] * 6]) == (0, math.inf)


def test_an_error_of_two_parts_has_welchs_degrees_of_freedom() -> None:
    one, two = statistics.Error(0.04 / 5, 4), statistics.Error(0.09 / 8, 7)
    both = one.plus(two)
    known = stats.ttest_ind_from_stats(1.0, 0.2, 5, 0.7, 0.3, 8, equal_var=False)
    assert both.p(0.3) == pytest.approx(known.pvalue)
    low, high = both.interval(0.3)
    assert (low + high) / 2 == pytest.approx(0.3)
    assert statistics.Error(1.0, math.inf).interval(0.0) == pytest.approx((-1.96, 1.96), abs=1e-2)
    assert both.smallest_detectable() == pytest.approx((high - low) / 2, rel=0.5)
    nothing = statistics.Error(0.0, math.inf)
    assert (nothing.p(0.0), nothing.smallest_detectable()) == (1.0, None)
    assert nothing.plus(one) == pytest.approx(one)

"""Two runs on the same items: what is paired, what is left out and named, and what must not move a number."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from openflan.errors import RunError
from openflan.evaluation import paired
from openflan.evaluation.compare import Comparison, Side, compare
from openflan.evaluation.evaluate import evaluate
from openflan.evaluation.metrics import metric
from openflan.evaluation.paired import Answers
from openflan.seeding import generator

from .conftest import frame, grid, made_task, sample

TASKS = {task.name: task for task in (made_task("t"), made_task("u"), made_task("v", cluster="sentiment"))}
METRICS = dict.fromkeys(TASKS, "accuracy")


def chance(*names: str | int) -> float:
    return generator(0, *names).random()


def better(arm: str, task: str, item: int, template: str) -> float:
    """Half right untuned; tuned keeps these and gains a tenth."""
    return chance(task, item, template) < (0.6 if arm == "tuned" else 0.5)


SAMPLES = grid(better, tasks=list(TASKS.values()))
TUNED, UNTUNED = (SAMPLES.filter(arm=arm) for arm in ("tuned", "untuned"))


def side(samples: pl.DataFrame, label: str = "A (one)", **more: Any) -> Side:
    return Side(label=label, samples=samples, metrics={**METRICS, **more})


def compared(a: pl.DataFrame = TUNED, b: pl.DataFrame = UNTUNED, **settings: Any) -> Comparison:
    return compare(side(a), side(b, "B (other)"), **{"resamples": 200} | settings)


FOUND = compared(changed=True)


def on(found: Comparison, task: str) -> Any:
    (entry,) = [one for one in found.tasks if one["task"] == task]
    return entry


def with_values(samples: pl.DataFrame, value: Callable[[pl.Expr], pl.Expr]) -> pl.DataFrame:
    return samples.with_columns(value(pl.col("value")).alias("value"))


# The numbers


def test_two_arms_of_a_run_get_the_numbers_of_its_result() -> None:
    result = evaluate(SAMPLES, tasks=TASKS, held_out=["nli"], seed=0, resamples=200)
    keys = ("mean", "low", "high", "p", "p_holm", "n", "smallest_detectable")
    for cluster in result.differences:
        (own,) = [one for one in FOUND.clusters if one["cluster"] == cluster["cluster"]]
        assert [own[key] for key in keys] == [cluster[key] for key in keys]
        for name, task in cluster["tasks"].items():
            assert [on(FOUND, name)[key] for key in keys] == [task[key] for key in keys]


def test_means_and_templates_by_hand() -> None:
    test = SAMPLES.filter(split="test", task="t")
    entry = on(FOUND, "t")
    assert entry["a"]["mean"] == pytest.approx(test.filter(arm="tuned")["value"].mean(), abs=1e-6)
    assert entry["b"]["mean"] == pytest.approx(test.filter(arm="untuned")["value"].mean(), abs=1e-6)
    assert (entry["n"], entry["groups"], entry["a"]["templates"], entry["metric"]) == (60, 60, 3, "accuracy")
    assert [one["template"] for one in entry["by_template"]] == ["a", "b", "c"]
    for one in entry["by_template"]:
        values = [test.filter(arm=arm, template=one["template"])["value"].mean() for arm in ("tuned", "untuned")]
        assert [one["a"], one["b"]] == pytest.approx(values, abs=1e-6)
        assert one["low"] <= one["mean"] <= one["high"]
    assert entry["mean"] == pytest.approx(np.mean([one["mean"] for one in entry["by_template"]]), abs=2e-6)
    nli = FOUND.clusters[0]
    assert (nli["cluster"], nli["tasks"], nli["a"]["templates"]) == ("nli", ["t", "u"], 6)
    assert nli["mean"] == pytest.approx((on(FOUND, "t")["mean"] + on(FOUND, "u")["mean"]) / 2, abs=2e-6)


def test_a_gain_that_an_unpaired_test_misses_is_shown() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(200) < 0.5
    first = hard.copy()
    first[np.flatnonzero(~hard)[:9]] = True  # right wherever the other is, and on nine more
    a, b = (frame([sample(row_id=str(i), value=float(v)) for i, v in enumerate(one)]) for one in (first, hard))
    entry = on(compared(a, b, resamples=2000), "t")
    assert entry["p"] < 0.05 < stats.ttest_ind(first.astype(float), hard.astype(float)).pvalue
    assert entry["p_mcnemar"] == pytest.approx(stats.binomtest(9, 9).pvalue, abs=1e-6)
    assert (entry["reading"], entry["items"]) == ("higher", {"won": 9, "lost": 0, "even": 0, "same": 191})


def test_copies_of_an_item_are_one_item() -> None:
    def copied(samples: pl.DataFrame) -> pl.DataFrame:
        return pl.concat(
            samples.with_columns(pl.format("{}#{}", "row_id", pl.lit(copy)).alias("row_id")) for copy in range(5)
        )

    again = on(compared(copied(TUNED), copied(UNTUNED)), "t")
    once = on(FOUND, "t")
    assert (again["n"], again["groups"]) == (5 * once["n"], once["groups"])
    for key in ("mean", "low", "high", "p", "smallest_detectable"):
        assert again[key] == pytest.approx(once[key], abs=2e-6)
    alone = [one.with_columns(pl.col("row_id").alias("group")) for one in (copied(TUNED), copied(UNTUNED))]
    careless = on(compared(*alone), "t")
    assert careless["high"] - careless["low"] < 0.6 * (once["high"] - once["low"])


def test_mcnemar_is_not_given_for_items_that_share_a_passage() -> None:
    one = [frame([sample(row_id=str(i), value=float(i % n == 0)) for i in range(30)]) for n in (2, 3)]
    assert "p_mcnemar" in on(compared(*one), "t")
    shared = [rows.with_columns((pl.col("row_id").cast(int) // 3).cast(str).alias("group")) for rows in one]
    assert "p_mcnemar" not in on(compared(*shared), "t")


def test_equal_runs_differ_by_nothing_and_nothing_is_shown() -> None:
    found = compared(TUNED, TUNED, changed=True)
    for entry in (*found.tasks, *found.clusters):
        assert (entry["mean"], entry["low"], entry["high"], entry["p"]) == (0, 0, 0, 1)
        assert (entry["reading"], entry["smallest_detectable"]) == ("not shown", None)
    assert (found.changed, found.outside) == ([], [])


def test_a_minus_b_is_minus_b_minus_a() -> None:
    back = compared(UNTUNED, TUNED, changed=True)
    for one, other in zip((*FOUND.tasks, *FOUND.clusters), (*back.tasks, *back.clusters), strict=True):
        assert (one["mean"], one["low"], one["high"]) == (-other["mean"], -other["high"], -other["low"])
        assert (one["p"], one["p_holm"], one["n"]) == (other["p"], other["p_holm"], other["n"])
        assert (one["a"], one["b"]) == (other["b"], other["a"])
        assert {one["reading"], other["reading"]} in ({"higher", "lower"}, {"not shown"})
    assert FOUND.changed is not None and back.changed is not None
    turned = {"won": "lost", "lost": "won", "even": "even"}
    assert [turned[item["outcome"]] for item in FOUND.changed] == [item["outcome"] for item in back.changed]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_rows_moves_nothing(seed: int) -> None:
    shuffled = [one.sample(fraction=1, shuffle=True, seed=seed) for one in (TUNED, UNTUNED)]
    assert compared(*shuffled, changed=True) == FOUND


def test_other_tasks_move_nothing_but_the_adjustment() -> None:
    alone = on(compared(TUNED.filter(task="t"), UNTUNED.filter(task="t")), "t")
    whole = on(FOUND, "t")
    assert alone | {"p_holm": 0} == whole | {"p_holm": 0}
    assert alone["p_holm"] == alone["p"] <= whole["p_holm"]


def test_holm_runs_over_tasks_and_over_clusters_apart_and_keeps_their_order() -> None:
    for family in (FOUND.tasks, FOUND.clusters):
        by_p = sorted(family, key=lambda one: one["p"])
        adjusted = [one["p_holm"] for one in by_p]
        assert adjusted == sorted(adjusted)
        assert adjusted[0] == pytest.approx(min(1, len(family) * by_p[0]["p"]), abs=1e-5)
        assert all(one["p"] <= one["p_holm"] <= 1 for one in family)


def test_numbers_of_exemplars_are_compared_apart() -> None:
    def shown(samples: pl.DataFrame, shots: int) -> pl.DataFrame:
        return samples.filter(pl.col("task") != "v").with_columns(pl.lit(shots, pl.Int32).alias("shots"))

    worse = with_values(UNTUNED, lambda value: value * 0)
    a = pl.concat([shown(TUNED, 0), shown(TUNED, 5)])
    b = pl.concat([shown(UNTUNED, 0), shown(worse, 5), shown(worse, 1)])
    found = compared(a, b)
    assert [(one["a"]["shots"], one["task"]) for one in found.tasks] == [(0, "t"), (0, "u"), (5, "t"), (5, "u")]
    assert [(one["a"]["shots"], one["cluster"]) for one in found.clusters] == [(0, "nli"), (5, "nli")]
    assert found.tasks[0]["mean"] == on(FOUND, "t")["mean"]
    assert found.tasks[2]["b"]["mean"] == 0
    assert [(one["side"], one["reason"], one["shots"]) for one in found.outside] == [("b", "shots", 1)] * 2


def test_a_corpus_metric_is_compared_as_itself() -> None:
    found = compare(side(TUNED, t="f1a"), side(UNTUNED, t="f1a"), resamples=200)
    tasks = TASKS | {"t": made_task("t", metrics=["f1a"])}
    result = evaluate(SAMPLES, tasks=tasks, held_out=["nli"], seed=0, resamples=200)
    (nli,) = [one for one in result.differences if one["cluster"] == "nli"]
    for key in ("mean", "low", "high", "p"):
        assert on(found, "t")[key] == nli["tasks"]["t"][key]


def test_generated_answers_are_compared() -> None:
    words = ["the cat sat on the mat", "a dog ran to the red house"]
    made = [
        frame([
            sample(
                task="g", row_id=str(i), options=[], logprobs=[], gold=[], predicted=None, references=[words[i % 2]],
                prediction=words[i % 2] if right else "no", value=float(right), cluster="translation",
            )
            for i in range(12) for right in [i % 3 != wrong]
        ])
        for wrong in (0, 1)
    ]  # fmt: skip
    found = compare(side(made[0], g="bleu"), side(made[1], "B", g="bleu"), resamples=200, changed=True)
    assert on(found, "g")["items"] == {"won": 4, "lost": 4, "even": 0, "same": 4}
    assert found.changed is not None
    assert found.changed[0]["answers"][0] | {"prompt_sha": "", "prompt": None} == {
        "template": "a", "a": "no", "b": words[0], "value_a": 0, "value_b": 1, "prompt_sha": "", "prompt": None,
    }  # fmt: skip


# What moved


def test_changed_items_are_all_listed_largest_first_and_counted() -> None:
    assert FOUND.changed is not None
    joined = TUNED.filter(split="test").join(UNTUNED, on=["task", "row_id", "template"], suffix="_b")
    moved = joined.filter(pl.col("value") != pl.col("value_b"))
    by_item = moved.group_by("task", "row_id").agg(pl.col("template").sort())
    said = {(one["task"], one["row_id"]): [a["template"] for a in one["answers"]] for one in FOUND.changed}
    assert said == {(task, row_id): templates for task, row_id, templates in by_item.iter_rows()}
    sizes = [abs(one["a"] - one["b"]) for one in FOUND.changed]
    assert sizes == sorted(sizes, reverse=True)
    for task in FOUND.tasks:
        mine = [one["outcome"] for one in FOUND.changed if one["task"] == task["task"]]
        assert {name: mine.count(name) for name in ("won", "lost", "even")} == {
            name: number for name, number in task["items"].items() if name != "same"
        }
        assert sum(task["items"].values()) == task["n"]
    for one in FOUND.changed:
        assert one["right"] == [["yes", "no"][int(one["row_id"].split("/")[1]) % 2]]
    assert compared().changed is None


def test_an_item_whose_wins_and_losses_cancel_is_even() -> None:
    rows = [[sample(template=t, value=float(v)) for t, v in zip("ab", values, strict=True)] for values in ("10", "01")]
    found = compared(frame(rows[0]), frame(rows[1]), changed=True)
    assert found.changed is not None
    assert [(one["outcome"], one["won"], one["lost"]) for one in found.changed] == [("even", 1, 1)]


def test_the_templates_that_moved_most_come_first() -> None:
    worse = UNTUNED.with_columns(
        pl.when((pl.col("task") == "u") & (pl.col("template") == "b"))
        .then(1 - pl.col("value"))
        .otherwise(pl.col("value"))
        .alias("value")
    )
    moved = compared(UNTUNED, worse).moved
    assert (moved["templates"][0]["task"], moved["templates"][0]["template"]) == ("u", "b")
    assert moved["tasks"][0]["task"] == "u"
    sizes = [abs(one["mean"]) for one in FOUND.moved["templates"]]
    assert sizes == sorted(sizes, reverse=True)


# What is left out


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_answer_is_compared_or_named(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def holed(samples: pl.DataFrame) -> pl.DataFrame:
        test = samples.filter(split="test", task="t").head(60)
        more = [
            samples.filter(split="test", task=str(task)).head(12).with_columns(pl.lit(shots, pl.Int32).alias("shots"))
            for task in rng.choice(["u", "v"], rng.integers(0, 3), replace=False)
            for shots in rng.choice(3, rng.integers(1, 3), replace=False)
        ]
        rows = pl.concat([test, *more])
        left = rows.filter(rng.random(rows.height) > 0.2, pl.col("template") != rng.choice(["a", "b", "c", "none"]))
        unscored = rng.random(left.height) < 0.1
        return left.with_columns(pl.when(unscored).then(None).otherwise(pl.col("value")).alias("value"))

    a, b = holed(TUNED), holed(UNTUNED)
    for own_prompts in (False, True):
        found = compared(a, b, own_prompts=own_prompts, resamples=100)
        for name, rows in (("a", a), ("b", b)):
            outside = sum(
                one["samples"]
                for one in found.outside
                if one["side"] == name or (not own_prompts and one["reason"] == "unscored")
            )
            assert found.samples[name] + outside == rows.height
        assert compared(b, a, own_prompts=own_prompts, resamples=100).tasks[0]["mean"] == -found.tasks[0]["mean"]


def test_what_is_not_compared_is_named_with_its_reason() -> None:
    a = TUNED.filter(
        (pl.col("task") != "v") & (pl.col("template") != "c"), pl.col("split") == "test", pl.col("row_id") != "test/3"
    )
    b = UNTUNED.filter(
        ~((pl.col("row_id") == "test/5") & (pl.col("template") == "a")), pl.col("task") != "u", split="test"
    )
    b = b.with_columns(
        pl.when((pl.col("row_id") == "test/9") & (pl.col("template") == "b"))
        .then(None)
        .otherwise("value")
        .alias("value")
    )
    outside = [{key: value for key, value in one.items() if key != "shots"} for one in compared(a, b).outside]
    assert outside == [
        {"side": "a", "reason": "task", "task": "u", "samples": 118},
        {"side": "a", "reason": "cell", "task": "t", "samples": 1, "items": ["test/5"]},
        {"side": "b", "reason": "task", "task": "v", "samples": 179},
        {"side": "b", "reason": "template", "task": "t", "template": "c", "samples": 60},
        {"side": "b", "reason": "item", "task": "t", "samples": 2, "items": ["test/3"]},
        {"side": "b", "reason": "unscored", "task": "t", "samples": 1, "items": ["test/9"]},
    ]


def test_runs_that_share_nothing_are_an_error_that_says_what_each_has() -> None:
    with pytest.raises(RunError) as caught:
        compared(TUNED.filter(task="t"), UNTUNED.filter(task="v"))
    said = str(caught.value)
    assert "no prompt was answered by both" in said and "--own-prompts" not in said
    assert "A (one): has t with 0 exemplars: 60 items (test/0, …) through a, b, c" in said
    assert "B (other): has v with 0 exemplars: 60 items" in said
    renamed = UNTUNED.with_columns(pl.format("other_{}", "template").alias("template"))
    with pytest.raises(RunError, match="--own-prompts"):
        compared(TUNED, renamed)
    with pytest.raises(RunError, match="no item was answered by both"):
        compared(TUNED.filter(task="t"), UNTUNED.filter(task="v"), own_prompts=True)
    with pytest.raises(RunError, match="has no test sample"):
        compared(TUNED, UNTUNED.filter(split="dev"))
    with pytest.raises(RunError, match="none of which was scored on both sides"):
        compared(TUNED, with_values(UNTUNED, lambda value: pl.lit(None, pl.Float64)))
    with pytest.raises(RunError, match="several answers to one prompt"):
        compared(SAMPLES, UNTUNED)


# What makes two runs incomparable


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("prompt_sha", pl.lit("y"), "prompt differs between the sides for 60 of 180: test/0 through b, test/1"),
        ("options", pl.lit(["no", "yes"]), "options differs"),
        ("gold", pl.lit([0, 1], pl.List(pl.Int32)), "gold differs"),
        ("references", pl.lit(["maybe"]), "references differs"),
        ("group", pl.lit("one passage"), "group differs"),
        ("cluster", pl.lit("paraphrase"), "cluster differs"),
    ],
)
def test_another_version_of_an_item_is_an_error_that_names_it(column: str, value: pl.Expr, said: str) -> None:
    a, b = (one.with_columns(pl.lit("x").alias("prompt_sha")) for one in (TUNED, UNTUNED))
    there = (pl.col("task") != "t") & (pl.col("template") == "b")
    other = b.with_columns(pl.when(there).then(value).otherwise(pl.col(column)).alias(column))
    with pytest.raises(RunError) as caught:
        compared(a, other)
    # Both tasks at once, and not the one that is the same.
    assert [problem.where for problem in caught.value.problems] == ["u", "v"]
    assert all(said in problem.what and problem.hint for problem in caught.value.problems)


def test_prompts_without_a_hash_are_counted_instead() -> None:
    assert FOUND.unhashed == 3 * 3 * 60
    hashed = [one.with_columns(pl.lit("x").alias("prompt_sha")) for one in (TUNED, UNTUNED)]
    assert compared(*hashed).unhashed == 0


def test_tasks_scored_by_different_metrics_are_an_error() -> None:
    with pytest.raises(RunError) as caught:
        compare(side(TUNED), Side(label="B", samples=UNTUNED, metrics={"t": "f1a", "u": "accuracy"}))
    assert str(caught.value).split("\n") == [
        "t: is scored by accuracy in A (one), by f1a in B",
        "B: its result does not say by which metric v is scored",
    ]


# Each side in its own words


def test_with_own_prompts_items_are_paired_and_not_prompts() -> None:
    other = UNTUNED.with_columns(pl.format("own_{}", "template").alias("template"), pl.lit("z").alias("prompt_sha"))
    other = other.filter(pl.col("template") != "own_c", pl.col("row_id") != "test/7")
    found = compared(TUNED, other, own_prompts=True, changed=True)
    entry = on(found, "t")
    assert (found.paired_by, entry["n"], entry["by_template"], found.moved["templates"]) == ("item", 59, [], [])
    assert (entry["a"]["templates"], entry["b"]["templates"]) == (3, 2)
    assert [(one["side"], one["reason"], one["samples"]) for one in found.outside] == [("a", "item", 3)] * 3
    assert found.changed is not None
    first = found.changed[0]["answers"]
    assert [one["template"] for one in first] == ["a", "b", "c", "own_a", "own_b"]
    assert [one["a"] is None for one in first] == [False] * 3 + [True] * 2
    with pytest.raises(RunError, match="gold differs"):
        compared(TUNED, other.with_columns(pl.lit([0], pl.List(pl.Int32)).alias("gold")), own_prompts=True)


def test_with_own_prompts_items_without_a_template_in_common_are_an_error() -> None:
    first = pl.col("row_id").str.split("/").list.last().cast(pl.Int32) % 2 == 0
    through_a = pl.col("template") == "a"
    with pytest.raises(RunError, match="t: no item was answered by both sides through the same template"):
        compared(
            TUNED.filter(pl.col("template") != "c", first == through_a),
            UNTUNED.filter(pl.col("template") != "c", first != through_a),
            own_prompts=True,
        )


def test_with_own_prompts_a_side_with_exemplars_meets_one_without() -> None:
    five, one = (UNTUNED.with_columns(pl.lit(shots, pl.Int32).alias("shots")) for shots in (5, 1))
    with pytest.raises(RunError, match="no prompt was answered by both"):
        compared(TUNED, five)
    entry = on(compared(TUNED, five, own_prompts=True), "t")
    assert (entry["a"]["shots"], entry["b"]["shots"], entry["n"]) == (0, 5, 60)
    assert entry["mean"] == on(FOUND, "t")["mean"]
    with pytest.raises(RunError, match="RUN:ARM@NUMBER"):
        compared(TUNED, pl.concat([five, one]), own_prompts=True)


# How sure


def simulated(rng: np.random.Generator, effect: float, groups: int = 80, resamples: int = 300) -> paired.Pair:
    """Passages of three questions that stand or fall together, each asked through two templates.

    Three in ten passages differ between the sides; their mean difference is `effect`.
    """
    better = rng.random(groups) < 0.15 + effect / 2
    worse = ~better & (rng.random(groups) < (0.15 - effect / 2) / (0.85 - effect / 2))
    answers = [
        Answers(
            measure=metric("accuracy"),
            templates=("a", "b"),
            items=np.repeat(np.arange(3 * groups), 2),
            groups=np.repeat(np.arange(groups), 6),
            template_of=np.tile([0, 1], 3 * groups),
            sums=np.stack([np.repeat(flips.astype(float), 6), np.ones(6 * groups)], axis=-1),
        )
        for flips in (better, worse)
    ]
    found = paired.pair(answers[0], answers[1], seed=int(rng.integers(1 << 30)), names=["t"], resamples=resamples)
    assert found is not None
    return found


def test_an_effect_said_to_be_detectable_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(4)
    able = [paired.difference([simulated(rng, 0)])["smallest_detectable"] for _ in range(40)]
    effect = float(np.mean([one for one in able if one is not None]))
    # It counts the 80 passages, not the 240 questions or the 480 answers.
    assert effect == pytest.approx(2.80 * np.sqrt(0.3 / 80), rel=0.06)
    found = [paired.difference([simulated(rng, effect)])["p"] < 0.05 for _ in range(250)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


def test_of_passages_that_do_not_differ_one_in_twenty_is_below_five_percent() -> None:
    rng = np.random.default_rng(6)
    found = [paired.difference([simulated(rng, 0, groups=40)])["p"] <= 0.05 for _ in range(250)]
    assert 0.015 <= np.mean(found) <= 0.085


@pytest.mark.parametrize(("shared", "low", "high"), [(True, 0.0, 0.1), (False, 0.3, 1.0)])
def test_words_that_five_tasks_share_are_no_more_words(shared: bool, low: float, high: float) -> None:
    """Two models that differ in nothing but which of ten words they know, each word asked about in five tasks."""
    rng = np.random.default_rng(8)
    found: list[bool] = []
    for trial in range(60):
        knows = rng.random((2, 10)) < 0.5
        pairs: list[paired.Pair] = []
        for task in range(5):
            answers = [
                Answers(
                    measure=metric("accuracy"),
                    templates=("a",),
                    items=np.arange(20),
                    # Taken for fifty words where every task numbers its own.
                    groups=np.repeat(np.arange(10), 2) + (0 if shared else 10 * task),
                    template_of=np.zeros(20, np.int64),
                    sums=np.stack([np.repeat(side.astype(float), 2), np.ones(20)], axis=-1),
                )
                for side in knows
            ]
            pair = paired.pair(answers[0], answers[1], seed=trial, names=[task], resamples=200)
            assert pair is not None
            pairs.append(pair)
        drawn = paired.together(pairs, seed=trial, names=["cluster"], resamples=200)
        found.append(paired.difference(drawn)["p"] < 0.05)
    assert low <= np.mean(found) <= high


def test_few_groups_show_nothing_whatever_their_interval() -> None:
    a = frame([sample(row_id=str(i), group=str(i % 3), value=1.0) for i in range(60)])
    entry = on(compared(a, with_values(a, lambda value: value * 0)), "t")
    assert (entry["low"], entry["high"], entry["groups"], entry["reading"]) == (1, 1, 3, "not shown")


def test_the_cost_grows_with_the_number_of_tasks_and_no_faster() -> None:
    def cost(tasks: list[str]) -> float:
        sides = [
            Side(
                label=name,
                samples=pl.concat(rows.with_columns(pl.lit(task).alias("task")) for task in tasks),
                metrics=dict.fromkeys(tasks, "accuracy"),
            )
            for name, rows in (
                ("A", TUNED.filter(task="t", split="test")),
                ("B", UNTUNED.filter(task="t", split="test")),
            )
        ]
        start = time.process_time()
        compare(*sides, changed=True)
        return time.process_time() - start

    cost(["t"])
    assert cost([f"t{i}" for i in range(20)]) < 2 * 20 * cost(["t"])

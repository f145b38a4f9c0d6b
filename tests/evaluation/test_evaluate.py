"""The result: its shape, its rules, and what must not move it."""

import inspect
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openflan.errors import RunError
from openflan.evaluation import paired
from openflan.evaluation.evaluate import best_on_dev, evaluate, row_sums
from openflan.evaluation.metrics import METRICS
from openflan.evaluation.result import Result
from openflan.evaluation.samples import MATCHED
from openflan.seeding import generator

from .conftest import frame, grid, made_task, sample

TASKS = {task.name: task for task in (made_task("t"), made_task("u"), made_task("v", cluster="sentiment"))}


def chance(*names: str | int) -> float:
    return generator(0, *names).random()


def better(arm: str, task: str, item: int, template: str) -> float:
    """Half right untuned; tuned keeps these and gains a tenth."""
    at = chance(task, item, template)
    return at < (0.6 if arm == "tuned" else 0.5)


SAMPLES = grid(better, tasks=list(TASKS.values()))


def evaluated(samples: pl.DataFrame = SAMPLES, **settings) -> Result:
    return evaluate(samples, **{"tasks": TASKS, "held_out": ["nli"], "seed": 0, "resamples": 300} | settings)


RESULT = evaluated()


def test_the_shape_is_the_agreed_one(tmp_path):
    RESULT.write(tmp_path / "result.json")
    plain = json.loads((tmp_path / "result.json").read_text())
    assert list(plain) == ["arms", "differences", "fingerprint", "format", "held_out"]
    assert (plain["format"], plain["held_out"], len(plain["fingerprint"])) == (1, ["nli"], 16)
    assert set(plain["arms"]) == {"untuned", "tuned"}
    task = plain["arms"]["tuned"]["tasks"]["t"]
    assert set(task) == {
        "metric", "n", "templates", "mean", "std", "by_template", "best_dev", "best_dev_template", "low", "high",
        "chance", "majority", "ties", "near_ties", "unscored", "also", "shots",
    }  # fmt: skip
    assert (task["metric"], task["n"], task["templates"], task["chance"]) == ("accuracy", 60, 3, 0.5)
    assert set(plain["arms"]["tuned"]["clusters"]) == {"nli", "sentiment"}
    first = plain["differences"][0]
    assert (first["arm"], first["against"], first["cluster"], first["n"]) == ("tuned", "untuned", "nli", 120)
    assert set(first["tasks"]) == {"t", "u"}
    assert set(first["tasks"]["t"]) == {"mean", "low", "high", "p", "p_holm", "n", "smallest_detectable"}
    assert Result.read(tmp_path / "result.json") == RESULT


def test_means_by_hand():
    scored = SAMPLES.filter(pl.col("split") == "test", arm="tuned", task="t")
    by_template = [scored.filter(template=name)["value"].mean() for name in "abc"]
    task = RESULT.arms["tuned"]["tasks"]["t"]
    assert task["mean"] == pytest.approx(np.mean(by_template), abs=1e-6)
    assert task["std"] == pytest.approx(np.std(by_template), abs=1e-6)
    assert list(task["by_template"].values()) == pytest.approx(by_template, abs=1e-6)
    assert task["low"] < task["mean"] < task["high"]
    assert task["majority"] == 0.5


def test_a_cluster_is_the_plain_mean_of_its_tasks_and_the_weighted_one_stands_beside_it():
    rows = [sample(task="t", row_id=str(i), value=1.0) for i in range(30)]
    rows += [sample(task="u", row_id=str(i), value=0.0) for i in range(10)]
    cluster = evaluated(frame(rows)).arms["tuned"]["clusters"]["nli"]
    assert (cluster["mean"], cluster["micro"], cluster["n"], cluster["tasks"]) == (0.5, 0.75, 40, ["t", "u"])
    assert cluster["chance"] == 0.5


def test_differences_are_paired_and_in_line_with_the_means():
    for difference in RESULT.differences:
        arms = [RESULT.arms[arm]["clusters"][difference["cluster"]]["mean"] for arm in ("tuned", "untuned")]
        assert difference["mean"] == pytest.approx(arms[0] - arms[1], abs=2e-6)
        assert difference["low"] <= difference["mean"] <= difference["high"]
    nli = RESULT.differences[0]
    # Tuned is never wrong where untuned is right, so the pairs say more than two intervals would.
    own = RESULT.arms["tuned"]["clusters"]["nli"]
    assert nli["high"] - nli["low"] < own["high"] - own["low"]
    assert nli["p"] < 0.01


def test_holm_runs_over_all_clusters_and_over_all_tasks():
    p_values = sorted(difference["p"] for difference in RESULT.differences)
    adjusted = sorted(difference["p_holm"] for difference in RESULT.differences)
    assert adjusted[0] == pytest.approx(len(p_values) * p_values[0], abs=1e-5)
    tasks = [task for difference in RESULT.differences for task in difference["tasks"].values()]
    smallest = min(tasks, key=lambda task: task["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 3 * smallest["p"]), abs=1e-5)


def test_arms_asked_with_other_templates_still_pair_by_item():
    completion = grid(better, arms=["untuned_completion"], tasks=[TASKS["t"]], templates=["said"])
    samples = pl.concat([SAMPLES.filter(arm="tuned", task="t"), completion])
    # Some items were not asked in the other arm; they are left out of the comparison alone.
    samples = samples.filter(~((pl.col("arm") != "tuned") & pl.col("row_id").is_in(["test/0", "test/7"])))
    result = evaluated(samples)
    (difference,) = result.differences
    assert difference["n"] == 58
    assert result.arms["tuned"]["tasks"]["t"]["n"] == 60
    test = samples.filter(pl.col("split") == "test")
    shared = test.filter(pl.col("row_id").n_unique().over("arm") > 0, ~pl.col("row_id").is_in(["test/0", "test/7"]))
    means = {arm: shared.filter(arm=arm)["value"].mean() for arm in ("tuned", "untuned_completion")}
    assert difference["mean"] == pytest.approx(means["tuned"] - means["untuned_completion"], abs=1e-6)


def test_prompts_that_only_one_arm_answered_are_left_out_of_their_difference():
    # As where a passage fits the context of one model: what the other made of it is not held against it.
    samples = SAMPLES.filter(pl.col("task") == "t", pl.col("split") == "test")
    long = (pl.col("template") == "a") & pl.col("row_id").is_in([f"test/{i}" for i in range(0, 60, 2)])
    samples = samples.filter(~(long & (pl.col("arm") == "tuned")))
    easy = pl.when(long).then(0.0).otherwise(pl.col("value")).alias("value")
    one, other = (evaluated(rows).differences[0]["tasks"]["t"] for rows in (samples, samples.with_columns(easy)))
    assert one == other
    shared = samples.filter(~long)
    by_template = (
        shared.group_by("arm", "template").agg(pl.col("value").mean()).group_by("arm").agg(pl.col("value").mean())
    )
    means = dict(by_template.iter_rows())
    assert one["mean"] == pytest.approx(means["tuned"] - means["untuned"], abs=2e-6)


def test_one_template_and_right_or_wrong_answers_get_mcnemar():
    samples = grid(better, tasks=[TASKS["t"]], templates=["a"])
    difference = evaluated(samples).differences[0]
    assert 0 < difference["tasks"]["t"]["p_mcnemar"] <= 1
    assert "p_mcnemar" not in RESULT.differences[0]["tasks"]["t"]


def test_mcnemar_is_left_to_items_that_share_nothing():
    samples = grid(better, tasks=[TASKS["t"]], templates=["a"])
    passages = samples.with_columns(pl.col("row_id").str.replace(r"\d$", "").alias("group"))
    assert "p_mcnemar" not in evaluated(passages).differences[0]["tasks"]["t"]


def test_the_exchange_test_is_one_of_the_reported_difference():
    """F1 of each template and then their mean, not F1 of all templates' answers together."""
    tasks = {"t": made_task("t", metrics=["f1a"])}
    samples = grid(better, tasks=[TASKS["t"]])
    (found,) = evaluated(samples, tasks=tasks).differences
    answers = {
        arm: answers_of(samples.filter(arm=arm, split="test").sort("row_id", "template"))
        for arm in ("tuned", "untuned")
    }
    pair = paired.pair(answers["tuned"], answers["untuned"], seed=0, names=["t"], resamples=300)
    assert pair is not None
    assert pair.observed == pytest.approx(pair.mean) == pytest.approx(found["mean"], abs=1e-6)


@pytest.mark.parametrize("left", [0, 1])
def test_a_template_that_one_arm_has_no_answer_through_makes_no_difference(left: int):
    """As where its prompts do not fit, or no written answer was an option: what both answered is what counts."""
    samples = grid(better, tasks=[TASKS["t"]])
    through = (pl.col("arm") == "untuned") & (pl.col("template") == "a") & (pl.col("split") == "test")
    few = samples.filter(through).sort("row_id")["row_id"].unique(maintain_order=True)[:left].to_list()
    lacking = samples.filter(~through | pl.col("row_id").is_in(few))
    without = samples.filter((pl.col("template") != "a") | (pl.col("split") == "dev") | pl.col("row_id").is_in(few))
    found, expected = (evaluated(some).differences[0]["tasks"]["t"] for some in (lacking, without))
    assert found["mean"] == pytest.approx(expected["mean"])
    assert found["n"] == expected["n"]


def test_metrics_that_name_a_component_alike_are_all_told():
    tasks = {"t": made_task("t", metrics=["squad", "exact_match"])}
    also = evaluated(grid(better, tasks=[TASKS["t"]]), tasks=tasks).arms["tuned"]["tasks"]["t"]["also"]
    assert set(also) == {"squad.exact_match", "exact_match"}


def answers_of(rows: pl.DataFrame) -> paired.Answers:
    """An arm's answers to items it answered through every template, sorted by item and template."""
    items = np.repeat(np.arange(rows["row_id"].n_unique()), 3)
    return paired.Answers(
        measure=METRICS["f1a"],
        templates=("a", "b", "c"),
        items=items,
        groups=items,
        template_of=np.tile(np.arange(3), rows.height // 3),
        sums=row_sums(rows, METRICS["f1a"]),
    )


# What must not move a number


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_rows_moves_nothing(seed):
    assert evaluated(SAMPLES.sample(fraction=1, shuffle=True, seed=seed)) == RESULT


def test_other_arms_and_tasks_move_nothing():
    alone = evaluated(SAMPLES.filter(pl.col("arm") == "tuned", pl.col("task") != "u"))
    for task in ("t", "v"):
        assert alone.arms["tuned"]["tasks"][task] == RESULT.arms["tuned"]["tasks"][task]
    assert alone.differences == []


def test_a_further_metric_moves_no_other():
    more = TASKS | {"t": made_task("t", metrics=["accuracy", "matthews", "f1a", "exact_match", "squad"])}
    result = evaluated(tasks=more).to_json()
    also = result["arms"]["tuned"]["tasks"]["t"].pop("also")
    assert set(also) == {"matthews", "f1a", "exact_match", "squad.f1", "squad.exact_match"}
    assert also["exact_match"] == pytest.approx(result["arms"]["tuned"]["tasks"]["t"]["mean"], abs=1e-6)
    result["arms"]["untuned"]["tasks"]["t"]["also"] = result["arms"]["tuned"]["tasks"]["t"]["also"] = {}
    expected = RESULT.to_json()
    assert (result["arms"], result["differences"]) == (expected["arms"], expected["differences"])


def test_a_further_metric_that_is_not_defined_is_left_out(tmp_path):
    more = {"t": made_task("t", metrics=["accuracy", "pearson"])}
    written = {"predicted": None, "prediction": "perhaps", "logprobs": [], "reason": "generated, unmatched"}
    rows = [sample(row_id=str(i), value=0.0, **written) for i in range(5)]
    result = evaluated(frame(rows), tasks=more)
    assert result.arms["tuned"]["tasks"]["t"]["also"] == {}
    result.write(tmp_path / "result.json")


def test_a_written_answer_that_a_correlation_leaves_out_is_wrong_by_a_further_metric():
    tasks = {"t": made_task("t", metrics=["pearson", "accuracy"])}
    written = {"logprobs": [], "tokens": [3]}
    none = written | {"value": None, "predicted": None, "prediction": "perhaps"}
    how = [MATCHED["equal"], MATCHED["begins"], MATCHED["none"], MATCHED["several"], "no gold option"]
    rows = [sample(row_id=str(i), gold=[i], reason=how[i], **written) for i in range(2)]
    rows += [sample(row_id=str(i), reason=how[i], **none) for i in (2, 3)]
    rows += [sample(row_id="4", reason=how[4], **none | {"gold": [], "references": []})]
    # Of this template nothing was matched.
    rows += [sample(row_id=str(i), template="b", reason=MATCHED["none"], **none) for i in range(4)]
    task = evaluated(frame(rows), tasks=tasks).arms["tuned"]["tasks"]["t"]
    assert (task["n"], task["unscored"], task["by_template"]) == (2, 7, {"a": 1.0})
    assert task["also"] == {"accuracy": 0.25}
    assert task.get("matched") == {"equal": 1, "begins": 1, "unmatched": 6}


def test_duplicated_items_do_not_narrow_the_interval():
    copies = [SAMPLES.with_columns(pl.format("{}#{}", "row_id", pl.lit(copy)).alias("row_id")) for copy in range(5)]
    again = evaluated(pl.concat(copies))
    task, other = RESULT.arms["tuned"]["tasks"]["t"], again.arms["tuned"]["tasks"]["t"]
    assert other["n"] == 5 * task["n"]
    assert (other["low"], other["high"]) == (task["low"], task["high"])
    assert again.differences[0]["p"] == RESULT.differences[0]["p"]


def test_a_second_task_on_the_same_passages_does_not_narrow_a_clusters_interval():
    passages = SAMPLES.filter(task="t").with_columns(pl.format("passage {}", "group").alias("group"))
    both = pl.concat([passages, passages.with_columns(pl.lit("u").alias("task"))])
    result = evaluated(both, resamples=2000)
    (nli,), own = result.differences, result.arms["tuned"]

    def width(found):
        return found["high"] - found["low"]

    assert width(own["clusters"]["nli"]) == pytest.approx(width(own["tasks"]["t"]), rel=0.08)
    assert width(nli) == pytest.approx(width(nli["tasks"]["t"]), rel=0.08)
    assert nli["smallest_detectable"] == pytest.approx(nli["tasks"]["t"]["smallest_detectable"], rel=0.05)
    assert nli["p"] == pytest.approx(nli["tasks"]["t"]["p"], rel=0.5)
    # Without groups, equal row ids of two tasks are two rows; so are groups by other names.
    for apart in (pl.col("row_id"), pl.format("{} {}", "task", "group")):
        other = evaluated(both.with_columns(apart.alias("group")), resamples=2000).arms["tuned"]["clusters"]["nli"]
        assert width(other) == pytest.approx(width(own["tasks"]["t"]) / np.sqrt(2), rel=0.08)


def test_equal_runs_are_equal_and_another_seed_moves_intervals_only():
    assert evaluated() == RESULT
    other = evaluated(seed=1)
    assert other.arms["tuned"]["tasks"]["t"]["mean"] == RESULT.arms["tuned"]["tasks"]["t"]["mean"]
    assert other.arms["tuned"]["tasks"]["t"]["low"] != RESULT.arms["tuned"]["tasks"]["t"]["low"]
    assert other.fingerprint != RESULT.fingerprint


# The best template


def test_the_best_template_is_chosen_on_dev_and_told_by_its_test_value():
    rows = []
    for split, values in (("dev", {"a": 0, "b": 1, "c": 1}), ("test", {"a": 1, "b": 0, "c": 1})):
        for template, value in values.items():
            rows += [
                sample(split=split, row_id=f"{split}/{i}", template=template, value=float(value)) for i in range(5)
            ]
    task = evaluated(frame(rows)).arms["tuned"]["tasks"]["t"]
    # b and c are equal on dev: the first in the task's file is taken, though c would be right on test.
    assert (task["best_dev_template"], task["best_dev"]) == ("b", 0.0)
    without = evaluated(frame([row for row in rows if row["split"] == "test"])).arms["tuned"]["tasks"]["t"]
    assert (without["best_dev_template"], without["best_dev"]) == (None, None)


def test_the_choice_cannot_see_test_rows():
    assert list(inspect.signature(best_on_dev).parameters) == ["dev", "measure", "order"]
    with pytest.raises(AssertionError):
        best_on_dev(SAMPLES, METRICS["accuracy"], ["a"])
    flipped = SAMPLES.with_columns(
        pl.when(pl.col("split") == "test").then(1 - pl.col("value")).otherwise(pl.col("value")).alias("value")
    )
    for arm in ("tuned", "untuned"):
        before, after = (r.arms[arm]["tasks"]["t"]["best_dev_template"] for r in (RESULT, evaluated(flipped)))
        assert before == after


# Particulars


def test_ties_and_near_ties_are_counted():
    rows = [
        sample(row_id="0", logprobs=[-1.0, -1.0], predicted=0),
        sample(row_id="1", logprobs=[-1.0, -1.0 - 1e-5], predicted=0),
        sample(row_id="2", logprobs=[-1.0, -1.1], predicted=0),
        # Equal texts are one option, so neither is this a tie.
        sample(row_id="3", options=["yes", "no", "yes"], logprobs=[-1.0, -3.0, -1.0], tokens=[1, 1, 1], predicted=0),
        sample(row_id="4", options=["yes"], logprobs=[-1.0], tokens=[1], predicted=0),
    ]
    task = evaluated(frame(rows)).arms["tuned"]["tasks"]["t"]
    assert (task["ties"], task["near_ties"]) == (1, 2)


def test_unscored_rows_are_counted_and_left_out():
    rows = [sample(row_id=str(i), value=1.0) for i in range(4)]
    rows.append(sample(row_id="4", gold=[], value=None, predicted=0, references=[], reason="no gold option"))
    task = evaluated(frame(rows)).arms["tuned"]["tasks"]["t"]
    assert (task["n"], task["mean"], task["unscored"]) == (4, 1.0, 1)


def test_nothing_to_score_is_an_error_not_a_zero():
    with pytest.raises(RunError, match="accuracy over nothing"):
        evaluated(frame([sample(gold=[], value=None, predicted=0, references=[])]))
    with pytest.raises(RunError, match="no test sample"):
        evaluated(SAMPLES.filter(pl.col("split") == "dev"))
    with pytest.raises(RunError, match="not in the catalog"):
        evaluated(frame([sample(task="tt")]))


ASKED = {"untuned": 0, "untuned@5": 5, "tuned": 0, "tuned@1": 1, "tuned@5": 5, "remote:x@main": 0}


def with_exemplars(arms=ASKED) -> pl.DataFrame:
    """Three items through two templates; the first is best on dev for arms shown exemplars, the second for others."""
    return frame(
        [
            sample(
                arm=arm, row_id=f"{split}/{i}", split=split, template=template, shots=max(0, shots - i),
                value=float((template == "a") == (shots > 0)) if split == "dev" else float(i == 0),
            )
            for arm, shots in arms.items() for split in ("dev", "test") for i in range(3) for template in ("a", "b")
        ]
    )  # fmt: skip


def test_each_number_of_exemplars_is_an_arm_of_its_own():
    result = evaluated(with_exemplars())
    assert set(result.arms) == set(ASKED)
    tasks = {arm: numbers["tasks"]["t"] for arm, numbers in result.arms.items()}
    assert {arm: task["best_dev_template"] for arm, task in tasks.items()} == {
        arm: "a" if shots else "b" for arm, shots in ASKED.items()
    }
    # What fitted is recorded, not what was asked for: 5, 4 and 3 exemplars before the three items.
    assert (tasks["tuned"]["shots"], tasks["tuned@5"]["shots"]) == (0.0, 4.0)
    assert result.arms["tuned@5"]["clusters"]["nli"]["shots"] == 4.0


def test_the_presence_of_exemplars_moves_no_zero_shot_number():
    alone = evaluated(with_exemplars({arm: shots for arm, shots in ASKED.items() if not shots}))
    together = evaluated(with_exemplars())
    assert {arm: together.arms[arm] for arm in alone.arms} == alone.arms
    adjusted = {"p_holm", "tasks"}
    found = {(d["arm"], d["against"]): {k: v for k, v in d.items() if k not in adjusted} for d in together.differences}
    for d in alone.differences:
        assert found[d["arm"], d["against"]] == {k: v for k, v in d.items() if k not in adjusted}


def test_arms_are_compared_with_their_like():
    pairs = [(d["arm"], d["against"]) for d in evaluated(with_exemplars()).differences]
    assert pairs == [
        ("tuned", "remote:x@main"),
        ("tuned", "untuned"),
        ("tuned", "untuned@5"),
        ("tuned@5", "untuned@5"),
        ("tuned@1", "tuned"),
        ("tuned@5", "tuned"),
        ("untuned@5", "untuned"),
    ]


def test_generated_tasks_have_no_chance_level_and_corpus_metrics_their_own_interval():
    tasks = {"g": made_task("g", metrics=["bleu", "rouge"], cluster="translation")}
    words = ["the cat sat on the mat", "a dog ran to the red house", "we like it here very much"]
    rows = [
        sample(
            arm=arm, task="g", cluster="translation", row_id=str(i), options=[], logprobs=[], gold=[], tokens=[6],
            predicted=None, references=[words[i % 3]], value=0.5,
            prediction=words[i % 3] if i % 2 or arm == "tuned" else words[i % 3].replace("the", "a"),
        )
        for arm in ("tuned", "untuned") for i in range(12)
    ]  # fmt: skip
    result = evaluated(frame(rows), tasks=tasks)
    tuned, untuned = (result.arms[arm]["tasks"]["g"] for arm in ("tuned", "untuned"))
    assert (tuned["mean"], tuned["low"], tuned["high"], tuned["chance"], tuned["majority"]) == (
        1.0,
        1.0,
        1.0,
        None,
        None,
    )
    assert untuned["low"] < untuned["mean"] < 1.0
    assert set(tuned["also"]) == {"rouge.rouge1", "rouge.rouge2", "rouge.rougeLsum"}
    assert result.differences[0]["mean"] == pytest.approx(1 - untuned["mean"], abs=2e-6)


def test_results_that_cannot_be_read_say_so(tmp_path):
    path = tmp_path / "result.json"
    for text, said in (
        ("{", "Expecting"),
        ("[]", "format 1"),
        ('{"format": 2}', "format 1"),
        ('{"format": 1}', "without"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=said):
            Result.read(path)
    with pytest.raises(RunError):
        Result.read(tmp_path / "none.json")

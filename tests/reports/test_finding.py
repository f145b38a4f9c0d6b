import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openflan.evaluation.statistics import most_unseen
from openflan.reports.finding import Verdict, findings, reading, verdict
from openflan.reports.numbers import percent
from openflan.reports.reading import Difference, report_of

Make = Callable[..., dict[str, Any]]


def difference(low: float | None, high: float | None, **more: Any) -> Difference:
    mean = 0.0 if low is None or high is None else (low + high) / 2
    return Difference(arm="tuned", against="untuned", cluster="nli", mean=mean, low=low, high=high, **more)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.2, "higher"),
        (0.0, 0.2, "not shown"),  # touching zero is including it
        (-0.1, 0.1, "not shown"),
        (-0.2, 0.0, "not shown"),
        (-0.2, -0.001, "lower"),
        (None, None, "not tested"),
    ],
)
def test_only_an_interval_clear_of_zero_is_a_difference(
    low: float | None, high: float | None, expected: Verdict
) -> None:
    assert verdict(difference(low, high)) == expected


def test_a_gain_is_said_with_both_scores_interval_and_n(make_result: Make) -> None:
    (finding,) = findings(report_of(make_result()).runs[0])
    assert finding.verdict == "higher"
    assert finding.sentence.startswith("Instruction tuning raised natural language inference from ")
    for part in ("+11.3 points", "+8.0 to +14.6", "n = 1,200"):
        assert part in finding.sentence


def test_no_difference_is_said_plainly_with_what_the_sample_could_have_shown(make_result: Make) -> None:
    (finding,) = findings(report_of(make_result(gain=0.0214)).runs[0])
    assert finding.sentence.startswith("No difference shown on natural language inference")
    assert "could have shown is about 4.6 points" in finding.sentence
    assert "raised" not in finding.sentence


def test_the_harder_baseline_is_never_left_out(make_result: Make) -> None:
    (finding,) = findings(report_of(make_result()).runs[0])
    assert any("below the untuned model asked in its own best style" in remark for remark in finding.remarks)


def test_tasks_that_were_tuned_on_are_said_beside_a_difference_too(make_result: Make) -> None:
    run = report_of(make_result()).runs[0]
    task = next(iter(run.arms["tuned"].tasks))
    (finding,) = findings(dataclasses.replace(run, seen=(task,)))
    assert finding.difference is not None
    assert f"It was tuned on {task}: that is no zero-shot result." in finding.remarks


@pytest.mark.parametrize(("n", "says"), [(1, "there is one item"), (40, "all 40 items scored alike")])
def test_an_interval_of_no_width_is_no_certainty(n: int, says: str, make_result: Make) -> None:
    result = make_result()
    result["arms"]["tuned"]["clusters"]["nli"] |= {"mean": 1.0, "low": 1.0, "high": 1.0, "n": n}
    (finding,) = findings(report_of(result).runs[0])
    (said,) = [remark for remark in finding.remarks if "no width" in remark]
    assert says in said and f"up to {percent(most_unseen(n))} %" in said


def test_a_score_that_is_not_above_chance_says_so(make_result: Make) -> None:
    result = make_result()
    cluster = result["arms"]["tuned"]["clusters"]["nli"]
    cluster["chance"] = cluster["low"]
    (finding,) = findings(report_of(result).runs[0])
    assert any("not shown to be above chance" in remark for remark in finding.remarks)
    cluster["chance"] = cluster["low"] - 0.01
    (finding,) = findings(report_of(result).runs[0])
    assert not any("chance" in remark for remark in finding.remarks)


def test_a_difference_that_correction_takes_away_says_so(make_result: Make) -> None:
    result = make_result()
    result["differences"][0]["p_holm"] = 0.06
    (finding,) = findings(report_of(result).runs[0])
    assert any("does not stand" in remark for remark in finding.remarks)
    assert reading(difference(0.1, 0.2, p_holm=0.05)) == "higher, not after Holm"
    assert reading(difference(0.1, 0.2, p_holm=0.049)) == "higher"


def test_one_arm_alone_claims_nothing(make_result: Make) -> None:
    (finding,) = findings(report_of(make_result(arms=["untuned"]) | {"differences": []}).runs[0])
    assert finding.difference is None
    assert "scores" in finding.sentence and "raised" not in finding.sentence


def test_a_study_has_a_finding_for_each_split(study_folder: Path) -> None:
    from openflan.reports.reading import read_report

    report = read_report(study_folder)
    assert [f.verdict for run in report.runs for f in findings(run)] == ["higher", "not shown", "lower"]

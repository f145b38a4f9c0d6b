import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openflan.errors import RunError
from openflan.reports.reading import read_report, read_run, report_of
from openflan.reports.report import write_report


def test_a_run_folder_is_read_whole(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert run.held_out == ("nli",)
    assert set(run.arms) == {"untuned", "untuned_completion", "tuned"}
    assert run.tasks == ("denial", "follows", "three_way")
    assert [d.task for d in run.differences] == ["", "denial", "follows", "three_way"] * 2
    assert len(run.steps) == 240
    assert run.arms["tuned"].tasks["denial"].templates == 4
    assert run.split["barred"] == ["paraphrase"]


def test_only_the_numbers_are_needed() -> None:
    report = report_of({"arms": {"tuned": {"tasks": {"rte": {"mean": 0.5}}}}})
    measured = report.runs[0].arms["tuned"].tasks["rte"]
    assert (measured.mean, measured.low, measured.n) == (0.5, None, None)


def test_a_folder_of_runs_without_a_result_of_its_own_is_read_too(study_folder: Path) -> None:
    (study_folder / "result.json").unlink()
    report = read_report(study_folder)
    assert [run.held_out for run in report.runs] == [("coreference",), ("nli",), ("sentiment",)]


def test_a_half_written_last_step_is_left_out(run_folder: Path) -> None:
    with (run_folder / "steps.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 241, "lo')
    assert len(read_run(run_folder).steps) == 240


@pytest.mark.parametrize("text", [None, "{", json.dumps({"format": 2})])
def test_what_cannot_be_read_is_an_error_that_names_the_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=str(tmp_path)):
        read_report(tmp_path)


@pytest.mark.parametrize("name", ["samples.parquet", "arms/tuned/prompts.jsonl"])
def test_a_file_cut_short_is_named(run_folder: Path, name: str) -> None:
    file = run_folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(RunError, match=rf"{name}: is damaged"):
        write_report(run_folder)


def test_unknown_arms_and_keys_are_welcome(make_result: Callable[..., dict[str, Any]]) -> None:
    result = make_result(arms=["untuned", "tuned", "few_shot@5", "remote:big-model"]) | {"more": 1}
    assert set(report_of(result).runs[0].arms) == {"untuned", "tuned", "few_shot@5", "remote:big-model"}

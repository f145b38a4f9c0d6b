"""A comparison as a reader meets it: runs named on a command line, a terminal table, one page."""

import io
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from tests.evaluation.conftest import grid, write_run
from tests.evaluation.test_compare import SAMPLES, TASKS
from tests.reports.test_page import assert_grids_are_whole, read

from openflan.errors import RunError
from openflan.evaluation.compare import Comparison, compare
from openflan.reports.comparison import render_comparison, render_comparison_page, write_comparison
from openflan.reports.numbers import percent, points, points_interval
from openflan.reports.sides import parse_run, read_sides


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "first", SAMPLES, TASKS)


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Without one task and a few rows, with one template of its own, and with text that is no HTML."""
    rows = SAMPLES.filter(pl.col("task") != "u", pl.col("row_id") != "test/4").with_columns(
        pl.when(pl.col("template") == "c").then(pl.lit("<c>")).otherwise("template").alias("template"),
        pl.when(pl.col("row_id") == "test/1").then(1 - pl.col("value")).otherwise("value").alias("value"),
        pl.lit("<script>alert('read me')</script>").alias("prompt"),
    )
    return write_run(tmp_path / "other", rows, TASKS, model="<other>")


def sides(*arguments: Any, **arms: str) -> list[str]:
    first, second = (None if one is None else str(one) for one in arguments)
    return [str(side.about["arm"]) for side in read_sides(str(first), second, **arms)]


def compared(a: Path, b: Path | None = None, **settings: Any) -> Comparison:
    first, second = read_sides(str(a), None if b is None else str(b))
    return compare(first, second, resamples=200, **settings)


def printed(found: Comparison, width: int = 200, *, show_items: bool = False) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_comparison(found, show_items=show_items))
    return console.export_text()


def test_samples_cut_short_are_named(run_folder: Path, other_folder: Path) -> None:
    file = other_folder / "samples.parquet"
    file.write_bytes(file.read_bytes()[:1_000])
    with pytest.raises(RunError, match=r"other/samples\.parquet: is damaged"):
        read_sides(str(run_folder), str(other_folder))


# Which runs and arms


def test_arms_are_named_in_the_argument_by_option_or_not_at_all(run_folder: Path, other_folder: Path) -> None:
    assert sides(run_folder, other_folder) == ["tuned", "tuned"]
    assert sides(f"{run_folder}:untuned", other_folder, against="untuned") == ["untuned", "untuned"]
    assert read_sides(str(run_folder), None)[1].about["run"] == str(run_folder)
    assert sides(run_folder, None) == ["tuned", "untuned"]
    assert sides(run_folder, None, arm="untuned", against="tuned") == ["untuned", "tuned"]
    assert sides(f"{run_folder}:untuned", None) == ["untuned", "tuned"]


def test_folders_and_arms_may_hold_colons(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert parse_run(f"{tmp_path}/a:b:remote:gpt") == (tmp_path / "a:b", "remote:gpt")
    assert parse_run(f"{tmp_path}/a:b") == (tmp_path / "a:b", "")


def test_an_arm_may_be_named_with_its_exemplars(tmp_path: Path) -> None:
    tuned = SAMPLES.filter(arm="tuned")
    rows = pl.concat(
        tuned.with_columns(pl.lit(name).alias("arm"), pl.lit(shots, pl.Int32).alias("shots"))
        for name, shots in (("tuned", 0), ("tuned@5", 5))
    )
    folder = write_run(tmp_path / "shots", rows, TASKS)
    first, second = read_sides(f"{folder}:tuned@5", f"{folder}:tuned")
    # The bare name means what the run's result means by it: no exemplars.
    assert (first.about["shots"], second.about["shots"]) == ([5], [0])
    assert (set(first.samples["shots"]), set(second.samples["shots"])) == ({5}, {0})
    first, second = read_sides(f"{folder}:tuned", f"{folder}:tuned@0")
    assert (first.about["shots"], second.about["shots"]) == ([5], [0])
    with pytest.raises(RunError, match=r"was not shown 3 exemplars \(it was shown 0, 5\)"):
        read_sides(f"{folder}:tuned@3", str(folder))


def test_what_is_wrong_with_both_sides_is_told_at_once(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        read_sides(f"{run_folder}:tunde", str(tmp_path / "nowhere"))
    said = str(caught.value)
    assert "has no arm 'tunde' (did you mean tuned" in said
    assert "nowhere: no such run folder" in said


def test_unclear_arms_and_folders_are_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is a folder of runs, not one"):
        read_sides(str(tmp_path), str(run_folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"result\.json"):
        read_sides(str(tmp_path / "empty"), str(run_folder))
    alone = write_run(tmp_path / "alone", SAMPLES.filter(arm="untuned"), TASKS)
    assert sides(alone, alone) == ["untuned", "untuned"]
    with pytest.raises(RunError, match=r"has no second arm \(name a second run\)"):
        read_sides(str(alone), None)
    renamed = SAMPLES.with_columns(pl.format("my_{}", "arm").alias("arm"))
    several = write_run(tmp_path / "several", renamed, TASKS)
    with pytest.raises(RunError, match="has the arms my_tuned, my_untuned"):
        read_sides(str(several), str(run_folder))


# The table


@pytest.mark.parametrize("width", [40, 72, 100, 200])
def test_every_number_is_printed_at_any_width(run_folder: Path, width: int) -> None:
    found = compared(run_folder)
    text = " ".join(printed(found, width).split())
    for entry in (*found.clusters, *found.tasks):
        for number in (entry["a"]["mean"], entry["b"]["mean"], entry["smallest_detectable"]):
            assert percent(number) in text
        assert points(entry["mean"]) in text and points_interval(entry["low"], entry["high"]) in text
    assert all(len(line) <= width for line in printed(found, width).split("\n"))


def test_what_differs_and_what_is_left_out_is_said(run_folder: Path, other_folder: Path) -> None:
    text = " ".join(printed(compared(run_folder, other_folder), 1000).split())
    for part in (
        "first, tuned; base model made-up; fingerprint ",
        "base model <other>",
        "Not compared, only in A: u, 180 answers.",
        "Not compared, only in A: t, template c, 60 answers.",
        "Not compared, only in B: t, template <c>, 59 answers.",
        "Not compared, only in A: t, 1 item (test/4), 2 answers.",
        "236 answers of each side. Of 236 no hash of the prompt was kept.",
        "No difference shown on sentiment",
    ):
        assert part in text, part


def test_equal_runs_are_printed_as_no_difference_shown(run_folder: Path) -> None:
    text = printed(compared(run_folder, run_folder), 1000)
    assert text.count("no difference shown") == 5
    assert "No difference shown on sentiment: 58.3 against 58.3, 0.0 points" in text
    # An interval of 0.0 to 0.0 is no proof of equality: 1 - 0.05 ** (1 / 60)
    assert "the two never differed, which leaves room for differences on up to 4.9 % of items like these" in text
    assert "Moved most" not in text


@pytest.mark.parametrize(
    ("items", "told"),
    [(1, "there is one group, which leaves open"), (5, "all 5 groups differ by the same, which leaves open")],
)
def test_a_few_items_that_all_differ_alike_are_not_said_to_be_equal(items: int, told: str, tmp_path: Path) -> None:
    task = TASKS["t"]
    samples = grid(lambda arm, _task, _item, _template: float(arm == "tuned"), tasks=[task], items=items)
    text = printed(compared(write_run(tmp_path / "few", samples, {"t": task})), 1000)
    assert "No difference shown on natural language inference: 100.0 against 0.0, +100.0 points" in text
    assert told in text and "never differed" not in text


def test_changed_items_are_printed_with_what_was_said(run_folder: Path, other_folder: Path) -> None:
    found = compared(run_folder, other_folder, changed=True)
    assert "test/1 " not in printed(found)
    text = printed(found, show_items=True)
    assert "t test/1  " in text
    assert re.search(r"a, b: A “(yes|no)”, B “(yes|no)”", text)
    many = compared(run_folder, changed=True)
    assert found.changed is not None and many.changed is not None
    text = printed(many, show_items=True)
    shown = len(re.findall(r"^\w test/\d+ ", text, re.MULTILINE))
    assert f"{len(many.changed) - shown} more changed items; --json lists all." in text
    assert "No item changed." in printed(compared(run_folder, run_folder, changed=True), show_items=True)


# The page


def test_the_page_stands_alone_escapes_what_it_shows_and_has_every_number(
    run_folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    found = compared(run_folder, other_folder, changed=True)
    page = write_comparison(found, tmp_path / "out")
    reader = read(page)
    assert not {tag for tag, _, _ in reader.attributes} & {"link", "script", "iframe", "img", "object"}
    assert all(
        value.startswith("#") for _, name, value in reader.attributes if name in {"src", "href", "xlink:href", "data"}
    )
    text = " ".join(" ".join(reader.text).split())
    assert "<script>alert('read me')</script>" in text and "base model <other>" in text
    for entry in (*found.clusters, *found.tasks):
        assert points(entry["mean"]) in text and points_interval(entry["low"], entry["high"]) in text
    assert "model made-up in A, <other> in B" in text
    assert "Not compared, only in A: u, 180 answers." in text
    assert "elsewhere" not in text
    assert assert_grids_are_whole(page.read_text(encoding="utf-8")) == 1  # the templates that moved


def test_the_same_runs_give_the_same_bytes(run_folder: Path, other_folder: Path, tmp_path: Path) -> None:
    pages = [
        write_comparison(compared(run_folder, other_folder, changed=True), tmp_path / name) for name in ("one", "two")
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    data = [page.with_name("compare.json").read_bytes() for page in pages]
    assert data[0] == data[1]


def test_a_page_of_nothing_changed_says_so(run_folder: Path) -> None:
    page = render_comparison_page(compared(run_folder, run_folder, changed=True))
    assert "Neither side has an answer that is not compared." in page
    assert "None." in page

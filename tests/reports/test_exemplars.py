"""Arms asked with exemplars are told from zero-shot ones wherever numbers stand; runs without any look as they did."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from openflan.reports.arms import in_order, style
from openflan.reports.drawings import drawings
from openflan.reports.grids import score_grid
from openflan.reports.page import render_page
from openflan.reports.reading import read_report, read_run
from openflan.reports.table import render_table

ARMS = ("untuned", "untuned@16", "untuned@5", "tuned", "tuned@5", "few_shot")


def asked(make_result: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A result whose arms show exemplars: of five on average 4.3 fitted before one task, all five before the others."""
    result = make_result(arms=ARMS)
    for name, arm in result["arms"].items():
        most = {"few_shot": 11.4}.get(name, float(name.partition("@")[2] or 0))
        for number, task in enumerate(arm["tasks"].values()):
            task["shots"] = most - 0.7 * (number == 0 and name.endswith("@5"))
        for cluster in arm["clusters"].values():
            cluster["shots"] = most
    return result


def printed(result: dict[str, Any]) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(render_table(result))
    return console.file.getvalue()


def test_arms_stand_in_order_of_their_exemplars() -> None:
    assert in_order(ARMS[::-1]) == ["untuned", "untuned@5", "untuned@16", "tuned", "tuned@5", "few_shot"]
    assert [style(arm).shots for arm in in_order(ARMS)] == [0, 5, 16, 0, 5, 0]
    assert style("untuned@5").title == "Untuned, 5 exemplars"
    assert (style("remote:gpt@main").title, style("remote:gpt@5").title) == ("gpt@main", "gpt, 5 exemplars")


def test_the_table_has_a_column_for_them(make_result: Callable[..., dict[str, Any]]) -> None:
    text = printed(asked(make_result))
    assert "shots" in text
    assert "Shots: exemplars in a prompt" in text
    assert "4.3 of 5" in text and "11.4" in text


def test_the_page_has_a_column_and_says_what_they_are(
    make_result: Callable[..., dict[str, Any]], make_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "nli", asked(make_result))
    grid = score_grid(read_run(folder))
    column = [column.title for column in grid.columns].index("Exemplars")
    cells = {
        (group.title, row.cells[0].text): row.cells[column - 1].text for group in grid.groups for row in group.rows
    }
    assert cells["follows", "Untuned"] == "0"
    assert cells["follows", "Untuned, 5 exemplars"] == "4.3 of 5"
    assert cells["denial", "Untuned, 5 exemplars"] == "5"
    assert cells["denial", "Instruction-tuned, few-shot"] == "11.4"
    page = render_page(read_report(folder))
    assert "Exemplars: how many a prompt has" in page and "Zero-shot score of each arm" not in page


def test_figures_mark_their_rows(
    make_result: Callable[..., dict[str, Any]], make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = read_run(make_run(tmp_path / "nli", asked(make_result)))
    for name in ("arms", "templates"):
        drawing = drawings(run)[name]
        for width in ("wide", "narrow"):
            svg = drawing.svg(name, width)
            assert svg.count(">5-shot<") == 2 * svg.count(">16-shot<") > 0
            assert svg == drawings(run)[name].svg(name, width)


def test_a_run_without_exemplars_looks_as_before(make_result: Callable[..., dict[str, Any]], run_folder: Path) -> None:
    assert "shots" not in printed(make_result())
    assert "Exemplars" not in [column.title for column in score_grid(read_run(run_folder)).columns]
    page = render_page(read_report(run_folder))
    assert "Zero-shot score of each arm" in page and "Exemplars" not in page

import json
import re
from pathlib import Path

import pytest

from openflan.reports.drawings import drawings
from openflan.reports.figures import VARIABLES, Width, curve_points
from openflan.reports.reading import read_run

NAMES = {"arms", "templates", "differences", "curve"}


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_figures_are_the_same_bytes_twice_and_carry_no_foreign_address(run_folder: Path, width: Width) -> None:
    drawn = drawings(read_run(run_folder))
    assert set(drawn) == NAMES
    for name, drawing in drawn.items():
        text = drawing.svg(name, width)
        assert text == drawing.svg(name, width)
        assert "http" not in text
        assert "<text" in text, "text stays text"
        assert not re.search(r"#[0-9a-f]{6}(?!\))", text), "every colour follows the page"


def test_png_has_no_date(run_folder: Path) -> None:
    drawing = drawings(read_run(run_folder))["arms"]
    assert drawing.png() == drawing.png()
    assert drawing.png().startswith(b"\x89PNG")


def test_ids_do_not_collide_between_figures(run_folder: Path) -> None:
    drawn = drawings(read_run(run_folder))
    ids = [set(re.findall(r' id="([^"]+)"', drawing.svg(name, "wide"))) for name, drawing in drawn.items()]
    assert all(ids)
    assert sum(map(len, ids)) == len(set.union(*ids))


def test_the_numbers_are_in_the_figure_and_in_its_alternative_text(run_folder: Path) -> None:
    run = read_run(run_folder)
    drawing = drawings(run)["arms"]
    text = drawing.svg("arms", "wide")
    for arm in run.arms.values():
        for measured in (*arm.tasks.values(), *arm.clusters.values()):
            assert measured.mean is not None
            assert f">{100 * measured.mean:.1f}</text>" in text
            assert f"{100 * measured.mean:.1f}" in drawing.alt


def test_a_dev_loss_is_in_the_curve_and_its_alternative_text(run_folder: Path) -> None:
    def curve() -> tuple[str, str]:
        drawing = drawings(read_run(run_folder))["curve"]
        return drawing.svg("curve", "wide"), drawing.alt

    without, alt = curve()
    assert "dev rows" not in without + alt
    lines = [{"step": step, "loss": loss, "target_tokens": 9} for step, loss in ((0, 3.25), (100, 2.5), (240, 1.75))]
    (run_folder / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn, alt = curve()
    assert ">dev rows</text>" in drawn and "On dev rows from 3.25 to 1.75." in alt


def test_a_resumed_step_counts_once() -> None:
    steps = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5},
        {"step": 2, "loss": 1.4},
        {"step": 3},
        {"step": 4, "loss": float("nan")},
    ]
    assert curve_points(steps) == ([1, 2], [2.0, 1.4])


def test_colours_are_told_apart() -> None:
    assert len(set(VARIABLES)) == len(VARIABLES) == len(set(VARIABLES.values()))

"""A study's page and figure, from made-up numbers."""

import json
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from tests.reports.test_page import CHROMIUM, drawn_in_a_browser, read

from openflan.errors import RunError
from openflan.reports.paper import paper_figure
from openflan.reports.study_figures import Series, number_words
from openflan.reports.study_markdown import write_summary
from openflan.reports.study_page import paper_panel, read_study, render_study_table, write_index, write_study_report

REPLICATES = [{"model": "world:base", "seed": seed, "order": 0, "mean": 0.5} for seed in (1, 2)]


def made_point(place: str | float, mean: float) -> dict[str, Any]:
    return {
        "place": place, "mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 96, "clusters": ["nli"],
        "chance": 0.45, "majority": 0.5, "templates_std": 0.01, "replicates": REPLICATES,
    }  # fmt: skip


def made_contrast(place: str | float, mean: float, p: float, against: float | None = None) -> dict[str, Any]:
    return {
        "first": "tuned", "second": "untuned" if against is None else "tuned", "place": place, "against": against,
        "mean": mean, "low": mean - 0.04, "high": mean + 0.04, "p": p, "p_holm": p, "smallest_detectable": 0.06,
    }  # fmt: skip


def made_study(name: str = "instructions", kind: str = "clusters", **top: Any) -> dict[str, Any]:
    places: list[str | float] = ["nli", "paraphrase", "all"] if kind == "clusters" else [1e6, 1e9]
    series = [
        {"name": key, "title": title, "points": [made_point(place, mean) for place in places]}
        for key, title, mean in (("untuned", "untuned <b>", 0.5), ("tuned", "instruction-tuned", 0.6))
    ]
    recipe = {"evaluation": {"items": 48, "dev_items": 12}, "tuning": {"steps": 200, "tokens_per_step": 1024}}
    return {
        "format": 1, "study": name, "figure": 8, "title": "The role of instructions", "question": "Is it?",
        "axis": "cluster held out" if kind == "clusters" else "parameters", "kind": kind, "fingerprint": "abc",
        "settings": {"seeds": [1, 2], "resamples": 2000, "recipe": recipe}, "series": series,
        "contrasts": [made_contrast(place, 0.1, 0.001) for place in places],
        "runs": [{"folder": "runs/nli-tuned-0", "fingerprint": "def", "arm": "tuned"}],
    } | top  # fmt: skip


def written(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "kind"), [("instructions", "clusters"), ("scale", "numbers"), ("clusters", "numbers")]
)
def test_equal_numbers_give_an_equal_page_that_reads_well(tmp_path: Path, name: str, kind: str) -> None:
    first, second = (written(tmp_path / part, made_study(name, kind)) for part in ("a", "b"))
    page, other = write_study_report(first), write_study_report(second)
    assert page.read_bytes() == other.read_bytes()
    assert (first / "figure.png").read_bytes() == (second / "figure.png").read_bytes()
    text = " ".join(read(page).text)
    assert "untuned <b>" in text and "60.0" in text and "+10.0" in text
    html = page.read_text(encoding="utf-8")
    assert "untuned <b>" not in html and "http" not in html.replace("http://www.w3.org", "")


def test_a_claim_says_what_is_shown_and_what_is_not(tmp_path: Path) -> None:
    content = made_study(contrasts=[made_contrast("all", 0.1, 0.001), made_contrast("nli", 0.02, 0.4)])
    shown = StringIO()
    Console(file=shown, width=200).print(render_study_table(content))
    said = shown.getvalue()
    assert "On the mean of clusters, instruction-tuned is higher than untuned <b>: +10.0 points" in said
    assert "On the natural language inference" not in said  # the table has it
    content = made_study(contrasts=[made_contrast("all", 0.02, 0.4)])
    text = " ".join(read(write_study_report(written(tmp_path, content))).text)
    assert "no difference shown between instruction-tuned and untuned <b>: +2.0 points" in text
    assert "6.0 points would have been found four times in five" in text


def test_numbers_along_a_line_are_claimed_at_the_largest(tmp_path: Path) -> None:
    content = made_study("scale", "numbers")
    text = " ".join(read(write_study_report(written(tmp_path, content))).text)
    assert "With 1B parameters" in text and "With 1M parameters" not in text
    assert [number_words(n) for n in (0, 7, 1e3, 1.07e6, 1.37e11)] == ["0", "7", "1K", "1.07M", "137B"]


def test_recollected_values_are_hollow_and_called_so(tmp_path: Path) -> None:
    with_hollow = write_study_report(written(tmp_path / "a", made_study("instructions"))).read_text()
    assert "Hollow: recollected, not attested" in with_hollow
    without = write_study_report(written(tmp_path / "b", made_study("clusters", "numbers"))).read_text()
    assert "Hollow" not in without
    attested = {point.attested for series in paper_figure("clusters").series for point in series.points}
    assert attested == {True}
    assert paper_figure("no such study").series == ()


def test_several_studies_stand_on_one_page(tmp_path: Path) -> None:
    for name, kind in (("instructions", "clusters"), ("scale", "numbers")):
        written(tmp_path / name, made_study(name, kind))
    page = write_index(tmp_path, ["instructions", "scale"])
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 4 and "instructions/report.html" in html


def test_a_folder_without_a_study_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"study\.json"):
        read_study(tmp_path)
    with pytest.raises(RunError, match="format 2"):
        read_study(written(tmp_path, made_study() | {"format": 2}))


def test_no_two_series_of_a_legend_look_alike(tmp_path: Path) -> None:
    looks = {(one.colour, one.marker) for one in (Series("", (), face) for face in range(-1, 30))}
    assert len(looks) == 31
    for name in ("shots", "instructions", "holdout", "prompt_tuning"):
        paper = paper_panel(read_study(written(tmp_path / name, made_study(name))))
        assert len({(one.colour, one.marker) for one in paper.series}) == len(paper.series) > 1


def test_the_summary_has_every_point_and_difference_in_whole_tables(tmp_path: Path) -> None:
    content = made_study(contrasts=[made_contrast("nli", 0.1, 0.001), made_contrast("all", 0.02, 0.4)])
    text = write_summary(written(tmp_path, content)).read_text(encoding="utf-8")
    assert "no difference shown between instruction-tuned and untuned" in text
    assert "| instruction-tuned | 60.0 [55.0, 65.0] | 60.0 [55.0, 65.0] | 60.0 [55.0, 65.0] |" in text
    assert "| natural language inference | +10.0 [+6.0, +14.0] | 0.001 | 0.001 | 6.0 |" in text
    for table in (part.splitlines() for part in text.split("\n\n") if part.startswith("|")):
        assert len({line.count("|") for line in table}) == 1


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_figure_and_tables_within_the_screen(tmp_path: Path, width: int) -> None:
    """Our panel in the colour of the study's claim, and nothing beside the window; one study and the page over all."""
    for name, kind in (("instructions", "clusters"), ("scale", "numbers")):
        written(tmp_path / name, made_study(name, kind))
    pages = [write_study_report(tmp_path / "instructions"), write_index(tmp_path, ["instructions", "scale"])]
    for page in pages:
        folder = tmp_path / f"drawn-{page.parent.name}"
        folder.mkdir()
        whole, window, picture = drawn_in_a_browser(page.read_text(encoding="utf-8"), folder, width)
        assert whole <= window
        shown = Image.open(BytesIO(picture)).convert("RGB")
        assert shown.width == width
        assert len(shown.getcolors(1 << 24) or ()) > 50  # text, lines and marks, not an empty window

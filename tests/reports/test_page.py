import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from openflan.errors import RunError
from openflan.reports.page import render_page
from openflan.reports.reading import read_report
from openflan.reports.report import write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}
SVG_CLOSED = {"path", "use", "rect"}
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Reader(HTMLParser):
    """Collects text and attributes, and checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(params=["run", "study"])
def page(request: pytest.FixtureRequest) -> Path:
    return write_report(request.getfixturevalue(f"{request.param}_folder"))


def test_the_page_needs_nothing_from_anywhere(page: Path) -> None:
    reader = read(page)
    tags = {tag for tag, _, _ in reader.attributes}
    assert not tags & {"link", "script", "iframe", "img", "object"}
    for _, name, value in reader.attributes:
        if name in {"src", "href", "xlink:href", "action", "srcset", "data"}:
            assert value.startswith("#"), value
    assert not re.search(r"url\((?!#)|@import", page.read_text(encoding="utf-8"))


def test_links_and_ids_match(page: Path) -> None:
    attributes = read(page).attributes
    ids = [value for _, name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in attributes if name in ("href", "xlink:href")} <= set(ids)


def test_the_same_content_gives_the_same_bytes(study_folder: Path) -> None:
    files = [write_report(study_folder), *sorted((study_folder / "figures").iterdir())]
    before = [file.read_bytes() for file in files]
    write_report(study_folder)
    assert [file.read_bytes() for file in files] == before
    assert len(files) == 1 + 2 + 3 * 4


def test_every_number_of_the_result_stands_on_the_page(run_folder: Path) -> None:
    text = " ".join(read(write_report(run_folder)).text).replace("\N{MINUS SIGN}", "-")
    result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    rates = ("mean", "low", "high", "std", "best_dev", "chance", "majority", "micro", "smallest_detectable")
    tables = [t for arm in result["arms"].values() for kind in ("tasks", "clusters") for t in arm[kind].values()]
    for table in [*tables, *result["differences"], *(t for d in result["differences"] for t in d["tasks"].values())]:
        for key in rates:
            if key in table:
                assert f"{100 * table[key]:.1f}" in text, key
        assert f"{table['n']:,}" in text


def test_everything_a_sceptic_asks_for_is_there(run_folder: Path) -> None:
    text = " ".join(read(write_report(run_folder)).text)
    for part in (
        "raised natural language inference",
        "cluster paraphrase is barred with the held-out one",  # why a task is on neither side
        "empty answer",  # what was dropped
        "train/81",
        "dev rows taken from train",
        "Does it follow that",  # a real prompt
        "The answer is",  # the same item in the untuned model's own style
        "not by eye",
        "world:small-early",
        "0.1.0",
        'hold_out = ["nli"]',
        "openflan run --model world:small-early --hold-out nli --seed 7",
    ):
        assert part in text, part


def test_samples_show_right_and_wrong_ones_with_their_log_probabilities(run_folder: Path) -> None:
    text = " ".join(read(write_report(run_folder)).text)
    assert "Right" in text
    assert "Wrong" in text
    assert "gold" in text
    assert "chosen" in text
    assert re.search("\N{MINUS SIGN}\\d\\.\\d\\d \\s*\\(\\d+\\.\\d\\)", text)


def test_what_files_say_is_escaped_everywhere(
    tmp_path: Path, make_result: Callable[..., dict[str, Any]], make_run: Callable[..., Path]
) -> None:
    evil = "<script>alert(1)</script>&\"'"
    result = make_result()
    for arm in result["arms"].values():
        arm["tasks"][evil] = arm["tasks"].pop("denial") | {"best_dev_template": evil}
        arm["clusters"][evil] = arm["clusters"].pop("nli")
    result["arms"][evil] = result["arms"]["tuned"]
    result["differences"][0]["cluster"] = evil
    folder = make_run(tmp_path / "evil", result)
    (folder / "recipe.toml").write_text(f"# {evil}\n", encoding="utf-8")
    (folder / "ledger.json").write_text(
        json.dumps(
            {"stages": {evil: {evil: {"kept": 1, "dropped": {evil: {"count": 1, "rows": [evil]}}}}}, "notes": [evil]}
        )
    )
    (folder / "split.json").write_text(json.dumps({"held_out": [evil], "excluded": [{"task": evil, "reason": evil}]}))
    (folder / "env.json").write_text(json.dumps({"command": evil, evil: evil}))
    page = write_report(folder)
    assert "<script" not in page.read_text(encoding="utf-8")
    assert "script" not in {tag for tag, _, _ in read(page).attributes}
    assert evil in " ".join(read(page).text)


def test_a_run_with_numbers_only_still_has_a_page(tmp_path: Path) -> None:
    result = {
        "format": 1,
        "held_out": ["nli"],
        "arms": {"untuned": {"tasks": {"rte": {"mean": 0.5312, "n": 10}}, "clusters": {}}},
    }
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert "53.1" in " ".join(read(write_report(tmp_path)).text)


def test_generation_tasks_show_what_was_written(run_folder: Path) -> None:
    import polars as pl

    frame = pl.read_parquet(run_folder / "samples.parquet")
    empty = {name: pl.lit([], dtype=frame.schema[name]) for name in ("options", "logprobs", "gold")}
    changed = frame.with_columns(
        **empty, prediction=pl.lit("zed words"), predicted=pl.lit(None, pl.Int64), reason=pl.lit("ended: eos")
    )
    changed.write_parquet(run_folder / "samples.parquet")
    text = " ".join(read(write_report(run_folder)).text)
    assert "zed words" in text
    assert "ended: eos" in text


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        write_report(tmp_path)


def test_headings_tables_and_figures_can_be_read_aloud(page: Path) -> None:
    reader = read(page)
    svgs = sum(tag == "svg" and name == "viewbox" for tag, name, _ in reader.attributes)
    labels = [value for tag, name, value in reader.attributes if tag == "svg" and name == "aria-label"]
    assert svgs == len(labels) > 0
    assert all(len(label) > 20 for label in labels)
    html = page.read_text(encoding="utf-8")
    assert html.count("<table") == html.count("<caption>")
    assert '<html lang="en">' in html


def drawn_in_a_browser(text: str, folder: Path, width: int) -> tuple[int, int, bytes]:
    """Width of the page, of the window, and a picture; asked through a script that only the copy under test has."""
    assert CHROMIUM is not None
    probe = "<script>document.title = document.documentElement.scrollWidth + '/' + window.innerWidth</script>"
    (folder / "probe.html").write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    flags += f" disable-component-update window-size={width},900 screenshot={folder}/page.png user-data-dir={folder}/p"
    command = [CHROMIUM, *(f"--{flag}" for flag in flags.split()), "--dump-dom", f"file://{folder}/probe.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    drawn = re.search(r"<title>(\d+)/(\d+)</title>", done.stdout)
    assert drawn is not None, done.stderr[-500:]
    return int(drawn[1]), int(drawn[2]), (folder / "page.png").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(run_folder: Path, tmp_path: Path, width: int) -> None:
    page, window, _ = drawn_in_a_browser(render_page(read_report(run_folder)), tmp_path, width)
    assert page <= window


def assert_grids_are_whole(html: str) -> int:
    """Every row has a cell for each head; gives the number of grids without named groups."""
    plain = 0
    for table in re.findall(r'<table class="grid.*?</table>', html, re.DOTALL):
        heads = table.count('scope="col"')
        for body in re.findall(r"<tbody.*?</tbody>", table, re.DOTALL):
            groups = body.count('scope="rowgroup"')
            for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL):
                assert row.count('scope="row"') + row.count("<td") + groups == heads, row
            plain += not groups
    return plain


def test_every_row_of_a_grid_has_a_cell_for_each_head(page: Path) -> None:
    assert_grids_are_whole(page.read_text(encoding="utf-8"))

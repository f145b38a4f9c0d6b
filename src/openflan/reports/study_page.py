"""A study's page: its figure with the paper's beside it, what is shown, every number, and how to make it again.

Takes study.json, gives the page's text, a PNG and the table of a terminal. Read next: `study_figures.py`.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from openflan.artifacts import atomic_path, write_text
from openflan.errors import RunError
from openflan.reports.arms import cluster_words
from openflan.reports.drawings import Drawing
from openflan.reports.grids import Cell, Column, Grid, Row, RowGroup, trim
from openflan.reports.numbers import count, interval, p_number, p_value, percent, points, points_interval
from openflan.reports.page import WIDTHS, fill
from openflan.reports.paper import paper_figure
from openflan.reports.study_figures import ALL, FACES, Mark, Panel, Series, place_words, study_figure

FILE, MADE, PAGE, PICTURE, SUMMARY = "study.json", "made.json", "report.html", "figure.png", "summary.md"
ALPHA = 0.05
LONGEST_NAMES = 45
"""Characters of models' names that a figure's title has room for."""
Content = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Claim:
    """One comparison of the study, read out."""

    sentence: str
    gain: str
    tone: str


def write_study_report(folder: Path) -> Path:
    """Write report.html and figure.png beside a study's study.json; returns the page's path.

    Equal contents give equal bytes. Raises RunError where there is no study.json, or one of another format.
    """
    content = read_study(folder)
    with atomic_path(folder / PICTURE) as part:
        part.write_bytes(drawing(content).png())
    write_text(folder / PAGE, render_study_page(content))
    return folder / PAGE


def write_index(folder: Path, names: Sequence[str]) -> Path:
    """One page over several studies, each with its figure and findings; their own pages have the numbers."""
    studies = [read_study(folder / name) for name in names]
    text = fill("studies.html.j2", title="The paper's figures", studies=[_view(one) for one in studies])
    write_text(folder / PAGE, text)
    return folder / PAGE


def read_study(folder: Path) -> Content:
    """The study.json of a folder, with made.json as `made`. Raises RunError where there is none of this format."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / FILE}: not a study's result: {error}") from error
    if content.get("format") != 1:
        raise RunError(f"{folder / FILE}: format {content.get('format')!r}, expected 1")
    history = folder / MADE
    return content | {"made": json.loads(history.read_text(encoding="utf-8")) if history.exists() else {}}


def render_study_page(content: Content) -> str:
    """The whole page as text; it opens offline."""
    return fill("study.html.j2", **_view(content))


def render_study_table(content: Content) -> RenderableType:
    """What a terminal shows: the claims in words, then every point."""
    said = [
        Text.assemble((claim.sentence, "bold dark_orange3" if claim.tone == "higher" else ""))
        for claim in _claims(content)
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid = _grid(content)
    for column in grid.columns:
        title = column.title[0].lower() + column.title[1:]
        table.add_column(title, justify="right" if column.number else "left", overflow="fold")
    for group in grid.groups:
        for index, row in enumerate(group.rows):
            table.add_row(group.title if index == 0 else "", *(cell.text for cell in row.cells))
    legend = "Percent; intervals of 95 % over items and replicates (base models, tuning seeds, orders)."
    return Group(*said, Text(), table, Text(legend, "dim"))


def drawing(content: Content) -> Drawing:
    """The study's figure, the paper's panel below ours where the paper has values."""
    panels = [panel for panel in (_own_panel(content), paper_panel(content)) if panel.series]
    said = [
        f"{series['title']}: " + ", ".join(f"{place_words(p['place'])} {percent(p['mean'])}" for p in series["points"])
        for series in content["series"]
    ]
    return Drawing(f"{content['title']}, percent. {'; '.join(said)}.", partial(study_figure, panels))


def _view(content: Content) -> dict[str, Any]:
    figure = drawing(content)
    paper = paper_figure(content["study"])
    return {
        "title": content["title"],
        "name": content["study"],
        "kicker": "Beyond the paper" if content["figure"] is None else f"Figure {content['figure']} of Wei et al. 2022",
        "question": content["question"],
        "claims": [
            {"sentence": one.sentence, "gain": one.gain, "unit": "points", "tone": one.tone, "remarks": []}
            for one in _claims(content)
        ],
        "figure": [Markup(figure.svg(content["study"], width)) for width in WIDTHS],
        "paper_note": paper.note,
        "has_hollow": any(not point.attested for series in paper.series for point in series.points),
        "has_paper": bool(paper.series),
        "points": _grid(content),
        "contrasts": _contrast_grid(content),
        "replicates": _replicate_grid(content),
        "facts": made_facts(content),
        "splits": _split_grid(content),
        "lost": _lost_grid(content),
        "runs": [(run["folder"], f"{run['arm']}, {run['fingerprint'][:12]}") for run in content["runs"]],
        "files": [FILE, MADE, PICTURE, SUMMARY],
    }


def _own_panel(content: Content) -> Panel:
    main = _main_series(content)
    series: list[Series] = []
    for one in content["series"]:
        marks = [Mark(p["place"], p["mean"], p["low"], p["high"]) for p in one["points"]]
        series.append(Series(cluster_words(one["title"]), marks, -1 if one["name"] == main else len(series)))
    levels = {p["place"]: p["chance"] for one in content["series"] for p in one["points"] if p["chance"] is not None}
    kind = "lines" if content["kind"] == "numbers" else "dots"
    return Panel(f"This study: {_models_in_short(content)}", kind, series, content["axis"], tuple(levels.items()))


def paper_panel(content: Content) -> Panel:
    """The paper's values in the colours of our series; without series where it has none."""
    names = [one["name"] for one in content["series"]]
    main, paper = _main_series(content), paper_figure(content["study"]).series
    ours = {one.name: -1 if one.name == main else names.index(one.name) for one in paper if one.name in names}
    # What we have no series for takes the colour of none of the others in this panel.
    taken = {face % len(FACES) for face in ours.values() if face >= 0}
    free = itertools.cycle([face for face in range(len(FACES)) if face not in taken] or [0])
    series: list[Series] = []
    for one in paper:
        marks = [Mark(p.place, p.value, attested=p.attested) for p in one.points]
        series.append(Series(one.title, marks, ours[one.name] if one.name in ours else next(free)))
    kind = "lines" if content["kind"] == "numbers" else "dots"
    return Panel("Wei et al. 2022, 137B parameters", kind, series, content["axis"])


def _main_series(content: Content) -> str:
    """The series the study's claims are about."""
    firsts = [one["first"] for one in content["contrasts"]]
    return max(dict.fromkeys(firsts), key=firsts.count, default="")


def _models(content: Content) -> list[str]:
    return sorted({r["model"] for one in content["series"] for p in one["points"] for r in p["replicates"]})


def _models_in_short(content: Content) -> str:
    """The models' names where a figure's title has room for them."""
    models = _models(content)
    named = ", ".join(models)
    return named if len(models) == 1 or len(named) <= LONGEST_NAMES else f"{len(models)} base models"


def series_titles(content: Content) -> dict[str, str]:
    """Words of each series, by name."""
    return {one["name"]: cluster_words(one["title"]) for one in content["series"]}


def compared_words(titles: Mapping[str, str], one: Content) -> str:
    """The two sides of a difference: "tuned against untuned", or "... at 1" where the second has a place of its own."""
    at = "" if one["against"] is None else f" at {place_words(one['against'])}"
    return f"{titles[one['first']]} against {titles[one['second']]}{at}"


def claim_sentences(content: Content) -> list[str]:
    """What the study shows and does not show, a sentence for each comparison."""
    return [claim.sentence for claim in _claims(content)]


def _claims(content: Content) -> list[_Claim]:
    """Of each comparison the mean over clusters, or the largest number; the table has the others."""
    chosen: dict[tuple[str, str, Any], Content] = {}
    for one in content["contrasts"]:
        key = one["first"], one["second"], one["against"]
        if one["place"] == ALL or (content["kind"] == "numbers" and _beyond(one, chosen.get(key))):
            chosen[key] = one
    return [_claim(content, one) for one in chosen.values()]


def _beyond(one: Content, other: Content | None) -> bool:
    return other is None or one["place"] > other["place"]


def _claim(content: Content, one: Content) -> _Claim:
    titles = series_titles(content)
    shown = (one["low"] > 0 or one["high"] < 0) and one["p_holm"] < ALPHA
    where = f"On the {place_words(one['place'])}"
    if not isinstance(one["place"], str):
        where = f"With {place_words(one['place'])} {content['axis']}"
    against = titles[one["second"]]
    if one["against"] is not None:
        against = f"the same with {place_words(one['against'])}" if one["first"] == one["second"] else against
    bounds = f"{points(one['mean'])} points [{points_interval(one['low'], one['high'])}], {p_value(one['p_holm'])}"
    if not shown:
        able = "" if one["smallest_detectable"] is None else (
            f"; {percent(one['smallest_detectable'])} points would have been found four times in five"
        )  # fmt: skip
        said = f"{where}, no difference shown between {titles[one['first']]} and {against}: {bounds}{able}."
        return _Claim(said, points(one["mean"]), "unclear")
    way = "higher" if one["mean"] > 0 else "lower"
    return _Claim(f"{where}, {titles[one['first']]} is {way} than {against}: {bounds}.", points(one["mean"]), way)


def _grid(content: Content) -> Grid:
    columns = ("Series", "Mean", "95 % interval", "Chance", "Majority", "n", "Replicates")
    groups: dict[str, list[Row]] = {}
    main = _main_series(content)
    for one in content["series"]:
        for p in one["points"]:
            cells = (
                Cell(cluster_words(one["title"]), ""),
                Cell(percent(p["mean"]), "mean"),
                Cell(interval(p["low"], p["high"]), "range"),
                Cell(percent(p["chance"]), "number side"),
                Cell(percent(p["majority"]), "number side"),
                Cell(count(p["n"]), "number side"),
                Cell(count(len(p["replicates"])), "number side"),
            )
            groups.setdefault(place_words(p["place"]), []).append(Row(cells, tuned=one["name"] == main))
    last = place_words(ALL)
    groups = {title: groups[title] for title in sorted(groups, key=lambda title: title == last)}
    heads = (Column(content["axis"].capitalize(), False), *(Column(title, title != "Series") for title in columns))
    return Grid(heads, tuple(RowGroup(title, tuple(rows)) for title, rows in groups.items()))


def _contrast_grid(content: Content) -> Grid | None:
    titles = series_titles(content)
    groups: dict[str, list[Row]] = {}
    for one in content["contrasts"]:
        cells = (
            Cell(place_words(one["place"]), ""),
            Cell(points(one["mean"]), "mean"),
            Cell(points_interval(one["low"], one["high"]), "range"),
            Cell(p_number(one["p"])),
            Cell(p_number(one["p_holm"])),
            Cell(percent(one["smallest_detectable"])),
        )
        groups.setdefault(compared_words(titles, one), []).append(Row(cells))
    if not groups:
        return None
    numbers = map(Column, ("Difference", "95 % interval", "p", "p, Holm", "Could show"))
    heads = (Column("Compared", False), Column("On", False), *numbers)
    return trim(Grid(heads, tuple(RowGroup(title, tuple(rows)) for title, rows in groups.items())))


def _replicate_grid(content: Content) -> Grid:
    groups: dict[str, list[Row]] = {}
    for one in content["series"]:
        for p in one["points"]:
            for r in p["replicates"]:
                cells = (
                    Cell(place_words(p["place"]), ""),
                    Cell(r["model"], "side"),
                    Cell(str(r["seed"])),
                    Cell(str(r["order"])),
                    Cell(percent(r["mean"]), "mean"),
                )
                groups.setdefault(cluster_words(one["title"]), []).append(Row(cells))
    words = (Column("Series", False), Column("At", False), Column("Base model", False))
    heads = (*words, *map(Column, ("Seed", "Order", "Mean")))
    return Grid(heads, tuple(RowGroup(title, tuple(rows)) for title, rows in groups.items()))


def _split_grid(content: Content) -> Grid | None:
    """Every task that is not tuned on, and why."""
    groups: dict[str, list[Row]] = {}
    for split in content.get("splits", ()):
        title = " and ".join(map(cluster_words, split["held_out"]))
        told = dict.fromkeys(split["evaluated"], "evaluated")
        told |= {one["task"]: one["reason"] for one in split["excluded"] if one["task"] not in told}
        groups[f"{title}: {len(split['train'])} tasks tuned on at most"] = [
            Row((Cell(task, ""), Cell(reason, "text"))) for task, reason in told.items()
        ]
    if not groups:
        return None
    heads = (Column("Held out", False), Column("Task", False), Column("Why it is not tuned on", False))
    return Grid(heads, tuple(RowGroup(title, tuple(rows)) for title, rows in groups.items()))


def _lost_grid(content: Content) -> Grid | None:
    groups: dict[str, list[Row]] = {}
    for one in content.get("rows_lost", ()):
        span = count(one["most"]) if one["least"] == one["most"] else f"{count(one['least'])} to {count(one['most'])}"
        cells = (Cell(one["what"], "side"), Cell(one["reason"], "text"), Cell(span), Cell(count(one["systems"])))
        groups.setdefault(one["stage"], []).append(Row(cells))
    if not groups:
        return None
    words = (Column("Stage", False), Column("What", False), Column("Reason", False))
    heads = (*words, Column("Rows of a system"), Column("Systems"))
    return Grid(heads, tuple(RowGroup(stage, tuple(rows)) for stage, rows in groups.items()))


def made_facts(content: Content) -> list[tuple[str, str]]:
    """Models, seeds, cost, settings and command, in words; what made.json has only where it is there."""
    settings, recipe, made = content["settings"], content["settings"]["recipe"], content["made"]
    facts = {
        "Base models": ", ".join(_models(content)),
        "Tuning seeds": ", ".join(map(str, settings["seeds"])),
        "Rows of each task": f"{recipe['evaluation']['items']} test, {recipe['evaluation']['dev_items']} dev",
        "Tuning": f"{recipe['tuning']['steps']} steps of {recipe['tuning']['tokens_per_step']} tokens",
        "Resamples": count(settings["resamples"]),
        "Fingerprint": content["fingerprint"],
    }
    if made:
        facts["Tuned in all"] = f"{count(made['models_tuned'])} models, {count(made['steps'])} steps"
        facts["Cost of tuning"] = (
            f"{count(made['tokens'])} tokens, {made['flops']:.1e} FLOPs (6 x parameters x tokens, 4 where they stay), "
            f"{count(made['tuning_seconds'])} seconds of steps"
        )
        if made["settings"]:
            facts["Settings"] = _frozen(made["settings"])
        facts["Versions"] = ", ".join(f"{name} {number}" for name, number in made["environment"]["packages"].items())
    facts["Made by"] = made.get("command") or f"openflan study {content['study']}"
    return list(facts.items())


def _frozen(settings: Mapping[str, Any]) -> str:
    """A settings file and what it extends, with the commits that froze them."""
    commit = settings["commit"]
    said = f"{settings['file']}, " + (f"frozen in commit {commit}" if commit else f"SHA-256 {settings['sha256']}")
    return f"{said}; extends {_frozen(settings['extends'])}" if "extends" in settings else said

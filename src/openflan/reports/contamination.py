"""What a contamination study found, as a terminal table and as one HTML page with its figures.

Takes the content of contamination.json, and hits.parquet beside it. The paper's numbers stand in
`paper_contamination.json` with how far each can be trusted. Read next: `page.py`.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import polars as pl
from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from openflan.artifacts import atomic_path, write_text
from openflan.evaluation.samples import reading
from openflan.mixture.contamination import ACROSS
from openflan.reports import figures
from openflan.reports.arms import in_order, style
from openflan.reports.drawings import Drawing
from openflan.reports.figures import CleanPoint, Share
from openflan.reports.fitting import Fitting
from openflan.reports.grids import Cell, Column, Grid, Row, RowGroup, dropped_grid, trim
from openflan.reports.numbers import BLANK, count, percent, points, points_interval
from openflan.reports.page import WIDTHS, fill

PAGE, HITS = "report.html", "hits.parquet"
ACCENT = "bold dark_orange3"
TASKS_SHOWN = 6
HITS_SHOWN = 2
"""Rows shown for each of the tasks with most dirty rows."""
RUNS_SHOWN = 12
CLEARLY_LOWER = -0.01
"""Relative difference under which the paper marks a dataset with an asterisk."""

_RULES = {
    "paper": "any run of n words that the row shares with the corpus makes it dirty; n is 8 to 13, by the length of "
    "the dataset’s rows (the rule of GPT-3’s check, which the paper’s appendix follows).",
    "strict": "any run of 8 words, and a whole row of 4 to 7 words.",
}
_READINGS = {"higher": "clean higher", "lower": "clean lower", "not shown": "no difference shown", "too few": "too few"}

Content = Mapping[str, Any]


@cache
def paper_tasks() -> Mapping[str, Mapping[str, Any]]:
    """The paper's numbers by our task name: rates 0..1, counts of rows."""
    file = files("openflan.reports").joinpath("paper_contamination.json")
    return cast("Mapping[str, Mapping[str, Any]]", json.loads(file.read_text(encoding="utf-8"))["tasks"])


def write_contamination(content: Content, folder: Path) -> Path:
    """Write report.html and figures/*.png into a study's folder; returns the page's path.

    Equal studies give equal bytes.
    """
    for name, drawing in _drawings(content).items():
        with atomic_path(folder / "figures" / f"{name}.png") as part:
            part.write_bytes(drawing.png())
    with reading(folder / HITS):
        hits = pl.read_parquet(folder / HITS)
    write_text(folder / PAGE, render_contamination_page(content, hits))
    return folder / PAGE


# Words


def sentences(content: Content) -> list[str]:
    """What was found, in words: first of the rows, then of the run's scores."""
    rule, other = _rules(content)
    tasks = content["tasks"]
    rows = sum(task["n"] for task in tasks.values())
    dirty = sum(task[rule]["dirty"] for task in tasks.values())
    more = sum(task[other]["dirty"] for task in tasks.values())
    short = sum(task[rule]["too_short"] for task in tasks.values())
    looked = f"Of {count(rows)} {_plural(rows, 'row')} of {len(tasks)} {_plural(len(tasks), 'task')}"
    verb = "is" if dirty == 1 else "are"
    said = f"{looked}, {count(dirty)} {verb} dirty under the rule “{rule}” and {count(more)} under “{other}”"
    said += f"; {count(short)} {'is' if short == 1 else 'are'} too short for “{rule}” to tell." if short else "."
    return [said, *_run_sentences(content)]


def _run_sentences(content: Content) -> list[str]:
    arm = _main_arm(content)
    if arm is None:
        return []
    found = content["run"]["arms"][arm]
    said: list[str] = []
    named = f"{style(arm).title}: "
    for way, words in (("lower", "lower"), ("higher", "higher")):
        tasks = [t for t, one in found.items() if (one["clean_minus_all"] or {}).get("reading") == way]
        if tasks:
            said.append(f"{named}clean rows are shown to score {words} than all rows on {', '.join(tasks)}.")
    if not said:
        told = [t for t, one in found.items() if (one["clean_minus_all"] or {}).get("reading") == "not shown"]
        few = len(found) - len(told)
        said.append(
            f"{named}no difference between clean rows and all rows is shown on any of {len(told)} "
            f"{_plural(len(told), 'task')}" + (f"; {few} have too few clean or dirty rows to tell." if few else ".")
        )
    return said


def _plural(number: int, word: str) -> str:
    return word if number == 1 else f"{word}s"


def _rules(content: Content) -> tuple[str, str]:
    rule = str(content["rule"])
    return rule, "strict" if rule == "paper" else "paper"


def _main_arm(content: Content) -> str | None:
    """The arm that sentences and figure are about: `tuned`, or the first there is."""
    if content["run"] is None:
        return None
    arms = in_order(content["run"]["arms"])
    return "tuned" if "tuned" in arms else next(iter(arms), None)


def _where(task: Mapping[str, Any], rule: str) -> str:
    """Where in the dirty rows: `premise 94 %, hypothesis 2 %`; a row may count for several."""
    found, dirty = task[rule]["where"], task[rule]["dirty"]
    order = sorted(found, key=lambda part: (-found[part], part))
    return ", ".join(f"{part.replace('_', ' ')} {100 * found[part] / dirty:.0f} %" for part in order)


# Terminal


def render_contamination(content: Content) -> RenderableType:
    """Sentences, and what was found of each task, as a table where it fits; with a run its main arm's scores."""
    rule, other = _rules(content)
    told = content["ledger"]["notes"]
    lines = [Text(said, ACCENT if index == 0 else "") for index, said in enumerate(sentences(content))]
    notes = [Text(f"{len(told)} {_plural(len(told), 'note')} on rows, told in {PAGE}.", "dim")] if told else []
    legend = Text(f"Rule “{rule}”: {_RULES[rule]} “{other}”: {_RULES[other]}", "dim")
    if content["left_out"]:
        notes.append(Text(f"Rows not to be had, so not looked for: {', '.join(content['left_out'])}."))
    return Group(*lines, Text(), Fitting(_table(content), _lines(content)), Text(), *notes, legend)


def _table(content: Content) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in _heads(content):
        table.add_column(title, justify="left" if title in ("task", "reading") else "right", no_wrap=True)
    for name in content["tasks"]:
        table.add_row(*_cells(content, name), style=_tone(content, name))
    return table


def _lines(content: Content) -> list[Text]:
    lines: list[Text] = []
    for name in content["tasks"]:
        told = zip(_heads(content)[1:], _cells(content, name)[1:], strict=True)
        said = ", ".join(f"{title} {cell}" for title, cell in told if cell)
        lines.append(Text.assemble(name, (f"  {said}", "dim"), style=_tone(content, name)))
    return lines


def _heads(content: Content) -> list[str]:
    _, other = _rules(content)
    heads = ["task", "n-gram", "n", "dirty", "% clean", other, "the paper"]
    scores = ["all", "clean", "clean - all", "95 % interval", "reading"]
    return heads if _main_arm(content) is None else [*heads, *scores]


def _cells(content: Content, name: str) -> list[str]:
    rule, other = _rules(content)
    task, theirs, arm = content["tasks"][name], paper_tasks().get(name), _main_arm(content)
    cells = [
        name,
        str(task["run_words"]),
        count(task["n"]),
        count(task[rule]["dirty"]),
        percent(task[rule]["share_clean"]),
        percent(task[other]["share_clean"]),
        "" if theirs is None else percent(theirs["share_clean"]),
    ]
    return cells if arm is None else cells + _score_cells(content["run"]["arms"][arm].get(name))


def _tone(content: Content, name: str) -> str:
    return "bold" if content["tasks"][name][_rules(content)[0]]["dirty"] else ""


def _score_cells(scores: Mapping[str, Any] | None) -> list[str]:
    if scores is None:
        return [BLANK] * 5
    difference = scores["clean_minus_all"]
    if difference is None:
        return [percent(scores["all"]), BLANK, BLANK, BLANK, "no clean row"]
    return [
        percent(scores["all"]),
        percent(scores["clean"]),
        points(difference["mean"]),
        points_interval(difference["low"], difference["high"]),
        "no dirty row" if not scores["n_dirty"] else _READINGS[difference["reading"]],
    ]


# Page


def render_contamination_page(content: Content, hits: pl.DataFrame) -> str:
    """report.html as text: it opens offline, and nothing from files stands in it unescaped."""
    rule, other = _rules(content)
    hits = hits.filter(pl.col("rule") == rule)
    drawn = _drawings(content)
    return fill(
        "contamination.html.j2",
        title="What of the evaluation the corpus holds",
        findings=_findings(content),
        shares=_svgs(drawn["shares"], "shares"),
        clean=_svgs(drawn["clean-minus-all"], "clean") if "clean-minus-all" in drawn else None,
        tasks=_task_grid(content),
        scores=_score_grid(content),
        rule=rule,
        other=other,
        rule_words=_RULES[rule],
        other_words=_RULES[other],
        corpora=[_corpus_facts(corpus) for corpus in content["corpora"]],
        notes=content["ledger"]["notes"],
        dropped=dropped_grid(content["ledger"]),
        commonest=_commonest(hits),
        hits=_hit_views(content, hits, rule),
        compared=any(name in paper_tasks() for name in content["tasks"]),
        footer=f"Fingerprint {content['fingerprint']}. Beside this page: contamination.json with every number, "
        "rows.parquet with every row’s verdict, hits.parquet with what was found and where, figures/ as PNG.",
    )


def _findings(content: Content) -> list[dict[str, Any]]:
    rule, _ = _rules(content)
    rows = sum(task["n"] for task in content["tasks"].values())
    clean = sum(task[rule]["clean"] for task in content["tasks"].values())
    said = sentences(content)
    words = sum(corpus["words"] for corpus in content["corpora"])
    found: list[dict[str, Any]] = [
        {
            "gain": percent(clean / rows),
            "unit": f"percent of rows clean, rule “{rule}”",
            "tone": "higher" if clean < rows else "unclear",
            "sentence": said[0],
            "remarks": [f"The corpus has {count(words)} words."],
        }
    ]
    arm = _main_arm(content)
    for sentence in said[1:]:
        differences = [one["clean_minus_all"] for one in content["run"]["arms"][arm].values()]
        means = [one["mean"] for one in differences if one is not None]
        middle = statistics.median(means) if means else None
        found.append(
            {
                "gain": points(middle),
                "unit": "points, clean minus all, median task",
                "tone": "unclear",
                "sentence": sentence,
                "remarks": [],
            }
        )
    return found


def _drawings(content: Content) -> dict[str, Drawing]:
    rule, other = _rules(content)
    ordered = sorted(content["tasks"].items(), key=lambda item: (item[1][rule]["share_clean"], item[0]))
    shares = [
        Share(
            name,
            task[rule]["share_clean"],
            task[other]["share_clean"],
            paper_tasks()[name]["share_clean"] if name in paper_tasks() else None,
        )
        for name, task in ordered
    ]
    said = "; ".join(
        f"{s.task} {percent(s.shown)}" + ("" if s.paper is None else f" (the paper {percent(s.paper)})") for s in shares
    )
    drawn = {
        "shares": Drawing(f"Clean rows in percent. {said}.", partial(figures.shares_figure, shares, (rule, other)))
    }
    arm = _main_arm(content)
    if arm is None:
        return drawn
    found: list[CleanPoint] = []
    for name, one in content["run"]["arms"][arm].items():
        if (difference := one["clean_minus_all"]) is not None and one["n_dirty"]:
            share = one["n_clean"] / one["n"]
            found.append(CleanPoint(name, share, difference["mean"], difference["low"], difference["high"]))
    alt = "; ".join(f"{point.task} {points(point.mean)} at {percent(point.share_clean)} % clean" for point in found)
    theirs = [
        CleanPoint(name, task["share_clean"], task["score_clean"] - task["score_all"], ours=False)
        for name, task in paper_tasks().items()
        if name in content["tasks"]
    ]
    if found:
        told = f"Score on clean rows minus score on all, in points. {alt}."
        drawn["clean-minus-all"] = Drawing(told, partial(figures.clean_figure, [*found, *theirs]))
    return drawn


def _svgs(drawing: Drawing, name: str) -> list[Markup]:
    return [Markup(drawing.svg(name, width)) for width in WIDTHS]


def _task_grid(content: Content) -> Grid:
    rule, other = _rules(content)
    rows: list[Row] = []
    for name, task in content["tasks"].items():
        theirs = paper_tasks().get(name)
        cells = (
            Cell(name, ""),
            Cell(str(task["run_words"])),
            Cell(count(task["n"])),
            Cell(count(task[rule]["dirty"])),
            Cell(count(task[rule]["clean"])),
            Cell(percent(task[rule]["share_clean"]), "mean"),
            Cell(percent(task[other]["share_clean"])),
            Cell(percent(task["coverage"]["mean"])),
            Cell(count(task[rule]["too_short"]) if task[rule]["too_short"] else BLANK),
            Cell(BLANK if theirs is None else percent(theirs["share_clean"])),
            Cell(_where(task, rule) or BLANK, "side"),
        )
        rows.append(Row(cells, tuned=bool(task[rule]["dirty"])))
    heads = ("n-gram", "n", "Dirty", "Clean", "% clean", f"% clean, {other}", "Covered, %", "Too short", "The paper")
    return _ungrouped((Column("Task", False), *map(Column, heads), Column("Found in", False)), rows)


def _ungrouped(columns: Sequence[Column], rows: Sequence[Row]) -> Grid:
    """A table without a column for titles of groups, and without columns that are all blank."""
    trimmed = trim(Grid((Column(""), *columns), (RowGroup("", tuple(rows)),)))
    return Grid(trimmed.columns[1:], trimmed.groups)


def _score_grid(content: Content) -> Grid | None:
    if content["run"] is None:
        return None
    groups: list[RowGroup] = []
    arms = content["run"]["arms"]
    for arm in in_order(arms):
        rows: list[Row] = []
        for name, one in arms[arm].items():
            theirs = paper_tasks().get(name)
            shown = _score_cells(one)
            relative = BLANK if one["relative"] is None else points(one["relative"])
            asterisk = " *" if one["relative"] is not None and one["relative"] < CLEARLY_LOWER else ""
            against = one["clean_minus_dirty"]
            cells = (
                Cell(name, ""),
                Cell(one["metric"], "side"),
                Cell(count(one["n"])),
                Cell(count(one["n_clean"])),
                Cell(shown[0]),
                Cell(shown[1], "mean"),
                Cell(percent(one["dirty"])),
                Cell(shown[2]),
                Cell(shown[3], "range"),
                Cell(relative + asterisk),
                Cell(BLANK if theirs is None else points(theirs["relative"])),
                Cell(BLANK if against is None else points(against["mean"])),
                Cell(shown[4], "side"),
            )
            rows.append(Row(cells))
        groups.append(RowGroup(style(arm).title, tuple(rows)))
    heads = ("n", "n clean", "All", "Clean", "Dirty", "Clean - all", "95 % interval", "Relative, %", "The paper’s, %")
    columns = (
        Column("Arm", False),
        Column("Task", False),
        Column("Metric", False),
        *map(Column, heads),
        Column("Clean - dirty"),
        Column("Reading", False),
    )
    return trim(Grid(columns, tuple(groups)))


def _corpus_facts(corpus: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Corpus", str(corpus["name"])),
        ("Read", f"{count(corpus['files'])} files, {count(corpus['lines'])} lines, {count(corpus['words'])} words"),
    ]
    if corpus["skipped"]:
        said = ", ".join(f"{number} {ending}" for ending, number in corpus["skipped"].items())
        facts.append(("Files of other kinds", said))
    unreadable = corpus["unreadable"]
    if unreadable["files"]:
        facts.append(("Files not read", "; ".join(f"{name}: {why}" for name, why in unreadable["files"].items())))
    if unreadable["lines"]:
        lines = (f"{count(e['count'])} {why} ({', '.join(e['where'])})" for why, e in unreadable["lines"].items())
        facts.append(("Lines not read", "; ".join(lines)))
    return facts


def _commonest(hits: pl.DataFrame) -> Grid | None:
    """The runs of words that begin a stretch in most rows: boilerplate shows here."""
    counted = (
        hits.group_by("task", "ngram")
        .agg(pl.col("row_id").n_unique().alias("rows"), pl.col("count").first())
        .filter(pl.col("rows") > 1)
        .sort(["rows", "count", "task", "ngram"], descending=[True, True, False, False])
        .head(RUNS_SHOWN)
    )
    if counted.is_empty():
        return None
    rows = tuple(
        Row((Cell(task, ""), Cell(ngram, "text"), Cell(count(number)), Cell(count(times))))
        for task, ngram, number, times in counted.select("task", "ngram", "rows", "count").iter_rows()
    )
    columns = (Column("Task", False), Column("n-gram", False), Column("Rows"), Column("In corpus"))
    return _ungrouped(columns, rows)


def _hit_views(content: Content, hits: pl.DataFrame, rule: str) -> list[dict[str, Any]]:
    tasks = content["tasks"]
    order: Sequence[str] = sorted(tasks, key=lambda name: (-tasks[name][rule]["dirty"], name))
    views: list[dict[str, Any]] = []
    for name in order[:TASKS_SHOWN]:
        of_task = hits.filter(pl.col("task") == name)
        for row_id in of_task["row_id"].unique(maintain_order=True).head(HITS_SHOWN).to_list():
            of_row = of_task.filter(pl.col("row_id") == row_id).filter(pl.col("span") == pl.col("span").first())
            first = of_row.row(0, named=True)
            places = [f"{file}:{line}" for file, line in of_row.select("file", "line").iter_rows()]
            views.append({
                "name": f"{name} · {row_id}",
                "part": "across its texts" if first["part"] == ACROSS else f"in its {first['part'].replace('_', ' ')}",
                "span": first["span"],
                "ngram": first["ngram"],
                "times": f"{count(first['count'])} {_plural(first['count'], 'time')}",
                "places": ", ".join(dict.fromkeys(places)),
            })  # fmt: skip
    return views

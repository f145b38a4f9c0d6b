"""A comparison in words, as a terminal table and as one HTML page.

Takes a `Comparison`, gives a rich renderable or a page's text. Read next: `../evaluation/compare.py`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from openflan.artifacts import write_json, write_text
from openflan.evaluation import statistics
from openflan.evaluation.compare import (
    ChangedItem,
    ClusterComparison,
    Compared,
    Comparison,
    MovedTemplate,
    Outside,
    TaskComparison,
)
from openflan.evaluation.statistics import LEVEL
from openflan.reports import figures
from openflan.reports.arms import cluster_words
from openflan.reports.drawings import Drawing
from openflan.reports.finding import describe, detectable
from openflan.reports.fitting import Fitting
from openflan.reports.grids import Cell, Column, Grid, Row, RowGroup, trim
from openflan.reports.numbers import BLANK, MINUS, count, p_number, p_value, percent, points, points_interval
from openflan.reports.page import WIDTHS, fill
from openflan.reports.reading import Difference, items

DATA, PAGE = "compare.json", "compare.html"
ACCENT = "bold dark_orange3"
MOVED_SHOWN = 5
ITEMS_SHOWN = 10
"""Changed items of each task that a terminal or a page shows; the JSON has all."""
ROWS_NAMED = 3
A_MINUS_B = f"A {MINUS} B"

Entry = ClusterComparison | TaskComparison


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write compare.json and compare.html; returns the page's path. Equal comparisons give equal bytes."""
    write_json(folder / DATA, comparison.to_json())
    write_text(folder / PAGE, render_comparison_page(comparison))
    return folder / PAGE


# Words


def sentence(comparison: Comparison, entry: Entry) -> str:
    """What the sample says of one cluster or task."""
    where = _where(comparison, entry)
    scores = f"{percent(entry['a']['mean'])} against {percent(entry['b']['mean'])}"
    said = describe(as_difference(entry))
    match entry["reading"]:
        case "higher":
            return f"A is above B on {where}: {scores}, {said}."
        case "lower":
            return f"A is below B on {where}: {scores}, {said}."
        case "not shown":
            return f"No difference shown on {where}: {scores}, {said}; {could_show(entry)}."


def could_show(entry: Compared) -> str:
    """What the sample could have shown, as a clause."""
    if entry["smallest_detectable"] is None and entry["mean"] != 0:
        number = entry["groups"]
        told = "there is one group" if number == 1 else f"all {count(number)} groups differ by the same"
        return f"{told}, which leaves open how far others would"
    if entry["smallest_detectable"] is None:
        unseen = percent(statistics.most_unseen(entry["groups"]))
        return f"the two never differed, which leaves room for differences on up to {unseen} % of items like these"
    return detectable(as_difference(entry))


def correction(comparison: Comparison, entry: Entry) -> str:
    """What Holm's adjustment leaves of a difference; empty where it stands or none was shown."""
    if entry["reading"] == "not shown" or entry["p_holm"] < LEVEL:
        return ""
    number = len(comparison.tasks if "task" in entry else comparison.clusters)
    kind = "tasks" if "task" in entry else "clusters"
    return f"Corrected for the {number} {kind} compared ({p_value(entry['p_holm'])}, Holm), it does not stand."


def verdict_words(entry: Compared) -> str:
    """The reading in a table's words."""
    words = {"higher": "A higher", "lower": "B higher", "not shown": "no difference shown"}
    weak = entry["reading"] != "not shown" and entry["p_holm"] >= LEVEL
    return words[entry["reading"]] + (", not after Holm" if weak else "")


def outside_words(outside: Outside) -> str:
    """One line on answers that were not compared."""
    side = {"a": "A", "b": "B", "both": "both"}[outside["side"]]
    shots = f" with {_exemplars(outside['shots'])}" if outside["shots"] else ""
    number = f"{count(outside['samples'])} {'answer' if outside['samples'] == 1 else 'answers'}"
    rows = outside.get("items", [])
    named = f"{count(len(rows))} {'item' if len(rows) == 1 else 'items'} ({_named(rows)})"
    match outside["reason"]:
        case "task":
            return f"only in {side}: {outside['task']}{shots}, {number}"
        case "shots":
            return f"only in {side}: {outside['task']} with {_exemplars(outside['shots'])}, {number}"
        case "template":
            return f"only in {side}: {outside['task']}{shots}, template {outside.get('template', '')}, {number}"
        case "item":
            return f"only in {side}: {outside['task']}{shots}, {named}, {number}"
        case "cell":
            return f"only in {side}: {outside['task']}{shots}, some templates of {named}, {number}"
        case "unscored":
            return f"without a value in {side}: {outside['task']}{shots}, {named}, {number}"


def recipes_differ(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(key, in A, in B) of the recipes' and versions' keys that are not the same."""
    found: list[tuple[str, str, str]] = []
    for kind in ("recipe", "packages"):
        a, b = (side.get(kind, {}) for side in (comparison.a, comparison.b))
        for key in sorted({*a, *b}):
            if a.get(key) != b.get(key):
                found.append((key, _plain(a.get(key)), _plain(b.get(key))))
    return found


def as_difference(entry: Compared) -> Difference:
    """The record that figures and sentences read."""
    return Difference(
        arm="A",
        against="B",
        cluster=entry["cluster"],
        task=str(entry.get("task", "")),
        mean=entry["mean"],
        low=entry["low"],
        high=entry["high"],
        p=entry["p"],
        p_holm=entry["p_holm"],
        n=entry["n"],
        smallest_detectable=entry["smallest_detectable"],
        label=A_MINUS_B,
    )


def _side_words(about: Mapping[str, Any]) -> str:
    shots = about.get("shots") or [0]
    asked = f", {' and '.join(map(str, shots))} exemplars" if shots != [0] else ""
    model = f"; base model {about['model']}" if about.get("model") else ""
    named = f"; fingerprint {about['fingerprint']}" if about.get("fingerprint") else ""
    return f"{about.get('run', '')}, {about.get('arm', '')}{asked}{model}{named}"


def _where(comparison: Comparison, entry: Entry) -> str:
    name = entry["task"] if "task" in entry else cluster_words(entry["cluster"])
    shots = [entry[side]["shots"] for side in ("a", "b")]
    if shots[0] != shots[1]:
        return f"{name} ({shots[0]} exemplars in A, {shots[1]} in B)"
    return f"{name} ({_exemplars(shots[0])})" if _several_shots(comparison) or shots[0] else name


def _several_shots(comparison: Comparison) -> bool:
    return len({entry["a"]["shots"] for entry in comparison.tasks}) > 1


def _exemplars(number: int) -> str:
    return f"{number} exemplar{'' if number == 1 else 's'}"


def _wordings(entry: Compared) -> str:
    a, b = (entry[side]["templates"] for side in ("a", "b"))
    return count(a) if a == b else f"{count(a)}, {count(b)}"


def _named(rows: Sequence[str]) -> str:
    return ", ".join(rows[:ROWS_NAMED]) + (", …" if len(rows) > ROWS_NAMED else "")


def _plain(value: Any) -> str:
    if value is None:
        return BLANK
    return ", ".join(map(str, items(value))) if isinstance(value, list | tuple) else str(value)


def _counted(comparison: Comparison) -> str:
    a, b = (count(comparison.samples[side]) for side in ("a", "b"))
    if comparison.paired_by == "item":
        return f"Compared item by item, each side as it was asked: {a} answers of A with {b} of B."
    unhashed = f" Of {count(comparison.unhashed)} no hash of the prompt was kept." if comparison.unhashed else ""
    return f"Compared prompt by prompt: {a} answers of each side.{unhashed}"


def _shown_items(comparison: Comparison) -> tuple[list[ChangedItem], int]:
    """The first few changed items of each task, and how many more there are."""
    seen: dict[tuple[str, int], int] = {}
    shown: list[ChangedItem] = []
    for item in comparison.changed or ():
        place = seen[item["task"], item["shots"]] = seen.get((item["task"], item["shots"]), 0) + 1
        if place <= ITEMS_SHOWN:
            shown.append(item)
    return shown, len(comparison.changed or ()) - len(shown)


def _item_words(item: ChangedItem) -> str:
    way = {"won": "A better", "lost": "B better", "even": "even"}[item["outcome"]]
    if item["won"] or item["lost"]:
        way += f" (A under {item['won']}, B under {item['lost']} of {item['templates']} wordings)"
    return f"{way}, {percent(item['a'])} against {percent(item['b'])}"


def _said(item: ChangedItem) -> list[tuple[str, str]]:
    """(templates, what both sides said through them); templates with the same answers stand together."""
    alike: dict[tuple[str | None, str | None], list[str]] = {}
    for answer in item["answers"]:
        alike.setdefault((answer["a"], answer["b"]), []).append(answer["template"])
    return [
        (
            ", ".join(templates),
            ", ".join(f"{side} {_short(text)}" for side, text in (("A", a), ("B", b)) if text is not None),
        )
        for (a, b), templates in alike.items()
    ]


def _short(text: str, most: int = 80) -> str:
    flat = " ".join(text.split())
    return f"“{flat}”" if len(flat) <= most else f"“{flat[: most - 1]}…”"


# Terminal


def render_comparison(comparison: Comparison, *, show_items: bool = False) -> RenderableType:
    """The comparison for a terminal of any width: a table where it fits, else a line for each of its rows.

    With `show_items` the changed items follow, where the comparison lists them.
    """
    parts: list[RenderableType] = [
        Text.assemble(("A  ", ACCENT), _side_words(comparison.a)),
        Text.assemble(("B  ", "bold"), _side_words(comparison.b)),
        *(Text(f"   {key}: {a} in A, {b} in B", "dim") for key, a, b in recipes_differ(comparison) if key != "model"),
        Text(),
        *(_sentence_line(comparison, entry) for entry in comparison.clusters),
        Text(),
        Fitting(_table(comparison), _lines(comparison)),
        Text(),
        *_moved_lines(comparison),
        Text(_counted(comparison), "dim"),
        *(Text(f"Not compared, {outside_words(outside)}.", "dim") for outside in comparison.outside),
    ]
    if show_items and comparison.changed is not None:
        parts += [Text(), *_item_lines(comparison)]
    parts.append(Text(_LEGEND, "dim"))
    return Stack(*parts)


_LEGEND = (
    f"Percent; {A_MINUS_B} in points, means over templates; intervals of 95 % from resampled items; p by exchanging A "
    "and B; could show: the smallest true difference found with 80 % power, before Holm's adjustment; groups: what is "
    "drawn, items that share nothing being groups of their own."
)


def _sentence_line(comparison: Comparison, entry: Entry) -> Text:
    tone = _TONES.get(entry["reading"], "")
    remark = correction(comparison, entry)
    return Text.assemble((sentence(comparison, entry), tone), (f" {remark}" if remark else "", "dim"))


_TONES = {"higher": ACCENT, "lower": "bold"}
_COLUMNS = ("A", "B", A_MINUS_B, "95 % interval", "p", "p, Holm", "could show", "n", "groups", "wordings", "reading")


def _cells(entry: Compared) -> list[str]:
    return [
        percent(entry["a"]["mean"]),
        percent(entry["b"]["mean"]),
        points(entry["mean"]),
        points_interval(entry["low"], entry["high"]),
        p_number(entry["p"]),
        p_number(entry["p_holm"]),
        percent(entry["smallest_detectable"]),
        count(entry["n"]),
        count(entry["groups"]),
        _wordings(entry),
        verdict_words(entry),
    ]


def _table(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("on", no_wrap=True)
    for title in _COLUMNS:
        table.add_column(title, justify="left" if title == "reading" else "right", no_wrap=True)
    for entry in (*comparison.clusters, *comparison.tasks):
        tone = _TONES.get(entry["reading"], "")
        name = Text(_where(comparison, entry), "bold" if "tasks" in entry else "")
        shown = [
            Text(text, tone if title in (A_MINUS_B, "reading") else "" if title in ("A", "B") else "dim")
            for title, text in zip(_COLUMNS, _cells(entry), strict=True)
        ]
        table.add_row(name, *shown)
    return table


def _lines(comparison: Comparison) -> list[Text]:
    lines: list[Text] = []
    for entry in (*comparison.clusters, *comparison.tasks):
        tone = _TONES.get(entry["reading"], "")
        a, b, mean, bounds, p, adjusted, able, n, groups, wordings, verdict = _cells(entry)
        lines.append(
            Text.assemble(
                (_where(comparison, entry), "bold" if "tasks" in entry else ""),
                f"  A {a}, B {b}, ",
                (f"{mean} ({bounds}): {verdict}", tone),
                (f"; p {p}, Holm {adjusted}, could show {able}, n {n}, groups {groups}, wordings {wordings}", "dim"),
            )
        )
    return lines


def _moved_lines(comparison: Comparison) -> list[Text]:
    moved = _worth_naming(comparison)[:MOVED_SHOWN]
    if not moved:
        return []
    said = [f"{_template_name(one)} {points(one['mean'])}" for one in moved]
    return [Text(f"Moved most, by template (described, not tested): {'; '.join(said)}."), Text()]


def _worth_naming(comparison: Comparison) -> list[MovedTemplate]:
    several = any(len(task["by_template"]) > 1 for task in comparison.tasks)
    return [one for one in comparison.moved["templates"] if one["mean"] != 0] if several else []


def _template_name(one: MovedTemplate) -> str:
    return f"{one['task']}/{one['template']}" + (f"@{one['shots']}" if one["shots"] else "")


def _item_lines(comparison: Comparison) -> list[Text]:
    shown, more = _shown_items(comparison)
    if not shown:
        return [Text("No item changed.")]
    lines: list[Text] = []
    for item in shown:
        tone = {"won": ACCENT, "lost": "bold"}.get(item["outcome"], "")
        lines.append(Text.assemble(f"{item['task']} {item['row_id']}  ", (_item_words(item), tone)))
        lines += [Text(f"    {templates}: {said}", "dim") for templates, said in _said(item)]
        lines.append(Text(f"    right: {' | '.join(_short(text) for text in item['right'])}", "dim"))
    if more:
        lines.append(Text(f"{count(more)} more changed items; --json lists all.", "dim"))
    return [*lines, Text()]


# Page


def render_comparison_page(comparison: Comparison) -> str:
    """compare.html as text: it opens offline, and nothing from files stands in it unescaped."""
    shown, more = _shown_items(comparison)
    return fill(
        "compare.html.j2",
        title="A against B",
        sides=[("A", _side_words(comparison.a)), ("B", _side_words(comparison.b))],
        findings=[_finding_view(comparison, entry) for entry in comparison.clusters],
        figure=_figure(comparison),
        differences=_difference_grid(comparison),
        moved=_moved_grid(comparison),
        counted=_counted(comparison),
        outside=[outside_words(outside) for outside in comparison.outside],
        differ=[(key, f"{a} in A, {b} in B") for key, a, b in recipes_differ(comparison)],
        items=None if comparison.changed is None else [_item_view(item) for item in shown],
        more=more,
        facts=[("Seed", str(comparison.seed)), ("Resamples", count(comparison.resamples))],
    )


def _finding_view(comparison: Comparison, entry: Entry) -> dict[str, Any]:
    return {
        "gain": points(entry["mean"]),
        "unit": f"points, {A_MINUS_B}" + (": no difference shown" if entry["reading"] == "not shown" else ""),
        "tone": {"higher": "higher", "lower": "lower"}.get(entry["reading"], "unclear"),
        "sentence": sentence(comparison, entry),
        "remarks": [text for text in (correction(comparison, entry),) if text],
    }


def _figure(comparison: Comparison) -> list[Markup]:
    entries = [as_difference(entry) for entry in (*comparison.clusters, *comparison.tasks)]
    said = [
        f"{d.task or cluster_words(d.cluster)}: {points(d.mean)} ({points_interval(d.low, d.high)})" for d in entries
    ]
    alt = f"{A_MINUS_B} in points, with 95 % intervals. {'; '.join(said)}."
    drawing = Drawing(alt, partial(figures.differences_figure, entries))
    return [Markup(drawing.svg("compare", width)) for width in WIDTHS]


def _difference_grid(comparison: Comparison) -> Grid:
    plain = ("number",) * 4
    kinds = ("number", "number", "mean", "range", *plain, "number side", "number side", "side")
    groups: dict[str, list[Row]] = {}
    for cluster in comparison.clusters:
        within = [
            task
            for task in comparison.tasks
            if task["cluster"] == cluster["cluster"] and task["a"]["shots"] == cluster["a"]["shots"]
        ]
        rows = [("mean of its tasks", cluster), *((task["task"], task) for task in within)]
        groups[_where(comparison, cluster)] = [
            Row(
                (Cell(name, ""), *(Cell(text, kind) for text, kind in zip(_cells(entry), kinds, strict=True))),
                tuned=entry["reading"] == "higher",
            )
            for name, entry in rows
        ]
    written = {"could show": "Could show", "groups": "Groups", "wordings": "Wordings", "reading": "Reading"}
    heads = [Column(written.get(title, title), number=title != "reading") for title in _COLUMNS]
    columns = (Column("Cluster", number=False), Column("On", number=False), *heads)
    return trim(Grid(columns, tuple(RowGroup(title, tuple(rows)) for title, rows in groups.items())))


def _moved_grid(comparison: Comparison) -> Grid | None:
    rows = [
        Row((
            Cell(_template_name(one), ""),
            Cell(percent(one["a"])),
            Cell(percent(one["b"])),
            Cell(points(one["mean"]), "mean"),
            Cell(points_interval(one["low"], one["high"]), "range"),
            Cell(count(one["n"])),
        ))
        for one in _worth_naming(comparison)
    ]  # fmt: skip
    heads = (Column("", False), Column("Template", False), *map(Column, ("A", "B", A_MINUS_B, "95 % interval", "n")))
    return trim(Grid(heads, (RowGroup("", tuple(rows)),))) if rows else None


def _item_view(item: ChangedItem) -> dict[str, Any]:
    prompt = next((answer for answer in item["answers"] if answer["prompt"]), None)
    return {
        "name": f"{item['task']} · {item['row_id']}",
        "words": _item_words(item),
        "better": item["outcome"] == "won",
        "prompt": prompt["prompt"] if prompt else "",
        "template": prompt["template"] if prompt else "",
        "answers": _said(item),
        "right": " | ".join(item["right"]),
    }

"""A study as Markdown, to be put into a document: what it found, every point, every difference, where it comes from.

Takes what `read_study` gives. The page has more: replicates, splits, rows lost.
"""

from collections.abc import Sequence
from pathlib import Path

from openflan.artifacts import write_text
from openflan.reports.numbers import count, p_number, percent, points
from openflan.reports.study_figures import ALL, Place, place_words
from openflan.reports.study_page import (
    SUMMARY,
    Content,
    claim_sentences,
    compared_words,
    made_facts,
    read_study,
    series_titles,
)


def write_summary(folder: Path) -> Path:
    """Write summary.md beside a study's study.json; returns its path. Raises RunError as `read_study` does."""
    write_text(folder / SUMMARY, study_markdown(read_study(folder)))
    return folder / SUMMARY


def study_markdown(content: Content) -> str:
    """The text of summary.md; equal contents give equal text."""
    parts = [
        f"## {content['title']}",
        content["question"],
        "\n".join(f"- {sentence}" for sentence in claim_sentences(content)),
        "Percent, with intervals of 95 % over items and replicates:",
        _points(content),
        "Differences in points:",
        _contrasts(content),
        "\n".join(f"- {key}: {value}" for key, value in made_facts(content)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _points(content: Content) -> str:
    """A row for each series, a column for each place; guessing last."""
    first: dict[Place, Content] = {}
    for one in content["series"]:
        for p in one["points"]:
            first.setdefault(p["place"], p)
    titles, ordered = series_titles(content), sorted(first, key=lambda place: place == ALL)
    rows = [["", *map(place_words, ordered)]]
    for one in content["series"]:
        at = {p["place"]: p for p in one["points"]}
        rows.append([titles[one["name"]], *(_cell(at.get(place)) for place in ordered)])
    rows += [[kind, *(percent(first[place][kind]) for place in ordered)] for kind in ("chance", "majority")]
    rows.append(["test rows", *(count(first[place]["n"]) for place in ordered)])
    return _table(rows)


def _cell(point: Content | None) -> str:
    return "" if point is None else f"{percent(point['mean'])} [{percent(point['low'])}, {percent(point['high'])}]"


def _contrasts(content: Content) -> str:
    titles = series_titles(content)
    rows = [["compared", "on", "difference", "p", "p, Holm", "could show"]]
    for one in content["contrasts"]:
        rows.append([
            compared_words(titles, one),
            place_words(one["place"]),
            f"{points(one['mean'])} [{points(one['low'])}, {points(one['high'])}]",
            p_number(one["p"]),
            p_number(one["p_holm"]),
            percent(one["smallest_detectable"]),
        ])  # fmt: skip
    return _table(rows) if len(rows) > 1 else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    return "\n".join((head, "|" + " --- |" * len(rows[0]), *body))

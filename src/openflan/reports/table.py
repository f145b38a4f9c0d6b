"""The table a terminal shows after a run: the page's numbers, nothing else.

Takes the content of a result.json (one run's or a study's), gives a rich renderable. Read next: `report.py`.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from openflan.reports.arms import cluster_words, exemplars_words, in_order, style
from openflan.reports.finding import findings, main_arm, reading, verdict, versus
from openflan.reports.numbers import count, interval, percent, points, points_interval
from openflan.reports.reading import Measured, Report, report_of

ACCENT = "bold dark_orange3"


def render_table(results: Mapping[str, Any]) -> RenderableType:
    """The table of what a result.json holds. Raises RunError where it is of another format."""
    return report_table(report_of(results))


def report_table(report: Report) -> RenderableType:
    """A finding in words for every held-out cluster, then the arms on each of them and, for one run, on each task."""
    differences = _differences(report)
    shown = [Text(), differences] if differences.row_count else []
    return Group(*_sentences(report), Text(), _scores(report), *shown, _legend(report))


def _sentences(report: Report) -> list[Text]:
    lines: list[Text] = []
    for run in report.runs:
        for finding in findings(run):
            tone = {"higher": ACCENT, "lower": "bold"}.get(finding.verdict, "")
            lines.append(
                Text.assemble((finding.sentence, tone), *((f" {remark}", "dim") for remark in finding.remarks))
            )
    return lines


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title, is_number in columns:
        table.add_column(title, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    return table


def _scores(report: Report) -> Table:
    """One line an arm, so that any number of arms fits any terminal."""
    exemplars = any(run.has_exemplars for run in report.runs)
    columns = [("mean", True), ("95 % interval", True), ("chance", True), ("majority", True), ("n", True)]
    table = _table(("on", False), ("arm", False), *([("shots", True)] if exemplars else []), *columns)
    for run in report.runs:
        for cluster in run.clusters:
            _add_arms(table, cluster_words(cluster), run.on_cluster(cluster), exemplars=exemplars)
        # The tasks of several runs would bury the finding; the page has them.
        for task in run.tasks if len(report.runs) == 1 else ():
            _add_arms(table, task, run.on_task(task), exemplars=exemplars)
    return table


def _add_arms(table: Table, name: str, measured: Mapping[str, Measured], *, exemplars: bool) -> None:
    for index, arm in enumerate(in_order(measured)):
        m, tone = measured[arm], ACCENT if arm == "tuned" else ""
        shots = [Text(exemplars_words(arm, m.shots), tone)] if exemplars else []
        aside = [Text(text, "dim") for text in _beside(m)]
        title = Text(style(arm).title.lower(), tone)
        table.add_row(name if index == 0 else "", title, *shots, Text(percent(m.mean), tone), *aside)


def _beside(measured: Measured) -> tuple[str, str, str, str]:
    chance, majority = percent(measured.chance), percent(measured.majority)
    return interval(measured.low, measured.high), chance, majority, count(measured.n)


def _differences(report: Report) -> Table:
    """The main arm against every other on each cluster and, for one run, on each task against the first baseline."""
    table = _table(
        ("on", False), ("difference, points", False), ("", True), ("95 % interval", True), ("reading", False)
    )
    for run in report.runs:
        first = next((f.difference.against for f in findings(run) if f.difference is not None), "")
        for d in run.differences:
            if d.task and (len(report.runs) > 1 or d.against != first or d.arm != main_arm(run)):
                continue
            tone = ACCENT if verdict(d) == "higher" else ""
            name, bounds = d.task or cluster_words(d.cluster), Text(points_interval(d.low, d.high), "dim")
            table.add_row(name, versus(d).lower(), Text(points(d.mean), tone), bounds, Text(reading(d), tone or "dim"))
    return table


def _legend(report: Report) -> Text:
    said = "Percent; means over templates; intervals of 95 % from resampled items."
    if any(run.has_exemplars for run in report.runs):
        said += " Shots: exemplars in a prompt, on average where not all fitted."
    return Text(said, "dim")

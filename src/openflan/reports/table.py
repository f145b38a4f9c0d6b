"""The table a terminal shows after a run: the page's numbers, nothing else.

Takes the content of a result.json (one run's or a study's), gives a rich renderable. Read next: `report.py`.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from openflan.reports.arms import cluster_words, in_order, style
from openflan.reports.finding import findings, main_arm, reading, verdict
from openflan.reports.numbers import BLANK, count, interval, percent, points, points_interval
from openflan.reports.reading import Difference, Measured, Report, Run, report_of

ACCENT = "bold dark_orange3"


def render_table(results: Mapping[str, Any]) -> RenderableType:
    """A finding in words for every held-out cluster, then the arms on each of them and, for one run, on each task.

    `results` is what result.json holds. Raises RunError where it is of another format.
    """
    report = report_of(results)
    return Group(*_sentences(report), Text(), _scores(report), _legend(report))


def _sentences(report: Report) -> list[Text]:
    lines: list[Text] = []
    for run in report.runs:
        for finding in findings(run):
            tone = {"higher": ACCENT, "lower": "bold"}.get(finding.verdict, "")
            lines.append(
                Text.assemble((finding.sentence, tone), *((f" {remark}", "dim") for remark in finding.remarks))
            )
    return lines


def _scores(report: Report) -> Table:
    arms = in_order(arm for run in report.runs for arm in run.arms)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("held out" if len(report.runs) > 1 else "", overflow="fold")
    table.add_column("n", justify="right")
    table.add_column("chance", justify="right")
    for arm in arms:
        table.add_column(style(arm).title.lower(), justify="right", style=ACCENT if arm == "tuned" else "")
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("reading", overflow="fold")
    for run in report.runs:
        for cluster in run.clusters:
            table.add_row(*_row(run, "clusters", cluster, arms), style="bold" if len(report.runs) == 1 else "")
        for task in run.tasks if len(report.runs) == 1 else ():
            table.add_row(*_row(run, "tasks", task, arms))
    return table


def _row(run: Run, kind: str, name: str, arms: list[str]) -> list[Text]:
    found = {
        arm.name: m for arm in run.arms.values() if (m := (arm.clusters if kind == "clusters" else arm.tasks).get(name))
    }
    chance = next((m.chance for m in found.values() if m.chance is not None), None)
    number = max((m.n for m in found.values() if m.n is not None), default=None)
    difference = _main_difference(run, name if kind == "tasks" else "", name if kind == "clusters" else None)
    title = cluster_words(name) if kind == "clusters" else f"  {name}"
    return [
        Text(title),
        Text(count(number), "dim"),
        Text(percent(chance), "dim"),
        *(_score(found.get(arm)) for arm in arms),
        *_gain(difference),
    ]


def _score(measured: Measured | None) -> Text:
    if measured is None:
        return Text(BLANK, "dim")
    return Text.assemble(percent(measured.mean), (f"  {interval(measured.low, measured.high)}", "not bold dim"))


def _gain(difference: Difference | None) -> tuple[Text, Text]:
    if difference is None:
        return Text(BLANK, "dim"), Text()
    gain = Text.assemble(
        points(difference.mean), (f"  {points_interval(difference.low, difference.high)}", "not bold dim")
    )
    return gain, Text(reading(difference), ACCENT if verdict(difference) == "higher" else "dim")


def _main_difference(run: Run, task: str, cluster: str | None) -> Difference | None:
    """The comparison the finding is about: the main arm against the first baseline it was compared with."""
    against = next((f.difference.against for f in findings(run) if f.difference is not None), None)
    return next(
        (
            d
            for d in run.differences
            if (d.arm, d.against, d.task) == (main_arm(run), against, task) and cluster in (None, d.cluster)
        ),
        None,
    )


def _legend(report: Report) -> Text:
    compared = {(f.difference.arm, f.difference.against) for run in report.runs for f in findings(run) if f.difference}
    said = "; ".join(
        f"{style(arm).title.lower()} minus {style(against).title.lower()}" for arm, against in sorted(compared)
    )
    return Text(
        "Percent, mean over templates, with 95 % intervals." + (f" Difference: {said}, in points." if said else ""),
        "dim",
    )

"""Which figures a run has data for, each with its words for readers who do not see it.

Takes a `Run` or a `Report`, gives `Drawing`s by name. Read next: `page.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from openflan.reports import figures
from openflan.reports.arms import cluster_words, in_order, style
from openflan.reports.figures import Group, Width
from openflan.reports.finding import split_title, versus
from openflan.reports.numbers import interval, percent, points, points_interval
from openflan.reports.reading import Difference, Report, Run


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure that can be drawn at either width."""

    alt: str
    """Its content in words."""
    draw: Callable[[Width], Figure]

    def svg(self, name: str, width: Width) -> str:
        """Inline markup; `name` keeps its ids apart from those of other figures on a page."""
        return figures.svg(self.draw(width), name, self.alt, width)

    def png(self) -> bytes:
        """The wide figure, for slides."""
        return figures.png(self.draw("wide"))


def drawings(run: Run) -> dict[str, Drawing]:
    """The figures of one run, by name."""
    arms = in_order(run.arms)
    tasks = [Group(task, run.on_task(task)) for task in run.tasks]
    clusters = [Group(cluster_words(cluster), run.on_cluster(cluster), bold=True) for cluster in run.clusters]
    spread = [group for group in tasks if any(measured.by_template for measured in group.arms.values())]
    found: dict[str, Drawing] = {}
    if groups := [*clusters, *tasks]:
        found["arms"] = Drawing(_said_scores(groups), partial(figures.arms_figure, groups, arms))
    if spread:
        found["templates"] = Drawing(_said_spread(spread), partial(figures.templates_figure, spread, arms))
    if tested := [difference for difference in run.differences if difference.low is not None]:
        found["differences"] = Drawing(_said_differences(tested), partial(figures.differences_figure, tested))
    _, losses = figures.curve_points(run.steps)
    if len(losses) > 1:
        alt = f"Tuning loss over {len(losses)} steps, from {losses[0]:.2f} to {losses[-1]:.2f} nats a target token."
        _, dev = figures.curve_points(run.dev)
        if dev:
            alt += f" On dev rows from {dev[0]:.2f} to {dev[-1]:.2f}."
        found["curve"] = Drawing(alt, partial(figures.curve_figure, run.steps, run.dev))
    return found


def overview_drawings(report: Report) -> dict[str, Drawing]:
    """The figures over all splits of a study, by name."""
    arms = in_order(arm for run in report.runs for arm in run.arms)
    groups = [Group(split_title(run, name), run.on_cluster(name)) for run in report.runs for name in run.clusters]
    found: dict[str, Drawing] = {}
    if groups:
        found["arms"] = Drawing(_said_scores(groups), partial(figures.arms_figure, groups, arms))
    if tested := [d for run in report.runs for d in run.cluster_differences if d.low is not None]:
        found["differences"] = Drawing(_said_differences(tested), partial(figures.differences_figure, tested))
    return found


def _said_scores(groups: Sequence[Group]) -> str:
    said = [
        f"{group.label}: "
        + ", ".join(
            f"{style(arm).title} {percent(m.mean)} ({interval(m.low, m.high)})" for arm, m in group.arms.items()
        )
        for group in groups
    ]
    return f"Scores in percent, with 95 % intervals. {'; '.join(said)}."


def _said_spread(groups: Sequence[Group]) -> str:
    said = [
        f"{group.label}: "
        + ", ".join(
            f"{style(arm).title} {interval(min(m.by_template.values()), max(m.by_template.values()))}"
            for arm, m in group.arms.items()
            if m.by_template
        )
        for group in groups
    ]
    return f"Range of scores over templates, in percent. {'; '.join(said)}."


def _said_differences(differences: Sequence[Difference]) -> str:
    said = [
        f"{versus(d)} on {d.task or cluster_words(d.cluster)}: {points(d.mean)} ({points_interval(d.low, d.high)})"
        for d in differences
    ]
    return f"Paired differences in points. {'; '.join(said)}."

"""The page's tables: scores, differences, dropped rows, the mixture. Numbers become text here and nowhere else.

Takes a `Run`, gives `Grid`s. Read next: `page.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openflan.reports.arms import cluster_words, exemplars_words, in_order, style
from openflan.reports.finding import reading, split_title, verdict, versus
from openflan.reports.numbers import BLANK, count, interval, p_number, percent, points, points_interval
from openflan.reports.provenance import entries
from openflan.reports.reading import Measured, Report, Run, items, mapping


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    number: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    kind: str = "number"


@dataclass(frozen=True, slots=True)
class Row:
    cells: tuple[Cell, ...]
    tuned: bool = False


@dataclass(frozen=True, slots=True)
class RowGroup:
    title: str
    rows: tuple[Row, ...]
    total: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as it is printed: headings, and rows in groups."""

    columns: tuple[Column, ...]
    groups: tuple[RowGroup, ...]


_SCORE_COLUMNS = (
    Column("Arm", number=False),
    Column("Exemplars"),
    Column("Mean"),
    Column("95 % interval"),
    Column("Deviation"),
    Column("Best on dev"),
    Column("Chance"),
    Column("Most frequent"),
    Column("n"),
    Column("Wordings"),
    Column("Ties"),
    Column("Near ties"),
    Column("Not scored"),
    Column("Also", number=False),
)


def score_grid(run: Run) -> Grid:
    """Every arm on every task and cluster, in percent; columns that no row fills are left out."""
    groups = [
        _score_group(f"{cluster_words(c).capitalize()} (mean)", run.on_cluster(c), run, total=True)
        for c in run.clusters
    ]
    groups += [_score_group(task, run.on_task(task), run, total=False) for task in run.tasks]
    return trim(Grid((Column("Task", number=False), *_SCORE_COLUMNS), tuple(groups)))


def overview_grid(report: Report) -> Grid:
    """The cluster means of every split."""
    groups = [
        _score_group(split_title(run, cluster), run.on_cluster(cluster), run, total=False)
        for run in report.runs
        for cluster in run.clusters
    ]
    return trim(Grid((Column("Held out", number=False), *_SCORE_COLUMNS), tuple(groups)))


def difference_grid(run: Run) -> Grid:
    """Every paired comparison, in points, with what its sample could have shown."""
    columns = ("Compared", "Difference", "95 % interval", "p", "p, Holm", "n", "Detectable", "Reading")
    groups: dict[str, list[Row]] = {}
    for d in run.differences:
        cells = (
            Cell(versus(d), "text"),
            Cell(points(d.mean), "mean"),
            Cell(points_interval(d.low, d.high), "range"),
            Cell(p_number(d.p) or BLANK),
            Cell(p_number(d.p_holm) or BLANK),
            Cell(count(d.n)),
            Cell(percent(d.smallest_detectable)),
            Cell(reading(d), "side"),
        )
        groups.setdefault(d.task or cluster_words(d.cluster), []).append(Row(cells, tuned=verdict(d) == "higher"))
    made = tuple(RowGroup(title, tuple(rows)) for title, rows in groups.items())
    heads = tuple(Column(title, number=title not in ("Compared", "Reading")) for title in columns)
    return trim(Grid((Column("On", number=False), *heads), made))


def dropped_grid(ledger: Mapping[str, Any]) -> Grid | None:
    """Rows dropped or shortened, by stage, task and reason; None where there are none."""
    groups: dict[str, list[Row]] = {}
    for stage, task, entry in entries(ledger):
        for kind in ("dropped", "shortened"):
            for reason, found in mapping(entry.get(kind)).items():
                number, rows = int(mapping(found).get("count", 0)), items(mapping(found).get("rows"))
                cells = (
                    Cell(task, ""),
                    Cell(kind, "side"),
                    Cell(count(number)),
                    Cell(reason, "text"),
                    Cell(", ".join(map(str, rows)), "text side"),
                )
                groups.setdefault(stage, []).append(Row(cells))
    if not groups:
        return None
    columns = (
        Column("Stage", False),
        Column("Task", False),
        Column("What", False),
        Column("Rows"),
        Column("Reason", False),
        Column("For example", False),
    )
    return Grid(columns, tuple(RowGroup(stage, tuple(rows)) for stage, rows in groups.items()))


def mixture_grid(lock: Mapping[str, Any]) -> Grid | None:
    """The share and size of every task in mixture.lock; None without one."""
    tasks = {name: mapping(entry) for name, entry in mapping(lock.get("tasks")).items()}
    rates = {name: rate for name, entry in tasks.items() if isinstance(rate := entry.get("rate"), int | float)}
    if not rates:
        return None
    rows = tuple(
        Row(
            (
                Cell(name, ""),
                Cell(percent(float(rate)), "mean"),
                Cell(count(_int(tasks[name].get("rows", tasks[name].get("count"))))),
            )
        )
        for name, rate in rates.items()
    )
    return trim(
        Grid((Column("", False), Column("Task", False), Column("Share, %"), Column("Rows")), (RowGroup("", rows),))
    )


def _score_group(title: str, arms: Mapping[str, Measured], run: Run, *, total: bool) -> RowGroup:
    rows: list[Row] = []
    for arm in in_order(arms):
        m = arms[arm]
        cells = (
            Cell(style(arm).title, ""),
            Cell(exemplars_words(arm, m.shots) if run.has_exemplars else BLANK, "number side"),
            Cell(percent(m.mean), "mean"),
            Cell(interval(m.low, m.high), "range"),
            Cell(percent(m.std), "number side"),
            Cell(percent(m.best_dev)),
            Cell(percent(m.chance), "number side"),
            Cell(percent(m.majority), "number side"),
            Cell(count(m.n), "number side"),
            Cell(count(m.templates), "number side"),
            Cell(count(m.ties) if m.ties else BLANK, "number side"),
            Cell(count(m.near_ties) if m.near_ties else BLANK, "number side"),
            Cell(count(m.unscored) if m.unscored else BLANK, "number side"),
            Cell(_also(m), "side"),
        )
        rows.append(Row(cells, tuned=arm == "tuned"))
    return RowGroup(title, tuple(rows), total)


def _also(measured: Measured) -> str:
    said = [f"{name.replace('_', ' ')} {percent(value)}" for name, value in measured.also.items()]
    if measured.micro is not None and measured.micro != measured.mean:
        said.append(f"{percent(measured.micro)} weighted by items")
    return "; ".join(said) or BLANK


def trim(table: Grid) -> Grid:
    """Without the columns in which every cell is blank."""
    rows = [row for group in table.groups for row in group.rows]
    kept = [i for i in range(len(table.columns) - 1) if any(row.cells[i].text != BLANK for row in rows)]
    groups = tuple(
        RowGroup(g.title, tuple(Row(tuple(row.cells[i] for i in kept), row.tuned) for row in g.rows), g.total)
        for g in table.groups
    )
    return Grid((table.columns[0], *(table.columns[i + 1] for i in kept)), groups)


def _int(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None

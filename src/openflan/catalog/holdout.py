"""The scientific claim as a type: a `HeldOutSplit` whose tuning side cannot know what is evaluated.

Takes a catalog and the clusters to hold out, gives the two sides and the reason for every task left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openflan.catalog.load import Catalog
from openflan.catalog.task import Task
from openflan.errors import CatalogError, LeakageError, Problem

Rule = Literal["strict", "paper"]
"""`paper`: clusters and their barred clusters (section 2.2). `strict`: also no text shared with evaluation."""


@dataclass(frozen=True, slots=True)
class HeldOutSplit:
    """Tasks to tune on and tasks to evaluate. Building one that leaks raises LeakageError."""

    train: tuple[Task, ...]
    evaluated: tuple[Task, ...]
    held_out: tuple[str, ...]
    """The clusters held out."""
    barred: tuple[str, ...]
    """Further clusters that leave tuning with them."""
    excluded: tuple[tuple[str, str], ...]
    """(task, reason) for every task on neither side."""
    rule: Rule

    def __post_init__(self) -> None:
        off_limits = {*self.held_out, *self.barred}
        evaluated = {task.name for task in self.evaluated}
        problems = [
            Problem(f"training task {task.name}", f"is in {', '.join(sorted(off_limits.intersection(task.clusters)))}")
            for task in self.train
            if off_limits.intersection(task.clusters)
        ]
        problems += [
            Problem(f"training task {task.name}", "is evaluated") for task in self.train if task.name in evaluated
        ]
        if self.rule == "strict":
            text = sources_of(self.evaluated)
            problems += [
                Problem(f"training task {task.name}", f"shares source text with {text[source]}: {source}")
                for task in self.train
                for source in sorted(lineage(task) & text.keys())
            ]
        if problems:
            raise LeakageError(problems)

    def to_json(self) -> dict[str, Any]:
        """Plain data for split.json."""
        return {
            "rule": self.rule,
            "held_out": list(self.held_out),
            "barred": list(self.barred),
            "train": [task.name for task in self.train],
            "evaluated": [task.name for task in self.evaluated],
            "excluded": [{"task": task, "reason": reason} for task, reason in self.excluded],
        }


def lineage(task: Task) -> set[str]:
    """The corpora whose text a task's rows are made of, itself included.

    `derived_from` lists name every corpus, not only the nearest, so that no other file is needed to close them.
    """
    return {task.name, *task.derived_from}


def sources_of(tasks: Iterable[Task]) -> dict[str, str]:
    """Corpus name to a task that is made of it."""
    return {source: task.name for task in tasks for source in sorted(lineage(task))}


def hold_out(
    catalog: Catalog, clusters: Sequence[str], *, train_clusters: Sequence[str] | None = None, rule: Rule = "strict"
) -> HeldOutSplit:
    """Split a catalog so that nothing of `clusters` is tuned on (paper section 2.2).

    Out of tuning go: tasks of the held-out clusters, tasks of clusters barred with them and, under the strict rule,
    tasks made from the same source text as an evaluated one. `train_clusters` limits tuning to some clusters.

    Raises CatalogError for an unknown or empty cluster, or if nothing is left to tune on, and LeakageError if
    `train_clusters` names a cluster that must stay out.
    """
    if not clusters:
        raise CatalogError("name at least one cluster to hold out")
    held = tuple(dict.fromkeys(clusters))
    barred = tuple(sorted({other for name in held for other in catalog.cluster(name).barred_with} - set(held)))
    evaluated = tuple(task for task in catalog.tasks.values() if set(held).intersection(task.clusters))
    for name in held:
        if not catalog.in_cluster(name):
            raise CatalogError(Problem(f"cluster {name!r}", "has no task in this catalog"))
    wanted = set(catalog.clusters) if train_clusters is None else {catalog.cluster(c).name for c in train_clusters}
    if train_clusters is not None and (leaked := sorted(wanted & {*held, *barred})):
        raise LeakageError([Problem(f"training cluster {name!r}", "is held out or barred with it") for name in leaked])
    train: list[Task] = []
    excluded: list[tuple[str, str]] = []
    text = sources_of(evaluated)
    for task in catalog.tasks.values():
        if task in evaluated:
            continue
        if reason := _reason_out(task, barred, text if rule == "strict" else {}, wanted):
            excluded.append((task.name, reason))
        else:
            train.append(task)
    if not train:
        raise CatalogError(f"holding out {', '.join(held)} leaves no task to tune on")
    return HeldOutSplit(tuple(train), evaluated, held, barred, tuple(excluded), rule)


def _reason_out(task: Task, barred: Sequence[str], text: Mapping[str, str], wanted: set[str]) -> str:
    if inside := sorted(set(barred).intersection(task.clusters)):
        return f"cluster {inside[0]} is barred with the held-out one"
    if shared := sorted(lineage(task) & text.keys()):
        return f"shares source text with {text[shared[0]]} ({shared[0]})"
    if not wanted.intersection(task.clusters):
        return "cluster not chosen for tuning"
    return "" if task.source.splits.get("train") or task.source.world else "evaluation only"

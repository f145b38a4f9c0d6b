"""The scientific claim as a type: a `HeldOutSplit` whose tuning side cannot know what is evaluated.

Takes a catalog and the clusters to hold out, gives the two sides and the reason for every task left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from openflan.catalog.load import Catalog
from openflan.catalog.task import Task
from openflan.errors import CatalogError, LeakageError, Problem

Rule = Literal["strict", "paper"]
"""`paper`: clusters and their barred clusters (section 2.2). `strict`: also no text shared with evaluation."""

Lineage = Mapping[str, tuple[str, ...]]
"""Every corpus a task's text is made of, itself included, and the way to it: {"cnn_dailymail": ("record",
"cnn_dailymail")}."""


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
    made_of: Mapping[str, Lineage]
    """The lineage of every task of the catalog, by name."""

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
            problems += [
                Problem(f"training task {task.name}", reason)
                for task in self.train
                if (reason := shared_text(task, self.evaluated, self.made_of))
            ]
        if problems:
            raise LeakageError(problems)

    def without(self, left_out: Mapping[str, str]) -> "HeldOutSplit":
        """This split without some tasks, by name with the reason, as of those that turn out to have no rows."""
        train, evaluated = (
            tuple(task for task in side if task.name not in left_out) for side in (self.train, self.evaluated)
        )
        return replace(self, train=train, evaluated=evaluated, excluded=(*self.excluded, *left_out.items()))

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


def lineage(catalog: Catalog) -> dict[str, Lineage]:
    """What each task's text is made of, closed over the catalog: a corpus that is a task brings its own along."""
    return {name: _lineage(catalog, name) for name in catalog.tasks}


def _lineage(catalog: Catalog, name: str) -> Lineage:
    found: dict[str, tuple[str, ...]] = {name: (name,)}
    todo = [name]
    while todo:  # breadth first, so that the way told is the shortest; a cycle (WSC, WSC273) ends here too
        here = todo.pop(0)
        for corpus in catalog.tasks[here].derived_from if here in catalog.tasks else ():
            if corpus not in found:
                found[corpus] = (*found[here], corpus)
                todo.append(corpus)
    return found


def shared_text(task: Task, evaluated: Iterable[Task], made_of: Mapping[str, Lineage]) -> str:
    """Why a task's text is also an evaluated one's ("record from cnn_dailymail"), or ""."""
    ours = made_of[task.name]
    for other in evaluated:
        theirs = made_of[other.name]
        if shared := sorted(ours.keys() & theirs.keys(), key=lambda c: (len(ours[c]) + len(theirs[c]), c)):
            ways = [" from ".join(way) for way in (ours[shared[0]], theirs[shared[0]]) if len(way) > 1]
            return f"shares source text with {other.name}: {'; '.join(ways)}"
        if place := _same_place(task, other):
            return f"shares source text with {other.name}: both read {place}"
    return ""


def _same_place(task: Task, other: Task) -> str:
    """Where both tasks read their rows, or "" where it is not one place: no `derived_from` needs to say that."""
    ours, theirs = task.source, other.source
    if ours.hub is not None and (ours.hub, ours.config) == (theirs.hub, theirs.config):
        return ours.hub + (f" ({ours.config})" if ours.config else "")
    folder = ours.rows_of or task.name
    return f"the rows of {folder}" if folder == (theirs.rows_of or other.name) else ""


def hold_out(
    catalog: Catalog, clusters: Sequence[str], *, train_clusters: Sequence[str] | None = None, rule: Rule = "strict"
) -> HeldOutSplit:
    """Split a catalog so that nothing of `clusters` is tuned on (paper section 2.2).

    Out of tuning go: tasks of the held-out clusters, tasks of clusters barred with them and, under the strict rule,
    tasks made from the same source text as an evaluated one, near or far, or read from the same place.
    `train_clusters` limits tuning to some clusters.

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
    made_of = lineage(catalog)
    for task in catalog.tasks.values():
        if task in evaluated:
            continue
        text = shared_text(task, evaluated, made_of) if rule == "strict" else ""
        if reason := _reason_out(task, barred, text, wanted):
            excluded.append((task.name, reason))
        else:
            train.append(task)
    if not train:
        raise CatalogError(f"holding out {', '.join(held)} leaves no task to tune on")
    return HeldOutSplit(tuple(train), evaluated, held, barred, tuple(excluded), rule, made_of)


def check_base(base: str, tasks: Iterable[str], clusters: Iterable[str], catalog: Catalog, split: HeldOutSplit) -> None:
    """Raises LeakageError where a base model was tuned on `tasks` (of `clusters`) that this split would not tune on.

    Those are tasks it evaluates, tasks of clusters held out or barred and, under the strict rule, tasks made from an
    evaluated one's text. Tasks that this catalog does not know are judged by their clusters.
    """
    off_limits = {*split.held_out, *split.barred}
    evaluated = {task.name for task in split.evaluated}
    problems: list[Problem] = []
    told: set[str] = set()
    for name in sorted(set(tasks)):
        task = catalog.tasks.get(name)
        inside = [] if task is None else sorted(off_limits.intersection(task.clusters))
        told.update(inside)
        reason = "is evaluated" if name in evaluated else f"is in {', '.join(inside)}" if inside else ""
        if not reason and task is not None and split.rule == "strict":
            reason = shared_text(task, split.evaluated, split.made_of)
        if reason:
            problems.append(Problem(f"task {name}", reason))
    for cluster in sorted(off_limits.intersection(clusters) - told):
        problems.append(Problem(f"cluster {cluster}", "is held out or barred"))
    if problems:
        what = "was tuned on what must not be seen here; a score would be no zero-shot result"
        hint = "hold out other clusters or name the model it was tuned from; `openflan evaluate` scores it, and says so"
        raise LeakageError([Problem(f"base model {base}", what, hint), *problems])


def hold_out_nothing(catalog: Catalog) -> HeldOutSplit:
    """Every task that has rows to tune on, nothing evaluated: a mixture for another trainer."""
    train = tuple(task for task in catalog.tasks.values() if not _evaluation_only(task))
    left = tuple((name, "evaluation only") for name, task in catalog.tasks.items() if _evaluation_only(task))
    return HeldOutSplit(train, (), (), (), left, "paper", lineage(catalog))


def _evaluation_only(task: Task) -> bool:
    return not (task.source.splits.get("train") or task.source.world)


def _reason_out(task: Task, barred: Sequence[str], text: str, wanted: set[str]) -> str:
    if inside := sorted(set(barred).intersection(task.clusters)):
        return f"cluster {inside[0]} is barred with the held-out one"
    if text:
        return text
    if not wanted.intersection(task.clusters):
        return "cluster not chosen for tuning"
    return "evaluation only" if _evaluation_only(task) else ""

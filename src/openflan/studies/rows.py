"""The rows of both sides of a split: read once, checked, and free of text that both sides share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openflan.catalog.holdout import HeldOutSplit
from openflan.catalog.task import EvaluatedSplit, Split, Task
from openflan.errors import Problem, SourceError
from openflan.ledger import Ledger
from openflan.mixture.mixture import TaskRows, tuning_templates
from openflan.mixture.overlap import evaluation_keys, without_overlap
from openflan.rendering.render import ReadRow, read_columns
from openflan.sources.read import SourceSettings, read_rows
from openflan.studies.recipe import Recipe

EVALUATED: tuple[EvaluatedSplit, ...] = ("dev", "test")


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Rows to tune on and rows to evaluate, by task name."""

    train: Mapping[str, TaskRows]
    evaluated: Mapping[str, Mapping[EvaluatedSplit, Sequence[ReadRow]]]
    tasks: Mapping[str, Task]
    """The evaluated tasks."""
    ledger: Ledger


def read_split(split: HeldOutSplit, recipe: Recipe) -> SplitRows:
    """Read every task of a split; a dataset that cannot be loaded is left out and said so in the ledger.

    Under the strict rule, tuning rows that repeat a text of any evaluation row, used or not, are taken out.

    Raises SourceError if a task loses more than 5 % of its rows, or if one side has no rows at all.
    """
    ledger = Ledger()
    unavailable: list[Problem] = []
    texts: set[bytes] = set()
    evaluated = read_evaluated(split.evaluated, recipe, ledger, unavailable, texts)
    train: dict[str, TaskRows] = {}
    for task in split.train:
        try:
            rows = _read(task, "train", recipe, ledger, recipe.mixture.max_examples)
        except SourceError as error:
            unavailable += _left_out(task, error, ledger)
            continue
        if split.rule == "strict":
            rows = without_overlap(task.name, rows, frozenset(texts), ledger)
        if rows:
            train[task.name] = TaskRows(task, rows, tuning_templates(task, inverted=recipe.mixture.inverted))
    ledger.check("render")
    if not train or not any(parts["test"] for parts in evaluated.values()):
        raise SourceError([Problem("rows", "no task of one side could be read"), *unavailable])
    tasks = {task.name: task for task in split.evaluated if task.name in evaluated}
    return SplitRows(train, evaluated, tasks, ledger)


def read_evaluated(
    tasks: Sequence[Task],
    recipe: Recipe,
    ledger: Ledger,
    unavailable: list[Problem],
    texts: set[bytes] | None = None,
) -> dict[str, Mapping[EvaluatedSplit, Sequence[ReadRow]]]:
    """Dev and test rows of each task that can be read, as many as the recipe evaluates.

    The keys of all their texts are added to `texts`, also of rows beyond that number.
    """
    most: dict[EvaluatedSplit, int | None] = {"test": recipe.evaluation.items, "dev": recipe.evaluation.dev_items}
    evaluated: dict[str, Mapping[EvaluatedSplit, Sequence[ReadRow]]] = {}
    for task in tasks:
        try:
            parts: dict[EvaluatedSplit, list[ReadRow]] = {
                part: _read(task, part, recipe, ledger, None if texts is not None else most[part]) for part in EVALUATED
            }
        except SourceError as error:
            unavailable += _left_out(task, error, ledger)
            continue
        if texts is not None:
            texts |= evaluation_keys(row for rows in parts.values() for row in rows)
        evaluated[task.name] = {part: rows[: most[part]] for part, rows in parts.items()}
    return evaluated


def _read(task: Task, part: Split, recipe: Recipe, ledger: Ledger, limit: int | None) -> list[ReadRow]:
    settings = SourceSettings(
        data_root=None if recipe.data_root is None else Path(recipe.data_root), world_seed=recipe.world_seed
    )
    return read_columns(task, read_rows(task, part, settings, ledger, limit=limit), ledger)


def _left_out(task: Task, error: SourceError, ledger: Ledger) -> Sequence[Problem]:
    ledger.note(f"{task.name}: left out, its rows could not be read: {error}")
    return error.problems

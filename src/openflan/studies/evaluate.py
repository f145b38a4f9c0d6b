"""Scoring one model as it is, without tuning anything."""

import logging
from collections.abc import Sequence
from pathlib import Path

from openflan import artifacts
from openflan.catalog.load import Catalog, load_catalog
from openflan.catalog.task import Task
from openflan.errors import CatalogError, Problem
from openflan.evaluation.evaluate import Result, evaluate
from openflan.ledger import Ledger
from openflan.models.provenance import tuned_on
from openflan.studies.locks import lock_evaluated
from openflan.studies.progress import Progress, silent
from openflan.studies.recipe import Recipe
from openflan.studies.rows import SplitRows, asked_under, read_evaluated, read_exemplars
from openflan.studies.run import close_run, open_run, run_arm

logger = logging.getLogger(__name__)


def evaluate_only(recipe: Recipe, task_names: Sequence[str], out: Path, *, progress: Progress = silent) -> Result:
    """Score the recipe's model on the named tasks, or on all of its held-out clusters where none is named."""
    tasks = chosen_tasks(load_catalog(*recipe.catalogs), recipe, task_names)
    open_run(recipe.changed(hold_out=[task.name for task in tasks]) if task_names else recipe, out)
    seen = seen_by(recipe.model, tasks)
    ledger = Ledger()
    if seen:
        said = f"{recipe.model} was tuned on {', '.join(seen)}: no zero-shot results there"
        logger.warning(said)
        ledger.note(said)
    evaluated = read_evaluated(tasks, recipe, ledger)
    asked = {task.name: asked_under(task, recipe.hold_out) for task in tasks if task.name in evaluated}
    rows = SplitRows({}, evaluated, asked, ledger, read_exemplars(asked.values(), recipe, ledger))
    arm = recipe.arms[0]
    chosen = {
        "evaluated": sorted(rows.tasks),
        "train": [],
        "excluded": [],
        "held_out": [],
        "barred": [],
        "rule": "none",
    }
    lock_evaluated(recipe, rows, out)
    artifacts.write_json(out / "split.json", chosen)
    samples = run_arm(arm, recipe, rows, out, progress)
    resamples = recipe.evaluation.resamples
    result = evaluate(samples, tasks=rows.tasks, held_out=(), seed=recipe.seed, arm=arm, resamples=resamples)
    return close_run(recipe, rows, samples, result, out, seen=seen)


def seen_by(model: str, tasks: Sequence[Task]) -> list[str]:
    """Which of the tasks a model was tuned on: what it scores there is no zero-shot result."""
    return sorted({task.name for task in tasks}.intersection(tuned_on(model).tasks))


def chosen_tasks(catalog: Catalog, recipe: Recipe, task_names: Sequence[str]) -> list[Task]:
    """The tasks named, or those of the recipe's clusters; every unknown name is reported."""
    problems: list[Problem] = []
    tasks: dict[str, Task] = {}
    for name in task_names or recipe.hold_out:
        try:
            found = (catalog.task(name),) if task_names else catalog.in_cluster(name)
        except CatalogError as error:
            problems += error.problems
            continue
        tasks.update({task.name: task for task in found})
    if problems:
        raise CatalogError(problems)
    return list(tasks.values())

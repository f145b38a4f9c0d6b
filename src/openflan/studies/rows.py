"""The rows of both sides of a split: read once, checked, and free of text that both sides share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openflan.catalog.holdout import HeldOutSplit, check_base, hold_out
from openflan.catalog.load import load_catalog
from openflan.catalog.task import EvaluatedSplit, Split, Task, Template
from openflan.errors import Problem, SourceError
from openflan.evaluation.samples import SEEN_ARMS
from openflan.ledger import Ledger
from openflan.mixture.mixture import TaskRows, tuning_tasks, tuning_templates
from openflan.mixture.overlap import EvaluatedText, without_overlap
from openflan.models.provenance import tuned_on
from openflan.rendering.exemplars import MOST_ROWS, ExemplarSource
from openflan.rendering.render import STAGE as RENDER
from openflan.rendering.render import ReadRow
from openflan.rendering.store import StoreJob, build_stores, read_store
from openflan.sources.read import STAGE as PREPARE
from openflan.sources.read import SourceSettings, could_not_prepare
from openflan.studies.progress import Progress, ProgressEvent, silent
from openflan.studies.recipe import Recipe

EVALUATED: tuple[EvaluatedSplit, ...] = ("dev", "test")
EvaluatedRows = Mapping[str, Mapping[EvaluatedSplit, Sequence[ReadRow]]]
"""Rows by task and split."""


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Rows to tune on and rows to evaluate, by task name."""

    train: Mapping[str, TaskRows]
    evaluated: EvaluatedRows
    tasks: Mapping[str, Task]
    """The evaluated tasks."""
    ledger: Ledger
    exemplars: Mapping[str, ExemplarSource] = field(default_factory=dict[str, ExemplarSource])
    """Where the exemplars of each evaluated task come from; empty where nothing is asked with exemplars."""
    dev: Mapping[str, TaskRows] = field(default_factory=dict[str, TaskRows])
    """Dev rows of the tuning tasks, for the loss while tuning; empty where none is measured."""
    dev_ledger: Ledger = field(default_factory=Ledger)
    """What was dropped of them. Apart, since the lock and the run's ledger are about what the numbers depend on."""
    seen: Mapping[str, TaskRows] = field(default_factory=dict[str, TaskRows])
    """The evaluated tasks' own train rows, for arms that are tuned on the task they are asked; never in `train`."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why tasks of the split have no rows here, by name."""


def split_of(recipe: Recipe) -> HeldOutSplit:
    """The recipe's catalogs, split by what it holds out; raises CatalogError and LeakageError as `hold_out` does."""
    return hold_out(load_catalog(*recipe.catalogs), recipe.hold_out, **recipe.hold_out_options)


def refuse_tuned_base(recipe: Recipe) -> None:
    """Raises LeakageError where the base model itself was tuned on what the recipe holds out, as far as is known.

    Asked of the base alone: arms that see their task are tuned on it after this, and named so.
    """
    if all(recipe.endpoint_of(arm) is not None for arm in recipe.arms):
        return
    if past := tuned_on(recipe.model):
        check_base(recipe.model, past.tasks, past.clusters, load_catalog(*recipe.catalogs), split_of(recipe))


def read_split(split: HeldOutSplit, recipe: Recipe, *, progress: Progress = silent) -> SplitRows:
    """Read every task of a split; one that cannot be loaded, or has no test rows, is left out and noted in the ledger.

    Under the strict rule, tuning rows that repeat text of any evaluation row, used or not, are taken out.

    Raises SourceError if a task loses more than 5 % of its rows, if one side has no rows at all, or if the recipe
    requires all tasks and one cannot be loaded.
    """
    ledger = Ledger()
    unavailable: list[Problem] = []
    left_out: dict[str, str] = {}
    strict = split.rule == "strict"
    evaluated, every = _read_evaluated(split.evaluated, recipe, unavailable, left_out, ledger, strict=strict)
    text = EvaluatedText(every)
    train: dict[str, TaskRows] = {}
    wanted = tuning_tasks(split.train, recipe.mixture, recipe.seed)
    left_out |= {task.name: "not chosen by mixture.tasks_per_cluster" for task in split.train if task not in wanted}
    for number, task in enumerate(wanted, 1):
        progress(ProgressEvent("read rows", number, len(wanted), task.name))
        try:
            rows = read_store(_train_job(task, recipe), ledger)
        except SourceError as error:
            unavailable += error.problems
            _leave_out(task, f"its rows could not be read: {error}", left_out, ledger)
            continue
        if not rows and "train" in task.source.splits:
            unavailable.append(Problem(task.name, "has no rows to tune on", "is its file called train.jsonl?"))
        if strict and split.evaluated:
            rows = without_overlap(task.name, rows, text, ledger)
        if rows:
            train[task.name] = TaskRows(task, rows, tuning_templates(task, recipe.mixture, recipe.seed))
        else:
            _leave_out(task, "it has no rows to tune on", left_out, ledger)
    check_lost((*wanted, *split.evaluated), ledger)
    _check_available(recipe, unavailable)
    if not train or (split.evaluated and not any(parts["test"] for parts in evaluated.values())):
        raise SourceError([Problem("rows", "no task of one side could be read"), *unavailable])
    tasks = {task.name: asked_under(task, split.held_out) for task in split.evaluated if task.name in evaluated}
    exemplars = read_exemplars(tasks.values(), recipe, ledger)
    dev_ledger = Ledger()
    dev = read_dev(train, recipe, text if strict and split.evaluated else None, dev_ledger)
    seen = read_seen(tasks.values(), recipe, ledger)
    return SplitRows(train, evaluated, tasks, ledger, exemplars, dev, dev_ledger, seen, left_out)


def asked_under(task: Task, held_out: Sequence[str]) -> Task:
    """The task with a held-out cluster first: the one its answers count in."""
    ordered = sorted(task.clusters, key=lambda name: name not in held_out)
    return task if ordered == list(task.clusters) else task.model_copy(update={"clusters": tuple(ordered)})


def store_split(split: HeldOutSplit, recipe: Recipe, *, workers: int, progress: Progress = silent) -> None:
    """Read what `read_split` will need into the store of rows, in `workers` processes."""
    strict = split.rule == "strict"
    jobs = [_train_job(task, recipe) for task in split.train]
    jobs += [_job(task, part, recipe, _most(part, recipe, strict)) for task in split.evaluated for part in EVALUATED]
    if recipe.tuning.dev_every:
        jobs += [_dev_job(task, recipe) for task in split.train]
    jobs += [_train_job(task, recipe) for task in split.evaluated if recipe.sees_tasks]

    def tell(done: int, total: int, task: str) -> None:
        progress(ProgressEvent("read rows", done, total, task))

    build_stores(jobs, workers=workers, progress=tell)


def read_evaluated(tasks: Sequence[Task], recipe: Recipe, ledger: Ledger) -> EvaluatedRows:
    """Dev and test rows of each task that has test rows and can be read, as many as the recipe evaluates.

    Raises SourceError if none can be read, or one cannot and the recipe requires all.
    """
    unavailable: list[Problem] = []
    evaluated, _ = _read_evaluated(tasks, recipe, unavailable, {}, ledger, strict=False)
    check_lost(tasks, ledger)
    _check_available(recipe, unavailable)
    if not any(parts["test"] for parts in evaluated.values()):
        raise SourceError([Problem("rows", "no task could be read"), *unavailable])
    return evaluated


def read_exemplars(tasks: Iterable[Task], recipe: Recipe, ledger: Ledger) -> Mapping[str, ExemplarSource]:
    """Where each evaluated task's exemplars come from: its train rows, which are on no side of the run.

    Dev rows stand in where a task has no train rows, and the ledger says so; it says so too where there are neither.
    Nothing is read for a recipe that asks without exemplars.
    """
    found: dict[str, ExemplarSource] = {}
    for task in tasks if recipe.needs_exemplars else ():
        try:
            rows: Sequence[ReadRow] = read_store(_job(task, "train", recipe, MOST_ROWS), ledger)
        except SourceError as error:
            ledger.note(f"{task.name}: its train rows could not be read for exemplars: {error}")
            rows = ()
        if not rows and (rows := read_store(_job(task, "dev", recipe, None), ledger)):
            ledger.note(f"{task.name}: has no train rows, its exemplars are dev rows")
        if not rows:
            ledger.note(f"{task.name}: has neither train nor dev rows, so it is not asked with exemplars")
        found[task.name] = ExemplarSource(task, rows, seed=recipe.seed, draw=recipe.evaluation.exemplars)
    return found


def read_dev(
    train: Mapping[str, TaskRows], recipe: Recipe, evaluated: EvaluatedText | None, ledger: Ledger
) -> dict[str, TaskRows]:
    """The first dev rows of each tuning task, without those that repeat text of `evaluated` rows.

    A task whose dev rows cannot be read is noted. Nothing is read where the recipe measures no dev loss.
    """
    found: dict[str, TaskRows] = {}
    for name, share in train.items() if recipe.tuning.dev_every else ():
        try:
            rows: Sequence[ReadRow] = read_store(_dev_job(share.task, recipe), ledger)
        except SourceError as error:
            ledger.note(f"{name}: is not in the dev loss, its dev rows could not be read: {error}")
            continue
        if evaluated is not None:
            rows = without_overlap(name, rows, evaluated, ledger)
        if rows:
            found[name] = TaskRows(share.task, rows, share.templates)
    return found


def seen_templates(task: Task, recipe: Recipe) -> tuple[Template, ...]:
    """The direct templates that a task's own model is tuned with: all, or as many as the mixture takes of each task."""
    return tuning_templates(task, recipe.mixture.model_copy(update={"inverted": False}), recipe.seed)


def read_seen(tasks: Iterable[Task], recipe: Recipe, ledger: Ledger) -> Mapping[str, TaskRows]:
    """The evaluated tasks' own train rows with their direct templates, for the arms that have seen their task.

    Rows that repeat text of one of the task's test rows, used or not, or of a dev row that is used are taken out under
    either rule. (Many datasets' dev rows are cut from train and share its passages: all of them would take most of it.)
    A task without train rows is left out, and the ledger says so. Nothing is read for a recipe without such an arm.

    Raises SourceError if a task loses more than 5 % of its rows in reading, or if no task has any.
    """
    found: dict[str, TaskRows] = {}
    counted, tasks = Ledger(), list(tasks)
    for task in tasks if recipe.sees_tasks else ():
        try:
            rows: Sequence[ReadRow] = read_store(_train_job(task, recipe), counted)
        except SourceError as error:
            counted.note(f"{task.name}: its train rows could not be read: {error}")
            rows = ()
        if rows:
            dev, test = (read_store(_job(task, part, recipe, None), Ledger()) for part in EVALUATED)
            text = EvaluatedText({task.name: [dev[: recipe.evaluation.dev_items], test]})
            rows = without_overlap(task.name, rows, text, counted)
        if rows:
            found[task.name] = TaskRows(task, rows, seen_templates(task, recipe))
        else:
            counted.note(f"{task.name}: has no train rows of its own, so no arm is tuned on them")
    check_lost(tasks, counted)
    ledger.merge([counted])
    if recipe.sees_tasks and not found:
        raise SourceError(
            [Problem("arms", f"{', '.join(SEEN_ARMS)} need train rows of an evaluated task", "none has any")]
        )
    return found


def _read_evaluated(
    tasks: Sequence[Task],
    recipe: Recipe,
    unavailable: list[Problem],
    left_out: dict[str, str],
    ledger: Ledger,
    *,
    strict: bool,
) -> tuple[EvaluatedRows, dict[str, list[Sequence[ReadRow]]]]:
    """The rows to evaluate and, under the strict rule, all rows there are: tuning may repeat none of them."""
    evaluated: dict[str, Mapping[EvaluatedSplit, Sequence[ReadRow]]] = {}
    every: dict[str, list[Sequence[ReadRow]]] = {}
    for task in tasks:
        try:
            parts: dict[EvaluatedSplit, Sequence[ReadRow]] = {
                part: read_store(_job(task, part, recipe, _most(part, recipe, strict)), ledger) for part in EVALUATED
            }
        except SourceError as error:
            unavailable += error.problems
            _leave_out(task, f"its rows could not be read: {error}", left_out, ledger)
            continue
        every[task.name] = list(parts.values())
        if not parts["test"]:
            unavailable.append(
                Problem(task.name, "has no test rows", "is the file empty, or does `prepare` leave none?")
            )
            _leave_out(task, "it has no test rows", left_out, ledger)
            continue
        evaluated[task.name] = {part: rows[: _most(part, recipe, False)] for part, rows in parts.items()}
    return evaluated, every


def check_lost(tasks: Iterable[Task], ledger: Ledger) -> None:
    """Raises SourceError if a task loses more than 5 % of its rows: to its columns, or to errors in its prepare steps.

    What a prepare step means to drop is no loss.
    """
    known = {task.name: task for task in tasks}
    ledger.check(
        PREPARE, lost=lambda name, reason: name in known and could_not_prepare(known[name], reason), into=RENDER
    )
    ledger.check(RENDER)


def _most(part: EvaluatedSplit, recipe: Recipe, strict: bool) -> int | None:
    """How many rows of a split are read: those evaluated or, to compare tuning rows with, all."""
    if strict:
        return None
    return recipe.evaluation.items if part == "test" else recipe.evaluation.dev_items


def _train_job(task: Task, recipe: Recipe) -> StoreJob:
    return _job(task, "train", recipe, recipe.mixture.max_examples)


def _dev_job(task: Task, recipe: Recipe) -> StoreJob:
    return _job(task, "dev", recipe, recipe.tuning.dev_rows)


def _job(task: Task, part: Split, recipe: Recipe, limit: int | None) -> StoreJob:
    data_root = None if recipe.data_root is None else Path(recipe.data_root)
    return StoreJob(task, part, SourceSettings(data_root=data_root, world_seed=recipe.world_seed), limit)


def _check_available(recipe: Recipe, unavailable: Sequence[Problem]) -> None:
    if recipe.require_all and unavailable:
        raise SourceError(unavailable)


def _leave_out(task: Task, reason: str, left_out: dict[str, str], ledger: Ledger) -> None:
    left_out[task.name] = reason
    ledger.note(f"{task.name}: left out, {reason}")

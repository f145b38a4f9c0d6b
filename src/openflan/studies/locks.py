"""What a folder's numbers depend on beside its recipe, written down when it begins, and compared when it goes on.

    split.json       which task stands on which side
    mixture.lock     rows and templates that are tuned on; beside a model that several runs share, its own copy
    seen.lock        rows of the arms that are tuned on the task they are asked
    evaluated.lock   rows, templates and metrics that are asked, and the model that is

Read next: `run.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openflan import artifacts
from openflan.catalog.holdout import HeldOutSplit
from openflan.catalog.task import Task
from openflan.errors import Problem, RunError
from openflan.mixture.mixture import Mixture, rows_sha
from openflan.models.identity import folder_identity, local_folder
from openflan.studies.recipe import Recipe, differing_keys
from openflan.studies.rows import EVALUATED, SplitRows

EVALUATED_LOCK = "evaluated.lock"


def lock(recipe: Recipe, split: HeldOutSplit, rows: SplitRows, out: Path) -> None:
    """Write all four; raises RunError if rows, templates or the model changed since the run began."""
    keep_lock(Mixture(rows.train, recipe.mixture, recipe.seed).lock(rows.ledger), out / "mixture.lock")
    if rows.seen:
        # No mixture: each of these tasks is tuned on alone, so that a rate would say something false.
        tasks = Mixture(rows.seen, recipe.mixture, recipe.seed).lock(rows.ledger)["tasks"]
        plain = {name: {key: value for key, value in task.items() if key != "rate"} for name, task in tasks.items()}
        keep_lock({"format": 1, "seed": recipe.seed, "tasks": plain}, out / "seen.lock")
    lock_evaluated(recipe, rows, out)
    artifacts.write_json(out / "split.json", split.without(rows.left_out).to_json())


def lock_evaluated(recipe: Recipe, rows: SplitRows, out: Path) -> None:
    """Write what is asked and which model is; raises RunError if either changed since the run began."""
    tasks = {
        name: {
            "task_sha": artifacts.fingerprint(task.content()),
            "rows_sha": {part: rows_sha(rows.evaluated[name][part]) for part in EVALUATED},
            "exemplars_sha": rows_sha(rows.exemplars[name].rows) if name in rows.exemplars else None,
        }
        for name, task in sorted(rows.tasks.items())
    }
    keep_lock({"format": 1, "model": model_identity(recipe.model), "tasks": tasks}, out / EVALUATED_LOCK)


def check_evaluated(tasks: Mapping[str, Task], model: str | None, out: Path) -> None:
    """As `lock_evaluated` for a finished folder, without reading rows: RunError if templates or the model changed."""
    if not (out / EVALUATED_LOCK).exists():
        return
    before = artifacts.read_json(out / EVALUATED_LOCK)
    asked = {name: values["task_sha"] for name, values in before["tasks"].items()}
    now = {name: artifacts.fingerprint(task.content()) for name, task in tasks.items() if name in asked}
    _compare({"model": model, "tasks": now}, {"model": before["model"], "tasks": asked}, out)


def check_same_rows(folders: Iterable[Path]) -> None:
    """RunError where folders were asked other rows of one task: a study pairs their answers by row id.

    By their locks, without reading rows; folders without one, not begun or from before there were any, are passed over.
    """
    asked: dict[str, dict[str, list[str]]] = {}
    for folder in folders:
        if not (folder / EVALUATED_LOCK).exists():
            continue
        for task, values in artifacts.read_json(folder / EVALUATED_LOCK)["tasks"].items():
            for part, sha in values["rows_sha"].items():
                asked.setdefault(f"{task}, {part} rows", {}).setdefault(sha, []).append(folder.name)
    differing = {where: groups for where, groups in asked.items() if len(groups) > 1}
    if differing:
        what = "systems of one study were asked other rows under the same row ids, which cannot be paired"
        hint = (
            "bring back the rows (or --data-root) of one side and remove the other's folders, or choose another --out"
        )
        told = [Problem(where, "; or ".join(map(_few, groups.values()))) for where, groups in sorted(differing.items())]
        raise RunError([Problem("rows", what, hint), *told])


def _few(names: Sequence[str], most: int = 3) -> str:
    others = f" and {len(names) - most} more" if len(names) > most else ""
    return f"one content in {', '.join(names[:most])}{others}"


def model_identity(name: str) -> str | None:
    """By content, of a model in a folder; None of one that the hub or an endpoint has, whose name has to do."""
    folder = local_folder(name)
    return None if folder is None else folder_identity(folder)


def keep_lock(content: dict[str, Any], file: Path) -> None:
    """Write a lock, or raise RunError where what is there differs."""
    if file.exists():
        _compare(content, artifacts.read_json(file), file)
    artifacts.write_json(file, content)


def _compare(content: dict[str, Any], before: dict[str, Any], where: Path) -> None:
    if before != content:
        changed = "rows, templates, counts or the model changed since this run began"
        differing = differing_keys(content, before)[:20]
        raise RunError([Problem(str(where), changed, "choose another --out, or remove this folder"), *differing])

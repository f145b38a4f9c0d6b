"""The main path: one recipe, start to end. Read `run` first; each of its lines is one layer of the package."""

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from openflan import artifacts
from openflan.catalog.holdout import hold_out
from openflan.catalog.load import load_catalog
from openflan.catalog.task import EvaluatedSplit, Task, Template
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError, Problem, RunError
from openflan.evaluation.evaluate import Result, evaluate
from openflan.evaluation.samples import SEEN_ARMS, read_samples, write_samples
from openflan.ledger import Ledger
from openflan.models.remote import Endpoint
from openflan.rendering.example import Example
from openflan.rendering.render import TEMPLATED, Wording, render
from openflan.studies.answer import answer
from openflan.studies.arm_models import arm_models, home_of, prompt_format
from openflan.studies.locks import lock
from openflan.studies.parallel import Job, in_processes
from openflan.studies.progress import Progress, ProgressEvent, silent
from openflan.studies.recipe import MODEL_OF, OWN_STYLE, TUNED_WITH, Arm, Recipe, differing_keys, load_recipe
from openflan.studies.remote import answer_remotely
from openflan.studies.rows import EVALUATED, SplitRows, read_split, refuse_tuned_base, split_of

log = logging.getLogger(__name__)

PACKAGES = ("openflan", "torch", "transformers", "tokenizers", "datasets", "peft", "numpy", "polars")


def run(recipe: Recipe, out: Path, *, progress: Progress = silent) -> Result:
    """One recipe, start to end: tune on the other clusters, score the held-out ones, compare.

    `out` is a run folder (DESIGN section 9). A half-done one of the same recipe goes on where it stood and ends with
    the same bytes. In a finished one nothing is tuned or asked again, but rows are read and the model is looked at, to
    see that the stored answers are about them; what they come to is computed and written once more.

    Raises RunError if `out` belongs to another recipe, or rows, templates or the model changed since it was begun;
    LeakageError if a held-out task would be trained on, or the base model was.
    """
    can_ask(recipe, out)
    refuse_tuned_base(recipe)
    open_run(recipe, out)
    split = hold_out(load_catalog(*recipe.catalogs), recipe.hold_out, **recipe.hold_out_options)
    rows = read_split(split, recipe, progress=progress)
    lock(recipe, split, rows, out)
    samples = pl.concat([run_arm(arm, recipe, rows, out, progress) for arm in recipe.arms])
    resamples = recipe.evaluation.resamples
    result = evaluate(samples, tasks=rows.tasks, held_out=split.held_out, seed=recipe.seed, resamples=resamples)
    return close_run(recipe, rows, samples, result, out)


def run_many(recipes: Mapping[Path, Recipe], *, workers: int, progress: Progress = silent) -> dict[Path, Result]:
    """Several runs, by folder. Their arms are independent, so `workers` processes share them out first."""
    if workers > 1:
        jobs = [
            Job(f"{out.name}/{arms[0]}", _arms_job, (recipe, out, arms))
            for out, recipe in recipes.items()
            for arms in _by_model(recipe.arms)
        ]
        for out, recipe in recipes.items():
            can_ask(recipe, out)
            refuse_tuned_base(recipe)
            open_run(recipe, out)
            lock(recipe, split_of(recipe), rows_of(recipe), out)
        in_processes(jobs, workers=workers, progress=progress)
    return {out: run(recipe, out, progress=progress) for out, recipe in recipes.items()}


def can_ask(recipe: Recipe, out: Path) -> None:
    """Raises what stands in the way of endpoints still to be asked (a missing key, httpx), before anything is tuned."""
    for arm in recipe.arms:
        endpoint = recipe.endpoint_of(arm)
        if endpoint is not None and not (out / "arms" / arm / "samples.parquet").exists():
            with Endpoint(endpoint):
                pass


def open_run(recipe: Recipe, out: Path) -> None:
    """Start a run folder, or go on with one of the same recipe; raises RunError naming the keys that differ.

    Raises ModelError, and starts nothing, where there is no such model.
    """
    file = out / "recipe.toml"
    if out.exists() and not out.is_dir():
        raise RunError(Problem(str(out), "is a file, where a folder is to be", "choose another --out"))
    if file.exists():
        theirs = load_recipe(file)
        if problems := differing_keys(recipe.content(), theirs.content()):
            raise RunError([Problem(str(out), "is the folder of another recipe", "choose another --out"), *problems])
        return
    # A kill can leave what comes before the recipe.
    if out.exists() and any(entry.name != "env.json" and entry.suffix != ".part" for entry in out.iterdir()):
        raise RunError(Problem(str(out), "is not empty and not a run folder", "choose another --out"))
    if any(recipe.endpoint_of(arm) is None for arm in recipe.arms):
        from openflan.models.load import find_model

        find_model(recipe.model)
    artifacts.write_json(out / "env.json", environment())
    artifacts.write_text(file, recipe.to_toml())


def run_arm(
    arm: Arm, recipe: Recipe, rows: SplitRows, out: Path, progress: Progress = silent, *, home: Path | None = None
) -> pl.DataFrame:
    """One arm's samples: its model, tuned if the arm is, asked every evaluated row through every template.

    Once for each number of exemplars; no number's answers depend on which others are asked for. An arm that sees its
    task has a model for each task, which is asked that task alone. `home` is where the model tuned on the mixture is
    kept, by default in the run folder.
    """
    folder = out / "arms" / arm
    with artifacts.alone_in(folder, waiting="this run goes on when it ends"):
        if (file := folder / "samples.parquet").exists():
            return read_samples(file)
        ledger = Ledger()
        samples = _answers(arm, recipe, rows, out, folder, ledger, progress, home)
        artifacts.write_json(folder / "ledger.json", ledger.to_json())
        write_samples(samples, file)
        return samples


def _answers(
    arm: Arm,
    recipe: Recipe,
    rows: SplitRows,
    out: Path,
    folder: Path,
    ledger: Ledger,
    progress: Progress,
    home: Path | None,
) -> pl.DataFrame:
    """What the arm's model or models say to all they are asked."""
    endpoint = recipe.endpoint_of(arm)
    own_style = arm in OWN_STYLE or (endpoint is not None and endpoint.templates == "completion")
    if endpoint is None:
        _set_threads(recipe)
    parts: list[pl.DataFrame] = []
    models = [(None, rows, folder)] if endpoint else arm_models(arm, recipe, rows, out, ledger, progress, home)
    for lm, asked, own in models:
        for name, shots in recipe.shots_of(arm).items():
            kind, wording = "completion" if own_style else "direct", recipe.evaluation.wording
            examples = list(evaluation_examples(asked, kind, ledger, shots=shots, wording=wording))
            job = name if own == folder else f"{name}/{own.name}"

            def report(done: int, total: int, job: str = job) -> None:
                progress(ProgressEvent(f"{out.name}/{job}: score", done, total))

            common: dict[str, Any] = {
                "settings": recipe.evaluation,
                "folder": own / "scores" / (f"{shots}-shot" if shots else ""),
                "ledger": ledger,
                "report": report,
            }
            if lm is None:
                assert endpoint is not None
                prompt = recipe.prompt or PromptFormat()
                parts.append(answer_remotely(name, endpoint, examples, asked.tasks, prompt_format=prompt, **common))
            else:
                common |= {"prompt_format": prompt_format(lm, recipe), "lengths": recipe.lengths}
                parts.append(answer(name, lm, examples, asked.tasks, **common))
    return pl.concat(parts)


def evaluation_examples(
    rows: SplitRows, kind: str, ledger: Ledger, *, shots: int = 0, wording: Wording = "instructions"
) -> Iterator[tuple[EvaluatedSplit, Example]]:
    """Every evaluated row through every template of that kind; direct ones where a task has none.

    With `shots` each has that many exemplars in front; rows of tasks that have none to show are left out and counted.
    """
    for name, task in rows.tasks.items():
        for part in EVALUATED:
            for row in rows.evaluated[name][part]:
                templates = templates_for(task, kind, ledger)
                for template in templates if wording in TEMPLATED else templates[:1]:
                    example = render(task, row, template, wording)
                    if shots == 0:
                        yield part, example
                    elif shown := rows.exemplars[name].before(example, row, template, shots, ledger):
                        yield part, shown


def templates_for(task: Task, kind: str, ledger: Ledger) -> tuple[Template, ...]:
    """A task's templates of one kind, or its direct ones (noted) where it has none of that kind."""
    chosen = tuple(template for template in task.templates if template.kind == kind)
    if not chosen:
        ledger.note(f"{task.name}: has no {kind} template, asked through its direct ones")
    return chosen or task.of_kind("direct")


def close_run(
    recipe: Recipe, rows: SplitRows, samples: pl.DataFrame, result: Result, out: Path, *, seen: Sequence[str] = ()
) -> Result:
    """Write what the run found; DONE comes last. seen: evaluated tasks that the model was tuned on, as far as known."""
    close_ledger(recipe, rows, out)
    write_samples(samples, out / "samples.parquet")
    known = {"fingerprint": recipe.fingerprint} | ({"seen": list(seen)} if seen else {})
    artifacts.write_json(out / "result.json", result.to_json() | known)
    artifacts.write_text(out / artifacts.DONE, "")
    return result


def close_ledger(recipe: Recipe, rows: SplitRows, out: Path) -> None:
    """Write ledger.json: what reading and all arms kept, dropped and shortened."""
    ledger = Ledger()
    ledger.merge([rows.ledger])
    for arm in recipe.arms:
        ledger.merge([Ledger.from_json(artifacts.read_json(out / "arms" / arm / "ledger.json"))])
    artifacts.write_json(out / "ledger.json", ledger.to_json())


def environment() -> dict[str, Any]:
    """What the numbers were made with, for env.json."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "packages": versions,
    }


def _set_threads(recipe: Recipe) -> None:
    if recipe.threads is not None:
        import torch

        torch.set_num_threads(recipe.threads)


def _by_model(arms: Sequence[Arm]) -> list[tuple[Arm, ...]]:
    """The arms in groups that need one and the same tuned model: two processes must not tune it side by side."""
    groups: dict[Arm, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(MODEL_OF.get(arm, arm), []).append(arm)
    return [tuple(group) for group in groups.values()]


def _arms_job(recipe: Recipe, out: Path, arms: Sequence[Arm], *, progress: Progress) -> None:
    for arm in arms:
        run_arm(arm, recipe, rows_of(recipe), out, progress)


_read: dict[str, SplitRows] = {}
"""The rows a process read last, by recipe without its arms: those follow one another."""


def rows_of(recipe: Recipe) -> SplitRows:
    """The rows of a recipe's split; those read last are kept."""
    # Of the arms only these decide which rows are read.
    key = f"{recipe.changed(arms=['untuned']).to_toml()}{recipe.sees_tasks}{recipe.needs_exemplars}"
    if key not in _read:
        split = split_of(recipe)
        _read.clear()
        _read[key] = read_split(split, recipe)
    return _read[key]


def tune_only(recipe: Recipe, out: Path, *, arm: Arm = "tuned", progress: Progress = silent) -> Path:
    """Only the tuning of one arm; gives the folder of the tuned model."""
    tune_arms(recipe, out, [arm], progress=progress)
    return home_of(arm, out) / "model"


def tune_arms(recipe: Recipe, out: Path, arms: Sequence[Arm], *, progress: Progress = silent) -> None:
    """Only the tuning that some arms need, which all processes that torchrun started do together.

    Raises ConfigError for weights in few bits between several processes, LeakageError as `run` does.
    """
    from openflan.tuning.distributed import world

    if world().size > 1 and recipe.tuning.quantize is not None:
        where = "tuning.lora.quantize"
        raise ConfigError(Problem(where, "weights in few bits cannot be sharded", "leave it out, or use one process"))
    can_ask(recipe, out)
    refuse_tuned_base(recipe)
    split = split_of(recipe)
    with world().first_alone():
        open_run(recipe, out)
        rows = read_split(split, recipe, progress=progress)
        lock(recipe, split, rows, out)
    _set_threads(recipe)
    for arm in arms:
        if arm in SEEN_ARMS or MODEL_OF.get(arm, arm) in TUNED_WITH:
            for _ in arm_models(arm, recipe, rows, out, Ledger(), progress):
                pass  # tuned, and kept in its folder

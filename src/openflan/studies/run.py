"""The main path: one recipe, start to end. Read `run` first; each of its lines is one layer of the package."""

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from openflan import artifacts
from openflan.catalog.holdout import HeldOutSplit, hold_out
from openflan.catalog.load import load_catalog
from openflan.catalog.task import EvaluatedSplit, Task, Template
from openflan.encoding.encode import Encoded, encode
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError, Problem, RunError
from openflan.evaluation.evaluate import Result, evaluate
from openflan.evaluation.samples import read_samples, write_samples
from openflan.ledger import Ledger
from openflan.mixture.mixture import Mixture
from openflan.rendering.example import Example
from openflan.rendering.render import TEMPLATED, Wording, render
from openflan.studies.answer import answer
from openflan.studies.parallel import Job, in_processes
from openflan.studies.progress import Progress, ProgressEvent, silent
from openflan.studies.recipe import MODEL_OF, TUNED_WITH, Arm, Recipe, differing_keys, load_recipe
from openflan.studies.remote import answer_remotely
from openflan.studies.rows import EVALUATED, SplitRows, read_split, split_of

if TYPE_CHECKING:
    from openflan.encoding.boundary import Tokenizer
    from openflan.models.load import LanguageModel
    from openflan.tuning.tune import StepReport

log = logging.getLogger(__name__)

PACKAGES = ("openflan", "torch", "transformers", "tokenizers", "datasets", "peft", "numpy", "polars")


def run(recipe: Recipe, out: Path, *, progress: Progress = silent) -> Result:
    """One recipe, start to end: tune on the other clusters, score the held-out ones, compare.

    `out` is a run folder (DESIGN section 9). A finished one returns at once; a half-done one of the same recipe goes on
    where it stood and ends with the same bytes.

    Raises RunError if `out` belongs to another recipe, LeakageError if a held-out task would be trained on.
    """
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
            open_run(recipe, out)
        in_processes(jobs, workers=workers, progress=progress)
    return {out: run(recipe, out, progress=progress) for out, recipe in recipes.items()}


def open_run(recipe: Recipe, out: Path) -> None:
    """Start a run folder, or go on with one of the same recipe; raises RunError naming the keys that differ."""
    file = out / "recipe.toml"
    if file.exists():
        theirs = load_recipe(file)
        if problems := differing_keys(recipe.content(), theirs.content()):
            raise RunError([Problem(str(out), "is the folder of another recipe", "choose another --out"), *problems])
        return
    if out.exists() and any(out.iterdir()):
        raise RunError(Problem(str(out), "is not empty and not a run folder", "choose another --out"))
    artifacts.write_json(out / "env.json", environment())
    artifacts.write_text(file, recipe.to_toml())


def lock(recipe: Recipe, split: HeldOutSplit, rows: SplitRows, out: Path) -> None:
    """Write split.json and mixture.lock; raises RunError if rows or templates changed since the run began."""
    content = Mixture(rows.train, recipe.mixture, recipe.seed).lock(rows.ledger)
    file = out / "mixture.lock"
    if file.exists():
        before = artifacts.read_json(file)
        if before != content:
            raise RunError([Problem(str(file), "rows, templates or counts changed since this run began"),
                            *differing_keys(content, before)[:20]])  # fmt: skip
    artifacts.write_json(file, content)
    artifacts.write_json(out / "split.json", split.to_json())


def run_arm(
    arm: Arm, recipe: Recipe, rows: SplitRows, out: Path, progress: Progress = silent, *, home: Path | None = None
) -> pl.DataFrame:
    """One arm's samples: its model, tuned if the arm is, asked every evaluated row through every template.

    Once for each number of exemplars; no number's answers depend on which others are asked for. `home` is where the
    arm's model is tuned and kept, by default in the run folder.
    """
    folder = out / "arms" / arm
    if (file := folder / "samples.parquet").exists():
        return read_samples(file)
    ledger = Ledger()
    endpoint = recipe.endpoint_of(arm)
    own_style = arm == "untuned_completion" or (endpoint is not None and endpoint.templates == "completion")
    lm = None
    if endpoint is None:
        _set_threads(recipe)
        lm = arm_model(arm, recipe, rows, out, ledger, progress, home=home)
    parts: list[pl.DataFrame] = []
    for name, shots in recipe.shots_of(arm).items():
        kind = "completion" if own_style else "direct"
        wording = recipe.evaluation.wording
        examples = list(evaluation_examples(rows, kind, ledger, shots=shots, wording=wording))

        def report(done: int, total: int, name: str = name) -> None:
            progress(ProgressEvent(f"{out.name}/{name}: score", done, total))

        common: dict[str, Any] = {
            "settings": recipe.evaluation,
            "folder": folder / "scores" / (f"{shots}-shot" if shots else ""),
            "ledger": ledger,
            "report": report,
        }
        if endpoint is not None:
            prompt = recipe.prompt or PromptFormat()
            parts.append(answer_remotely(name, endpoint, examples, rows.tasks, prompt_format=prompt, **common))
        else:
            assert lm is not None
            prompt = prompt_format(lm, recipe)
            parts.append(answer(name, lm, examples, rows.tasks, prompt_format=prompt, lengths=recipe.lengths, **common))
    samples = pl.concat(parts)
    artifacts.write_json(folder / "ledger.json", ledger.to_json())
    write_samples(samples, file)
    return samples


def arm_model(
    arm: Arm,
    recipe: Recipe,
    rows: SplitRows,
    out: Path,
    ledger: Ledger,
    progress: Progress,
    *,
    home: Path | None = None,
) -> "LanguageModel":
    """The model an arm is about: the base model, or the base model tuned on rows read in the arm's wording."""
    from openflan.models.load import load_model
    from openflan.tuning.tune import tune

    tuning, home = MODEL_OF.get(arm, arm), home or home_of(arm, out)
    lm = load_model(recipe.model)
    if arm not in TUNED_WITH:
        return lm
    mixture = Mixture(rows.train, recipe.mixture, recipe.seed, TUNED_WITH[arm])
    prompt = prompt_format(lm, recipe)
    counts = home / "encoded"

    def block(number: int) -> Sequence[Encoded]:
        counted = Ledger()
        encoded = encode(
            mixture.examples(number),
            cast("Tokenizer", lm.tokenizer),
            prompt,
            recipe.lengths,
            counted,
            context=lm.context,
        )
        artifacts.write_json(counts / f"block-{number:06d}.json", counted.to_json())
        return encoded

    def report(step: "StepReport") -> None:
        note = f"loss {step.loss:.3f} · {step.tokens / max(step.seconds, 1e-9):,.0f} tokens/s"
        progress(ProgressEvent(f"{out.name}/{arm}: tune", step.step, recipe.tuning.steps, note))

    settings = recipe.tuning.model_copy(update={"seed": recipe.seed})
    tuned = tune(lm, block, settings, home, prompt_format=prompt, report=report, in_place=True)
    if tuning == arm or tuning not in recipe.arms:  # else the other arm's ledger has these counts
        ledger.merge(Ledger.from_json(artifacts.read_json(file)) for file in sorted(counts.glob("block-*.json")))
    return tuned


def home_of(arm: Arm, out: Path) -> Path:
    """Where the model an arm asks is tuned and kept."""
    tuning = MODEL_OF.get(arm, arm)
    return out if tuning == "tuned" else out / "arms" / tuning


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


def prompt_format(lm: "LanguageModel", recipe: Recipe) -> PromptFormat:
    """The recipe's prompt format, else the one the model was tuned with, else the default.

    Raises ConfigError where recipe and model name different ones: a model is asked in the words it was tuned in.
    """
    if recipe.prompt is not None and lm.prompt_format is not None and recipe.prompt != lm.prompt_format:
        raise ConfigError([
            Problem("prompt", "differs from the format this model was tuned with", "leave [prompt] out"),
            *differing_keys(recipe.prompt.model_dump(), lm.prompt_format.model_dump(), "prompt."),
        ])  # fmt: skip
    return recipe.prompt or lm.prompt_format or PromptFormat()


def close_run(recipe: Recipe, rows: SplitRows, samples: pl.DataFrame, result: Result, out: Path) -> Result:
    """Write what the run found; DONE comes last."""
    ledger = Ledger()
    ledger.merge([rows.ledger])
    for arm in recipe.arms:
        ledger.merge([Ledger.from_json(artifacts.read_json(out / "arms" / arm / "ledger.json"))])
    artifacts.write_json(out / "ledger.json", ledger.to_json())
    write_samples(samples, out / "samples.parquet")
    artifacts.write_json(out / "result.json", result.to_json() | {"fingerprint": recipe.fingerprint})
    artifacts.write_text(out / artifacts.DONE, "")
    return result


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
    """The arms in groups that ask one and the same model: two processes must not tune it side by side."""
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
    key = recipe.changed(arms=["untuned"]).to_toml()
    if key not in _read:
        split = split_of(recipe)
        _read.clear()
        _read[key] = read_split(split, recipe)
    return _read[key]


def tune_only(recipe: Recipe, out: Path, *, arm: Arm = "tuned", progress: Progress = silent) -> Path:
    """Only the tuning of one arm; gives the folder of the tuned model."""
    open_run(recipe, out)
    split = split_of(recipe)
    rows = read_split(split, recipe, progress=progress)
    lock(recipe, split, rows, out)
    _set_threads(recipe)
    ledger = Ledger()
    arm_model(arm, recipe, rows, out, ledger, progress)
    return home_of(arm, out) / "model"

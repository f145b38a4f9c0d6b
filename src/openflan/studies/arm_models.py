"""The models that arms ask: the base model as it is, tuned on the mixture, or tuned on one evaluated task.

Takes a recipe and its rows, gives `LanguageModel`s. Read next: `answer.py`, how they are asked.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

from openflan import artifacts
from openflan.encoding.boundary import without_transformers
from openflan.encoding.encode import Encoded, encode
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError, Problem
from openflan.evaluation.samples import SEEN_ARMS
from openflan.ledger import Ledger
from openflan.mixture.mixture import Mixture
from openflan.models.provenance import TunedOn
from openflan.rendering.render import render
from openflan.studies.follow import followed
from openflan.studies.locks import keep_lock
from openflan.studies.progress import Progress
from openflan.studies.recipe import MODEL_OF, TUNED_WITH, Arm, Recipe, differing_keys
from openflan.studies.rows import SplitRows
from openflan.studies.seen import spread_rows
from openflan.tuning.feed import MixtureBlocks
from openflan.tuning.settings import TuningSettings

if TYPE_CHECKING:
    from openflan.encoding.boundary import Tokenizer
    from openflan.models.load import LanguageModel


def arm_models(
    arm: Arm,
    recipe: Recipe,
    rows: SplitRows,
    out: Path,
    ledger: Ledger,
    progress: Progress,
    home: Path | None = None,
) -> Iterator[tuple["LanguageModel", SplitRows, Path]]:
    """Every model an arm is about, the rows it is asked, and where its answers are kept.

    That is one model for all rows, save for the arms of `SEEN_ARMS`: there one for each task, made when it is its turn.
    """
    if arm not in SEEN_ARMS:
        yield arm_model(arm, recipe, rows, out, ledger, progress, home), rows, out / "arms" / arm
        return
    for number, task in enumerate(rows.seen):
        # Each task's model begins from the same one, whose tuning is counted once.
        base = arm_model(arm, recipe, rows, out, Ledger() if number else ledger, progress, home)
        lm = seen_model(base, arm, task, recipe, rows, out, ledger, progress)
        yield lm, dataclasses.replace(rows, tasks={task: rows.tasks[task]}), out / "arms" / arm / task


def arm_model(
    arm: Arm,
    recipe: Recipe,
    rows: SplitRows,
    out: Path,
    ledger: Ledger,
    progress: Progress,
    home: Path | None = None,
) -> "LanguageModel":
    """The model an arm is about: the base model, or the base model tuned on rows read in the arm's wording.

    Of an arm that sees its task: what each task's model begins from.
    """
    from openflan.models.load import load_model
    from openflan.tuning.distributed import world

    tuning = MODEL_OF.get(arm, arm)
    # LoRA may stand beside weights in few bits; every other arm has the base as it is.
    quantize = recipe.tuning.quantize if tuning in (*TUNED_WITH, "supervised") else None
    lm = load_model(recipe.model, device=world().loading_device, quantize=quantize)
    if tuning not in TUNED_WITH:
        return lm
    mixture = Mixture(rows.train, recipe.mixture, recipe.seed, TUNED_WITH[tuning])
    # Of the arms that ask this model, the first has its counts.
    first = next((name for name in recipe.arms if MODEL_OF.get(name, name) == tuning), arm)
    counts = ledger if arm == first else Ledger()
    if home is not None:  # several runs share the model: its rows are compared with those of the run that began it
        keep_lock(mixture.lock(rows.ledger), home / "mixture.lock")
    home, job = home or home_of(tuning, out), f"{out.name}/{arm}"
    return _tuned(lm, mixture, recipe, recipe.tuning_of(tuning), home, counts, job, progress, dev=rows)


def seen_model(
    base: "LanguageModel",
    arm: Arm,
    task: str,
    recipe: Recipe,
    rows: SplitRows,
    out: Path,
    ledger: Ledger,
    progress: Progress,
) -> "LanguageModel":
    """`base` tuned on one evaluated task's own train rows, zero-shot: no result on an unseen task comes of it."""
    share, settings = rows.seen[task], recipe.mixture.model_copy(update={"shots": {0: 1.0}})
    if arm != "supervised":
        share = dataclasses.replace(share, rows=spread_rows(share.rows, recipe.soft_prompt.rows))
    mixture = Mixture({task: share}, settings, recipe.seed)
    home, job = out / "arms" / arm / task, f"{out.name}/{arm}/{task}"
    return _tuned(base, mixture, recipe, recipe.tuning_of(arm), home, ledger, job, progress)


def _tuned(
    lm: "LanguageModel",
    mixture: Mixture,
    recipe: Recipe,
    settings: TuningSettings,
    home: Path,
    ledger: Ledger,
    job: str,
    progress: Progress,
    *,
    dev: SplitRows | None = None,
) -> "LanguageModel":
    """`lm` tuned on a mixture, in the folder `home`; what encoding dropped is counted in `ledger`.

    The loss on dev rows is measured on those of `dev`.
    """
    from openflan.tuning.distributed import world
    from openflan.tuning.tune import last_block, tune

    prompt = prompt_format(lm, recipe)
    soft_prompt = settings.soft_prompt_tokens if settings.method == "soft_prompt" else 0
    blocks = MixtureBlocks(
        mixture,
        without_transformers(cast("Tokenizer", lm.tokenizer)),
        prompt,
        recipe.lengths,
        min(lm.context, settings.row_length or lm.context) - len(lm.prefix_ids) - soft_prompt,
        home / "encoded",
    )
    examples = dev_set(dev, blocks, home)
    clusters = {cluster for share in mixture.tasks.values() for cluster in share.task.clusters}
    tuned_on = TunedOn(tuple(sorted(mixture.tasks)), tuple(sorted(clusters)))
    # Under torchrun all processes tune one model together.
    alone = artifacts.alone_in(home, waiting="this run goes on when it ends") if world().size == 1 else nullcontext()
    with alone, followed(job, settings, home, recipe.content(), progress) as report:
        tuned = tune(
            lm,
            blocks,
            settings,
            home,
            prompt_format=prompt,
            report=report,
            dev=examples,
            in_place=True,
            tuned_on=tuned_on,
        )
    ledger.merge(blocks.counted(last_block(home)))
    return tuned


def dev_set(rows: SplitRows | None, blocks: MixtureBlocks, home: Path) -> dict[str, list[Encoded]]:
    """The dev rows of the tuning tasks in the words they are tuned in, each through one template; see dev.json.

    Empty without rows, and where the recipe measures no dev loss.
    """
    if rows is None or not rows.dev:
        return {}
    ledger = Ledger()
    ledger.merge([rows.dev_ledger])
    found: dict[str, list[Encoded]] = {}
    for name, share in rows.dev.items():
        examples = [
            render(share.task, row, share.templates[number % len(share.templates)], blocks.mixture.wording)
            for number, row in enumerate(share.rows)
        ]
        found[name] = encode(
            examples, blocks.tokenizer, blocks.prompt_format, blocks.lengths, ledger, context=blocks.context
        )
    artifacts.write_json(home / "dev.json", ledger.to_json())
    return found


def home_of(arm: Arm, out: Path) -> Path:
    """Where the model an arm asks, or stands on, is tuned and kept."""
    tuning = MODEL_OF.get(arm, arm)
    return out if tuning == "tuned" else out / "arms" / tuning


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

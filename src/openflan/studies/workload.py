"""How many tokens a recipe's steps and answers have: from its own rows where they lie here, else assumed.

Takes a `Recipe`, gives a `TuningWorkload` and an `EvaluationWorkload`. Nothing is downloaded: rows come from the
micro-world or a data root, and a tokenizer from a local folder or the cache. Read next: `plan.py`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast, overload

from openflan.catalog.task import Split, Task
from openflan.encoding.boundary import Tokenizer
from openflan.encoding.encode import Encoded, encode, encode_options, encode_prompts
from openflan.encoding.pack import PackedRow
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import OpenflanError, SourceError
from openflan.ledger import Ledger
from openflan.mixture.mixture import Mixture, TaskRows, tuning_tasks, tuning_templates
from openflan.rendering.render import TEMPLATED, ReadRow, read_columns, render
from openflan.sources.read import SourceSettings, iter_rows
from openflan.studies.recipe import MODEL_OF, OWN_STYLE, TUNED_WITH, Recipe
from openflan.studies.rows import split_of
from openflan.studies.run import templates_for

SAMPLED_ROWS = 32
"""Rows of each task whose lengths stand for all of its rows'."""
SAMPLED_STEPS = 8
MEAN_PROMPT, MEAN_TARGET, MEAN_SEEN = 166, 19, 530
"""Tokens of an example's prompt and target, and of the example that a token of the mixture stands in, on average. Of
2,044 rendered rows of 55 datasets of the FLAN catalog, weighed by mixing rate, at 4.3 characters a token."""
MEAN_OPTION, MEAN_OPTIONS = 5, 4
"""Tokens of an option, and options of a row whose task file does not fix them."""
SHARED_ZERO_SHOT, SHARED_FEW_SHOT = 0.74, 0.2
"""Tokens that are computed, as a share of each prompt once with its options: beginnings that prompts share are computed
once. Measured with openflan's scorer on 1,000 prompts, without exemplars and with five that are the same for all."""


@dataclass(frozen=True, slots=True)
class RowSize:
    """A packed row: what its FLOPs follow from."""

    tokens: int
    targets: int
    squares: int
    """Sum of the squared lengths of its examples."""


@dataclass(frozen=True, slots=True)
class TuningWorkload:
    """Optimizer steps like those of the run."""

    steps: tuple[tuple[RowSize, ...], ...]
    examples_per_step: float
    source: str
    measured: bool

    def mean(self, of: Callable[[RowSize], int]) -> float:
        """The mean over steps of the sum over rows."""
        return sum(of(row) for step in self.steps for row in step) / len(self.steps)

    @property
    def tokens_per_step(self) -> float:
        return self.mean(lambda row: row.tokens)

    @property
    def targets_per_step(self) -> float:
        return self.mean(lambda row: row.targets)

    @property
    def rows_per_step(self) -> float:
        return self.mean(lambda row: 1)


@dataclass(frozen=True, slots=True)
class EvaluationWorkload:
    """What all arms together are asked."""

    prompts: int
    tokens: float
    """Fed through the model, shared beginnings once."""
    scored: float
    """Positions whose logits are computed."""
    generated: float
    """New tokens, all of them as long as they may be."""
    longest: int
    """Of them, in one answer: each is a forward pass of its own."""
    unshared: float
    """Tokens of a scorer that feeds every option with its whole prompt."""
    arms: tuple[str, ...]
    tasks: int
    source: str


class _Repeated(Sequence[ReadRow]):
    """A few rows standing for many."""

    def __init__(self, rows: Sequence[ReadRow], number: int) -> None:
        self._rows, self._number = rows, number

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> ReadRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ReadRow]: ...
    def __getitem__(self, index: int | slice) -> ReadRow | Sequence[ReadRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < self._number:
            raise IndexError(index)
        return self._rows[index % len(self._rows)]


def tuning_workload(recipe: Recipe, tokenizer: Tokenizer | None, context: int) -> TuningWorkload:
    """The first steps of the recipe's own feed over sampled rows, or rows of assumed lengths, filled to the brim."""
    if tokenizer is None:
        return assumed_tuning(recipe, context, "no tokenizer of this model here")
    tasks = tuning_tasks(split_of(recipe).train, recipe.mixture, recipe.seed)
    ledger = Ledger()
    sampled = [(task, rows) for task in tasks if (rows := _sample(task, "train", recipe, ledger))]
    if not sampled:
        return assumed_tuning(recipe, context, "no row of its tuning tasks here")
    shares = {
        task.name: TaskRows(task, _Repeated(rows, rows_of(task)), tuning_templates(task, recipe.mixture, recipe.seed))
        for task, rows in sampled
    }
    mixture = Mixture(shares, recipe.mixture, recipe.seed)
    soft = recipe.tuning.soft_prompt_tokens if recipe.tuning.method == "soft_prompt" else 0

    def block(number: int) -> Sequence[Encoded]:
        prompt_format = recipe.prompt or PromptFormat()
        found = encode(
            mixture.examples(number, ledger), tokenizer, prompt_format, recipe.lengths, ledger, context=context
        )
        return [dataclasses.replace(e, prompt_ids=(*([0] * soft), *e.prompt_ids)) for e in found] if soft else found

    from openflan.tuning.feed import Cursor, steps_from

    taken = [rows for rows, _ in islice(steps_from(Cursor(), block, recipe.tuning, context), SAMPLED_STEPS)]
    left_out = "" if len(sampled) == len(tasks) else f"; {len(tasks) - len(sampled)} more tasks have no rows here"
    return TuningWorkload(
        steps=tuple(tuple(map(_size, rows)) for rows in taken),
        examples_per_step=sum(len(row.row_ids) for rows in taken for row in rows) / len(taken),
        source=f"the recipe's first {len(taken)} steps over a few rows of each of {len(sampled)} tasks{left_out}",
        measured=True,
    )


def assumed_tuning(recipe: Recipe, context: int, why: str) -> TuningWorkload:
    """A step of full rows of examples of the catalog's mean lengths."""
    from openflan.tuning.feed import row_length

    settings, lengths = recipe.tuning, recipe.lengths
    prompt, target = min(MEAN_PROMPT, lengths.inputs), min(MEAN_TARGET, lengths.targets)
    if settings.method == "soft_prompt":
        prompt += settings.soft_prompt_tokens
    length = row_length((), settings, context)
    number = max(1, settings.tokens_per_step // length)
    row = RowSize(
        tokens=length,
        targets=round(length * target / (prompt + target)),
        squares=length * min(length, MEAN_SEEN, lengths.inputs + lengths.targets),
    )
    return TuningWorkload(
        steps=((row,) * number,),
        examples_per_step=number * length / (prompt + target),
        source=f"assumed ({why}): full rows, prompts of {prompt} and targets of {target} tokens on average",
        measured=False,
    )


def evaluation_workload(recipe: Recipe, tokenizer: Tokenizer | None, context: int) -> EvaluationWorkload:
    """What the arms are asked: dev and test rows of each evaluated task, through all templates of the arm's kind."""
    arms = {name: shots for arm in recipe.arms if recipe.endpoint_of(arm) is None
            for name, shots in recipe.shots_of(arm).items()}  # fmt: skip
    tasks = split_of(recipe).evaluated
    settings = recipe.evaluation
    prompts, tokens, scored, generated, unshared, measured = 0, 0.0, 0.0, 0.0, 0.0, 0
    own_style = {name for arm in OWN_STYLE for name in recipe.shots_of(arm)}
    for task in tasks:
        sizes = None if tokenizer is None else _sampled_answers(task, recipe, tokenizer, context)
        measured += sizes is not None
        prompt, option, options = sizes or _assumed_answer(task, recipe)
        number = min(settings.items or rows_of(task, "test"), rows_of(task, "test"))
        rows = number + min(settings.dev_items, rows_of(task, "dev"))
        for arm, count in arms.items():
            templates = templates_for(task, "completion" if arm in own_style else "direct", Ledger())
            number = rows * (len(templates) if settings.wording in TEMPLATED else 1)
            whole = min(prompt + count * (MEAN_PROMPT + MEAN_TARGET if sizes is None else prompt + option),
                        float(recipe.lengths.inputs))  # fmt: skip
            sharing = SHARED_FEW_SHOT if count and settings.exemplars == "fixed" else SHARED_ZERO_SHOT
            prompts += number
            tokens += number * sharing * (whole + option * options)
            scored += number * (option * options if options else 0)
            generated += 0 if options else number * settings.max_new_tokens
            unshared += number * (max(1.0, options) * (whole + option))
    return EvaluationWorkload(
        prompts=prompts,
        tokens=tokens,
        scored=scored,
        generated=generated,
        longest=settings.max_new_tokens if generated else 0,
        unshared=unshared,
        arms=tuple(arms),
        tasks=len(tasks),
        source=f"lengths of {measured} of {len(tasks)} tasks from a few rows each, of the others assumed",
    )


def tuned_models(recipe: Recipe) -> list[str]:
    """The arms whose tuning on the mixture the run has to do, each once."""
    models = dict.fromkeys(MODEL_OF.get(arm, arm) for arm in recipe.arms)
    return [model for model in models if model in TUNED_WITH]


def rows_of(task: Task, split: Split = "train") -> int:
    """Rows of a split as far as its task file tells; else as many as count: 30,000 to tune on, 1,000 to evaluate."""
    if task.source.world:
        return task.source.rows[split]
    known = getattr(task.paper, split, None)
    return known or {"train": 30_000, "dev": task.source.dev_rows, "test": 1_000}[split]


def _size(row: PackedRow) -> RowSize:
    squares = sum(int(length) ** 2 for length in row.segment_lengths)
    return RowSize(len(row.input_ids), len(row.labels), squares)


def _sample(task: Task, split: Split, recipe: Recipe, ledger: Ledger) -> list[ReadRow]:
    """A few rows, where they can be had without a network."""
    root = None if recipe.data_root is None else Path(recipe.data_root)
    folders = [] if root is None else [root / name for name in (task.name, task.source.rows_of) if name]
    if not (task.source.world or any(folder.is_dir() for folder in folders)):
        return []
    settings = SourceSettings(data_root=root, world_seed=recipe.world_seed)
    try:
        return read_columns(task, iter_rows(task, split, settings, ledger, limit=SAMPLED_ROWS), ledger)
    except SourceError:
        return []


def _sampled_answers(
    task: Task, recipe: Recipe, tokenizer: Tokenizer, context: int
) -> tuple[float, float, float] | None:
    """(tokens of a prompt, of an option, options), on average over rows and direct templates; 0 options: generation."""
    templates = task.of_kind("direct")
    rows = _sample(task, "dev", recipe, Ledger())[: max(1, SAMPLED_ROWS // 4)]
    examples = [render(task, row, template) for row in rows for template in templates]
    arguments: tuple[Any, ...] = (tokenizer, recipe.prompt or PromptFormat(), recipe.lengths, Ledger())
    if not examples:
        return None
    if task.form == "generation":
        encoded = encode_prompts(examples, *arguments, context=context)
        return (sum(len(e.prompt_ids) for e in encoded) / len(encoded), 0.0, 0.0) if encoded else None
    ranked = encode_options(examples, *arguments, context=context)
    if not ranked:
        return None
    options = sum(len(e.option_ids) for e in ranked)
    tokens = sum(len(ids) for e in ranked for ids in e.option_ids)
    return sum(len(e.prompt_ids) for e in ranked) / len(ranked), tokens / options, options / len(ranked)


def _assumed_answer(task: Task, recipe: Recipe) -> tuple[float, float, float]:
    prompt = float(min(MEAN_PROMPT, recipe.lengths.inputs))
    if task.form == "generation":
        return prompt, 0.0, 0.0
    fixed = task.answer.options
    return prompt, float(MEAN_OPTION), float(len(fixed) if isinstance(fixed, tuple) else MEAN_OPTIONS)


def local_tokenizer(name: str) -> Tokenizer | None:
    """The tokenizer of a local or cached model; None where there is none here."""
    from openflan.models.shape import cached_folder

    folder = cached_folder(name)
    if folder is None:
        return None
    from openflan.models.load import load_tokenizer

    try:
        return cast(Tokenizer, load_tokenizer(str(folder)))
    except OpenflanError:
        return None

"""One arm's answers: every evaluated example encoded, ranked or generated, and scored."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from openflan.catalog.task import EvaluatedSplit, Task
from openflan.encoding.encode import encode_options, encode_prompts
from openflan.encoding.prompt_format import Lengths, PromptFormat
from openflan.evaluation.samples import SampleScore, sample_frame
from openflan.ledger import Ledger
from openflan.rendering.example import Example
from openflan.studies.recipe import EvaluationSettings

if TYPE_CHECKING:
    from openflan.encoding.boundary import Tokenizer
    from openflan.models.load import LanguageModel
    from openflan.scoring.generate import Generation
    from openflan.scoring.rank import OptionScores
    from openflan.scoring.remote import RemoteText

PROMPTS_KEPT = 4
"""Test rows of each task whose full prompts are kept for people to read."""


def answer(
    arm: str,
    lm: "LanguageModel",
    examples: Sequence[tuple[EvaluatedSplit, Example]],
    tasks: Mapping[str, Task],
    *,
    prompt_format: PromptFormat,
    lengths: Lengths,
    settings: EvaluationSettings,
    folder: Path,
    ledger: Ledger,
    report: Callable[[int, int], None],
) -> pl.DataFrame:
    """The samples of one arm, asked in one way; examples that do not fit the model are counted in `ledger`.

    Finished chunks are kept in `folder`. `report` is given the number of answered and of all examples.
    """
    from openflan.scoring import generate, rank

    to_rank = [pair for pair in examples if pair[1].options]
    to_write = [pair for pair in examples if not pair[1].options]
    tokenizer = cast("Tokenizer", lm.tokenizer)
    limits = {"context": lm.context - len(lm.prefix_ids)}
    options = encode_options([e for _, e in to_rank], tokenizer, prompt_format, lengths, ledger, **limits)
    room = lengths.model_copy(update={"targets": min(lengths.targets, settings.max_new_tokens)})
    prompts = encode_prompts([e for _, e in to_write], tokenizer, prompt_format, room, ledger, **limits)
    total = len(options) + len(prompts)
    cost = rank.ScoringCost()

    def ranking(now: rank.ScoringCost) -> None:
        nonlocal cost
        cost = now
        report(now.requests, total)

    # Strict: what a machine's speed is like when a run goes on must not show in its numbers.
    ranked = rank.score(lm, rank.requests_of(options), store=folder / "rank", strict=True, report=ranking)
    if cost.ties or cost.close:
        ledger.note(
            f"rank: {arm}: of {cost.requests:,} answers {cost.ties:,} are ties (the first option counts) and "
            f"{cost.close:,} are decided by less than the numeric noise"
        )
    written = generate.generate(
        lm,
        generate.requests_of(prompts),
        max_new_tokens=settings.max_new_tokens,
        stops=[prompt_format.exemplar_separator],
        store=folder / "generate",
        report=lambda done: report(len(options) + done, total),
    )
    read = {e.read.id: e.read for e in (*options, *prompts)}
    return samples_of(arm, [*ranked, *written], read, examples, tasks, prompt_format)


def samples_of(
    arm: str,
    answers: "Iterable[OptionScores | Generation | RemoteText]",
    read: Mapping[str, Example],
    examples: Sequence[tuple[EvaluatedSplit, Example]],
    tasks: Mapping[str, Task],
    prompt_format: PromptFormat,
) -> pl.DataFrame:
    """The samples that answers make, of examples as they were `read`: shortened where the whole did not fit.

    A text written where there are options is matched to them.
    """
    from openflan.scoring.rank import OptionScores

    part_of = {(e.task, e.row_id): part for part, e in examples}
    shown = _shown(examples)
    samples: list[SampleScore] = []
    for one in answers:
        example = read[one.id]
        task, prompt = tasks[example.task], prompt_format.of(example)
        facts: dict[str, Any] = {
            "arm": arm,
            "cluster": task.clusters[0],
            "split": part_of[example.task, example.row_id],
            "metric_name": task.metrics[0],
            "prompt": prompt,
        }
        if isinstance(one, OptionScores):
            sample = SampleScore.ranking(example, one, **facts)
        elif example.options:
            sample = SampleScore.matched(example, one, **facts)
        else:
            sample = SampleScore.generation(example, one, **facts)
        kept = (sample.task, sample.row_id) in shown
        samples.append(dataclasses.replace(sample, prompt=prompt) if kept else sample)
    return sample_frame(samples)


def _shown(examples: Sequence[tuple[EvaluatedSplit, Example]]) -> set[tuple[str, str]]:
    """(task, row id) of the first few test rows of each task."""
    rows: dict[str, list[str]] = {}
    for part, example in examples:
        kept = rows.setdefault(example.task, [])
        if part == "test" and example.row_id not in kept and len(kept) < PROMPTS_KEPT:
            kept.append(example.row_id)
    return {(task, row_id) for task, kept in rows.items() for row_id in kept}

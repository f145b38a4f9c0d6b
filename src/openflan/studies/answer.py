"""One arm's answers: every evaluated example encoded, ranked or generated, and scored."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
    part_of = {(e.task, e.row_id): part for part, e in examples}
    read = {f"{e.task} {e.row_id} {e.template}": e.read for e in (*options, *prompts)}
    shown = _shown(examples)
    samples: list[SampleScore] = []

    def about(one: "OptionScores | Generation") -> tuple[Example, dict[str, Any]]:
        example = read[one.id]
        task = tasks[example.task]
        return example, {
            "arm": arm,
            "cluster": task.clusters[0],
            "split": part_of[example.task, example.row_id],
            "metric_name": task.metrics[0],
            "prompt": prompt_format.of(example),
        }

    for scores in ranked:
        example, facts = about(scores)
        samples.append(SampleScore.ranking(example, scores, **facts))
    for generation in written:
        example, facts = about(generation)
        samples.append(SampleScore.generation(example, generation, **facts))
    return sample_frame(
        dataclasses.replace(sample, prompt=prompt_format.of(read[f"{sample.task} {sample.row_id} {sample.template}"]))
        if (sample.task, sample.row_id) in shown
        else sample
        for sample in samples
    )


def _shown(examples: Sequence[tuple[EvaluatedSplit, Example]]) -> set[tuple[str, str]]:
    """(task, row id) of the first few test rows of each task."""
    rows: dict[str, list[str]] = {}
    for part, example in examples:
        kept = rows.setdefault(example.task, [])
        if part == "test" and example.row_id not in kept and len(kept) < PROMPTS_KEPT:
            kept.append(example.row_id)
    return {(task, row_id) for task, kept in rows.items() for row_id in kept}

"""One arm's answers: every evaluated example encoded, ranked or generated, and scored."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from openflan import artifacts
from openflan.catalog.task import EvaluatedSplit, Task
from openflan.encoding.encode import encode_options, encode_prompts
from openflan.encoding.prompt_format import Lengths, PromptFormat
from openflan.evaluation.samples import SampleScore, sample_frame
from openflan.ledger import Ledger
from openflan.rendering.example import Example
from openflan.studies.recipe import EvaluationSettings

if TYPE_CHECKING:
    from openflan.models.load import LanguageModel

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
    """The samples of one arm. Finished chunks are kept in `folder`; examples that do not fit the model are counted.

    `report` is given the number of answered and of all examples.
    """
    from openflan.scoring import generate, rank

    to_rank = [pair for pair in examples if pair[1].options]
    to_write = [pair for pair in examples if not pair[1].options]
    limits = {"context": lm.context}
    options = encode_options([e for _, e in to_rank], lm.tokenizer, prompt_format, lengths, ledger, **limits)
    room = lengths.model_copy(update={"targets": min(lengths.targets, settings.max_new_tokens)})
    prompts = encode_prompts([e for _, e in to_write], lm.tokenizer, prompt_format, room, ledger, **limits)
    total = len(options) + len(prompts)
    ranked = rank.score(
        lm, rank.requests_of(options), store=folder / "rank", report=lambda cost: report(cost.requests, total)
    )
    written = generate.generate(
        lm,
        generate.requests_of(prompts),
        max_new_tokens=settings.max_new_tokens,
        stops=[prompt_format.exemplar_separator],
        store=folder / "generate",
        report=lambda done: report(len(options) + done, total),
    )
    by_id = {f"{e.task} {e.row_id} {e.template}": (part, e) for part, e in examples}
    samples: list[SampleScore] = []
    for kind, found in (("ranking", ranked), ("generation", written)):
        for one in found:
            part, example = by_id[one.id]
            task = tasks[example.task]
            build = SampleScore.ranking if kind == "ranking" else SampleScore.generation
            samples.append(
                build(
                    example,
                    one,  # pyright: ignore[reportArgumentType] -- each kind of answer meets its own builder
                    arm=arm,
                    cluster=task.clusters[0],
                    split=part,
                    metric_name=task.metrics[0],
                    prompt=prompt_format.of(example),
                )
            )
    artifacts.write_text(folder.parent / "prompts.jsonl", "".join(_kept_prompts(examples, prompt_format)))
    return sample_frame(samples)


def _kept_prompts(examples: Sequence[tuple[EvaluatedSplit, Example]], prompt_format: PromptFormat) -> Iterable[str]:
    rows: dict[str, list[str]] = {}
    for part, example in examples:
        kept = rows.setdefault(example.task, [])
        if part == "test" and example.row_id not in kept and len(kept) < PROMPTS_KEPT:
            kept.append(example.row_id)
        if part == "test" and example.row_id in kept:
            record = {"task": example.task, "row_id": example.row_id, "template": example.template,
                      "prompt": prompt_format.of(example)}  # fmt: skip
            yield json.dumps(record, ensure_ascii=False) + "\n"

"""An arm that an endpoint answers for: the same examples and samples as of a model that is loaded here."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from openflan import artifacts
from openflan.catalog.task import EvaluatedSplit, Task
from openflan.encoding.encode import STAGE, cut_middle
from openflan.encoding.prompt_format import PromptFormat
from openflan.evaluation.samples import GENERATED, with_shots, without_shots
from openflan.ledger import Ledger
from openflan.models.remote import Endpoint, RemoteSettings
from openflan.rendering.example import Example
from openflan.scoring import remote as scoring
from openflan.scoring.rank import OptionScores
from openflan.scoring.remote import TOO_LONG, RemoteModel, RemoteRequest, RemoteScores, RemoteText, RemoteUsage, Skipped
from openflan.studies.answer import samples_of
from openflan.studies.recipe import EvaluationSettings

ANSWERED = "answer"
"""The ledger's stage of requests that an endpoint gave no usable answer to."""
SHARES_CUT = (0.25, 0.5, 0.75)
"""Of a passage, step by step, where the endpoint finds a prompt too long that has no exemplars left."""


def answer_remotely(
    arm: str,
    endpoint: RemoteSettings,
    examples: Sequence[tuple[EvaluatedSplit, Example]],
    tasks: Mapping[str, Task],
    *,
    prompt_format: PromptFormat,
    settings: EvaluationSettings,
    folder: Path,
    ledger: Ledger,
    report: Callable[[int, int], None],
) -> pl.DataFrame:
    """The samples of one arm, asked in one way; what the endpoint cannot read is counted in `ledger`.

    Answers are kept in `folder` as they come.

    Where it gives no log-probabilities of a prompt (and its settings allow that), options are not ranked: its written
    answers are matched to them, and the samples' arm ends in `GENERATED`. `report` gets the answered and all examples.

    Raises ModelError where the endpoint fails for good, SourceError where over 5 % of a task got no usable answer.
    """
    by_id = {example.id: example for _, example in examples}
    shorter = {name: list(_shorter(example)) for name, example in by_id.items()}
    has_options = any(example.options for example in by_id.values())
    total = len(examples)
    with Endpoint(endpoint) as client:
        remote = scoring.connect(client, ranks=has_options)
        ranks = remote.way is not None
        to_rank = [name for name, example in by_id.items() if example.options and ranks]
        to_write = [name for name, example in by_id.items() if not (example.options and ranks)]

        def requests(names: Sequence[str]) -> list[RemoteRequest]:
            return [
                RemoteRequest(name, tuple(prompt_format.of(e) for e, _ in shorter[name]), by_id[name].options)
                for name in names
            ]

        ranked = scoring.score(
            remote, requests(to_rank), store=folder / "rank", report=lambda done: report(done, total)
        ) if to_rank else None  # fmt: skip
        written = scoring.generate(
            remote,
            requests(to_write),
            max_new_tokens=settings.max_new_tokens,
            stops=[prompt_format.exemplar_separator],
            store=folder / "generate",
            report=lambda done: report(len(to_rank) + done, total),
        )
    answers = [*(ranked.answers if ranked else ()), *written.answers]
    skipped = [*(ranked.skipped if ranked else ()), *written.skipped]
    usage = (ranked.usage if ranked else RemoteUsage()) + written.usage
    _count(answers, skipped, by_id, shorter, ledger)
    _tell(arm, remote, has_options, usage, ledger, folder)
    ledger.check(ANSWERED)
    base, shots = without_shots(arm)
    return samples_of(
        arm if ranks or not has_options else with_shots(base + GENERATED, shots),
        [OptionScores(one.id, one.logprobs) if isinstance(one, RemoteScores) else one for one in answers],
        {one.id: shorter[one.id][one.prompt][0] for one in answers},
        examples,
        tasks,
        prompt_format,
    )


def _shorter(example: Example) -> Iterator[tuple[Example, tuple[str, ...]]]:
    """The example, then as encoding shortens it (exemplars first, then the passage's middle), and what was done."""
    yield example, ()
    done: tuple[str, ...] = ()
    while example.exemplars:
        example = example.first_exemplars(len(example.exemplars) - 1)
        done = ("exemplars left out" if example.exemplars else "all exemplars left out",)
        yield example, done
    start, stop = example.trimmable or (0, 0)
    for share in SHARES_CUT:
        trimmed = cut_middle(example, max(1, int(share * (stop - start))))
        if trimmed is not None:
            yield trimmed, (*done, "passage cut in the middle")


def _count(
    answers: Sequence[RemoteScores | RemoteText],
    skipped: Sequence[Skipped],
    by_id: Mapping[str, Example],
    shorter: Mapping[str, Sequence[tuple[Example, tuple[str, ...]]]],
    ledger: Ledger,
) -> None:
    merged: Counter[str] = Counter()
    for one in answers:
        example = by_id[one.id]
        ledger.keep(STAGE, example.task)
        ledger.keep(ANSWERED, example.task)
        for reason in shorter[one.id][one.prompt][1]:
            ledger.shorten(STAGE, example.task, example.row_id, reason)
        merged[example.task] += isinstance(one, RemoteScores) and one.merged
    for one in skipped:
        example = by_id[one.id]
        if one.reason == TOO_LONG:
            ledger.drop(STAGE, example.task, example.row_id, one.reason)
        else:
            ledger.keep(STAGE, example.task)
            ledger.drop(ANSWERED, example.task, example.row_id, one.reason)
    for task, count in sorted(merged.items()):
        if count:
            ledger.note(f"{STAGE}: {task}: in {count} examples a token spans the join of prompt and target")


def _tell(arm: str, remote: RemoteModel, has_options: bool, usage: RemoteUsage, ledger: Ledger, folder: Path) -> None:
    """What the endpoint is, how options were chosen and what it cost, for people who read the run."""
    settings = remote.settings
    described = {
        **settings.content(),
        "options": "none",
        "usage": dataclasses.asdict(usage),
        "cost": usage.cost(settings),
    }
    if has_options and remote.way is not None:
        described["options"] = f"rank classification, log-probabilities by {remote.way}"
    elif has_options:
        described["options"] = "generated and matched, not rank classification"
        ledger.note(f"{arm}: options were not ranked, written answers were matched to them: {remote.why}")
    ledger.note(f"{arm}: {settings.model} at {settings.base_url}: {usage.words(settings)}")
    artifacts.write_json(folder / "endpoint.json", described)

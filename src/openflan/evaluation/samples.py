"""The record of every answer: one row per (arm, task, item, template, shots).

Takes examples with their scores or generations, gives `samples.parquet`. Read next: `evaluate.py`.
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import polars as pl

from openflan.artifacts import atomic_path
from openflan.errors import CatalogError, Problem, RunError
from openflan.evaluation.metrics import Outcome, choose, metric, ranked, unmatched
from openflan.rendering.example import Example
from openflan.scoring.generate import Generation
from openflan.scoring.matching import How, match
from openflan.scoring.rank import OptionScores

if TYPE_CHECKING:
    from openflan.scoring.remote import RemoteText

SAMPLE_SCHEMA: dict[str, pl.DataType] = {
    "arm": pl.String(),
    "task": pl.String(),
    "cluster": pl.String(),
    "split": pl.String(),
    "row_id": pl.String(),
    "group": pl.String(),
    "template": pl.String(),
    "shots": pl.Int32(),
    "exemplars": pl.List(pl.String()),
    "options": pl.List(pl.String()),
    "logprobs": pl.List(pl.Float64()),
    "tokens": pl.List(pl.Int32()),
    "prediction": pl.String(),
    "predicted": pl.Int32(),
    "gold": pl.List(pl.Int32()),
    "grade": pl.Float64(),
    "references": pl.List(pl.String()),
    "value": pl.Float64(),
    "reason": pl.String(),
    "prompt_sha": pl.String(),
    "prompt": pl.String(),
}
"""Columns of samples.parquet, in order; `SampleScore` says what each holds."""
IDENTITY = ("arm", "task", "split", "row_id", "template", "shots")
"""What names one sample; rows are stored in this order."""
ROW_GROUP = 65_536
MATCHED: dict[How, str] = {
    "equal": "generated: equals the option",
    "begins": "generated: begins with the option",
    "none": "generated, unmatched: names no option",
    "several": "generated, unmatched: fits several options alike",
}
"""Reasons of answers that were written and then matched to the options. They have no log-probabilities."""
SEEN_ARMS = ("supervised", "soft_prompt", "untuned_soft_prompt")
"""Arms with a model for each task, tuned on that task's own train rows: what zero-shot results are held against."""
SHOTS_MARK = "@"
"""Between the name of an arm and the number of exemplars it is shown: "tuned@5"."""
GENERATED = "+generated"
"""Ends the name of an arm whose options were not ranked, so that nothing shows it as rank classification."""


def with_shots(arm: str, shots: int) -> str:
    """The name of an arm asked with exemplars; without any, its own.

    >>> with_shots("tuned", 5), with_shots("tuned", 0)
    ('tuned@5', 'tuned')
    """
    return f"{arm}{SHOTS_MARK}{shots}" if shots else arm


def without_shots(arm: str) -> tuple[str, int]:
    """The arm a name stands for, and how many exemplars it is shown.

    >>> without_shots("tuned@5"), without_shots("remote:a@main")
    (('tuned', 5), ('remote:a@main', 0))
    """
    base, mark, shots = arm.rpartition(SHOTS_MARK)
    return (base, int(shots)) if mark and shots.isdecimal() else (arm, 0)


def resampled_as() -> pl.Expr:
    """What a sample is resampled with: its group, wherever that occurs; its task's row, where the task has no groups.

    Row ids of different tasks are alike ("test/17") without the rows having anything in common.
    """
    no_groups = (pl.col("group") == pl.col("row_id")).all().over("task")
    return pl.when(no_groups).then(pl.concat_str("task", pl.lit("\0"), "row_id")).otherwise(pl.col("group"))


class SampleFacts(TypedDict):
    """What a sample says beside its example and its answer."""

    arm: str
    cluster: str
    split: Literal["dev", "test"]
    metric_name: str
    prompt: str
    """The text the model read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleScore:
    """One answer of one arm, and what it is worth."""

    arm: str
    task: str
    cluster: str
    split: Literal["dev", "test"]
    row_id: str
    group: str
    """Rows of one group (a passage) are resampled together; the row id where nothing is shared."""
    template: str
    shots: int
    """Exemplars the prompt has, after those were left out that did not fit; how many were asked for, the arm says."""
    exemplars: tuple[str, ...] = ()
    """Row ids of these exemplars, of the same task and through the same template, in order."""
    options: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Nats, summed over each option's tokens."""
    tokens: tuple[int, ...] = ()
    """Scored tokens of each option; for a generation the one number of tokens written, where it is known."""
    prediction: str
    predicted: int | None = None
    """Index into options; None for generations, and for written answers that match no option."""
    gold: tuple[int, ...] = ()
    grade: float | None = None
    """The number gold was rounded from, where the task has one."""
    references: tuple[str, ...] = ()
    value: float | None
    """By the task's first metric; None where the row cannot be scored, with the reason."""
    reason: str = ""
    """Why it is unscored, or how a generation ended."""
    prompt_sha: str
    """SHA-256 of the exact text the model read."""
    prompt: str | None = None
    """That text, kept for a few rows for people to read."""

    @staticmethod
    def ranking(
        example: Example,
        scores: OptionScores,
        **facts: Unpack[SampleFacts],
    ) -> "SampleScore":
        """The example's likeliest option against its gold."""
        measure = metric(facts["metric_name"])
        predicted, _ = choose(scores.sums, example.options)
        scored = bool(example.gold)
        outcome = ranked(example.options, example.gold, predicted, example.grade)
        return SampleScore(
            **_common(example, facts),
            options=example.options,
            logprobs=scores.sums,
            tokens=scores.tokens,
            prediction=example.options[predicted],
            predicted=predicted,
            gold=example.gold,
            grade=example.grade,
            references=outcome.references,
            value=measure.value(outcome) if scored else None,
            reason="" if scored else "no gold option",
        )

    @staticmethod
    def generation(
        example: Example,
        written: "Generation | RemoteText",
        **facts: Unpack[SampleFacts],
    ) -> "SampleScore":
        """What the model wrote against the example's references.

        Raises CatalogError where the metric needs options.
        """
        measure = metric(facts["metric_name"])
        if measure.needs_options:
            raise CatalogError(f"{example.task}: metric {measure.name} needs options, the task is generated")
        prediction = written.text.strip()
        outcome = Outcome(prediction=prediction, references=example.references)
        return SampleScore(
            **_common(example, facts),
            tokens=() if written.num_tokens is None else (written.num_tokens,),
            prediction=prediction,
            references=example.references,
            value=measure.value(outcome) if example.references else None,
            reason=f"ended: {written.ended}" if example.references else "no reference",
        )

    @staticmethod
    def matched(
        example: Example,
        written: "Generation | RemoteText",
        **facts: Unpack[SampleFacts],
    ) -> "SampleScore":
        """A written answer matched to the example's options: no rank classification, and its reason says so.

        One that matches none counts as wrong; a correlation of grades leaves it out, since it has no grade.
        """
        measure = metric(facts["metric_name"])
        found = match(written.text, example.options)
        if found.index is None:
            outcome = unmatched(written.text.strip(), example.options, example.gold)
        else:
            outcome = ranked(example.options, example.gold, found.index, example.grade)
        scored = bool(example.gold) and (found.index is not None or measure.name != "pearson")
        return SampleScore(
            **_common(example, facts),
            options=example.options,
            tokens=() if written.num_tokens is None else (written.num_tokens,),
            prediction=outcome.prediction,
            predicted=found.index,
            gold=example.gold,
            grade=example.grade,
            references=outcome.references,
            value=measure.value(outcome) if scored else None,
            reason=MATCHED[found.how] if example.gold else "no gold option",
        )


def _common(example: Example, facts: SampleFacts) -> dict[str, Any]:
    return {
        "arm": facts["arm"],
        "task": example.task,
        "cluster": facts["cluster"],
        "split": facts["split"],
        "row_id": example.row_id,
        "group": example.group or example.row_id,
        "template": example.template,
        "shots": len(example.exemplars),
        "exemplars": example.exemplar_rows,
        "prompt_sha": hashlib.sha256(facts["prompt"].encode()).hexdigest(),
    }


def sample_frame(scores: Iterable[SampleScore]) -> pl.DataFrame:
    """All samples as a frame in `IDENTITY` order, so that equal samples give equal frames.

    Raises RunError where two samples have the same identity.
    """
    kept = list(scores)
    columns = {name: [getattr(score, name) for score in kept] for name in SAMPLE_SCHEMA}
    return _ordered(pl.DataFrame(columns, schema=SAMPLE_SCHEMA))


def _ordered(frame: pl.DataFrame) -> pl.DataFrame:
    frame = frame.sort(IDENTITY)
    repeated = frame.filter(pl.struct(IDENTITY).is_duplicated())
    if not repeated.is_empty():
        first = " ".join(map(str, repeated.select(IDENTITY).row(0)))
        raise RunError(f"{repeated.height} samples share their identity with another, the first is {first}")
    return frame


def write_samples(frame: pl.DataFrame, path: Path) -> None:
    """Write samples.parquet whole or not at all; equal samples give equal bytes whatever their order.

    Raises RunError where the columns are not `SAMPLE_SCHEMA`.
    """
    ordered = _ordered(_checked(frame, "samples"))
    with atomic_path(path) as part:
        ordered.write_parquet(part, compression="zstd", compression_level=3, row_group_size=ROW_GROUP, statistics=False)


@contextlib.contextmanager
def reading(path: Path) -> Generator[None, None, None]:
    """What is raised in the block where a Parquet file is damaged becomes a RunError."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(Problem(str(path), f"is damaged: {said}", "remove it and make it again")) from error


def read_samples(path: Path) -> pl.DataFrame:
    """The samples of a run, an older one's too. Raises RunError where the file is missing, damaged or another's."""
    if not path.is_file():
        raise RunError(f"{path}: no such file; did the run finish?")
    with reading(path):
        frame = pl.read_parquet(path)
    if {"exemplars", "grade"} <= set(SAMPLE_SCHEMA) - set(frame.columns) and "shots" in frame.columns:
        frame = frame.with_columns(  # an older run: it showed no exemplars and kept no grades
            pl.lit([], SAMPLE_SCHEMA["exemplars"]).alias("exemplars"),
            pl.lit(None, SAMPLE_SCHEMA["grade"]).alias("grade"),
        )
    return _checked(frame, str(path))


def _checked(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    problems = [
        Problem(
            f"{where}: {name}", f"is {frame.schema[name]}, expected {kind}" if name in frame.schema else "is missing"
        )
        for name, kind in SAMPLE_SCHEMA.items()
        if frame.schema.get(name) != kind
    ]
    if problems:
        raise RunError(problems)
    return frame.select(list(SAMPLE_SCHEMA))

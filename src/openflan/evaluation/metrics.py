"""The metrics of a task: what one answer is worth, and what many are.

Takes `Outcome`s, gives a value for each and a value for all. Read next: `samples.py`, then `statistics.py`.

Every metric is a vector of sums over examples and a function of these sums: accuracy keeps (right, 1), BLEU its n-gram
counts, a correlation its moments. So a resampled set costs one weighted sum, and every interval is one of the corpus
metric itself. Which metric belongs to which dataset: Wei et al. 2022 section 3 and FLAN's code (F1 for DROP, MultiRC
and SQuAD, BLEU for translation, ROUGE for struct to text, else accuracy or exact match), and GLUE's and SuperGLUE's own
besides. Values are 0..1, higher is
better, save where a component says otherwise.
"""

import dataclasses
import functools
import importlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from openflan.errors import CatalogError, RunError, nearest
from openflan.evaluation import drop, normalise

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One answer beside what is right. Ranked answers carry their texts too, so text metrics apply to them."""

    prediction: str
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Empty for generated answers."""
    predicted: int = -1
    """Index into options; -1 for a written answer, also for one that matches none of its options."""
    gold: tuple[int, ...] = ()
    """Indices of the right options: any of them counts."""
    grade: float | None = None
    """The number the right option was rounded from, where it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """N = examples, S = sums kept, C = components reported."""

    name: str
    components: tuple[str, ...]
    """The first is the task's number."""
    needs_options: bool = False
    value: Callable[[Outcome], float]
    """What one answer is worth."""
    statistics: Callable[[Sequence[Outcome]], Floats]
    """[N] -> [N, S]"""
    finish: Callable[[Floats], Floats]
    """Sums [..., S] -> values [..., C]; not a number where the sums are of nothing."""
    is_mean: bool = False
    """The first component is the mean of `value`."""

    def over(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Each component over a set of answers. Raises RunError over nothing."""
        if not outcomes:
            raise RunError(f"{self.name} over nothing: no answer was scored")
        return dict(zip(self.components, self.finish(self.statistics(outcomes).sum(0)).tolist(), strict=True))


def metric(name: str) -> Metric:
    """The metric of that name. Raises CatalogError for an unknown one."""
    if name not in METRICS:
        raise CatalogError(f"metric {name!r} is unknown: {nearest(name, METRICS)}")
    return METRICS[name]


def distinct(options: Sequence[str]) -> tuple[int, ...]:
    """For each option the index of the first one with the same text: equal texts are one choice.

    >>> distinct(["yes", "no", "yes"])
    (0, 1, 0)
    """
    first: dict[str, int] = {}
    return tuple(first.setdefault(option, index) for index, option in enumerate(options))


def choose(logprobs: Sequence[float], options: Sequence[str]) -> tuple[int, bool]:
    """The likeliest of the distinct options, the first of equals, and whether another one is exactly as likely."""
    if len(logprobs) != len(options) or not options:
        raise RunError(f"{len(logprobs)} log-probabilities for {len(options)} options")
    candidates = sorted(set(distinct(options)))
    best = max(logprobs[index] for index in candidates)
    winners = [index for index in candidates if logprobs[index] == best]
    return winners[0], len(winners) > 1


def ranked(options: Sequence[str], gold: Sequence[int], predicted: int, grade: float | None = None) -> Outcome:
    """The outcome of choosing an option; options of equal text are one choice, so any copy of a gold one is right."""
    first = distinct(options)
    right = tuple(sorted({first[index] for index in gold}))
    return Outcome(
        prediction=options[predicted],
        references=tuple(options[index] for index in right),
        options=tuple(options),
        predicted=first[predicted],
        gold=right,
        grade=grade,
    )


def unmatched(text: str, options: Sequence[str], gold: Sequence[int]) -> Outcome:
    """The outcome of a written answer that is none of the options."""
    first = distinct(options)
    right = tuple(sorted({first[index] for index in gold}))
    return Outcome(
        prediction=text,
        references=tuple(options[index] for index in right),
        options=tuple(options),
        gold=right,
    )


def guessing(measure: Metric, outcomes: Sequence[Outcome]) -> float | None:
    """The value expected of a uniform guess among each row's distinct options; None where there are no options.

    For accuracy the mean of (right options / options). Expected sums go through `finish`, so F1 and the correlations
    get their chance level by the same rule.
    """
    if not outcomes or not all(outcome.options for outcome in outcomes):
        return None
    guesses: list[Outcome] = []
    weights: list[float] = []
    for outcome in outcomes:
        choices = sorted(set(distinct(outcome.options)))
        guesses.extend(_answering(outcome, choice) for choice in choices)
        weights.extend([1 / len(choices)] * len(choices))
    return _finite(measure.finish(np.array(weights) @ measure.statistics(guesses))[0])


def constant(measure: Metric, outcomes: Sequence[Outcome]) -> float | None:
    """The value of always giving the commonest answer; None where there are no options.

    Where all rows have the same words to choose from, the commonest gold word; else the commonest gold position.
    """
    if not outcomes or not all(outcome.options and outcome.gold for outcome in outcomes):
        return None
    fixed = len({frozenset(outcome.options) for outcome in outcomes}) == 1
    counts: Counter[str | int] = Counter(
        outcome.options[index] if fixed else index for outcome in outcomes for index in outcome.gold
    )
    commonest = min(counts, key=lambda answer: (-counts[answer], answer))
    answers: list[Outcome] = []
    for outcome in outcomes:
        index = outcome.options.index(commonest) if isinstance(commonest, str) else commonest
        # A row with fewer options than the commonest position has its last one taken; of equal ones the first counts.
        answers.append(_answering(outcome, distinct(outcome.options)[min(index, len(outcome.options) - 1)]))
    return _finite(measure.finish(measure.statistics(answers).sum(0))[0])


def _answering(outcome: Outcome, choice: int) -> Outcome:
    return dataclasses.replace(outcome, predicted=choice, prediction=outcome.options[choice])


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ratio(part: Floats, whole: Floats, empty: float = 0.0) -> Floats:
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, empty), where=whole != 0)


def _mean_metric(
    name: str,
    components: tuple[str, ...],
    values: Callable[[Outcome], tuple[float, ...]],
    *,
    needs_options: bool = False,
) -> Metric:
    """A metric whose components are means over examples."""

    def statistics(outcomes: Sequence[Outcome]) -> Floats:
        return np.array([(*values(outcome), 1.0) for outcome in outcomes])

    def finish(sums: Floats) -> Floats:
        return _ratio(sums[..., :-1], sums[..., -1:], empty=math.nan)

    return Metric(
        name=name,
        components=components,
        needs_options=needs_options,
        value=lambda outcome: values(outcome)[0],
        statistics=statistics,
        finish=finish,
        is_mean=True,
    )


def _right(outcome: Outcome) -> float:
    return float(outcome.predicted in outcome.gold)


# F1 of classes


def _binary_statistics(outcomes: Sequence[Outcome]) -> Floats:
    """True positives, predicted positives, gold positives, 1. The second option ("yes") is the positive one."""
    if any(len(outcome.options) != 2 for outcome in outcomes):
        raise CatalogError("metrics f1 and f1a need two options, the second being the positive one")
    predicted = np.array([outcome.predicted == 1 for outcome in outcomes])
    gold = np.array([1 in outcome.gold for outcome in outcomes])
    return np.stack([predicted & gold, predicted, gold, np.ones_like(gold)], axis=-1).astype(float)


def _binary_f1(sums: Floats) -> Floats:
    found = _ratio(2 * sums[..., :1], sums[..., 1:2] + sums[..., 2:3])
    return np.where(sums[..., 3:4] > 0, found, math.nan)


def _class_statistics(outcomes: Sequence[Outcome]) -> Floats:
    """1, then for each of K options how often it was right, predicted and gold."""
    num_options = max(len(outcome.options) for outcome in outcomes)
    sums = np.zeros((len(outcomes), 1 + 3 * num_options))
    sums[:, 0] = 1
    for row, outcome in zip(sums, outcomes, strict=True):
        gold = _gold_for(outcome)
        right, predicted, is_gold = np.split(row[1:], 3)
        right[gold] = outcome.predicted == gold
        is_gold[gold] = 1
        if outcome.predicted >= 0:  # a written answer may be none of the options
            predicted[outcome.predicted] = 1
    return sums


def _macro_f1(sums: Floats) -> Floats:
    """The mean over classes of their F1; a class that is neither predicted nor gold is none (as in scikit-learn)."""
    right, predicted, gold = np.split(sums[..., 1:], 3, axis=-1)
    found = _ratio(2 * right, predicted + gold)
    mean = _ratio(found.sum(-1), (predicted + gold > 0).sum(-1))
    return np.where(sums[..., 0] > 0, mean, math.nan)[..., None]


def _gold_for(outcome: Outcome) -> int:
    """The right option; of several the predicted one, where it is among them."""
    return outcome.predicted if outcome.predicted in outcome.gold else outcome.gold[0]


# Correlations


def _matthews_statistics(outcomes: Sequence[Outcome]) -> Floats:
    """Right, 1, then how often each of K choices was predicted and how often each is gold: the options, and none."""
    num_choices = max(len(outcome.options) for outcome in outcomes) + 1
    sums = np.zeros((len(outcomes), 2 + 2 * num_choices))
    for row, outcome in zip(sums, outcomes, strict=True):
        gold = _gold_for(outcome)
        row[:2] = outcome.predicted == gold, 1
        row[2 + outcome.predicted % num_choices] = 1
        row[2 + num_choices + gold] = 1
    return sums


def _matthews(sums: Floats) -> Floats:
    """Gorodkin's R_K, for two options Matthews' coefficient; 0 where all answers, or all gold, are the same."""
    right, number = sums[..., 0], sums[..., 1]
    predicted, gold = np.split(sums[..., 2:], 2, axis=-1)
    covariance = right * number - (predicted * gold).sum(-1)
    spread = (number**2 - (predicted**2).sum(-1)) * (number**2 - (gold**2).sum(-1))
    found = _ratio(covariance, np.sqrt(np.maximum(spread, 0)))
    return np.where(number > 0, found, math.nan)[..., None]


def _grade(options: Sequence[str], index: int) -> float:
    try:
        return [float(option) for option in options][index]
    except ValueError:
        return float(index)


def _gold_grade(outcome: Outcome) -> float:
    return math.fsum(_grade(outcome.options, index) for index in outcome.gold) / len(outcome.gold)


def _pearson_statistics(outcomes: Sequence[Outcome]) -> Floats:
    """1, x, y, xx, yy, xy: x the predicted grade, y the gold one. Options that are not numbers count by position.

    The gold grade is the row's own where it has one (STS-B: people's average, of which the option is the nearest). An
    answer that matches no option has no grade: its row is zero and so left out.
    """
    x = np.array([_grade(outcome.options, outcome.predicted) for outcome in outcomes])
    y = np.array([_gold_grade(outcome) if outcome.grade is None else outcome.grade for outcome in outcomes])
    graded = np.array([outcome.predicted >= 0 for outcome in outcomes])
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=-1) * graded[:, None]


def _pearson(sums: Floats) -> Floats:
    """Pearson's r; 0 where all predicted or all gold grades are the same, as such answers say nothing."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    # Sums of equal grades cancel to rounding noise rather than to zero.
    spread = np.where(spread > 1e-18 * np.maximum(n * xx * n * yy, 1e-300), spread, 0)
    return np.where(n > 0, _ratio(n * xy - x * y, np.sqrt(spread)), math.nan)[..., None]


# Text


def _best(outcome: Outcome, compare: Callable[[str, str], float]) -> float:
    return max(compare(outcome.prediction, reference) for reference in outcome.references)


def _exact_match(outcome: Outcome) -> tuple[float, ...]:
    return (float(outcome.prediction.strip() in {reference.strip() for reference in outcome.references}),)


def _f1_and_exact(outcome: Outcome, normalised: Callable[[str], str]) -> tuple[float, float]:
    return (
        _best(outcome, lambda a, b: normalise.token_f1(a, b, normalised)),
        _best(outcome, lambda a, b: normalise.exact(a, b, normalised)),
    )


def _squad(outcome: Outcome) -> tuple[float, ...]:
    return _f1_and_exact(outcome, normalise.squad)


def _drop(outcome: Outcome) -> tuple[float, ...]:
    found = [drop.f1_and_exact(outcome.prediction, reference) for reference in outcome.references]
    return max(f1 for f1, _ in found), max(exact for _, exact in found)


def _trivia(outcome: Outcome) -> tuple[float, ...]:
    return _f1_and_exact(outcome, normalise.trivia)[::-1]


def _word_edit(outcome: Outcome) -> tuple[float, ...]:
    """Share of words kept, and words edited, against the closest reference; lower-cased (FLAN's text formatting)."""
    best = (-1.0, 0.0)
    for reference in outcome.references:
        predicted, gold = outcome.prediction.lower().split(), reference.lower().split()
        edits = _levenshtein(predicted, gold)
        best = max(best, (1 - edits / max(len(predicted), len(gold), 1), float(edits)))
    return best


def _levenshtein(first: Sequence[str], second: Sequence[str]) -> int:
    row = list(range(len(second) + 1))
    for i, word in enumerate(first, start=1):
        above = row
        row = [i]
        for j, other in enumerate(second, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


@functools.cache
def _rouge_scorer() -> Any:
    scorer: Any = importlib.import_module("rouge_score.rouge_scorer")  # it has no types
    return scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=False)


def _rouge(outcome: Outcome) -> tuple[float, ...]:
    """F of each type, each with the reference best for that type; sentences are parted at " . " as in T5's metrics."""
    prediction = outcome.prediction.replace(" . ", " .\n")
    scores = [_rouge_scorer().score(ref.replace(" . ", " .\n"), prediction) for ref in outcome.references]
    return tuple(max(score[kind].fmeasure for score in scores) for kind in ("rouge1", "rouge2", "rougeLsum"))


BLEU_ORDERS = 4


@functools.cache
def _bleu_scorer() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="intl", smooth_method="exp", effective_order=True)


def _sentence_bleu(outcome: Outcome) -> Any:
    return _bleu_scorer().sentence_score(outcome.prediction, list(outcome.references))


def _bleu_statistics(outcomes: Sequence[Outcome]) -> Floats:
    """Lengths of prediction and closest reference, then right and all n-grams of order 1 to 4."""
    scores = map(_sentence_bleu, outcomes)
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals, 1] for s in scores], dtype=float)


def _bleu(sums: Floats) -> Floats:
    """Corpus BLEU from counts, 0..1: sacrebleu's, exponential smoothing of orders without a match."""
    length, reference = sums[..., 0], sums[..., 1]
    right, total = np.split(sums[..., 2 : 2 + 2 * BLEU_ORDERS], 2, axis=-1)
    halvings = np.cumsum((right == 0) & (total > 0), axis=-1)
    precision = _ratio(np.where(right > 0, right, 0.5**halvings), total)
    logs = np.log(precision, out=np.full(precision.shape, -math.inf), where=precision > 0)
    brevity = np.where(length < reference, 1 - _ratio(reference, length, empty=math.inf), 0.0)
    # Without a single matching word there is nothing to smooth.
    found = np.where(right.any(-1), np.exp(brevity + logs.mean(-1)), 0.0)
    return np.where(sums[..., -1] > 0, found, math.nan)[..., None]


CHRF_ORDERS = 6


def _chrf_sums(outcome: Outcome) -> Floats:
    """The n-grams of order 1 to 6 of the prediction, of the reference that is best, and of both; 1."""
    predicted = _character_ngrams(outcome.prediction)
    found: list[Floats] = []
    for reference in map(_character_ngrams, outcome.references):
        both = [(a & b).total() for a, b in zip(predicted, reference, strict=True)]
        # An order for which the reference is too short is counted on neither side.
        ours = [a.total() if b else 0 for a, b in zip(predicted, reference, strict=True)]
        found.append(np.array([*ours, *(b.total() for b in reference), *both, 1], dtype=float))
    return max(found, key=lambda sums: float(_chrf(sums)[0]))


def _character_ngrams(text: str) -> list[Counter[str]]:
    text = "".join(text.split())
    return [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, CHRF_ORDERS + 1)]


def _chrf(sums: Floats) -> Floats:
    """Corpus chrF2 from counts, 0..1: sacrebleu's, recall with twice the weight, over orders that both sides have."""
    predicted, gold, both = np.split(sums[..., :-1], 3, axis=-1)
    orders = ((predicted > 0) & (gold > 0)).sum(-1)
    precision, recall = (_ratio(_ratio(both, whole).sum(-1), orders) for whole in (predicted, gold))
    found = _ratio(5 * precision * recall, 4 * precision + recall)
    return np.where(sums[..., -1] > 0, found, math.nan)[..., None]


def _choice_metric(
    name: str, statistics: Callable[[Sequence[Outcome]], Floats], finish: Callable[[Floats], Floats]
) -> Metric:
    """A metric of chosen options with one number, which is no mean of single answers' values."""
    return Metric(name=name, components=(name,), needs_options=True, value=_right, statistics=statistics, finish=finish)


_ALL = (
    _mean_metric("accuracy", ("accuracy",), lambda outcome: (_right(outcome),), needs_options=True),
    _choice_metric("f1", _binary_statistics, _binary_f1),
    _choice_metric("f1a", _binary_statistics, _binary_f1),
    _choice_metric("macro_f1", _class_statistics, _macro_f1),
    _choice_metric("matthews", _matthews_statistics, _matthews),
    _choice_metric("pearson", _pearson_statistics, _pearson),
    _mean_metric("exact_match", ("exact_match",), _exact_match),
    _mean_metric("squad", ("f1", "exact_match"), _squad),
    _mean_metric("drop", ("f1", "exact_match"), _drop),
    _mean_metric("trivia", ("exact_match", "f1"), _trivia),
    Metric(
        name="bleu",
        components=("bleu",),
        value=lambda outcome: _sentence_bleu(outcome).score / 100,
        statistics=_bleu_statistics,
        finish=_bleu,
    ),
    Metric(
        name="chrf",
        components=("chrf",),
        value=lambda outcome: float(_chrf(_chrf_sums(outcome))[0]),
        statistics=lambda outcomes: np.array([_chrf_sums(outcome) for outcome in outcomes]),
        finish=_chrf,
    ),
    _mean_metric("rouge", ("rouge1", "rouge2", "rougeLsum"), _rouge),
    _mean_metric("word_edit", ("words_kept", "words_edited"), _word_edit),
)
METRICS: Mapping[str, Metric] = {one.name: one for one in _ALL}

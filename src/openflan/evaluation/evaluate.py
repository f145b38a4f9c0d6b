"""Samples to a `Result`: every mean with its interval, every comparison paired.

Takes the samples of all arms, gives what `result.json` holds. Read next: `statistics.py` for what the numbers mean.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from openflan.artifacts import fingerprint as fingerprint_of
from openflan.catalog.task import Task
from openflan.errors import Problem, RunError, nearest
from openflan.evaluation import statistics
from openflan.evaluation.metrics import Metric, Outcome, choose, constant, guessing, metric, ranked, unmatched
from openflan.evaluation.result import (
    ArmResult,
    ClusterDifference,
    ClusterResult,
    Difference,
    Matched,
    Result,
    TaskResult,
    rounded,
)
from openflan.evaluation.samples import MATCHED
from openflan.evaluation.statistics import RESAMPLES, Floats, Ints

NOISE_NATS = 1e-4
"""Two correct float32 scorers may differ by this much for each token."""


@dataclass(frozen=True, slots=True)
class _Settings:
    seed: int
    resamples: int


@dataclass(frozen=True, slots=True)
class _Answers:
    """One arm's scored test answers to one task: N rows, S sums of its metric."""

    arm: str
    task: Task
    cluster: str
    measure: Metric
    rows: pl.DataFrame
    dev: pl.DataFrame
    unscored: int
    templates: tuple[str, ...]
    """Asked on test, in the task's order."""
    items: Ints
    """[N], numbered alike in all arms"""
    groups: Ints
    """[N], numbered alike in all arms"""
    template_of: Ints
    """[N]"""
    sums: Floats
    """[N, S]"""


def evaluate(
    samples: pl.DataFrame,
    *,
    tasks: Mapping[str, Task],
    held_out: Sequence[str],
    seed: int,
    arm: str = "tuned",
    resamples: int = RESAMPLES,
    fingerprint: str | None = None,
) -> Result:
    """Means, intervals and paired differences of all arms; `arm` is compared with every other one.

    `samples` has the columns of `SAMPLE_SCHEMA`. Rows of split "dev" do nothing but choose a template. An arm asked
    with several numbers of exemplars counts as several arms, "few_shot@5" say. Neither the order of rows nor the
    presence of other arms or tasks moves an arm's numbers (Holm's adjustment aside). `fingerprint` names the run; by
    default it is made of the numbers.

    Raises RunError where there is nothing to evaluate, a task is unknown, or an arm has no scored test row for a task.
    """
    answers = _answers(_named_arms(samples), tasks)
    settings = _Settings(seed, resamples)
    arms: dict[str, ArmResult] = {}
    for name in sorted({one.arm for one in answers}):
        arms[name] = _arm([one for one in answers if one.arm == name], settings)
    differences = _differences(answers, arm, settings)
    if fingerprint is None:
        fingerprint = fingerprint_of(rounded([list(held_out), seed, arms, differences]))
    plain = rounded({"arms": arms, "differences": differences})
    return Result(
        fingerprint=fingerprint, held_out=list(held_out), arms=plain["arms"], differences=plain["differences"]
    )


def best_on_dev(dev: pl.DataFrame, measure: Metric, order: Sequence[str]) -> str | None:
    """The template of `order` with the highest metric over dev rows, the first of equals; None without dev rows.

    Chosen here, where no test row is known (Wei et al. 2022 section 3: best dev template).
    """
    assert set(dev["split"].unique()) <= {"dev"}
    scored = dev.filter(pl.col("value").is_not_null())
    best: tuple[float, str] | None = None
    for template in order:
        rows = scored.filter(pl.col("template") == template)
        if rows.is_empty():
            continue
        value = float(measure.finish(_sums(rows, measure).sum(0))[0])
        if best is None or value > best[0]:
            best = value, template
    return best[1] if best else None


# Reading the samples


def _named_arms(samples: pl.DataFrame) -> pl.DataFrame:
    several = pl.col("shots").n_unique().over("arm") > 1
    named = pl.when(several).then(pl.format("{}@{}", "arm", "shots")).otherwise(pl.col("arm"))
    return samples.with_columns(named.alias("arm")).sort("arm", "task", "split", "row_id", "template")


def _answers(samples: pl.DataFrame, tasks: Mapping[str, Task]) -> list[_Answers]:
    test = samples.filter(pl.col("split") == "test")
    if test.is_empty():
        raise RunError("no test sample to evaluate")
    names: list[str] = sorted(test["task"].unique())
    if unknown := [name for name in names if name not in tasks]:
        raise RunError(
            [Problem(name, "task of a sample is not in the catalog", nearest(name, tasks)) for name in unknown]
        )
    answers: list[_Answers] = []
    problems: list[Problem] = []
    for name in names:
        for one in _answers_to(tasks[name], samples.filter(pl.col("task") == name)):
            if one.rows.is_empty():
                problems.append(
                    Problem(f"{one.arm} {name}", f"{one.measure.name} over nothing: no test row was scored")
                )
            answers.append(one)
    if problems:
        raise RunError(problems)
    return answers


def _answers_to(task: Task, samples: pl.DataFrame) -> list[_Answers]:
    """Each arm's answers, with items, groups and sums in one numbering."""
    measure = metric(task.metrics[0])
    test = samples.filter(pl.col("split") == "test")
    scored = test.filter(pl.col("value").is_not_null())
    items, groups = (scored[name].rank("dense").cast(pl.Int64).to_numpy() - 1 for name in ("row_id", "group"))
    # Over all arms at once, since some metrics keep as many sums as the task has options.
    sums = _sums(scored, measure)
    order = [template.id for template in task.templates]
    answers: list[_Answers] = []
    for arm in sorted(test["arm"].unique()):
        mine = (scored["arm"] == arm).to_numpy()
        rows = scored.filter(mine)
        templates = sorted(
            rows["template"].unique(), key=lambda name: (order.index(name) if name in order else -1, name)
        )
        place = {name: index for index, name in enumerate(templates)}
        answers.append(
            _Answers(
                arm=arm,
                task=task,
                cluster=test.filter(pl.col("arm") == arm)["cluster"][0],
                measure=measure,
                rows=rows,
                dev=samples.filter((pl.col("split") == "dev") & (pl.col("arm") == arm)),
                unscored=test.filter((pl.col("arm") == arm) & pl.col("value").is_null()).height,
                templates=tuple(templates),
                items=items[mine],
                groups=groups[mine],
                template_of=np.array([place[name] for name in rows["template"]], np.int64),
                sums=sums[mine],
            )
        )
    return answers


def _sums(rows: pl.DataFrame, measure: Metric) -> Floats:
    """The sums a metric keeps of each row, [N, S]; of a mean its stored value and a one."""
    if measure.is_mean:
        return np.stack([rows["value"].to_numpy().astype(float), np.ones(rows.height)], axis=-1)
    return measure.statistics(_outcomes(rows)) if rows.height else np.zeros((0, 1))


def _outcomes(rows: pl.DataFrame) -> list[Outcome]:
    columns = (rows[name].to_list() for name in ("options", "gold", "predicted", "prediction", "references"))
    return [
        ranked(options, gold, predicted)
        if predicted is not None
        else unmatched(prediction, options, gold)
        if options
        else Outcome(prediction=prediction, references=tuple(references))
        for options, gold, predicted, prediction, references in zip(*columns, strict=True)
    ]


# One arm


def _arm(answers: Sequence[_Answers], settings: _Settings) -> ArmResult:
    tasks: dict[str, TaskResult] = {}
    draws: dict[str, Floats] = {}
    clusters: dict[str, list[str]] = {}
    for one in answers:
        tasks[one.task.name], draws[one.task.name] = _task(one, settings)
        clusters.setdefault(one.cluster, []).append(one.task.name)
    return {
        "tasks": tasks,
        "clusters": {name: _cluster(names, tasks, draws) for name, names in sorted(clusters.items())},
    }


def _task(one: _Answers, settings: _Settings) -> tuple[TaskResult, Floats]:
    """An arm's numbers on a task, and its mean in every resample."""
    finish = one.measure.finish
    group_ids, groups = np.unique(one.groups, return_inverse=True)
    sums = statistics.group_sums(
        one.sums, groups, one.template_of, num_groups=len(group_ids), num_templates=len(one.templates)
    )
    values = finish(sums.sum(0))[:, 0]
    by_template = dict(zip(one.templates, values.tolist(), strict=True))
    (draws,) = statistics.bootstrap(
        [sums], finish, seed=settings.seed, names=[one.task.name], resamples=settings.resamples
    )
    low, high = statistics.interval(draws)
    best = best_on_dev(one.dev, one.measure, one.templates)
    once = _outcomes(one.rows.unique("row_id", keep="first", maintain_order=True))
    ties, near_ties = _ties(one.rows)
    found: TaskResult = {
        "metric": one.measure.name,
        "n": int(np.unique(one.items).size),
        "templates": len(one.templates),
        "mean": float(statistics.over_templates(sums.sum(0), finish)),
        "std": float(values.std()),
        "by_template": by_template,
        "best_dev": by_template[best] if best else None,
        "best_dev_template": best,
        "low": low,
        "high": high,
        "chance": guessing(one.measure, once),
        "majority": constant(one.measure, once),
        "ties": ties,
        "near_ties": near_ties,
        "unscored": one.unscored,
        "also": _also(one),
    }
    if matched := _matched(one.rows):
        found["matched"] = matched
    return found, draws


def _matched(rows: pl.DataFrame) -> Matched | None:
    """How written answers were matched to options; None where options were ranked or there are none."""
    written = rows.filter((pl.col("options").list.len() > 0) & (pl.col("logprobs").list.len() == 0))
    if written.is_empty():
        return None
    counts = Counter(written["reason"].to_list())
    return {"equal": counts[MATCHED["equal"]], "begins": counts[MATCHED["begins"]],
            "unmatched": written["predicted"].null_count()}  # fmt: skip


def _also(one: _Answers) -> dict[str, float]:
    """The task's other metrics, and other components of its first: means over templates, without intervals."""
    measures = [metric(name) for name in one.task.metrics]
    wanted = [(measure, name) for measure in measures for name in measure.components]
    wanted = [
        (measure, name) for measure, name in wanted if (measure, name) != (one.measure, one.measure.components[0])
    ]
    if not wanted:
        return {}
    outcomes = _outcomes(one.rows)
    ranks = all(outcome.options for outcome in outcomes)
    found: dict[str, list[float]] = {}
    for template in range(len(one.templates)):
        mine = [outcomes[index] for index in np.flatnonzero(one.template_of == template)]
        for measure in {name: measure for measure, name in reversed(wanted)}.values():
            if measure.needs_options and not ranks:
                continue
            for name, value in measure.over(mine).items():
                if (measure, name) in wanted:
                    key = name if measure.components == (measure.name,) else f"{measure.name}.{name}"
                    found.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in sorted(found.items())}


def _ties(rows: pl.DataFrame) -> tuple[int, int]:
    """Decisions with an exact tie, and decisions within rounding noise."""
    best_two = pl.col("logprobs").list.sort(descending=True)
    margin = best_two.list.get(0, null_on_oob=True) - best_two.list.get(1, null_on_oob=True)
    noise = 2 * NOISE_NATS * pl.col("tokens").list.max()
    close = rows.filter(margin <= noise).select("logprobs", "options", noise.alias("noise"))
    ties = near = 0
    for logprobs, options, band in close.iter_rows():
        best, tied = choose(logprobs, options)
        ties += tied
        # Options of equal text are one choice: what remains close are other texts.
        near += any(
            option != options[best] and logprobs[best] - value <= band
            for option, value in zip(options, logprobs, strict=True)
        )
    return ties, near


def _cluster(names: Sequence[str], tasks: Mapping[str, TaskResult], draws: Mapping[str, Floats]) -> ClusterResult:
    means = [tasks[name]["mean"] for name in names]
    items = [tasks[name]["n"] for name in names]
    chances = [chance for name in names if (chance := tasks[name]["chance"]) is not None]
    low, high = statistics.interval(np.mean([draws[name] for name in names], axis=0))
    return {
        "mean": float(np.mean(means)),
        "micro": float(np.average(means, weights=items)),
        "low": low,
        "high": high,
        "n": sum(items),
        "tasks": list(names),
        "chance": float(np.mean(chances)) if len(chances) == len(names) else None,
    }


# Two arms


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two arms on one task, over the items both answered."""

    mean: float
    n: int
    draws: Floats
    observed: float
    exchanges: Floats
    mcnemar: float | None


def _differences(answers: Sequence[_Answers], arm: str, settings: _Settings) -> list[ClusterDifference]:
    by_key = {(one.arm, one.task.name): one for one in answers}
    others = sorted({one.arm for one in answers} - {arm})
    clusters = sorted({one.cluster for one in answers if one.arm == arm})
    found: list[ClusterDifference] = []
    for other in others:
        for cluster in clusters:
            pairs: dict[str, _Pair] = {}
            for one in answers:
                against = by_key.get((other, one.task.name))
                if one.arm == arm and one.cluster == cluster and against is not None:
                    pair = _pair(one, against, settings)
                    if pair is not None:
                        pairs[one.task.name] = pair
            if pairs:
                whole = _difference(list(pairs.values()))
                within = {name: _difference([pair]) for name, pair in pairs.items()}
                found.append({"arm": arm, "against": other, "cluster": cluster, **whole, "tasks": within})
    _adjust(found)
    _adjust([task for difference in found for task in difference["tasks"].values()])
    return found


def _adjust(family: Sequence[Difference]) -> None:
    for difference, p in zip(family, statistics.holm([one["p"] for one in family]), strict=True):
        difference["p_holm"] = p


def _difference(pairs: Sequence[_Pair]) -> Difference:
    """A task's difference, or the unweighted mean of several tasks'; items of different tasks are independent."""
    draws = np.mean([pair.draws for pair in pairs], axis=0)
    low, high = statistics.interval(draws)
    observed = float(np.mean([pair.observed for pair in pairs]))
    found: Difference = {
        "mean": float(np.mean([pair.mean for pair in pairs])),
        "low": low,
        "high": high,
        "p": statistics.exchange_p(observed, np.mean([pair.exchanges for pair in pairs], axis=0)),
        "p_holm": 1.0,
        "n": sum(pair.n for pair in pairs),
        "smallest_detectable": statistics.smallest_detectable(draws),
    }
    if len(pairs) == 1 and pairs[0].mcnemar is not None:
        found["p_mcnemar"] = pairs[0].mcnemar
    return found


def _pair(one: _Answers, other: _Answers, settings: _Settings) -> _Pair | None:
    """The paired comparison, one minus other; None where they share no item.

    The arms may have been asked with different templates and different numbers of them.
    """
    common = np.intersect1d(one.items, other.items)
    if not common.size:
        return None
    finish = one.measure.finish
    sides = [_restricted(side, common) for side in (one, other)]
    first, second = (statistics.over_templates(side.sums.sum(0), finish) for side in sides)
    names = [one.task.name]
    draws = statistics.bootstrap(
        [side.sums for side in sides], finish, seed=settings.seed, names=names, resamples=settings.resamples
    )
    observed, exchanges = statistics.exchange_test(
        sides[0].averaged, sides[1].averaged, finish, seed=settings.seed, names=names, resamples=settings.resamples
    )
    return _Pair(
        mean=float(first - second),
        n=int(common.size),
        draws=draws[0] - draws[1],
        observed=observed,
        exchanges=exchanges,
        mcnemar=_mcnemar(one, other, sides),
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """An arm's answers to the items two arms share: I items in G groups."""

    sums: Floats
    """[G, T, S]"""
    averaged: Floats
    """[G, S], each item averaged over its templates first"""
    by_item: Floats
    """[I, S], averaged over templates"""


def _restricted(one: _Answers, common: Ints) -> _Side:
    kept = np.isin(one.items, common)
    items = np.searchsorted(common, one.items[kept])
    group_ids, groups = np.unique(one.groups[kept], return_inverse=True)
    group_of_item = np.zeros(len(common), np.int64)
    group_of_item[items] = groups
    by_item = np.zeros((len(common), one.sums.shape[-1]))
    np.add.at(by_item, items, one.sums[kept])
    by_item /= np.bincount(items, minlength=len(common))[:, None]
    averaged = np.zeros((len(group_ids), one.sums.shape[-1]))
    np.add.at(averaged, group_of_item, by_item)
    sums = statistics.group_sums(
        one.sums[kept], groups, one.template_of[kept], num_groups=len(group_ids), num_templates=len(one.templates)
    )
    return _Side(sums, averaged, by_item)


def _mcnemar(one: _Answers, other: _Answers, sides: Sequence[_Side]) -> float | None:
    if not one.measure.is_mean or len(one.templates) != 1 or len(other.templates) != 1:
        return None
    values: list[Any] = [side.by_item[:, 0].tolist() for side in sides]
    if not set(values[0]) | set(values[1]) <= {0.0, 1.0}:
        return None
    return statistics.mcnemar(values[0], values[1])

"""Samples to a `Result`: every mean with its interval, every comparison paired.

Takes the samples of all arms, gives what `result.json` holds. Read next: `statistics.py` for what the numbers mean.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from openflan.artifacts import fingerprint as fingerprint_of
from openflan.catalog.task import Task
from openflan.errors import Problem, RunError, nearest
from openflan.evaluation import paired, statistics
from openflan.evaluation.metrics import Metric, Outcome, choose, constant, guessing, metric, ranked, unmatched
from openflan.evaluation.paired import Answers, Pair
from openflan.evaluation.result import (
    ArmResult,
    ClusterDifference,
    ClusterResult,
    Matched,
    Result,
    TaskResult,
    rounded,
)
from openflan.evaluation.samples import MATCHED, SEEN_ARMS, resampled_as, without_shots
from openflan.evaluation.statistics import RESAMPLES, Floats, Ints

GROUP_NUMBER = "group_number"
SOFT_PROMPTS = (("soft_prompt", "untuned_soft_prompt"),)
"""What the paper's figure 10 compares."""
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
    asked: pl.DataFrame
    """`rows`, and written answers that match no option and that this metric leaves out; others count them as wrong"""
    dev: pl.DataFrame
    unscored: int
    templates: tuple[str, ...]
    """Asked on test, in the task's order."""
    items: Ints
    """[N], numbered alike in all arms"""
    groups: Ints
    """[N], numbered alike in all arms and tasks"""
    template_of: Ints
    """[N]"""
    sums: Floats
    """[N, S]"""

    @property
    def paired(self) -> Answers:
        """What a comparison needs of them."""
        return Answers(
            measure=self.measure,
            templates=self.templates,
            items=self.items,
            groups=self.groups,
            template_of=self.template_of,
            sums=self.sums,
        )


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
    with exemplars is an arm of its own, "tuned@5" say (`samples.with_shots`); such arms are also compared with the
    others of as many exemplars, and with themselves without any. Results of `SEEN_ARMS` say what they are.

    Neither the order of rows nor the presence of other arms or tasks moves an arm's numbers (Holm's adjustment aside).
    `fingerprint` names the run; by default it is made of the numbers.

    Raises RunError where there is nothing to evaluate, a task is unknown, or an arm has no scored test row for a task.
    """
    answers = _answers(_numbered(samples), tasks)
    settings = _Settings(seed, resamples)
    arms: dict[str, ArmResult] = {}
    for name in sorted({one.arm for one in answers}):
        arms[name] = _arm([one for one in answers if one.arm == name], settings)
        if without_shots(name)[0] in SEEN_ARMS:
            arms[name]["seen"] = True
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
        value = float(measure.finish(row_sums(rows, measure).sum(0))[0])
        if best is None or value > best[0]:
            best = value, template
    return best[1] if best else None


@dataclass(frozen=True, slots=True)
class ClusterDraws:
    """An arm's mean over a cluster's tasks, and that mean in every resample of its items."""

    mean: float
    draws: Floats
    """[B]; those of two arms that answered the same items are of the same resamples, so their difference is paired"""
    n: int
    """Items."""
    tasks: tuple[str, ...]
    chance: float | None
    majority: float | None
    """What always giving the most frequent answer scores."""
    templates_std: float
    """Standard deviation over templates, averaged over tasks."""


def cluster_draws(
    samples: pl.DataFrame, *, tasks: Mapping[str, Task], seed: int, resamples: int = RESAMPLES
) -> dict[tuple[str, str], ClusterDraws]:
    """By (arm, cluster): the numbers `evaluate` gives, with the resamples they come of. Raises RunError as it does."""
    answers = _answers(_numbered(samples), tasks)
    settings = _Settings(seed, resamples)
    found: dict[tuple[str, str], ClusterDraws] = {}
    for key in sorted({(one.arm, one.cluster) for one in answers}):
        mine = [one for one in answers if (one.arm, one.cluster) == key]
        resampled = [_resampled(one, settings) for one in mine]
        results = [_task(one, drawn) for one, drawn in zip(mine, resampled, strict=True)]
        found[key] = ClusterDraws(
            mean=float(np.mean([result["mean"] for result in results])),
            draws=_cluster_draws(key[1], resampled, settings),
            n=sum(result["n"] for result in results),
            tasks=tuple(one.task.name for one in mine),
            chance=statistics.mean_if_all([result["chance"] for result in results]),
            majority=statistics.mean_if_all([result["majority"] for result in results]),
            templates_std=float(np.mean([result["std"] for result in results])),
        )
    return found


# Reading the samples


def _numbered(samples: pl.DataFrame) -> pl.DataFrame:
    numbered = resampled_as().rank("dense").cast(pl.Int64).alias(GROUP_NUMBER)
    return samples.with_columns(numbered).sort("arm", "task", "split", "row_id", "template")


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
    items = scored["row_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    groups = scored[GROUP_NUMBER].to_numpy()
    # Over all arms at once, since some metrics keep as many sums as the task has options.
    sums = row_sums(scored, measure)
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
                asked=test.filter((pl.col("arm") == arm) & (pl.col("value").is_not_null() | _unmatched())),
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


def _unmatched() -> pl.Expr:
    return pl.col("reason").is_in([MATCHED["none"], MATCHED["several"]])


def row_sums(rows: pl.DataFrame, measure: Metric) -> Floats:
    """The sums a metric keeps of each row, [N, S]; of a mean its stored value and a one."""
    if measure.is_mean:
        return np.stack([rows["value"].to_numpy().astype(float), np.ones(rows.height)], axis=-1)
    return measure.statistics(outcomes_of(rows)) if rows.height else np.zeros((0, 1))


def outcomes_of(rows: pl.DataFrame) -> list[Outcome]:
    """Scored sample rows as what metrics are computed from."""
    columns = (rows[name].to_list() for name in ("options", "gold", "predicted", "prediction", "references", "grade"))
    return [
        ranked(options, gold, predicted, grade)
        if predicted is not None
        else unmatched(prediction, options, gold)
        if options
        else Outcome(prediction=prediction, references=tuple(references))
        for options, gold, predicted, prediction, references, grade in zip(*columns, strict=True)
    ]


# One arm


def _arm(answers: Sequence[_Answers], settings: _Settings) -> ArmResult:
    resampled = {one.task.name: _resampled(one, settings) for one in answers}
    tasks = {one.task.name: _task(one, resampled[one.task.name]) for one in answers}
    clusters: dict[str, list[str]] = {}
    for one in answers:
        clusters.setdefault(one.cluster, []).append(one.task.name)
    return {
        "tasks": tasks,
        "clusters": {
            cluster: _cluster(cluster, names, tasks, resampled, settings) for cluster, names in sorted(clusters.items())
        },
    }


@dataclass(frozen=True, slots=True)
class _Resampled:
    """An arm's sums on a task by group, and its mean in every resample."""

    finish: statistics.Finish
    groups: Ints
    """[G]"""
    sums: Floats
    """[G, T, S]"""
    draws: Floats
    """[B]"""


def _resampled(one: _Answers, settings: _Settings) -> _Resampled:
    finish = one.measure.finish
    group_ids, groups = np.unique(one.groups, return_inverse=True)
    sums = statistics.group_sums(
        one.sums, groups, one.template_of, num_groups=len(group_ids), num_templates=len(one.templates)
    )
    (draws,) = statistics.bootstrap(
        [sums], finish, seed=settings.seed, names=[one.task.name], resamples=settings.resamples
    )
    return _Resampled(finish, group_ids, sums, draws)


def _task(one: _Answers, resampled: _Resampled) -> TaskResult:
    finish, sums, draws = resampled.finish, resampled.sums, resampled.draws
    values = finish(sums.sum(0))[:, 0]
    by_template = dict(zip(one.templates, values.tolist(), strict=True))
    low, high = statistics.interval(draws)
    best = best_on_dev(one.dev, one.measure, one.templates)
    once = outcomes_of(one.rows.unique("row_id", keep="first", maintain_order=True))
    ties, near_ties = _ties(one.rows)
    found: TaskResult = {
        "metric": one.measure.name,
        "n": int(np.unique(one.items).size),
        "templates": len(one.templates),
        "shots": float(one.rows["shots"].cast(pl.Float64).mean() or 0.0),  # pyright: ignore[reportArgumentType]
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
    if matched := _matched(one.asked):
        found["matched"] = matched
    return found


def _matched(rows: pl.DataFrame) -> Matched | None:
    """How written answers were matched to options; None where options were ranked or there are none."""
    written = rows.filter((pl.col("options").list.len() > 0) & (pl.col("logprobs").list.len() == 0))
    if written.is_empty():
        return None
    counts = Counter(written["reason"].to_list())
    return {"equal": counts[MATCHED["equal"]], "begins": counts[MATCHED["begins"]],
            "unmatched": written["predicted"].null_count()}  # fmt: skip


def _also(one: _Answers) -> dict[str, float]:
    """The task's other metrics, and other components of its first: means over templates, without intervals.

    One that is not defined for each template's answers (a correlation where none was matched) is left out.
    """
    measures = [metric(name) for name in one.task.metrics]
    wanted = [(measure, name) for measure in measures for name in measure.components]
    wanted = [
        (measure, name) for measure, name in wanted if (measure, name) != (one.measure, one.measure.components[0])
    ]
    if not wanted:
        return {}
    ranks = bool((one.asked["options"].list.len() > 0).all())
    found: dict[str, list[float]] = {}
    for rows in one.asked.partition_by("template"):
        mine = outcomes_of(rows)
        for measure in {measure.name: measure for measure, _ in wanted}.values():
            if measure.needs_options and not ranks:
                continue
            for name, value in measure.over(mine).items():
                if (measure, name) in wanted:
                    key = name if measure.components == (measure.name,) else f"{measure.name}.{name}"
                    found.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in sorted(found.items()) if np.isfinite(values).all()}


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


def _cluster(
    cluster: str,
    names: Sequence[str],
    tasks: Mapping[str, TaskResult],
    resampled: Mapping[str, _Resampled],
    settings: _Settings,
) -> ClusterResult:
    means = [tasks[name]["mean"] for name in names]
    items = [tasks[name]["n"] for name in names]
    low, high = statistics.interval(_cluster_draws(cluster, [resampled[name] for name in names], settings))
    return {
        "mean": float(np.mean(means)),
        "micro": float(np.average(means, weights=items)),
        "low": low,
        "high": high,
        "n": sum(items),
        "shots": float(np.mean([tasks[name]["shots"] for name in names])),
        "tasks": list(names),
        "chance": statistics.mean_if_all(tasks[name]["chance"] for name in names),
        "majority": statistics.mean_if_all(tasks[name]["majority"] for name in names),
    }


def _cluster_draws(cluster: str, tasks: Sequence[_Resampled], settings: _Settings) -> Floats:
    """The mean of the tasks in every resample; groups that tasks share are drawn as one."""
    draws = [task.draws for task in tasks]
    for members, groups in statistics.sharing([task.groups for task in tasks]):
        names = ["cluster", cluster, int(groups[0])]
        for number in members:
            laid = statistics.spread(tasks[number].sums, tasks[number].groups, groups)
            (draws[number],) = statistics.bootstrap(
                [laid], tasks[number].finish, seed=settings.seed, names=names, resamples=settings.resamples
            )
    return np.mean(draws, axis=0)


# Two arms


def _differences(answers: Sequence[_Answers], arm: str, settings: _Settings) -> list[ClusterDifference]:
    by_key = {(one.arm, one.task.name): one for one in answers}
    found: list[ClusterDifference] = []
    for first, other in _compared({one.arm for one in answers}, arm):
        for cluster in sorted({one.cluster for one in answers if one.arm == first}):
            pairs: dict[str, Pair] = {}
            for one in answers:
                against = by_key.get((other, one.task.name))
                if one.arm == first and one.cluster == cluster and against is not None:
                    pair = _pair(one, against, settings)
                    if pair is not None:
                        pairs[one.task.name] = pair
            if pairs:
                whole = paired.difference(
                    paired.together(
                        list(pairs.values()),
                        seed=settings.seed,
                        names=["cluster", cluster],
                        resamples=settings.resamples,
                    )
                )
                within = {name: paired.difference([pair]) for name, pair in pairs.items()}
                found.append({"arm": first, "against": other, "cluster": cluster, **whole, "tasks": within})
    paired.adjust(found)
    paired.adjust([task for difference in found for task in difference["tasks"].values()])
    return found


def _compared(arms: set[str], arm: str) -> list[tuple[str, str]]:
    """The pairs of arms compared: `arm` with every other one; with k exemplars, with the others that are shown k; and
    every arm that is shown exemplars with itself without; soft prompts before the tuned and the untuned model."""
    asked = {name: without_shots(name) for name in sorted(arms)}
    pairs = [(arm, other) for other, (base, _) in asked.items() if base != arm]
    for name, (base, shots) in asked.items():
        if shots and base == arm:
            pairs += [(name, other) for other, (_, its) in asked.items() if its == shots and other != name]
    pairs += [(name, base) for name, (base, shots) in asked.items() if shots and base in arms]
    pairs += [pair for pair in SOFT_PROMPTS if pair[1] in arms]
    return [pair for pair in pairs if pair[0] in arms]


def _pair(one: _Answers, other: _Answers, settings: _Settings) -> Pair | None:
    return paired.pair(
        one.paired, other.paired, seed=settings.seed, names=[one.task.name], resamples=settings.resamples
    )

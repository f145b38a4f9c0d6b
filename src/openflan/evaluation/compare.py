"""Two runs on the same items: every difference paired, and everything that is not compared counted and named.

Takes two sides (one arm of one run each), gives a `Comparison`. Read next: `paired.py` for how a difference is tested.

An answer of one side is paired with the other's to the same task, item, template and number of exemplars, and only if
both read the very same prompt. With `own_prompts` the sides are paired by item instead, each asked in its own way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NotRequired, TypedDict, cast

import numpy as np
import polars as pl

from openflan.errors import Problem, RunError
from openflan.evaluation import paired, statistics
from openflan.evaluation.evaluate import row_sums
from openflan.evaluation.metrics import Metric, metric
from openflan.evaluation.paired import Answers, Pair
from openflan.evaluation.result import Difference, rounded
from openflan.evaluation.samples import resampled_as
from openflan.evaluation.statistics import RESAMPLES, Reading

FORMAT = 1
KEY = ("task", "shots", "row_id", "template")
"""What names one answer of a side."""
MOST_MOVED = 10
"""Templates listed as having moved most."""
SHOWN_IN_ERRORS = 3
TASKS_IN_ERRORS = 12
EQUAL = 1e-9
"""Values closer than this are the same value."""

SideName = Literal["a", "b"]
Reason = Literal["task", "shots", "template", "item", "cell", "unscored"]
"""Why an answer is not compared: the other side has no answer to the task; none with as many exemplars; none through
the template; none to the item; none to this item through this template; or one side's answer has no value."""
Outcome = Literal["won", "lost", "even"]
"""Of an item, by its mean over templates; `even` where wins and losses under single templates cancel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One arm of one run."""

    label: str
    """What errors call it."""
    samples: pl.DataFrame
    """Its samples, columns of `SAMPLE_SCHEMA`; those of other splits than test are not looked at."""
    metrics: Mapping[str, str]
    """The metric each task was scored by, by task."""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a reader should know of it: run, model, fingerprint."""


class Asked(TypedDict):
    """One side of a difference."""

    mean: float
    templates: int
    """Wordings asked; of a cluster the sum over its tasks."""
    shots: int
    """Exemplars shown."""


class TemplateDifference(TypedDict):
    """One template's difference. A description: it is not tested, since the largest of many is large by chance too."""

    template: str
    n: int
    a: float
    b: float
    mean: float
    """a minus b."""
    low: float
    high: float


class Items(TypedDict):
    """How many items changed, by their means over templates."""

    won: int
    """Better in A."""
    lost: int
    even: int
    """Changed under some templates, their mean not."""
    same: int


class Compared(Difference):
    """A minus B, with both means."""

    cluster: str
    groups: int
    """Groups of items (passages) that were resampled; one that tasks of a cluster share counts once."""
    a: Asked
    b: Asked
    reading: Reading
    """Before Holm's adjustment; whether it stands after it, `p_holm` says."""


class TaskComparison(Compared):
    """A minus B on one task."""

    task: str
    metric: str
    items: Items
    by_template: list[TemplateDifference]
    """Empty where the sides were asked through templates of their own."""


class ClusterComparison(Compared):
    """A minus B on one cluster: the unweighted mean of its tasks' differences."""

    tasks: list[str]


class MovedTask(TypedDict):
    task: str
    shots: int
    mean: float


class MovedTemplate(TemplateDifference):
    task: str
    shots: int


class Moved(TypedDict):
    """What moved most, largest first."""

    tasks: list[MovedTask]
    templates: list[MovedTemplate]


class Outside(TypedDict):
    """Answers that were not compared, for one reason."""

    side: Literal["a", "b", "both"]
    """Whose answers these are; of unscored ones, on which side the value is missing."""
    reason: Reason
    task: str
    shots: int
    samples: int
    template: NotRequired[str]
    """Where the template is the reason."""
    items: NotRequired[list[str]]
    """Row ids, where items are the reason."""


class ChangedAnswer(TypedDict):
    """What both sides said through one template; None where a side was not asked through it."""

    template: str
    a: str | None
    b: str | None
    value_a: float | None
    value_b: float | None
    prompt_sha: str
    prompt: str | None
    """Kept for a few items of a run only."""


class ChangedItem(TypedDict):
    """One item whose value is not the same on both sides."""

    task: str
    cluster: str
    shots: int
    row_id: str
    group: str
    outcome: Outcome
    a: float
    """Mean value over templates."""
    b: float
    won: int
    """Templates under which A is better."""
    lost: int
    templates: int
    right: list[str]
    """Texts that count as right, over its templates."""
    answers: list[ChangedAnswer]
    """Of the templates whose value changed; all of them where the sides were asked through templates of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two runs say of each other; `compare.json` holds exactly these keys. Differences are A minus B."""

    format: int = FORMAT
    a: dict[str, Any]
    b: dict[str, Any]
    paired_by: Literal["prompt", "item"]
    seed: int
    resamples: int
    samples: dict[str, int]
    """Answers compared, of each side."""
    unhashed: int
    """Pairs of which one side kept no hash of its prompt, so that their prompts could not be compared."""
    clusters: list[ClusterComparison]
    tasks: list[TaskComparison]
    moved: Moved
    outside: list[Outside]
    changed: list[ChangedItem] | None
    """Largest change first; None where not asked for."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, floats rounded."""
        return rounded(asdict(self))


def compare(
    a: Side, b: Side, *, own_prompts: bool = False, changed: bool = False, seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """A minus B on everything both answered; the order of rows moves nothing.

    Task by task the resamples depend on (seed, task) alone, as those of a run do. Holm's adjustment runs over all
    tasks, and over all clusters. `changed` lists the items whose value changed.

    Raises RunError where the sides share nothing, naming what each has; where the same item has another prompt, gold,
    options, references, group or cluster on the other side; where a task is scored by different metrics, or no item of
    it was answered through the same template. All problems at once.
    """
    sides = {"a": _Answered.of(a), "b": _Answered.of(b)}
    pairing = _by_item(sides) if own_prompts else _by_prompt(sides)
    _raise_any(_other_metrics(a, b, pairing), pairing.problems)
    pairs: list[Pair] = []
    tasks: list[TaskComparison] = []
    items: list[ChangedItem] = []
    crossed: list[Problem] = []
    numbers = _group_numbers(pairing.blocks)
    for block in pairing.blocks:
        measure = metric(a.metrics[block.task])
        answers = _answers(block, measure, numbers)
        pair = paired.pair(*answers, seed=seed, names=[block.task], resamples=resamples, own_templates=own_prompts)
        if pair is None:  # by item, through the same templates on both sides, but no item through the same one
            crossed.append(Problem(block.task, "no item was answered by both sides through the same template"))
            continue
        frame = _side_by_side(block)
        per_item = _per_item(frame)
        pairs.append(pair)
        tasks.append({
            **_compared([pair], [block]),
            "task": block.task,
            "metric": measure.name,
            "items": _item_counts(per_item),
            "by_template": []
            if own_prompts
            else _by_template(pair, block, answers[0].templates, seed=seed, resamples=resamples),
        })  # fmt: skip
        if changed:
            items += _changed(block, frame, per_item, every=own_prompts)
    _raise_any(crossed)
    clusters = _clusters(pairs, pairing.blocks, seed=seed, resamples=resamples)
    paired.adjust(tasks)
    paired.adjust(clusters)
    plain = rounded({"clusters": clusters, "tasks": tasks, "moved": _moved(tasks)})
    return Comparison(
        a=dict(a.about),
        b=dict(b.about),
        paired_by="item" if own_prompts else "prompt",
        seed=seed,
        resamples=resamples,
        samples={name: sum(block.rows[name].height for block in pairing.blocks) for name in ("a", "b")},
        unhashed=pairing.unhashed,
        clusters=plain["clusters"],
        tasks=plain["tasks"],
        moved=plain["moved"],
        outside=pairing.outside,
        changed=sorted(rounded(items), key=_by_change) if changed else None,
    )


# What is paired with what


@dataclass(frozen=True, slots=True)
class _Answered:
    """A side's test samples in the order of `KEY`."""

    label: str
    rows: pl.DataFrame

    @staticmethod
    def of(side: Side) -> "_Answered":
        rows = side.samples.filter(pl.col("split") == "test").sort(KEY)
        if rows.is_empty():
            raise RunError(f"{side.label}: has no test sample")
        if rows.select(pl.struct(KEY).is_duplicated().any()).item():
            raise RunError(f"{side.label}: has several answers to one prompt; is it a single arm?")
        return _Answered(side.label, rows)

    def has(self) -> list[str]:
        """What it answered, one line a task."""
        table = self.rows.group_by("task", "shots", maintain_order=True).agg(
            pl.col("row_id").n_unique(), pl.col("row_id").min().alias("first"), pl.col("template").unique().sort()
        )
        lines = [
            f"{task} with {shots} exemplars: {items} items ({first}, …) through {', '.join(templates)}"
            for task, shots, items, first, templates in table.iter_rows()
        ]
        more = len(lines) - TASKS_IN_ERRORS
        return lines[:TASKS_IN_ERRORS] + ([f"and {more} more tasks"] if more > 0 else [])


@dataclass(frozen=True, slots=True)
class _Block:
    """What is compared of one task: rows of both sides, in the order of `KEY`."""

    task: str
    cluster: str
    shots: Mapping[str, int]
    rows: Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class _Pairing:
    blocks: list[_Block]
    outside: list[Outside]
    problems: list[Problem]
    unhashed: int = 0


Sides = Mapping[str, _Answered]


def _by_prompt(sides: Sides) -> _Pairing:
    rows = {name: side.rows for name, side in sides.items()}
    outside = [
        *_outside("a", rows["a"], rows["b"], ("task", "shots", "template", "item", "cell")),
        *_outside("b", rows["b"], rows["a"], ("task", "shots", "template", "item", "cell")),
    ]
    joined = rows["a"].join(rows["b"], on=KEY, how="inner", suffix="_b").sort(KEY)
    if joined.is_empty():
        raise _disjoint(sides, "no prompt", "pair by item alone with --own-prompts" if _share_items(rows) else "")
    hashed = (pl.col("prompt_sha") != "") & (pl.col("prompt_sha_b") != "")
    problems = _mismatches(joined, {
        "gold": pl.col("gold").ne_missing(pl.col("gold_b")),
        "options": pl.col("options").ne_missing(pl.col("options_b")),
        "references": pl.col("references").ne_missing(pl.col("references_b")),
        "prompt": hashed & (pl.col("prompt_sha").ne_missing(pl.col("prompt_sha_b"))),
        "group": pl.col("group").ne_missing(pl.col("group_b")),
        "cluster": pl.col("cluster").ne_missing(pl.col("cluster_b")),
    })  # fmt: skip
    missing = {name: pl.col(column).is_null() for name, column in (("a", "value"), ("b", "value_b"))}
    for side, where in (
        ("a", missing["a"] & ~missing["b"]),
        ("b", missing["b"] & ~missing["a"]),
        ("both", missing["a"] & missing["b"]),
    ):
        outside += _of_items(side, "unscored", joined.filter(where))
    keys = joined.filter(~missing["a"] & ~missing["b"]).select(KEY)
    if keys.is_empty() and not problems:
        raise RunError(f"{_names(sides)} share {joined.height} prompts, none of which was scored on both sides")
    kept = {name: frame.join(keys, on=KEY, how="semi").sort(KEY) for name, frame in rows.items()}
    return _Pairing(_blocks(kept, ["task", "shots"]), outside, problems, joined.filter(~hashed).height)


def _by_item(sides: Sides) -> _Pairing:
    outside: list[Outside] = []
    scored: dict[str, pl.DataFrame] = {}
    for name, side in sides.items():
        missing = pl.col("value").is_null()
        outside += _of_items(name, "unscored", side.rows.filter(missing))
        scored[name] = side.rows.filter(~missing)
    crossed = _crossed_shots(sides)
    reasons: tuple[Reason, ...] = ("task", "item") if crossed else ("task", "shots", "item")
    outside += _outside("a", scored["a"], scored["b"], reasons)
    outside += _outside("b", scored["b"], scored["a"], reasons)
    key = ["task", "row_id"] if crossed else ["task", "shots", "row_id"]
    first = {name: frame.unique(key, keep="first", maintain_order=True) for name, frame in scored.items()}
    joined = first["a"].join(first["b"], on=key, how="inner", suffix="_b").sort(key)
    if joined.is_empty():
        raise _disjoint(sides, "no item", "")
    written = pl.col("options").list.len() == 0
    problems = _mismatches(joined, {
        "gold": pl.col("gold").ne_missing(pl.col("gold_b")),
        "references": written & (pl.col("references").ne_missing(pl.col("references_b"))),
        "group": pl.col("group").ne_missing(pl.col("group_b")),
        "cluster": pl.col("cluster").ne_missing(pl.col("cluster_b")),
    })  # fmt: skip
    keys = joined.select(key)
    kept = {name: frame.join(keys, on=key, how="semi").sort(KEY) for name, frame in scored.items()}
    return _Pairing(_blocks(kept, ["task"] if crossed else ["task", "shots"]), outside, problems)


def _crossed_shots(sides: Sides) -> bool:
    """Whether the sides were shown different numbers of exemplars, each a single one."""
    shots = {name: sorted(set(side.rows["shots"].to_list())) for name, side in sides.items()}
    if set(shots["a"]) & set(shots["b"]):
        return False
    if any(len(numbers) > 1 for numbers in shots.values()):
        said = " and ".join(f"{sides[name].label} {', '.join(map(str, n))}" for name, n in shots.items())
        raise RunError(f"no number of exemplars in common: {said}; name one of each side as RUN:ARM@NUMBER")
    return True


def _blocks(rows: Mapping[str, pl.DataFrame], by: Sequence[str]) -> list[_Block]:
    parts = {name: frame.partition_by(by, maintain_order=True, as_dict=True) for name, frame in rows.items()}
    blocks: list[_Block] = []
    for key, frame in parts["a"].items():
        mine = {"a": frame, "b": parts["b"][key]}
        shots = {name: int(rows["shots"][0]) for name, rows in mine.items()}
        blocks.append(_Block(str(frame["task"][0]), str(frame["cluster"][0]), shots, mine))
    return sorted(blocks, key=lambda block: (block.shots["a"], block.task))


def _outside(side: SideName, rows: pl.DataFrame, other: pl.DataFrame, reasons: Sequence[Reason]) -> list[Outside]:
    """The answers of a side that the other lacks, each under the widest reason that holds."""
    by_shots = ["shots"] if "shots" in reasons else []
    keys: dict[Reason, list[str]] = {
        "task": ["task"],
        "shots": ["task", "shots"],
        "template": ["task", "shots", "template"],
        "item": ["task", *by_shots, "row_id"],
        "cell": list(KEY),
    }
    found: list[Outside] = []
    left = rows
    for reason in reasons:
        lacking = left.join(other, on=keys[reason], how="anti")
        left = left.join(other, on=keys[reason], how="semi")
        if reason in ("item", "cell"):
            found += _of_items(side, reason, lacking)
            continue
        by = ["task", "shots", "template"] if reason == "template" else ["task", "shots"]
        for part in lacking.sort(KEY).partition_by(by, maintain_order=True):
            one: Outside = {**_outside_of(side, reason, part)}
            if reason == "template":
                one["template"] = part["template"][0]
            found.append(one)
    return found


def _of_items(side: str, reason: Reason, rows: pl.DataFrame) -> list[Outside]:
    return [
        {**_outside_of(side, reason, part), "items": sorted(set(part["row_id"].to_list()))}
        for part in rows.sort(KEY).partition_by("task", "shots", maintain_order=True)
    ]


def _outside_of(side: str, reason: Reason, rows: pl.DataFrame) -> Outside:
    named = cast(Literal["a", "b", "both"], side)
    return {
        "side": named,
        "reason": reason,
        "task": rows["task"][0],
        "shots": int(rows["shots"][0]),
        "samples": rows.height,
    }


# What makes two runs incomparable

_HINTS = {
    "prompt": "templates or rows of another version, another prompt format or other exemplars; to compare each side as "
    "it was asked, pair by item with --own-prompts",
    "gold": "the rows are not the same: evaluate both on the same data",
    "options": "the rows or the templates' option words are not the same",
    "references": "the rows are not the same: evaluate both on the same data",
    "group": "the task's `group` column or its rows changed",
    "cluster": "the task changed its cluster between the two catalogs",
}


def _mismatches(joined: pl.DataFrame, differs: Mapping[str, pl.Expr]) -> list[Problem]:
    """One problem for each task and field, with how many pairs differ and the first of them."""
    flags = joined.select("task", "row_id", "template", *(test.alias(f"?{name}") for name, test in differs.items()))
    problems: list[Problem] = []
    for part in flags.sort("task", "row_id", "template").partition_by("task", maintain_order=True):
        for name in differs:
            wrong = part.filter(f"?{name}")
            if wrong.is_empty():
                continue
            first = wrong.head(SHOWN_IN_ERRORS).select("row_id", "template").iter_rows()
            shown = ", ".join(f"{row_id} through {template}" for row_id, template in first)
            more = ", …" if wrong.height > SHOWN_IN_ERRORS else ""
            what = f"{name} differs between the sides for {wrong.height:,} of {part.height:,}: {shown}{more}"
            problems.append(Problem(part["task"][0], what, _HINTS[name]))
    return problems


def _other_metrics(a: Side, b: Side, pairing: _Pairing) -> list[Problem]:
    problems: list[Problem] = []
    for task in dict.fromkeys(block.task for block in pairing.blocks):
        names = [side.metrics.get(task) for side in (a, b)]
        for side, name in zip((a, b), names, strict=True):
            if name is None:
                problems.append(Problem(side.label, f"its result does not say by which metric {task} is scored"))
        if None not in names and names[0] != names[1]:
            problems.append(Problem(task, f"is scored by {names[0]} in {a.label}, by {names[1]} in {b.label}"))
    return problems


def _raise_any(*problems: Sequence[Problem]) -> None:
    found = [problem for some in problems for problem in some]
    if found:
        raise RunError(found)


def _disjoint(sides: Sides, nothing: str, hint: str) -> RunError:
    return RunError([
        Problem(_names(sides), f"{nothing} was answered by both, so there is nothing to compare", hint),
        *(Problem(side.label, f"has {line}") for side in sides.values() for line in side.has()),
    ])  # fmt: skip


def _names(sides: Sides) -> str:
    return " and ".join(side.label for side in sides.values())


def _share_items(rows: Mapping[str, pl.DataFrame]) -> bool:
    return not rows["a"].join(rows["b"], on=["task", "row_id"], how="semi").is_empty()


# What is said of a task


def _group_numbers(blocks: Sequence[_Block]) -> dict[str, int]:
    every = (rows.select(resampled_as()).to_series() for block in blocks for rows in block.rows.values())
    names: set[str] = {group for groups in every for group in groups.unique()}
    return {name: number for number, name in enumerate(sorted(names))}


def _answers(block: _Block, measure: Metric, numbers: Mapping[str, int]) -> tuple[Answers, Answers]:
    both = pl.concat([block.rows["a"], block.rows["b"]])
    items = both["row_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    groups = np.array([numbers[group] for group in both.select(resampled_as()).to_series()], np.int64)
    # Over both sides at once, since some metrics keep as many sums as the task has options.
    sums = row_sums(both, measure)
    first = block.rows["a"].height
    made: list[Answers] = []
    for name, part in (("a", slice(0, first)), ("b", slice(first, None))):
        templates = sorted(set(block.rows[name]["template"].to_list()))
        place = {template: index for index, template in enumerate(templates)}
        made.append(
            Answers(
                measure=measure,
                templates=tuple(templates),
                items=items[part],
                groups=groups[part],
                template_of=np.array([place[template] for template in block.rows[name]["template"]], np.int64),
                sums=sums[part],
            )
        )
    return made[0], made[1]


def _compared(pairs: Sequence[Pair], blocks: Sequence[_Block]) -> Compared:
    found = paired.difference(pairs)
    asked: dict[str, Asked] = {
        name: {
            "mean": float(np.mean([getattr(pair, place) for pair in pairs])),
            "templates": sum(block.rows[name]["template"].n_unique() for block in blocks),
            "shots": blocks[0].shots[name],
        }
        for name, place in (("a", "first"), ("b", "second"))
    }
    return {
        **found,
        "cluster": blocks[0].cluster,
        "groups": len({group for pair in pairs for group in pair.groups.tolist()}),
        "a": asked["a"],
        "b": asked["b"],
        "reading": statistics.reading(found["low"], found["high"], found["p"]),
    }


def _clusters(pairs: Sequence[Pair], blocks: Sequence[_Block], *, seed: int, resamples: int) -> list[ClusterComparison]:
    members: dict[tuple[int, str], list[int]] = {}
    for index, block in enumerate(blocks):
        members.setdefault((block.shots["a"], block.cluster), []).append(index)
    found: list[ClusterComparison] = []
    for (_, cluster), inside in sorted(members.items()):
        drawn = paired.together([pairs[i] for i in inside], seed=seed, names=["cluster", cluster], resamples=resamples)
        named = [blocks[i].task for i in inside]
        found.append({**_compared(drawn, [blocks[i] for i in inside]), "tasks": named})
    return found


def _by_template(
    pair: Pair, block: _Block, templates: Sequence[str], *, seed: int, resamples: int
) -> list[TemplateDifference]:
    """Each template's difference, from the resamples the task's own interval is made of."""
    finish = pair.finish
    single = [sums[:, place : place + 1] for place in range(len(templates)) for sums in pair.sums]
    draws = statistics.bootstrap(single, finish, seed=seed, names=[block.task], resamples=resamples)
    found: list[TemplateDifference] = []
    for place, template in enumerate(templates):
        values = [float(statistics.over_templates(sums.sum(0), finish)) for sums in single[2 * place : 2 * place + 2]]
        low, high = statistics.interval(draws[2 * place] - draws[2 * place + 1])
        found.append({
            "template": template,
            "n": int((block.rows["a"]["template"] == template).sum()),
            "a": values[0],
            "b": values[1],
            "mean": values[0] - values[1],
            "low": low,
            "high": high,
        })  # fmt: skip
    return found


def _moved(tasks: Sequence[TaskComparison]) -> Moved:
    by_task: list[MovedTask] = [{"task": one["task"], "shots": one["a"]["shots"], "mean": one["mean"]} for one in tasks]
    by_template: list[MovedTemplate] = [
        {**template, "task": one["task"], "shots": one["a"]["shots"]}
        for one in tasks
        for template in one["by_template"]
    ]
    return {
        "tasks": sorted(by_task, key=lambda one: (-round(abs(one["mean"]), 9), one["shots"], one["task"])),
        "templates": sorted(
            by_template,
            key=lambda one: (-round(abs(one["mean"]), 9), one["shots"], one["task"], one["template"]),
        )[:MOST_MOVED],
    }


# What is said of an item


def _side_by_side(block: _Block) -> pl.DataFrame:
    """Both sides' answers to one task, a row for each item and template; null where a side was not asked."""
    columns = ("row_id", "template", "value", "prediction", "group", "references", "prompt_sha", "prompt")
    a, b = (block.rows[name].select(columns) for name in ("a", "b"))
    return a.join(b, on=["row_id", "template"], how="full", coalesce=True, suffix="_b").sort("row_id", "template")


def _per_item(frame: pl.DataFrame) -> pl.DataFrame:
    gain = pl.col("value") - pl.col("value_b")
    mean = pl.col("a") - pl.col("b")
    return (
        frame.group_by("row_id", maintain_order=True)
        .agg(
            pl.col("value").mean().alias("a"),
            pl.col("value_b").mean().alias("b"),
            (gain > EQUAL).sum().alias("won"),
            (gain < -EQUAL).sum().alias("lost"),
            pl.len().alias("templates"),
        )
        .with_columns(
            pl.when(mean > EQUAL)
            .then(pl.lit("won"))
            .when(mean < -EQUAL)
            .then(pl.lit("lost"))
            .when(pl.col("won") + pl.col("lost") > 0)
            .then(pl.lit("even"))
            .otherwise(pl.lit("same"))
            .alias("outcome")
        )
    )


def _item_counts(per_item: pl.DataFrame) -> Items:
    counts = dict(per_item["outcome"].value_counts().iter_rows())
    return {name: int(counts.get(name, 0)) for name in ("won", "lost", "even", "same")}  # pyright: ignore[reportReturnType]


def _changed(block: _Block, frame: pl.DataFrame, per_item: pl.DataFrame, *, every: bool) -> list[ChangedItem]:
    moved = per_item.filter(pl.col("outcome") != "same")
    answers = frame.join(moved, on="row_id", how="semi").partition_by("row_id", as_dict=True)
    return [
        {
            "task": block.task,
            "cluster": block.cluster,
            "shots": block.shots["a"],
            "row_id": row["row_id"],
            "group": _either(answers[row["row_id"],], "group")[0],
            "outcome": row["outcome"],
            "a": row["a"],
            "b": row["b"],
            "won": row["won"],
            "lost": row["lost"],
            "templates": row["templates"],
            "right": sorted({text for texts in _either(answers[row["row_id"],], "references") for text in texts}),
            "answers": _changed_answers(answers[row["row_id"],], every=every),
        }
        for row in moved.iter_rows(named=True)
    ]


def _changed_answers(frame: pl.DataFrame, *, every: bool) -> list[ChangedAnswer]:
    changed = (pl.col("value") - pl.col("value_b")).abs() > EQUAL
    return [
        {
            "template": row["template"],
            "a": row["prediction"],
            "b": row["prediction_b"],
            "value_a": row["value"],
            "value_b": row["value_b"],
            "prompt_sha": row["prompt_sha"] or row["prompt_sha_b"] or "",
            "prompt": row["prompt"] or row["prompt_b"],
        }
        for row in (frame if every else frame.filter(changed)).iter_rows(named=True)
    ]


def _either(frame: pl.DataFrame, name: str) -> list[Any]:
    """A column's values, of whichever side has one."""
    return frame.select(pl.coalesce(name, f"{name}_b")).to_series().to_list()


def _by_change(item: ChangedItem) -> tuple[float, int, str, str]:
    return -round(abs(item["a"] - item["b"]), 9), item["shots"], item["task"], item["row_id"]

"""A few answered items, chosen by a hash and not by eye: per task one that was answered right and one wrong.

Takes a run's samples.parquet and the prompts kept beside each arm, gives `Item`s. Read next: `page.py`.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from openflan.errors import Problem, RunError
from openflan.evaluation.samples import reading

NEEDED = ("arm", "task", "row_id", "template", "value")
PROMPTS = "prompts.jsonl"

Row = Mapping[str, Any]
Key = tuple[str, str, str]
"""task, row_id, template"""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one arm answered one prompt."""

    arm: str
    logprobs: tuple[float, ...]
    """Of each option, in nats; empty for generation."""
    shares: tuple[float, ...]
    """The same as probabilities among the options, 0..1."""
    prediction: str
    predicted: int | None
    value: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt and what each arm that read exactly this text made of it."""

    template: str
    prompt: str
    """Empty where the text was not kept."""
    prompt_sha: str
    options: tuple[str, ...]
    gold: tuple[int, ...]
    references: tuple[str, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One row of one task, as the main arm was asked it, and as arms with another wording were."""

    task: str
    row_id: str
    right: bool
    asked: tuple[Asked, ...]
    """The main arm's prompt first."""


def pick(folder: Path, arm: str, *, most_tasks: int) -> list[Item]:
    """For each task (at most `most_tasks`, in name order) one item that `arm` got right and one it got wrong.

    Of the items whose prompt was kept, if there are any, the one whose (task, row, template) hashes lowest: nobody
    chose it. No file, or one without the needed columns, gives no items. Raises RunError where a file is damaged.
    """
    path = folder / "samples.parquet"
    if not path.exists():
        return []
    with reading(path):
        return _picked(path, folder, arm, most_tasks)


def _picked(path: Path, folder: Path, arm: str, most_tasks: int) -> list[Item]:
    lazy = pl.scan_parquet(path)
    columns = set(lazy.collect_schema().names())
    if not columns.issuperset(NEEDED):
        return []
    if "split" in columns:
        lazy = lazy.filter(pl.col("split") != "dev")
    prompts = {name: _prompts(folder / "arms" / name / PROMPTS) for name in _arms(lazy)}
    own = lazy.filter((pl.col("arm") == arm) & pl.col("value").is_not_null())
    keys = own.select("task", "row_id", "template", "value", *({"prompt"} & columns)).collect()
    items: list[Item] = []
    for task in sorted(keys["task"].unique().to_list())[:most_tasks]:
        rows = keys.filter(pl.col("task") == task).to_dicts()
        for right in (True, False):
            side = [row for row in rows if (row["value"] >= 0.5) is right]
            if side:
                kept = prompts.get(arm, {})
                chosen = min(side, key=lambda row: (_key(row) not in kept and not row.get("prompt"), _hash(_key(row))))
                items.append(_item(lazy, chosen, arm, prompts, right))
    return items


def _item(lazy: pl.LazyFrame, chosen: Row, arm: str, prompts: Mapping[str, Mapping[Key, str]], right: bool) -> Item:
    same = (pl.col("task") == chosen["task"]) & (pl.col("row_id") == chosen["row_id"])
    rows = lazy.filter(same).collect().to_dicts()
    main = next(row for row in rows if row["arm"] == arm and row["template"] == chosen["template"])
    asked = [_asked([main, *_alike(main, rows)], prompts)]
    shown = {answer.arm for answer in asked[0].answers}
    for other in sorted({row["arm"] for row in rows} - shown):
        # An arm with wordings of its own: one of them, by the same blind rule.
        own = min((row for row in rows if row["arm"] == other), key=lambda row: _hash(_key(row)))
        if other not in {answer.arm for one in asked for answer in one.answers}:
            asked.append(_asked([own, *(row for row in _alike(own, rows) if row["arm"] not in shown)], prompts))
    return Item(str(chosen["task"]), str(chosen["row_id"]), right, tuple(asked))


def _alike(main: Row, rows: Sequence[Row]) -> list[Row]:
    """The first row of every other arm that read the very same text."""
    sha = main.get("prompt_sha")
    found = {
        row["arm"]: row for row in reversed(rows) if sha and row.get("prompt_sha") == sha and row["arm"] != main["arm"]
    }
    return [found[arm] for arm in sorted(found)]


def _asked(rows: Sequence[Row], prompts: Mapping[str, Mapping[Key, str]]) -> Asked:
    main = rows[0]
    texts = [row.get("prompt") or prompts.get(row["arm"], {}).get(_key(row), "") for row in rows]
    options = _texts(main.get("options"))
    return Asked(
        template=str(main["template"]),
        prompt=next((text for text in texts if text), ""),
        prompt_sha=str(main.get("prompt_sha") or ""),
        options=options,
        gold=tuple(index for index in main.get("gold") or () if isinstance(index, int)),
        references=_texts(main.get("references")),
        answers=tuple(_answer(row, options) for row in rows),
    )


def _answer(row: Row, options: Sequence[str]) -> Answer:
    logprobs = tuple(float(value) for value in row.get("logprobs") or ())
    predicted = row.get("predicted")
    return Answer(
        arm=str(row["arm"]),
        logprobs=logprobs,
        shares=_shares(logprobs),
        prediction=str(row.get("prediction") or ""),
        predicted=predicted if isinstance(predicted, int) and options else None,
        value=None if row.get("value") is None else float(row["value"]),
        reason=str(row.get("reason") or ""),
    )


def _arms(lazy: pl.LazyFrame) -> list[str]:
    return sorted(lazy.select(pl.col("arm").unique()).collect()["arm"].to_list())


def _prompts(path: Path) -> dict[Key, str]:
    if not path.exists():
        return {}
    # Not splitlines: prompts may hold line separators that JSON leaves as they are.
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return {_key(record): str(record["prompt"]) for record in records}
    except (ValueError, KeyError, TypeError) as error:
        hint = "without it the report shows no prompts"
        raise RunError(Problem(str(path), f"is damaged: {error}", hint)) from error


def _key(row: Row) -> Key:
    return str(row["task"]), str(row["row_id"]), str(row["template"])


def _hash(key: Key) -> str:
    return hashlib.sha256("/".join(key).encode()).hexdigest()


def _shares(logprobs: Sequence[float]) -> tuple[float, ...]:
    if not logprobs or not all(math.isfinite(value) for value in logprobs):
        return ()
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return tuple(weight / sum(weights) for weight in weights)


def _texts(value: Any) -> tuple[str, ...]:
    return () if value is None else tuple(str(item) for item in value)

"""The mixture: a pure function from block number to (task, row, template).

Block b holds, for task t with rate r_t, the ordinals from floor(r_t*B*b + u_t) up to floor(r_t*B*(b+1) + u_t). An
ordinal names a row through a permutation per epoch, and a template by rotation. So every window keeps the proportions,
no row repeats before its task is used up, adding a task reshuffles no other, and resuming is arithmetic.

Takes the tuning tasks with their rows, gives `Example`s block by block. Read next: `encoding/encode.py`.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from openflan.artifacts import canonical_json, fingerprint
from openflan.catalog.task import Task, Template
from openflan.errors import ConfigError, Problem, SourceError
from openflan.ledger import Ledger
from openflan.rendering.example import Example
from openflan.rendering.exemplars import MOST_ROWS, ExemplarSource
from openflan.rendering.render import ReadRow, Wording, render
from openflan.rendering.store import RowStore
from openflan.seeding import derive, generator

_GOLDEN = (math.sqrt(5) - 1) / 2


class MixtureSettings(BaseModel):
    """Examples-proportional mixing with caps (paper section 2.1; Raffel et al. 2020 for the temperature)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_examples: Annotated[int, Field(ge=1)] = 30_000
    """Rows of a task that are used at most."""
    rate_cap: Annotated[int, Field(ge=1)] = 3_000
    """Rows of a task beyond this number add nothing to its rate."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """1 is proportional; larger is flatter."""
    block_size: Annotated[int, Field(ge=1)] = 1_024
    """Examples in a block, the window within which examples are packed."""
    inverted: bool = True
    """Whether inverted templates take part."""
    tasks_per_cluster: Annotated[int, Field(ge=1)] | None = None
    """The most tasks of a cluster that are tuned on, the same ones whatever the catalog has else; null takes all."""
    templates_per_task: Annotated[int, Field(ge=1)] | None = None
    """The most templates of a task that are tuned on; null takes all."""
    shots: Mapping[Annotated[int, Field(ge=0)], Annotated[float, Field(gt=0)]] = {0: 1.0}
    """Share of the examples by the number of exemplars in front; {0: 0.5, 3: 0.5} mixes zero-shot and few-shot prompts
    as FLAN's successors do (Longpre et al. 2023). The paper tunes on zero-shot prompts only."""

    @field_validator("temperature", mode="before")
    @classmethod
    def _finite(cls, temperature: Any) -> Any:
        if temperature == math.inf:
            raise ValueError("expected a finite number; 1e9 mixes all tasks alike")
        return temperature

    @field_validator("shots")
    @classmethod
    def _shares_are_whole(cls, shots: Mapping[int, float]) -> dict[int, float]:
        if abs(math.fsum(shots.values()) - 1) > 1e-6:
            raise ValueError(f"shares sum to {math.fsum(shots.values()):g}, expected 1")
        return dict(sorted(shots.items()))

    def content(self) -> dict[str, Any]:
        """What the mixture depends on, as plain data; what goes beyond the paper's only where it is used."""
        plain = self.model_dump(mode="json")
        unused = {name for name in ("tasks_per_cluster", "templates_per_task") if plain[name] is None}
        if set(self.shots) == {0}:
            unused.add("shots")
        return {key: value for key, value in plain.items() if key not in unused}


@dataclass(frozen=True, slots=True)
class TaskRows:
    """One task's share of the mixture: its rows and the templates they are read through."""

    task: Task
    rows: Sequence[ReadRow]
    templates: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """One place in the mixture."""

    task: str
    ordinal: int
    row: int
    """Index into the task's rows."""
    template: int
    """Index into the task's templates."""
    shots: int = 0
    """Exemplars in front."""


def rates(counts: Mapping[str, int], settings: MixtureSettings) -> dict[str, float]:
    """Mixing rate of each task, summing to 1: min(n, rate_cap) ** (1/temperature), n counted up to max_examples.

    >>> rates({"a": 100, "b": 9000}, MixtureSettings())
    {'a': 0.03225806451612903, 'b': 0.967741935483871}
    """
    try:
        weights = {
            name: min(count, settings.max_examples, settings.rate_cap) ** (1 / settings.temperature)
            for name, count in counts.items()
        }
        total = math.fsum(weights.values())
    except OverflowError as error:
        where = f"mixture.temperature = {settings.temperature:g}"
        raise ConfigError(Problem(where, "too small: the rates of tasks with many rows exceed all floats")) from error
    if total <= 0:
        raise SourceError("no task of the mixture has a row to tune on")
    return {name: weight / total for name, weight in weights.items()}


@dataclass(frozen=True, slots=True)
class Mixture:
    """Tasks, their rates and a seed; `block(b)` says which example stands where."""

    tasks: Mapping[str, TaskRows]
    settings: MixtureSettings
    seed: int
    wording: Wording = "instructions"
    rate: Mapping[str, float] = field(init=False)
    _exemplars: dict[str, ExemplarSource] = field(init=False, repr=False, default_factory=dict[str, ExemplarSource])

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", rates({name: len(t.rows) for name, t in self.tasks.items()}, self.settings))

    def block(self, number: int) -> list[Draw]:
        """The draws of one block, in tuning order; a pure function of (self, number)."""
        if number < 0:
            raise ConfigError(f"block {number}: block numbers start at 0")
        size = self.settings.block_size
        draws: list[tuple[bytes, Draw]] = []
        for name, rate in self.rate.items():
            if rate == 0:
                continue
            share = self.tasks[name]
            start = derive(self.seed, "mixture", "start", name) / 2**64
            first, last = (math.floor(rate * size * b + start) for b in (number, number + 1))
            turn = derive(self.seed, "mixture", "template", name)
            phase = derive(self.seed, "mixture", "shots", name) / 2**64
            for ordinal in range(first, last):
                epoch, place = divmod(ordinal, len(share.rows))
                row = int(_permutation(self.seed, name, epoch, len(share.rows))[place])
                template = (ordinal + turn) % len(share.templates)
                draw = Draw(name, ordinal, row, template, _shots_at(phase, ordinal, self.settings.shots))
                draws.append((_order_key(self.seed, number, name, ordinal), draw))
        return [draw for _, draw in sorted(draws, key=lambda pair: pair[0])]

    def examples(self, number: int, ledger: Ledger, *, most: int | None = None) -> list[Example]:
        """The rendered examples of one block, or the first so many; one without a row to take exemplars from is left
        out and counted."""
        done: list[Example] = []
        for draw in self.block(number):
            if most is not None and len(done) >= most:
                break
            share = self.tasks[draw.task]
            row, template = share.rows[draw.row], share.templates[draw.template]
            example = render(share.task, row, template, self.wording)
            if draw.shots == 0:
                done.append(example)
            elif shown := self._source(draw.task).before(example, row, template, draw.shots, ledger):
                done.append(shown)
        return done

    def _source(self, name: str) -> ExemplarSource:
        """Where a task's exemplars come from: drawn for each row anew, as FLAN's code does in tuning."""
        if name not in self._exemplars:
            share = self.tasks[name]
            self._exemplars[name] = ExemplarSource(
                share.task, share.rows[:MOST_ROWS], seed=self.seed, draw="per_item", wording=self.wording
            )
        return self._exemplars[name]

    def lock(self, ledger: Ledger) -> dict[str, Any]:
        """The content of mixture.lock: effective rates, counts, drops, content hashes and a fingerprint over all."""
        tasks = {
            name: {
                "rate": self.rate[name],
                "rows": len(share.rows),
                "dropped": sum(n for (_, task, _), n in ledger.dropped.items() if task == name),
                "rows_sha": rows_sha(share.rows),
                "templates": [template.id for template in share.templates],
                "task_sha": fingerprint(share.task.content()),
            }
            for name, share in sorted(self.tasks.items())
        }
        content = {
            "format": 1,
            "seed": self.seed,
            "wording": self.wording,
            "settings": self.settings.content(),
            "tasks": tasks,
        }
        return {**content, "fingerprint": fingerprint(content)}


def tuning_templates(task: Task, settings: MixtureSettings, seed: int) -> tuple[Template, ...]:
    """The templates a task is tuned with: direct ones and, unless switched off, inverted ones; or a few of them.

    A smaller number's templates are among a larger one's. A direct one always comes first.
    """
    found = task.of_kind("direct") + (task.of_kind("inverted") if settings.inverted else ())
    if settings.templates_per_task is None:
        return found
    ranked = sorted(found, key=lambda one: derive(seed, "mixture", "templates", task.name, one.id))
    first = next((one for one in ranked if one.kind == "direct"), ranked[0])
    return (first, *(one for one in ranked if one is not first))[: settings.templates_per_task]


def tuning_tasks(tasks: Sequence[Task], settings: MixtureSettings, seed: int) -> tuple[Task, ...]:
    """The tasks that are tuned on: all of them, or a few of each cluster. One in two clusters counts in both.

    A smaller number's tasks are among a larger one's.
    """
    if settings.tasks_per_cluster is None:
        return tuple(tasks)
    taken: Counter[str] = Counter()
    kept: list[Task] = []
    for task in sorted(tasks, key=lambda task: derive(seed, "mixture", "tasks", task.name)):
        if all(taken[cluster] < settings.tasks_per_cluster for cluster in task.clusters):
            taken.update(task.clusters)
            kept.append(task)
    return tuple(sorted(kept, key=lambda task: task.name))


def _shots_at(phase: float, ordinal: int, shares: Mapping[int, float]) -> int:
    """How many exemplars an ordinal's example has. Multiples of the golden ratio fill the unit interval evenly, so any
    window of ordinals, and any template's turn among them, keeps the shares."""
    place = (phase + ordinal * _GOLDEN) % 1.0
    for shots, share in shares.items():
        place -= share
        if place < 0:
            return shots
    return max(shares)


@lru_cache(maxsize=256)
def _permutation(seed: int, task: str, epoch: int, count: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return generator(seed, "mixture", "epoch", task, epoch).permutation(count)


def _order_key(seed: int, block: int, task: str, ordinal: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{block}/{task}/{ordinal}".encode(), digest_size=8).digest()


def rows_sha(rows: Sequence[ReadRow]) -> str:
    """Sixteen hex digits that name rows by content."""
    if isinstance(rows, RowStore):
        return rows.sha
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json([row.id, dict(row.columns), row.options, row.gold, row.texts]).encode())
    return digest.hexdigest()[:16]

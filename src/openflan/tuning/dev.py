"""The loss on rows that tuning never sees: dev rows of the tuning tasks, measured at fixed steps.

Takes encoded dev examples by task, gives `DevLoss`es and a file of them, one line each: step, loss (nats per target
token, over all target tokens), target_tokens, examples, and the same for each task. Read next: `studies/run.py`.

The loss is a sum over target tokens divided by their number, so that neither packing nor the size of forward passes
moves it. What a killed run measured at steps that come again is taken back, and comes again with the same bytes.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from openflan import artifacts
from openflan.encoding.encode import Encoded
from openflan.encoding.pack import PackedRow
from openflan.models.load import LanguageModel
from openflan.models.packed_forward import Way
from openflan.tuning.distributed import ALONE, World
from openflan.tuning.feed import PackedBlocks
from openflan.tuning.loss import NO_EXAMPLE, alike_passes, forward_passes
from openflan.tuning.settings import TuningSettings

DEV_FILE = "dev.jsonl"

DevSet = Mapping[str, Sequence[Encoded]]
"""Dev examples by task."""
Nats = Callable[[Sequence[PackedRow]], Tensor]
"""The loss of each target token of some rows, which go through the model together."""


@dataclass(frozen=True, slots=True)
class MeanLoss:
    """Nats per target token, and over how much."""

    loss: float
    target_tokens: int
    examples: int

    def to_json(self) -> dict[str, Any]:
        """Plain data; a loss that is not finite is null."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {"loss": loss, "target_tokens": self.target_tokens, "examples": self.examples}


@dataclass(frozen=True, slots=True)
class DevLoss:
    """The dev loss after `step` steps: of all target tokens alike, and task by task."""

    step: int
    all: MeanLoss
    tasks: Mapping[str, MeanLoss]

    def to_json(self) -> dict[str, Any]:
        """A line of dev.jsonl."""
        tasks = {name: loss.to_json() for name, loss in self.tasks.items()}
        return {"step": self.step} | self.all.to_json() | {"tasks": tasks}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DevLoss":
        """The record that `to_json` gave."""
        return cls(value["step"], _mean(value), {name: _mean(task) for name, task in value["tasks"].items()})


def dev_loss(
    lm: LanguageModel,
    dev: DevSet,
    settings: TuningSettings,
    nats: Nats,
    *,
    step: int,
    way: Way = "ragged",
    world: World = ALONE,
) -> DevLoss:
    """The loss of each task's examples and of all of them, without dropout; the model stays in the mode it was in.

    Every process computes a share of the forward passes, and gives the whole loss.
    """
    training = lm.model.training
    lm.model.eval()
    own: dict[str, list[float]] = {name: [] for name in dev}
    passes = list(_passes(lm, dev, settings, way, world.size))
    mine = passes[world.rank :: world.size]
    try:
        for name, part in mine:
            own[name].append(float(nats(part).double().sum()))
        if len(mine) * world.size < len(passes):  # all take part in the last round of passes
            nats([NO_EXAMPLE])
    finally:
        lm.model.train(training)
    sums = dict(zip(own, world.summed([math.fsum(values) for values in own.values()]), strict=True))
    counts = {name: sum(len(e.target_ids) for e in encoded) for name, encoded in dev.items()}
    tasks = {name: MeanLoss(sums[name] / counts[name], counts[name], len(dev[name])) for name in dev}
    total = sum(counts.values())
    return DevLoss(step, MeanLoss(math.fsum(sums.values()) / total, total, sum(map(len, dev.values()))), tasks)


def _passes(
    lm: LanguageModel, dev: DevSet, settings: TuningSettings, way: Way, processes: int
) -> Iterator[tuple[str, list[PackedRow]]]:
    """Forward passes, each over examples of one task, with its name."""
    for name, encoded in dev.items():
        blocks = PackedBlocks(
            lambda _, examples=encoded: examples, settings, lm.context, lm.prefix_ids, lm.known_tokens
        )
        rows, most_tokens = alike_passes(blocks(0), processes, settings.forward_tokens, way)
        yield from ((name, part) for part in forward_passes(rows, most_tokens))


class DevLog:
    """Measures when it is due, and keeps the file of a tuning folder; of several processes the first writes it."""

    def __init__(
        self,
        dev: DevSet,
        lm: LanguageModel,
        settings: TuningSettings,
        nats: Nats,
        folder: Path,
        *,
        way: Way = "ragged",
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._dev = {name: encoded for name, encoded in dev.items() if encoded}
        self._settings = settings
        self._measured = functools.partial(dev_loss, lm, self._dev, settings, nats, way=way, world=world)
        self._file = folder / DEV_FILE
        self._records = read_dev_losses(self._file)

    @property
    def last(self) -> DevLoss | None:
        """The last one measured."""
        return self._records[-1] if self._records else None

    def measure(self, step: int) -> None:
        """Measure after `step` steps if it is due then and not on file; what is on file of later steps goes."""
        every = self._settings.dev_every
        if not self._dev or every is None:
            return
        kept = [record for record in self._records if record.step <= step]
        due = step % every == 0 or step == self._settings.steps
        measured = due and not any(record.step == step for record in kept)
        if measured:
            kept.append(self._measured(step=step))
        if self._world.first and (measured or len(kept) < len(self._records)):
            lines = [json.dumps(record.to_json(), allow_nan=False) + "\n" for record in kept]
            with artifacts.room_for(self._file, sum(map(len, lines)), "the run goes on from its last checkpoint"):
                artifacts.write_text(self._file, "".join(lines))
        self._records = kept


def read_dev_losses(file: Path) -> list[DevLoss]:
    """The records of a dev.jsonl, in order; none where there is no file."""
    if not file.exists():
        return []
    return [DevLoss.from_json(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _mean(value: Mapping[str, Any]) -> MeanLoss:
    loss = math.nan if value["loss"] is None else float(value["loss"])
    return MeanLoss(loss, value["target_tokens"], value["examples"])

"""How the arms are tuned that have seen the task they are asked: one model for each evaluated task, on its train rows.

They are no zero-shot results but what those are held against: supervised tuning, and soft prompts (Wei et al. 2022,
§4.5). Their rows are `SplitRows.seen`, which the tuning side of a `HeldOutSplit` never meets, and each of their models
answers for its own task alone. Read next: `rows.py`, where those rows are read.
"""

from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openflan.rendering.render import ReadRow
from openflan.rendering.store import RowStore
from openflan.tuning.settings import TuningSettings


class SupervisedSettings(BaseModel):
    """How the models of `supervised` are tuned; null takes the value of [tuning]."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: Annotated[int, Field(ge=1)] | None = None
    tokens_per_step: Annotated[int, Field(ge=1)] | None = None
    optimizer: Literal["adafactor", "adamw"] | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    schedule: Literal["constant", "linear"] | None = None

    def tuning(self, base: TuningSettings) -> TuningSettings:
        """`base` with what is set here in its place."""
        return base.model_copy(update=self.model_dump(exclude_none=True))


class SoftPromptSettings(BaseModel):
    """How the soft prompts of `soft_prompt` and `untuned_soft_prompt` are learned.

    Source: Wei et al. 2022 §4.5 for the length and weight decay; for the rest, as they do, Lester et al. 2021.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_tokens: int = Field(default=10, ge=1)
    rows: Annotated[int, Field(ge=1)] | None = None
    """Train rows of each task, as many of each option as can be; null takes all. The paper has both all and 32."""
    steps: int = Field(default=30_000, ge=1)
    tokens_per_step: int = Field(default=8_192, ge=1)
    """The paper's batch is 32 examples, which is about as many tokens."""
    optimizer: Literal["adafactor", "adamw"] = "adafactor"
    lr: float = Field(default=0.3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)

    def tuning(self, base: TuningSettings) -> TuningSettings:
        """`base` turned to learning a soft prompt, at a constant rate."""
        own = self.model_dump(exclude={"num_tokens", "rows"})
        fixed = {"method": "soft_prompt", "soft_prompt_tokens": self.num_tokens}
        return base.model_copy(update={**own, **fixed, "warmup_steps": 0, "schedule": "constant"})


def spread_rows(rows: Sequence[ReadRow], count: int | None) -> Sequence[ReadRow]:
    """`count` of the rows, in their order, with as many of each gold option as can be; all where there are no more."""
    if count is None or count >= len(rows):
        return rows
    by_gold: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(rows):
        by_gold.setdefault(row.gold, []).append(position)
    in_turn = (position for position in chain(*zip_longest(*by_gold.values())) if position is not None)
    chosen = sorted(islice(in_turn, count))
    return rows.choose(np.array(chosen, np.int64)) if isinstance(rows, RowStore) else [rows[i] for i in chosen]

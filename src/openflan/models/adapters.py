"""LoRA through peft: a few trainable matrices beside frozen weights.

Takes a `LanguageModel`, gives one with adapters in place. Recipes name the settings, so this module loads torch late.
Read next: `tuning/tune.py`.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from openflan.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from openflan.models.load import LanguageModel


class LoraSettings(BaseModel):
    """Which matrices get a low-rank update, and of what rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] | None = None
    """Names of the linear layers; None takes all of them but the head."""


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """A model with LoRA layers in place, and the handle that saves or merges them."""

    lm: "LanguageModel"
    """Its `model` is the base's own class, so that packed attention and scoring find what they know."""
    peft: Any

    def save(self, folder: Path) -> None:
        """Write the adapter alone, in peft's layout."""
        self.peft.save_pretrained(folder)

    def merged(self) -> "LanguageModel":
        """The model with the updates added to its weights; the adapter is gone after this."""
        return dataclasses.replace(self.lm, model=cast("PreTrainedModel", self.peft.merge_and_unload()))


def add_lora(lm: "LanguageModel", settings: LoraSettings, *, seed: int = 0) -> Adapted:
    """LoRA layers put into `lm.model` (in place); only they are trainable after this."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),  # peft multiplies by it; its annotation is narrower than its code
        lora_dropout=settings.dropout,
        target_modules="all-linear" if settings.target_modules is None else list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            adapted: Any = get_peft_model(cast(Any, lm.model), config)
        except ValueError as error:
            raise ModelError(f"{lm.name}: LoRA does not fit this model: {error}") from error
    return Adapted(dataclasses.replace(lm, model=cast("PreTrainedModel", adapted.get_base_model())), adapted)

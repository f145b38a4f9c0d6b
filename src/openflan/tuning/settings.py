"""What decides how a model is tuned; the paper's values are the defaults. Imports neither torch nor transformers."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from openflan.models.adapters import LoraSettings, Quantize

ROW_LENGTH = 1024 + 256
"""Tokens of a packed row unless set: the paper's longest prompt and target together."""

Beta = Annotated[float, Field(ge=0, lt=1)]
TrackerName = Literal["tensorboard", "trackio", "wandb"]

WITHOUT_EFFECT = {
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "threads",
    "gradient_checkpointing",
    "data_workers",
    "dev_every",
    "dev_rows",
    "track",
}
"""Settings that the tuned weights do not depend on: a stopped run goes on with others."""
USUAL_LR = {"lora": 2e-4, "soft_prompt": 0.3}
"""Source: Dettmers et al. 2023 (QLoRA, up to 13B) and Lester et al. 2021."""

Method = Literal["full", "lora", "soft_prompt"]


class TuningSettings(BaseModel):
    """How a model is tuned. Source: Wei et al. 2022 §2.4 for steps, tokens per step, optimizer and learning rate."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(default=30_000, ge=1)
    """Optimizer steps."""
    tokens_per_step: int = Field(default=8_192, ge=1)
    """The most tokens of a step, prompts included; at least one packed row."""
    row_length: Annotated[int, Field(ge=2)] | None = None
    """The most tokens of a packed row; null takes the model's context, at most 1,280 and `tokens_per_step`."""
    forward_tokens: int = Field(default=4_096, ge=1)
    """Rows go through the model together up to that many tokens; the step's gradient is their sum either way."""
    loss_weighting: Literal["token", "example"] = "token"
    """A step's loss is the mean over its target tokens, or over its examples, each the mean over its own target tokens.
    The paper packs its examples, which makes it "token"."""
    gradient_checkpointing: bool = False
    """The backward pass computes layers again in place of their being kept: less memory, about a third more time."""
    optimizer: Literal["adafactor", "adamw"] = "adafactor"
    lr: float = Field(default=3e-5, gt=0)
    """Where none is given, `USUAL_LR` has that of the other methods: the paper's would hardly move so few weights."""
    scale_parameter: bool = False
    """Adafactor's steps relative to each matrix's size. The paper does not say; here `lr` means what it says."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of matrices; vectors (norms, biases) are never decayed."""
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "linear"] = "constant"
    """After the warm-up; "linear" falls to zero at the last step."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """The largest gradient norm of a step; "none", or None in Python, clips nothing."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the forward and backward pass; weights and optimizer keep the model's own. "auto" is bfloat16 where the device
    computes in it, else float32: emulated it takes several times as long."""
    method: Method = "full"
    lora: LoraSettings = LoraSettings()
    soft_prompt_tokens: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps."""
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=10, ge=1)
    """Steps between two reports; `steps.jsonl` has every step."""
    data_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that render, encode and pack ahead of the steps; null is two beside a GPU, and none on a CPU, which
    tuning keeps busy by itself."""
    dev_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between two measurements of the loss on dev rows of the tuning tasks; null measures none."""
    dev_rows: int = Field(default=20, ge=1)
    """Dev rows of each tuning task that this loss is over."""
    track: tuple[TrackerName, ...] = ()
    """Where the numbers that are shown while it runs also go."""
    seed: int = 0
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of torch; null leaves it as it is."""

    @field_validator("clip_norm", mode="before")
    @classmethod
    def _none(cls, clip_norm: Any) -> Any:
        if clip_norm == math.inf:
            raise ValueError('expected a finite number, or "none", which clips nothing')
        return None if clip_norm == "none" else clip_norm

    @model_validator(mode="before")
    @classmethod
    def _lr_of_the_method(cls, given: Any) -> Any:
        if isinstance(given, dict) and "lr" not in given and given.get("method") in USUAL_LR:
            return {**given, "lr": USUAL_LR[given["method"]]}
        return given

    @property
    def quantize(self) -> Quantize | None:
        """How the frozen base is quantized; None where it is not."""
        return self.lora.quantize if self.method == "lora" else None

    def content(self) -> dict[str, Any]:
        """What the tuned weights depend on, as plain data."""
        return self.model_dump(mode="json", exclude=WITHOUT_EFFECT)

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0.

        >>> [TuningSettings(steps=4, lr=1.0, warmup_steps=2, schedule="linear").lr_at(step) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
        """
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        return self.lr * (self.steps - step) / (self.steps - self.warmup_steps)

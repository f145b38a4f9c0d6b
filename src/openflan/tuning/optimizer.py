"""The optimizers, with the settings that make them the paper's or the field's usual ones."""

from collections.abc import Iterable

import torch
from torch import nn
from transformers.optimization import Adafactor

from openflan.tuning.settings import TuningSettings


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TuningSettings) -> torch.optim.Optimizer:
    """The optimizer over the trainable ones of `parameters`; its learning rate is set before each step.

    Adafactor is transformers', with an external learning rate, no momentum and update clipping at 1 (its defaults in
    Shazeer & Stern 2018); AdamW is torch's fused one.
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    return Adafactor(
        groups, lr=settings.lr, scale_parameter=settings.scale_parameter, relative_step=False, warmup_init=False
    )

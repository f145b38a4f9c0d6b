"""A tuning run in a process of its own, to be killed: python -m tests.tuning.killable MODEL FOLDER."""

import sys
from pathlib import Path

import torch

from openflan.encoding import Encoded
from openflan.models.load import load_model
from openflan.tuning.settings import TuningSettings
from openflan.tuning.tune import tune
from tests.models.tiny import examples

SETTINGS = TuningSettings(
    steps=120, tokens_per_step=60, row_length=30, lr=1e-3, optimizer="adamw", checkpoint_every=10, keep_checkpoints=2
)


def blocks(block: int) -> list[Encoded]:
    return examples(50, seed=block, task=f"block{block}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    tune(load_model(sys.argv[1], device="cpu"), blocks, SETTINGS, Path(sys.argv[2]))

"""A tuning run to be killed: python -m tests.tuning.killable MODEL FOLDER runs it once.

With a number of kills after that, forked children run it, each killed at a moment drawn from a fixed seed, until one
comes through. One runs it without a kill first: the log of steps and the time of one tell the moments, so that they lie
alike on a slow machine and a fast one.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from openflan.encoding import Encoded
from openflan.models.load import load_model
from openflan.tuning.settings import TuningSettings
from openflan.tuning.tune import tune
from tests.models.tiny import examples

SETTINGS = TuningSettings(
    steps=60, tokens_per_step=60, row_length=30, lr=1e-3, optimizer="adamw", checkpoint_every=3, keep_checkpoints=2
)


def blocks(block: int) -> list[Encoded]:
    return examples(50, seed=block, task=f"block{block}")


def run(model: str, folder: Path) -> None:
    torch.set_num_threads(1)
    tune(load_model(model, device="cpu"), blocks, SETTINGS, folder)


def lines(log: Path) -> int:
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def forked(model: str, folder: Path) -> int:
    """The id of a child that runs it and leaves with 0 if nothing stopped it."""
    if child := os.fork():
        return child
    code = 1
    try:
        run(model, folder)
        code = 0
    finally:
        os._exit(code)


def killed_again_and_again(model: str, folder: Path, kills: int) -> None:
    """Leaves `folder/killed`, `folder/straight`, and the number of steps logged at each kill in `folder/kills.json`."""
    log = folder / "straight" / "steps.jsonl"
    child = forked(model, folder / "straight")
    while not lines(log):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
        time.sleep(0.001)
    began = time.monotonic()
    assert os.waitpid(child, 0)[1] == 0
    a_step = (time.monotonic() - began) / SETTINGS.steps

    drawn = random.Random(0)
    log = folder / "killed" / "steps.jsonl"
    seen: list[int] = []
    # A moment: that many lines of the log, and a pause within the next steps or the checkpoint they write.
    for step in sorted(drawn.sample(range(SETTINGS.steps), kills)):
        child = forked(model, folder / "killed")
        while lines(log) < step:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
            time.sleep(0.001)
        time.sleep(2 * a_step * drawn.random())
        seen.append(lines(log))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitpid(forked(model, folder / "killed"), 0)[1] == 0
    (folder / "kills.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    if len(sys.argv) > 3:
        killed_again_and_again(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        run(sys.argv[1], Path(sys.argv[2]))

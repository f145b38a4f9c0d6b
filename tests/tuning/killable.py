"""A tuning run to be killed: python -m tests.tuning.killable MODEL FOLDER runs it once.

With a number of kills after that, it is run in forked children, each killed at a moment drawn from a fixed seed, until
one comes through. The log of steps tells the moments, so that a slow machine is killed as often as a fast one.
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
    steps=120, tokens_per_step=60, row_length=30, lr=1e-3, optimizer="adamw", checkpoint_every=4, keep_checkpoints=2
)


def blocks(block: int) -> list[Encoded]:
    return examples(50, seed=block, task=f"block{block}")


def run(model: str, folder: Path) -> None:
    torch.set_num_threads(1)
    tune(load_model(model, device="cpu"), blocks, SETTINGS, folder)


def lines(log: Path) -> int:
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def killed_again_and_again(model: str, folder: Path, kills: int) -> None:
    """Leaves `folder` tuned, and the number of steps at each kill in killed.json beside it."""
    drawn = random.Random(0)
    # A moment: that many lines of the log, and a pause within the next step or the checkpoint it writes.
    moments = sorted((drawn.randrange(SETTINGS.steps + 1), drawn.random() * 0.05) for _ in range(kills))
    seen: list[int] = []
    while True:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(model, folder)
                code = 0
            finally:
                os._exit(code)
        if len(seen) < kills:
            step, pause = moments[len(seen)]
            while lines(folder / "steps.jsonl") < step:
                time.sleep(0.001)
            time.sleep(pause)
            os.kill(child, signal.SIGKILL)
            seen.append(lines(folder / "steps.jsonl"))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        if code != -signal.SIGKILL:
            sys.exit(code)
    (folder.parent / "killed.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    if len(sys.argv) > 3:
        killed_again_and_again(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        run(sys.argv[1], Path(sys.argv[2]))

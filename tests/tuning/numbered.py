"""Functions of a number for worker processes to call. Run as a program it starts some and waits to be ended:

python -m tests.tuning.numbered
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openflan.encoding import Encoded
from openflan.errors import ModelError, Problem
from openflan.tuning.ahead import in_order


@dataclass(frozen=True)
class Noted:
    """Squares; every call leaves a file."""

    folder: Path

    def __call__(self, number: int) -> int:
        (self.folder / str(number)).touch()
        return number**2


def failing_at_5(number: int) -> int:
    if number == 5:
        raise ModelError([Problem("block 5", "is wrong"), Problem("block 5", "is wrong twice", "mend it")])
    return number


def killed_at_5(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def blocks(number: int) -> list[Encoded]:
    """Thirteen random examples, none in each third block; nothing here loads torch, which takes seconds."""
    drawn = np.random.default_rng(number)
    sizes = [] if number % 3 == 1 else drawn.integers(1, 7, (13, 2)).tolist()
    texts = [tuple(tuple(drawn.integers(2, 99, size).tolist()) for size in pair) for pair in sizes]
    return [Encoded(f"block{number}", f"train/{i}", "t", *pair) for i, pair in enumerate(texts)]


def own_id(number: int) -> int:
    del number
    return os.getpid()


if __name__ == "__main__":
    # A shell's background jobs ignore Ctrl-C, and so does what they start, tests among it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    feed = in_order(own_id, 0, workers=2)
    next(feed)
    sys.stdout.write(f"{next(feed)} {next(feed)}\n")
    sys.stdout.flush()
    try:
        time.sleep(600)
    finally:
        feed.close()

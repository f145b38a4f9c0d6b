"""Runs of two processes.

python -m tests.tuning.ranks FOLDER forks them, for every scenario, from one process that has torch loaded; under
torchrun, with a scenario's name, this is one process of that scenario.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from openflan.encoding import Encoded
from openflan.errors import SourceError
from openflan.models.load import load_model
from openflan.models.packing import Packing
from openflan.tuning import tune as tune_module
from openflan.tuning.distributed import joined
from openflan.tuning.settings import TuningSettings
from openflan.tuning.tune import StepReport, tune
from tests.models.tiny import SMALL, bpe, examples

SETTINGS = TuningSettings(
    steps=6,
    tokens_per_step=60,
    row_length=30,
    forward_tokens=30,
    lr=1e-3,
    weight_decay=0.1,
    clip_norm=0.5,
    checkpoint_every=2,
    log_every=1,
)
"""Steps of one to three rows: some leave a process without any, some give one process two passes."""

SCENARIOS: dict[str, dict[str, Any]] = {
    "scaled": {"optimizer": "adafactor", "scale_parameter": True, "lr": 1e-2, "gradient_checkpointing": True},
    "example": {"optimizer": "adamw", "loss_weighting": "example", "gradient_checkpointing": True, "dev_every": 2},
    "lora": {"optimizer": "adamw", "method": "lora"},
    "soft_prompt": {"optimizer": "adamw", "method": "soft_prompt", "soft_prompt_tokens": 3},
    "unpacked": {"optimizer": "adamw", "dev_every": 3},
    "bfloat16": {"optimizer": "adamw", "precision": "bfloat16", "dev_every": 3},
    "two_to_one": {"optimizer": "adafactor"},
    "one_to_two": {"optimizer": "adamw"},
}
FAILING, TURNS = "failing", "turns"
DEV = {"toy": examples(9, seed=99, longest=28), "other": examples(4, seed=98, longest=28)}
"""Measured where a scenario has `dev_every`."""
UNPACKED = Packing("padded", "Llama", {"ragged": "no reason"})
STOPPED_AFTER = 3


def settings_of(name: str) -> TuningSettings:
    return TuningSettings.model_validate(SETTINGS.model_dump() | SCENARIOS.get(name, {}))


def save_base(folder: Path) -> None:
    """A tiny model none of whose sizes divides by two, so that shards are uneven."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 301, "intermediate_size": 47, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**SMALL | sizes, tie_word_embeddings=True))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    bpe().save_pretrained(folder)


def blocks(block: int) -> list[Encoded]:
    return examples(20, seed=block, longest=28, task=f"block{block}")


def work(root: Path, name: str) -> None:
    """One process of a scenario."""
    if name == TURNS:
        take_turns(root / "turns.txt")
        return

    def own_blocks(block: int) -> list[Encoded]:
        if name == FAILING and block == 1 and os.environ["RANK"] == "1":
            raise SourceError("process 1 finds no rows")
        return blocks(block)

    if name == "unpacked":
        tune_module.packing_of = lambda model, longest, ways: UNPACKED

    def report(done: StepReport) -> None:
        if name == "two_to_one" and done.step == STOPPED_AFTER - 1:
            os.kill(os.getpid(), signal.SIGTERM)  # only the first process reports: the other has to be told

    # Weights are read when it is the process's turn, or are there already.
    base = load_model(str(root / "base"), device="cpu" if name == "example" else "meta")
    for _ in range(2):  # the second time it is finished
        tuned = tune(base, own_blocks, settings_of(name), root / name, report=report, dev=DEV)
        assert tuned.device.type == ("cpu" if os.environ["RANK"] == "0" else "meta")


def take_turns(log: Path) -> None:
    """Say when this process's turn begins and, a while later, ends."""
    with joined() as world, world.in_turn():
        for event in ("begins", "ends"):
            with log.open("a") as file:
                file.write(f"{world.rank} {event}\n")
            time.sleep(0.2)


def _fork(root: Path, name: str, rank: int, port: int) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
        work(root, name)
        code = 0
    except SystemExit as left:
        code = int(str(left.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def run_all(root: Path, names: Sequence[str]) -> None:
    codes: dict[str, list[int]] = {}
    for name in names:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [_fork(root, name, rank, port) for rank in (0, 1)]
        codes[name] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    (root / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        work(Path(sys.argv[1]), sys.argv[2])
    else:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        run_all(Path(sys.argv[1]), [TURNS, *SCENARIOS])

"""Tuning on one GPU beside TRL's SFTTrainer: target tokens a second, use of the device, peak memory.

    python benchmarks/gpu/tuning_speed.py --shape 1B

The same examples for all (those of benchmarks/tuning.py), bfloat16 over float32 weights, AdamW, no gradient
checkpointing, whole epochs timed by the wall clock. TRL packs with bfd and FlashAttention where flash-attn is
installed, else with SDPA, which its row is named after; and it is run padded too.
"""

import argparse
import dataclasses
from typing import Any

import torch
from common import (
    arguments,
    attention_of_peers,
    clock,
    command,
    device_of,
    forget_peak,
    needed_operations,
    peak_mebibytes,
    peak_teraflops,
    random_model,
)
from tuning_engines import Epoch, Setting, openflan_epoch, trl_epoch
from tuning_workload import examples

EXAMPLES, TINY = 4_000, 12
SETTING = Setting(row_length=4096, rows_per_step=4, padded_batch=64, bfloat16=True, clock=clock)
TINY_SETTING = dataclasses.replace(SETTING, row_length=1024, rows_per_step=2, padded_batch=4, bfloat16=False)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    device = device_of(given)
    setting = TINY_SETTING if given.tiny else SETTING
    lm = random_model("tiny" if given.tiny else given.shape, device, torch.float32)
    encoded = examples(TINY if given.tiny else given.examples, seed=1, vocabulary=1000 if given.tiny else 32_000)
    if given.engine != "openflan":
        lm.model.set_attn_implementation(attention_of_peers())
    lengths = [len(e.prompt_ids) + len(e.target_ids) for e in encoded]
    targets = sum(len(e.target_ids) for e in encoded)
    operations = needed_operations(lm.model, lengths, targets)

    def epoch() -> Epoch:
        if given.engine == "openflan":
            return openflan_epoch(lm, encoded, setting)
        return trl_epoch(lm, encoded, setting, packing=given.engine == "bfd")

    epoch()
    forget_peak()
    found = [epoch() for _ in range(given.rounds)]
    if any(one.target_tokens != targets for one in found):
        raise SystemExit(f"tuned on {[one.target_tokens for one in found]} target tokens instead of {targets}")
    peak = peak_teraflops(given.peak_teraflops, device)
    seconds = [one.seconds for one in found]
    return {
        "seconds": seconds,
        "steps": found[0].steps,
        "tokens": sum(lengths),
        "tokens_fed": found[0].tokens,
        "target_tokens": targets,
        "target_tokens_per_second": [targets / s for s in seconds],
        "tokens_per_second": [sum(lengths) / s for s in seconds],
        "mfu": [operations / s / peak / 1e12 for s in seconds] if peak else None,
        "peak_mebibytes": peak_mebibytes(),
        "peak_teraflops": peak,
    }


def main() -> None:
    parser = arguments(str(__doc__))
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    command("tuning", parser, engines, measure)


def engines(given: argparse.Namespace) -> dict[str, str]:
    attention = attention_of_peers()
    return {
        "padded": f"TRL, padded, {attention}",
        "bfd": f"TRL, packing bfd, {attention}",
        "openflan": "openflan",
    }


if __name__ == "__main__":
    main()

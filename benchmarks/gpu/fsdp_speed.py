"""Tuning sharded over GPUs (FSDP2) by torchrun: target tokens a second and peak memory on 1, 2, 4, ... of them.

    python benchmarks/gpu/fsdp_speed.py --shape 1.5B [--gpus 1 2 4 8]

Each process count tunes the same examples for one epoch, four packed rows a step for each GPU. One GPU is the unsharded
model, which the others are compared with. With --tiny two processes on the CPU, joined by gloo.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import (
    arguments,
    clock,
    command,
    device_of,
    forget_peak,
    needed_operations,
    peak_mebibytes,
    peak_teraflops,
    random_model,
)
from tuning_engines import Setting, openflan_epoch
from tuning_workload import examples

from openflan.models.load import load_model, save_model
from openflan.tuning.distributed import World, joined

SETTING = Setting(row_length=4096, bfloat16=True, clock=clock)
TINY_SETTING = dataclasses.replace(SETTING, row_length=1024, bfloat16=False)
ROWS_PER_GPU = 4


def measure(given: argparse.Namespace) -> dict[str, Any]:
    size, setting = int(given.engine), TINY_SETTING if given.tiny else SETTING
    setting = dataclasses.replace(setting, rows_per_step=size * (1 if given.tiny else ROWS_PER_GPU))
    encoded = examples(12 if given.tiny else given.examples, seed=1, vocabulary=1000 if given.tiny else 32_000)
    lengths = [len(e.prompt_ids) + len(e.target_ids) for e in encoded]
    targets = sum(len(e.target_ids) for e in encoded)
    with joined() as world:
        device = world.device or device_of(given)
        operations = 0.0
        base = made(given, world)

        def epoch(number: int) -> float:
            nonlocal operations
            folder = given.result.parent / str(number) if given.result else None
            lm = load_model(str(base), device=str(device))
            operations = needed_operations(lm.model, lengths, targets)  # before the weights are sharded
            return openflan_epoch(lm, encoded, setting, folder).seconds

        epoch(0)
        forget_peak()
        seconds = [epoch(number) for number in range(1, given.rounds + 1)]
        peaks: list[Any] = [peak_mebibytes()]
        if world.size > 1:
            peaks *= world.size
            dist.all_gather_object(peaks, peak_mebibytes())
    peak = peak_teraflops(given.peak_teraflops, device)
    return {
        "seconds": seconds,
        "gpus": size,
        "tokens": sum(lengths),
        "target_tokens": targets,
        "target_tokens_per_second": [targets / s for s in seconds],
        "tokens_per_second": [sum(lengths) / s for s in seconds],
        "mfu": [operations / s / peak / size / 1e12 for s in seconds] if peak else None,
        "peak_mebibytes": max(peaks) if None not in peaks else None,
        "peak_teraflops": peak,
    }


def made(given: argparse.Namespace, world: World) -> Path:
    """The untuned model's folder, which sharding needs to put the model together at the end."""
    folder = (given.result.parent if given.result else given.out) / "base"
    with world.first_alone():
        if world.first:
            lm = random_model("tiny" if given.tiny else given.shape, torch.device("cpu"), torch.float32)
            save_model(lm, folder, None)
    return folder


def counts(given: argparse.Namespace) -> list[int]:
    """Of processes."""
    if given.tiny:
        return [1, 2]
    most = torch.cuda.device_count()
    return [n for n in given.gpus or (1, 2, 4, 8) if n <= most]


def launchers(given: argparse.Namespace) -> dict[str, list[str]]:
    return {
        str(n): [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
        for n in counts(given)
        if n > 1
    }


def main() -> None:
    parser = arguments(str(__doc__))
    parser.add_argument("--examples", type=int, default=4_000)
    parser.add_argument("--gpus", type=int, nargs="+", help="counts to measure; 1, 2, 4 and 8 where there are as many")
    command("fsdp", parser, lambda given: {str(n): f"{n} GPUs" for n in counts(given)}, measure, launchers)


if __name__ == "__main__":
    main()

"""Packing alone on one GPU: one forward and backward pass over the same examples, laid out in four ways.

    python benchmarks/gpu/packing_speed.py --shape 1B

The ways are those of `openflan.models.packed_forward`: ragged (attention within each example), block_mask (packed rows
under a mask), padded (like lengths together), alone. Each names how far its gradient is from that of float32, an
example at a time. Which one tuning prefers on CUDA is decided by their order in `openflan.models.packing`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
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
    rounds_of,
)
from torch.nn import functional
from tuning_workload import examples

from openflan.encoding.encode import Encoded
from openflan.encoding.pack import pack
from openflan.models.load import LanguageModel
from openflan.models.packed_forward import Way, attending, collate, target_logits

ROW_LENGTH = 8192
WAYS: dict[str, Way] = {"alone": "alone", "padded": "padded", "block_mask": "block_mask", "ragged": "ragged"}


def passed(lm: LanguageModel, encoded: Sequence[Encoded], way: Way, *, bfloat16: bool) -> None:
    """A forward and backward pass over every row; the gradients add up in the model."""
    for row in pack(encoded, ROW_LENGTH):
        batch = collate([row], lm.device)
        with attending(lm.model, way):
            with torch.autocast(lm.device.type, torch.bfloat16, enabled=bfloat16):
                logits = target_logits(lm.model, batch, way)
            functional.cross_entropy(logits.float(), batch.labels, reduction="sum").backward()


def gradient(lm: LanguageModel, encoded: Sequence[Encoded], way: Way, *, bfloat16: bool) -> list[torch.Tensor]:
    passed(lm, encoded, way, bfloat16=bfloat16)
    found = [p.grad for p in lm.model.parameters() if p.grad is not None]
    lm.model.zero_grad(set_to_none=True)
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    device = device_of(given)
    lm = random_model("tiny" if given.tiny else given.shape, device, torch.float32)
    lm.model.train()
    encoded = examples(8 if given.tiny else given.examples, seed=1, vocabulary=1000 if given.tiny else 32_000)
    way, bfloat16 = WAYS[given.engine], device.type == "cuda"
    few = encoded[:8]
    reference = gradient(lm, few, "alone", bfloat16=False)
    its = gradient(lm, few, way, bfloat16=bfloat16)
    off = sum(float((a - b).square().sum()) for a, b in zip(its, reference, strict=True)) ** 0.5
    norm = sum(float(b.square().sum()) for b in reference) ** 0.5
    del its, reference
    forget_peak()

    def run() -> float:
        started = clock()
        passed(lm, encoded, way, bfloat16=bfloat16)
        lm.model.zero_grad(set_to_none=True)
        return clock() - started

    seconds = rounds_of(run, given.rounds)
    lengths = [len(e.prompt_ids) + len(e.target_ids) for e in encoded]
    operations = needed_operations(lm.model, lengths, sum(len(e.target_ids) for e in encoded))
    peak = peak_teraflops(given.peak_teraflops, device)
    return {
        "seconds": seconds,
        "tokens": sum(lengths),
        "tokens_per_second": [sum(lengths) / s for s in seconds],
        "mfu": [operations / s / peak / 1e12 for s in seconds] if peak else None,
        "peak_mebibytes": peak_mebibytes(),
        "gradient_differs_by": off / norm,
    }


def main() -> None:
    parser = arguments(str(__doc__))
    parser.add_argument("--examples", type=int, default=500)
    command("packing", parser, lambda given: {way: way for way in WAYS}, measure)


if __name__ == "__main__":
    main()

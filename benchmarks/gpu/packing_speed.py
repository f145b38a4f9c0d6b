"""Packing alone on one GPU: one forward and backward pass over the same examples, laid out in four ways.

    python benchmarks/gpu/packing_speed.py --shape 1B

Packed (openflan's attention for rows of many examples), packed under a dense mask (transformers' SDPA from
position ids), padded, and an example at a time. Each names how far its gradient is from that of float32, an example at
a time. All have the head at target positions only, so that what differs is the layout.
"""

import argparse
from collections.abc import Callable, Sequence
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
from openflan.models.packed_attention import PackedBatch, collate, target_logits

ROW_LENGTH = 8192
PADDED_BATCH = 32
"""Examples padded to the longest of as many, sorted by length."""


def packed(lm: LanguageModel, encoded: Sequence[Encoded]) -> torch.Tensor:
    return _summed(lm, encoded, lambda batch: target_logits(lm.model, batch))


def alone(lm: LanguageModel, encoded: Sequence[Encoded]) -> torch.Tensor:
    return _summed(lm, encoded, lambda batch: target_logits(lm.model, batch, packed=False))


def masked(lm: LanguageModel, encoded: Sequence[Encoded]) -> torch.Tensor:
    """transformers makes the mask from where positions begin anew."""
    model: Any = lm.model

    def logits(batch: PackedBatch) -> torch.Tensor:
        hidden = model.model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
        return model.get_output_embeddings()(hidden.last_hidden_state[0].index_select(0, batch.target_positions))

    return _summed(lm, encoded, logits)


def padded(lm: LanguageModel, encoded: Sequence[Encoded]) -> torch.Tensor:
    model: Any = lm.model
    rows = sorted(([*e.prompt_ids, *e.target_ids], len(e.prompt_ids)) for e in encoded)
    rows.sort(key=lambda row: len(row[0]))
    total = torch.zeros((), device=lm.device)
    for at in range(0, len(rows), PADDED_BATCH):
        part = rows[at : at + PADDED_BATCH]
        longest = len(part[-1][0])
        ids = torch.tensor([text + [0] * (longest - len(text)) for text, _ in part], device=lm.device)
        mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text, _ in part], device=lm.device)
        targets = torch.tensor([[start <= t < len(x) for t in range(longest)] for x, start in part], device=lm.device)
        with torch.autocast(lm.device.type, torch.bfloat16, enabled=lm.device.type == "cuda"):
            hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = model.get_output_embeddings()(hidden[:, :-1][targets[:, 1:]])
        loss = functional.cross_entropy(logits.float(), ids[:, 1:][targets[:, 1:]], reduction="sum")
        loss.backward()
        total += loss.detach()
    return total


def _summed(
    lm: LanguageModel, encoded: Sequence[Encoded], logits: Callable[[PackedBatch], torch.Tensor], bfloat16: bool = True
) -> torch.Tensor:
    total = torch.zeros((), device=lm.device)
    for row in pack(encoded, ROW_LENGTH):
        batch = collate([row], lm.device)
        with torch.autocast(lm.device.type, torch.bfloat16, enabled=bfloat16 and lm.device.type == "cuda"):
            found = logits(batch)
        loss = functional.cross_entropy(found.float(), batch.labels, reduction="sum")
        loss.backward()
        total += loss.detach()
    return total


ENGINES = {
    "alone": ("an example at a time", alone),
    "padded": (f"padded, sorted by length, batch {PADDED_BATCH}", padded),
    "masked": (f"rows of {ROW_LENGTH}, dense mask (SDPA)", masked),
    "packed": (f"rows of {ROW_LENGTH}, openflan's packed attention", packed),
}


def gradient(lm: LanguageModel, run: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    lm.model.zero_grad(set_to_none=True)
    run()
    return [p.grad.clone() for p in lm.model.parameters() if p.grad is not None]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    device = device_of(given)
    lm = random_model("tiny" if given.tiny else given.shape, device, torch.float32)
    lm.model.train()
    encoded = examples(8 if given.tiny else given.examples, seed=1, vocabulary=1000 if given.tiny else 32_000)
    engine = ENGINES[given.engine][1]
    few = encoded[:8]
    reference = gradient(
        lm, lambda: _summed(lm, few, lambda batch: target_logits(lm.model, batch, packed=False), bfloat16=False)
    )
    its = gradient(lm, lambda: engine(lm, few))
    off = sum(float((a - b).square().sum()) for a, b in zip(its, reference, strict=True)) ** 0.5
    norm = sum(float(b.square().sum()) for b in reference) ** 0.5
    del its, reference
    lm.model.zero_grad(set_to_none=True)
    forget_peak()

    def run() -> float:
        started = clock()
        engine(lm, encoded)
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
    command("packing", parser, lambda given: {key: name for key, (name, _) in ENGINES.items()}, measure)


if __name__ == "__main__":
    main()

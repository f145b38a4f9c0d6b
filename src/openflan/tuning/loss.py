"""The loss of an optimizer step: cross-entropy of target tokens, each of the step's weighing the same."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from openflan.encoding.pack import PackedRow
from openflan.models.packed_forward import Way, attending, collate, target_logits


def backward(
    model: PreTrainedModel,
    rows: Sequence[PackedRow],
    *,
    forward_tokens: int,
    bfloat16: bool = False,
    way: Way = "ragged",
) -> float:
    """Add the gradient of the rows' mean loss to the parameters; gives that loss, in nats per target token.

    The mean is over all target tokens of `rows`, whichever way they are cut into forward passes; the log-softmax is
    float32 in any precision. way: how examples go through the model, as `packing_of` found it.
    """
    num_targets = sum(len(row.labels) for row in rows)
    total = 0.0
    for part in forward_passes(rows, forward_tokens):
        batch = collate(part, model.device)
        with attending(model, way):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
                logits = target_logits(model, batch, way)
            loss = functional.cross_entropy(logits.float(), batch.labels, reduction="sum") / num_targets
            loss.backward()  # pyright: ignore[reportUnknownMemberType] -- torch leaves it unannotated
        total += loss.item()
    return total


def target_nats(
    model: PreTrainedModel, rows: Sequence[PackedRow], *, bfloat16: bool = False, way: Way = "ragged"
) -> Tensor:
    """[K], the loss of each target token of the rows in one forward pass, without gradients."""
    batch = collate(rows, model.device)
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
        logits = target_logits(model, batch, way)
    return functional.cross_entropy(logits.float(), batch.labels, reduction="none")


def forward_passes(rows: Sequence[PackedRow], most_tokens: int) -> Iterator[list[PackedRow]]:
    """Rows in order, grouped up to `most_tokens`; at least one in each group."""
    group: list[PackedRow] = []
    tokens = 0
    for row in rows:
        if group and tokens + len(row.input_ids) > most_tokens:
            yield group
            group, tokens = [], 0
        group.append(row)
        tokens += len(row.input_ids)
    if group:
        yield group

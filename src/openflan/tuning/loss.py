"""The loss of an optimizer step: cross-entropy of target tokens, exact however the step is cut and shared out.

Takes the rows of a step, leaves their gradient in the parameters. Read next: `tune.py`.

K = target tokens of a forward pass, V = vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from openflan.encoding.pack import PackedRow
from openflan.models.packed_forward import PackedBatch, Way, attending, collate, target_logits
from openflan.tuning.distributed import ALONE, World

Weighting = Literal["token", "example"]


class TargetLogits(nn.Module):
    """`target_logits` as a module's forward, where FSDP2 gathers the parameters that belong to no layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch, way: Way) -> Tensor:
        """[K, V]"""
        return target_logits(self.model, batch, way)


def backward(
    model: PreTrainedModel | TargetLogits,
    rows: Sequence[PackedRow],
    *,
    forward_tokens: int,
    weighting: Weighting = "token",
    bfloat16: bool = False,
    way: Way = "ragged",
    world: World = ALONE,
    not_finite: list[str] | None = None,
) -> float:
    """Add the gradient of the rows' mean loss to the parameters; gives that loss, in nats per target token.

    rows: of the whole step, the same in every process; each computes its share of them.
    weighting: the mean is over all target tokens of `rows` ("token"), or over examples, each of them the mean over its
    own target tokens ("example"); whichever way rows are cut into forward passes and shared out.
    world: where there are several processes, what each gives is its share of the loss: their sum is the mean.
    not_finite: gets the row ids of this process's first forward pass whose loss is not finite.
    way: how examples go through the model, as `packing_of` found it.
    bfloat16: autocast; a sharded model has its own way.

    The log-softmax is float32 in any precision.
    """
    logits_of = model if isinstance(model, TargetLogits) else TargetLogits(model)
    total = _count(rows, weighting)
    nats: float = 0.0
    for part in passes_by_process(rows, world.size, forward_tokens, way)[world.rank]:
        batch = collate(part or [NO_EXAMPLE], logits_of.model.device)
        with attending(logits_of.model, way):
            with torch.autocast(logits_of.model.device.type, torch.bfloat16, enabled=bfloat16):
                logits = cast(Tensor, logits_of(batch, way)).float()
            loss = _weighed(logits, batch.labels, part, weighting) / total
            loss.backward()  # pyright: ignore[reportUnknownMemberType] -- torch leaves it unannotated
        if not_finite is not None and math.isfinite(nats) and not math.isfinite(loss.item()):
            not_finite += [name for row in part for name in row.row_ids]
        nats += loss.item()
    return nats


def passes_by_process(
    rows: Sequence[PackedRow], processes: int, forward_tokens: int, way: Way = "ragged"
) -> list[list[list[PackedRow]]]:
    """The forward passes of each process: all have equally many, since each takes part in every reduction.

    A process with fewer rows ends on passes without any.
    """
    rows, most_tokens = alike_passes(rows, processes, forward_tokens, way)
    passes = [list(forward_passes(share, most_tokens)) for share in shared_out(rows, processes)]
    longest = max(map(len, passes))
    return [own + [[] for _ in range(longest - len(own))] for own in passes]


def alike_passes(
    rows: Sequence[PackedRow], processes: int, forward_tokens: int, way: Way
) -> tuple[Sequence[PackedRow], int]:
    """Rows and the most tokens of a forward pass, such that each pass calls each layer equally often.

    Where examples are not packed, one pass calls the layers more than once, and each call gathers them: between several
    processes an example is then a row and a pass of its own.
    """
    if processes == 1 or way not in ("padded", "alone"):
        return rows, forward_tokens
    return [alone for row in rows for alone in _apart(row)], 1


def shared_out(rows: Sequence[PackedRow], processes: int) -> list[list[PackedRow]]:
    """The rows of each process, in order: the longest first, each to the process with the fewest tokens so far."""
    if processes == 1:
        return [list(rows)]
    tokens = [0] * processes
    shares: list[list[int]] = [[] for _ in range(processes)]
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids)):
        least = tokens.index(min(tokens))
        shares[least].append(index)
        tokens[least] += len(rows[index].input_ids)
    return [[rows[index] for index in sorted(share)] for share in shares]


def target_nats(
    model: PreTrainedModel | TargetLogits, rows: Sequence[PackedRow], *, bfloat16: bool = False, way: Way = "ragged"
) -> Tensor:
    """[K], the loss of each target token of the rows in one forward pass, without gradients.

    Of a model that is sharded every process calls this equally often.
    """
    logits_of = model if isinstance(model, TargetLogits) else TargetLogits(model)
    device = logits_of.model.device
    batch = collate(rows, device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        logits = cast(Tensor, logits_of(batch, way))
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


def example_weights(row: PackedRow) -> npt.NDArray[np.float64]:
    """[K], the share of each target token in its own example: the weights of an example sum to 1."""
    example = np.searchsorted(np.cumsum(row.segment_lengths), row.target_positions, side="right")
    return 1.0 / np.bincount(example)[example]


def _count(rows: Sequence[PackedRow], weighting: Weighting) -> int:
    """What the losses of a step's rows are divided by: target tokens, or examples that have any."""
    if weighting == "token":
        return sum(len(row.labels) for row in rows)
    return sum(round(float(example_weights(row).sum())) for row in rows)


def _weighed(logits: Tensor, labels: Tensor, part: Sequence[PackedRow], weighting: Weighting) -> Tensor:
    """The sum of a forward pass's losses, over target tokens or over examples; 0 for a pass without rows."""
    if not part:
        return logits.sum() * 0.0
    if weighting == "token":
        return functional.cross_entropy(logits, labels, reduction="sum")
    weights = np.concatenate([example_weights(row) for row in part]).astype(np.float32)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return losses @ torch.from_numpy(weights).to(losses.device)


def _apart(row: PackedRow) -> Iterator[PackedRow]:
    """Each example of a row as a row of its own."""
    start = 0
    for length, name in zip(row.segment_lengths.tolist(), row.row_ids, strict=True):
        own = slice(start, start + length)
        inside = (row.target_positions >= start) & (row.target_positions < start + length)
        places = row.target_positions[inside] - start
        yield PackedRow(
            row.input_ids[own],
            row.position_ids[own],
            np.array([length], np.int32),
            places.astype(np.int32),
            row.labels[inside],
            (name,),
        )
        start += length


def _no_example() -> PackedRow:
    ids = np.zeros(2, np.int32)
    return PackedRow(ids, np.arange(2, dtype=np.int32), np.array([2], np.int32), ids[:1], ids[:1], ())


NO_EXAMPLE = _no_example()
"""What a forward pass without rows computes, weighing nothing."""

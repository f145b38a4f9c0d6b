"""Forward passes over rows that hold many examples, in whichever way the model takes them.

Takes `PackedRow`s, gives the logits that predict target tokens. Which way a model takes is found by trying
(`packing.py`). Read next: `tuning/loss.py`.

T = tokens of a batch, S = segments (examples), K = target tokens, V = vocabulary; a grid has R rows of L tokens.
"""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from openflan.encoding.pack import PackedRow
from openflan.errors import ModelError
from openflan.models.packed_attention import NAME, Segments, attention

Way = Literal["ragged", "block_mask", "padded", "alone"]
"""How examples go through a model:
    ragged       one row of T tokens, attention of each example to itself (`packed_attention.py`)
    block_mask   packed rows [R, L], the model's own attention under a mask that parts examples; one forward pass
    padded       an example a row, like lengths together; as many forward passes as there are such groups
    alone        a forward pass an example
"""


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Some packed rows as one: K target tokens among T."""

    input_ids: Tensor
    """[1, T]"""
    position_ids: Tensor
    """[1, T], from 0 in each example"""
    segments: Segments
    row_lengths: tuple[int, ...]
    """Tokens of each packed row; T together"""
    target_positions: Tensor
    """[K], where the logits predict `labels`"""
    labels: Tensor
    """[K]"""


def collate(rows: Sequence[PackedRow], device: torch.device | str = "cpu") -> PackedBatch:
    """Packed rows joined to one: attention is ragged, so that more rows in a forward pass cost no padding."""
    starts = [0, *itertools.accumulate(len(row.input_ids) for row in rows)]
    target = torch.device(device)

    def joined(parts: Iterator[Any]) -> Tensor:
        return torch.from_numpy(np.concatenate(list(parts)).astype(np.int64)).to(target)

    return PackedBatch(
        input_ids=joined(row.input_ids for row in rows)[None],
        position_ids=joined(row.position_ids for row in rows)[None],
        segments=Segments(tuple(int(n) for row in rows for n in row.segment_lengths), target),
        row_lengths=tuple(len(row.input_ids) for row in rows),
        target_positions=joined(row.target_positions + start for row, start in zip(rows, starts, strict=False)),
        labels=joined(row.labels for row in rows),
    )


def target_logits(model: PreTrainedModel, batch: PackedBatch, way: Way = "ragged") -> Tensor:
    """[K, V]: the logits that predict `batch.labels`; the head runs nowhere else.

    Right only in a way that `packing_of` found right for this model; "alone" always is. With gradient checkpointing
    the backward pass attends again, so it belongs inside `attending` too: ModelError where that was forgotten.
    """
    if way == "ragged":
        _refuse_unguarded(model)
        with attention(model, NAME):
            return _logits(
                model, batch.target_positions, input_ids=batch.input_ids, position_ids=batch.position_ids,
                openflan_segments=batch.segments,
            )  # fmt: skip
    if way == "block_mask":
        return _block_mask_logits(model, batch)
    grids = _bucketed(batch.segments) if way == "padded" else _one_by_one(batch.segments)
    found: list[Tensor] = []
    order: list[Tensor] = []
    for index in grids:
        places = _places(index, batch.input_ids.shape[1])[batch.target_positions]
        here = (places >= 0).nonzero()[:, 0]
        found.append(_logits(model, places[here], input_ids=batch.input_ids[0, index]))
        order.append(here)
    return torch.cat(found).index_select(0, torch.cat(order).argsort())


def attending(model: PreTrainedModel, way: Way) -> contextlib.AbstractContextManager[None]:
    """What `target_logits` sets up for a forward pass, kept up until a backward pass is through as well."""
    return attention(model, NAME) if way == "ragged" else contextlib.nullcontext()


def _refuse_unguarded(model: PreTrainedModel) -> None:
    # The layers' own flag: the name of the model's differs between releases of transformers.
    again = torch.is_grad_enabled() and any(
        m.training and getattr(m, "gradient_checkpointing", False) for m in model.modules()
    )
    if again and cast(Any, model.config).get_text_config()._attn_implementation != NAME:
        raise ModelError(
            f"{type(model).__name__} checkpoints gradients: its backward pass must run inside `attending`, or it would "
            "attend across examples"
        )


def _logits(model: PreTrainedModel, positions: Tensor, **inputs: Any) -> Tensor:
    """[K, V]: the whole model, but for its head, which gets what stands at `positions` of the R * L tokens only.

    The model itself calls the head, so that what it does behind it (a scale, a soft cap) is done.
    """
    picked = False

    def pick(_head: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal picked
        picked = True
        return (given[0].flatten(0, -2).index_select(0, positions)[None], *given[1:])

    head = cast("nn.Module | None", model.get_output_embeddings())
    hook = None if head is None else head.register_forward_pre_hook(pick)
    try:
        logits: Tensor = cast("Callable[..., Any]", model)(**inputs, use_cache=False).logits
    finally:
        if hook is not None:
            hook.remove()
    flat = logits.flatten(0, -2)
    return flat if picked else flat.index_select(0, positions)


# Grids: which of the batch's T tokens stands where in R rows of L. Padding stands at the end of a row, where no other
# token sees it, and repeats a token of the row.


def _one_by_one(segments: Segments) -> Iterator[Tensor]:
    every = torch.arange(sum(segments.lengths), device=segments.device)
    yield from (part[None] for part in every.split(segments.lengths))


def _bucketed(segments: Segments) -> Iterator[Tensor]:
    yield from (index.view(n, length) for index, n, length in segments.buckets)


def _places(index: Tensor, size: int) -> Tensor:
    """[T], where in a grid [R, L], flattened, each token of the batch stands; -1 for those that do not."""
    flat = index.flatten()
    places = torch.full((size,), -1, device=index.device)
    # The first place of a token is its own, later ones are padding.
    return places.scatter_reduce(0, flat, torch.arange(len(flat), device=index.device), "amin", include_self=False)


def _block_mask_logits(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    size = batch.input_ids.shape[1]
    rows = torch.arange(size, device=batch.input_ids.device).split(batch.row_lengths)
    index = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-1)
    filling = index < 0
    index = torch.where(filling, index[:, :1], index)
    # Padding is a segment of its own: positions count within segments, and this one's are all zero.
    owners = batch.segments.owners[index].masked_fill(filling, -1)
    positions = batch.position_ids[0, index].masked_fill(filling, 0)
    inputs = {
        "input_ids": batch.input_ids[0, index],
        # Given, so that transformers does not look for packing itself and number the positions anew.
        "attention_mask": torch.ones_like(index),
        "position_ids": positions,
    }
    known = inspect.signature(model.forward).parameters
    places = _places(index, size)[batch.target_positions]
    with _masked(model, owners, positions):
        return _logits(model, places, **{name: given for name, given in inputs.items() if name in known})


@contextlib.contextmanager
def _masked(model: PreTrainedModel, owners: Tensor, positions: Tensor) -> Generator[None, None, None]:
    """transformers' masks for this model, made inside the block, part the segments of each row.

    owners: [R, L], the number of each token's segment. positions: [R, L], from 0 in each segment: a sliding window or a
    chunk is counted from the segment's start.
    """

    def parted(seen: "Callable[..., Tensor]") -> "Callable[..., Tensor]":
        def within(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            alike = owners[row, query] == owners[row, key]
            return alike & seen(row, head, positions[row, query], positions[row, key])

        return within

    def masking(made: "Callable[..., Any]") -> "Callable[..., Any]":
        def mask(*given: Any, mask_function: "Callable[..., Tensor]", **others: Any) -> Any:
            return made(*given, mask_function=parted(mask_function), **others | {"allow_is_causal_skip": False})

        return mask

    masks = cast(Any, ALL_MASK_ATTENTION_FUNCTIONS)
    configs = [cast(Any, m.config) for m in model.modules() if isinstance(m, PreTrainedModel)]
    names = {config._attn_implementation for config in configs} - {None}
    if not names <= {"eager", "sdpa"}:
        raise ModelError(f"{type(model).__name__} attends by {', '.join(sorted(names))}, which takes no such mask")
    before = dict(masks._local_mapping)
    try:
        for name in names:
            masks[name] = masking(masks[name])
        yield
    finally:
        masks._local_mapping.clear()
        masks._local_mapping.update(before)

"""Attention inside rows that hold many examples: each sees itself only, without padding and without a dense mask.

Takes `PackedRow`s, gives hidden states and the logits that predict target tokens. Read next: `tuning/tune.py`.

It is hooked in through transformers' attention interface, so the model's own code runs unchanged; an argument this
attention does not know (a sliding window, a soft cap, ...) is refused, never ignored.

T = tokens of a batch, S = segments (examples), H = heads, D = head size, K = target tokens, V = vocabulary.
"""

import contextlib
import functools
import inspect
import itertools
import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from openflan.encoding.pack import PackedRow
from openflan.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

NAME = "openflan_packed"
HARMLESS = frozenset({"position_ids", "cache_position", "position_embeddings", "use_cache"})
"""Arguments models hand on that do not change what attention computes."""
SHORT = 256
"""Up to this many tokens in the longest segment, bfloat16 on a CPU is faster as plain products than as SDPA calls."""


@dataclass(frozen=True, eq=False)
class Segments:
    """How T tokens divide into S examples, and the index tensors made from that once per batch."""

    lengths: tuple[int, ...]
    device: torch.device

    @functools.cached_property
    def longest(self) -> int:
        return max(self.lengths)

    @functools.cached_property
    def offsets(self) -> Tensor:
        """[S + 1] int32, where each segment starts; the last is T."""
        return torch.tensor([0, *itertools.accumulate(self.lengths)], dtype=torch.int32, device=self.device)

    @functools.cached_property
    def buckets(self) -> list[tuple[Tensor, int, int]]:
        """(indices into T [n * length], n, length): segments of like length, each padded to the bucket's longest.

        Padding repeats the segment's first token. It stands at the end, so no real token attends to it.
        """
        starts = [0, *itertools.accumulate(self.lengths)]
        order = sorted(range(len(self.lengths)), key=lambda i: -self.lengths[i])
        groups: list[list[int]] = []
        for i in order:
            if not groups or self.lengths[i] < 0.7 * self.lengths[groups[-1][0]]:
                groups.append([])
            groups[-1].append(i)
        made: list[tuple[Tensor, int, int]] = []
        for group in groups:
            length = self.lengths[group[0]]
            index = np.empty((len(group), length), np.int64)
            for row, i in enumerate(group):
                index[row] = starts[i]
                index[row, : self.lengths[i]] = np.arange(starts[i], starts[i] + self.lengths[i])
            made.append((torch.from_numpy(index.ravel()).to(self.device), len(group), length))
        return made

    @functools.cached_property
    def back(self) -> Tensor:
        """[T], where each token stands in the concatenated buckets."""
        places = torch.cat([index for index, _, _ in self.buckets])
        back = torch.empty(sum(self.lengths), dtype=torch.long, device=self.device)
        # Written from the last to the first, so that a token wins over the padding that repeats it.
        flipped = torch.arange(len(places) - 1, -1, -1, device=self.device)
        back[places.flip(0)] = flipped
        return back


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Some packed rows as one: K target tokens among T."""

    input_ids: Tensor
    """[1, T]"""
    position_ids: Tensor
    """[1, T], from 0 in each example"""
    segments: Segments
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
        target_positions=joined(row.target_positions + start for row, start in zip(rows, starts, strict=False)),
        labels=joined(row.labels for row in rows),
    )


def hidden_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """[T, hidden] of the model's body (no head), each example computed as if it stood alone.

    Raises ModelError where the architecture asks attention for something this module does not do.
    """
    with attention(model, NAME):
        body = cast("Callable[..., Any]", model.base_model)
        found = body(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            openflan_segments=batch.segments,
        )
    return found.last_hidden_state[0]


def target_logits(model: PreTrainedModel, batch: PackedBatch, *, packed: bool = True) -> Tensor:
    """[K, V]: the logits that predict `batch.labels`; the head runs nowhere else.

    With `packed=False` each example takes a forward pass of its own: slower, and right for every architecture.
    """
    if packed:
        head = cast("Callable[[Tensor], Tensor]", model.get_output_embeddings())
        return head(hidden_states(model, batch).index_select(0, batch.target_positions))
    return torch.cat(list(_logits_one_by_one(model, batch)))


def _logits_one_by_one(model: PreTrainedModel, batch: PackedBatch) -> Iterator[Tensor]:
    start = 0
    for length in batch.segments.lengths:
        inside = (batch.target_positions >= start) & (batch.target_positions < start + length)
        logits: Tensor = cast(Any, model)(input_ids=batch.input_ids[:, start : start + length], use_cache=False).logits
        yield logits[0].index_select(0, batch.target_positions[inside] - start)
        start += length


def supports_packing(model: PreTrainedModel, longest: int = 0) -> str | None:
    """None where packed examples get the logits they get alone; else the reason, to be shown to the user.

    longest: tokens of the longest example to come, which a sliding window must not be shorter than.

    Tried with short random examples on the model itself, since an architecture may use attention in ways its
    interface does not tell (a recurrent layer, absolute positions it counts itself, a scaled head).
    """
    config = cast(Any, model.config).get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < longest:
        return f"{type(model).__name__}: its sliding window of {window} tokens is shorter than a row of {longest}"
    drawn = np.random.default_rng(0)
    rows = [_random_row(drawn, length, int(config.vocab_size)) for length in (7, 12, 5)]
    batch = collate(rows, model.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = target_logits(model, batch, packed=False).float()
            together = target_logits(model, batch).float()
    except Exception as error:  # an architecture can fail in any way here, and each of them is an answer
        return f"{type(model).__name__} does not run packed: {error}"
    finally:
        model.train(training)
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    difference = float((together - alone).norm() / alone.norm().clamp_min(1e-30))
    if difference > tolerance:
        said = f"packed examples get other logits than alone (relative difference {difference:.1e})"
        return f"{type(model).__name__}: {said}"
    return None


def _random_row(drawn: np.random.Generator, length: int, vocabulary: int) -> PackedRow:
    ids = drawn.integers(0, vocabulary, length).astype(np.int32)
    places = np.arange(length, dtype=np.int32)
    return PackedRow(ids, places, np.array([length], np.int32), places[:-1], ids[1:], ("check",))


@contextlib.contextmanager
def attention(model: PreTrainedModel, name: str) -> Generator[None, None, None]:
    """The model's attention implementation set to `name` inside the block, and back after it."""
    configs = {id(m.config): cast(Any, m.config) for m in model.modules() if isinstance(m, PreTrainedModel)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config in configs.values():
            config._attn_implementation = name
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    openflan_segments: Segments | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each segment to itself: query [1, H, T, D], key and value alike or with fewer heads.

    Gives [1, T, H, D]. Raises ModelError for any argument that would change the result.
    """
    if openflan_segments is None:
        raise ModelError(f"{type(module).__name__} does not hand arguments on to attention: packing is impossible")
    _refuse(module, openflan_segments, attention_mask, query.shape, others)
    groups = query.shape[1] // key.shape[1]
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0 and _varlen() is not None:
        return _attend_varlen(query, key, value, scaling, openflan_segments, groups), None
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    low_precision = query.dtype == torch.bfloat16 or torch.is_autocast_enabled(query.device.type)
    if low_precision and not query.is_cuda and openflan_segments.longest <= SHORT:
        return _attend_buckets(query, key, value, scaling, dropout, openflan_segments), None
    return _attend_each(query, key, value, scaling, dropout, openflan_segments), None


def _refuse(
    module: torch.nn.Module, segments: Segments, mask: Tensor | None, shape: Sequence[int], others: dict[str, Any]
) -> None:
    if mask is not None:
        raise ModelError(f"{type(module).__name__} builds its own attention mask: packing would not be respected")
    if shape[0] != 1 or shape[2] != sum(segments.lengths):
        raise ModelError(f"packed attention got {shape[0]} x {shape[2]} tokens: expected 1 x {sum(segments.lengths)}")
    for argument, given in beyond_causal(others):
        if argument != "sliding_window" or given < segments.longest:
            name = type(module).__name__
            raise ModelError(f"{name} asks attention for {argument}, which packed attention does not do")


def beyond_causal(arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments that ask for something else than causal attention."""
    for argument, given in arguments.items():
        off = given is None or (given is False and argument != "is_causal")
        if not (off or argument in HARMLESS or (argument == "is_causal" and given is True)):
            yield argument, given


def _attend_each(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, segments: Segments
) -> Tensor:
    """One SDPA call a segment; `split` because its backward is one concatenation."""
    parts = zip(*(part.split(segments.lengths, 2) for part in (query, key, value)), strict=True)
    out = [
        functional.scaled_dot_product_attention(*qkv, dropout_p=dropout, is_causal=True, scale=scaling) for qkv in parts
    ]
    return torch.cat(out, 2).transpose(1, 2)


def _attend_buckets(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, segments: Segments
) -> Tensor:
    """Batched matrix products over segments of like length."""
    query = query * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # [T, H, D]
    out: list[Tensor] = []
    for index, n, length in segments.buckets:
        qs, ks, vs = (p.index_select(0, index).view(n, length, *p.shape[1:]).transpose(1, 2) for p in (q, k, v))
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        weights = torch.matmul(qs, ks.transpose(-1, -2)).float().masked_fill(later, -torch.inf).softmax(-1)
        weights = functional.dropout(weights, dropout) if dropout else weights
        out.append(torch.matmul(weights.to(vs.dtype), vs).transpose(1, 2).reshape(n * length, *v.shape[1:]))
    return torch.cat(out).index_select(0, segments.back)[None]


@functools.cache
def _varlen() -> Any:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"window_size", "enable_gqa", "scale"} <= known.keys() else None


def _attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, segments: Segments, groups: int
) -> Tensor:
    """FlashAttention's kernel for ragged rows, as recent torch ships it."""
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    offsets, longest = segments.offsets, segments.longest
    # A window of (all before, none after) is how this kernel is told to be causal.
    causal = (-1, 0)
    return _varlen()(
        q, k, v, offsets, offsets, longest, longest, scale=scaling, window_size=causal, enable_gqa=groups > 1
    )[None]


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)

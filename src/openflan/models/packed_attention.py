"""Attention inside rows that hold many examples: each sees itself only, without padding and without a dense mask.

Takes queries, keys and values of a whole batch, gives what each example's attention gives alone. Read next:
`packed_forward.py`.

It is hooked in through transformers' attention interface, so the model's own code runs unchanged. Sliding windows and
soft caps are done; an argument this attention does not know (sinks, a position bias, ...) is refused, never ignored.

T = tokens of a batch, S = segments (examples), H = heads, D = head size.
"""

import contextlib
import functools
import inspect
import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from openflan.errors import ModelError

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
    def owners(self) -> Tensor:
        """[T], the number of the segment each token belongs to."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.device), lengths)

    @functools.cached_property
    def block_masks(self) -> dict[int | None, Any]:
        """FlexAttention's masks made so far, by sliding window."""
        return {}

    @functools.cached_property
    def back(self) -> Tensor:
        """[T], where each token stands in the concatenated buckets."""
        places = torch.cat([index for index, _, _ in self.buckets])
        back = torch.empty(sum(self.lengths), dtype=torch.long, device=self.device)
        # Written from the last to the first, so that a token wins over the padding that repeats it.
        flipped = torch.arange(len(places) - 1, -1, -1, device=self.device)
        back[places.flip(0)] = flipped
        return back


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


@dataclass(frozen=True, slots=True)
class Rule:
    """How scores become attention, beyond being causal."""

    scaling: float
    dropout: float = 0.0
    window: int | None = None
    """A token sees itself and the `window - 1` tokens before it."""
    softcap: float | None = None
    """Scores become softcap * tanh(score / softcap)."""

    def capped(self, scores: Tensor) -> Tensor:
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap

    def unseen(self, length: int, device: torch.device) -> Tensor:
        """[length, length], true where a query (row) does not see a key (column)."""
        every = torch.ones(length, length, dtype=torch.bool, device=device)
        later = every.triu(1)
        return later if self.window is None else later | every.tril(-self.window)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    openflan_segments: Segments | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each segment to itself: query [1, H, T, D], key and value alike or with fewer heads.

    Gives [1, T, H, D]. Raises ModelError for any argument that would change the result.
    """
    segments = openflan_segments
    if segments is None:
        raise ModelError(f"{type(module).__name__} does not hand arguments on to attention: packing is impossible")
    _refuse(module, segments, attention_mask, query.shape, others)
    window = sliding_window if sliding_window is not None and sliding_window < segments.longest else None
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, dropout, window, softcap)
    if query.is_cuda and dropout == 0.0:
        if torch.is_autocast_enabled("cuda"):
            # Rotary positions leave queries and keys in float32 here; SDPA would cast them itself.
            query, key, value = (part.to(torch.get_autocast_dtype("cuda")) for part in (query, key, value))
        if softcap is None and _fits_varlen(query, value):
            return _attend_varlen(query, key, value, rule, segments), None
        return _attend_flex(query, key, value, rule, segments), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    low_precision = query.dtype == torch.bfloat16 or torch.is_autocast_enabled(query.device.type)
    if softcap is not None or (low_precision and not query.is_cuda and segments.longest <= SHORT):
        return _attend_buckets(query, key, value, rule, segments), None
    return _attend_each(query, key, value, rule, segments), None


def _refuse(
    module: torch.nn.Module, segments: Segments, mask: Tensor | None, shape: Sequence[int], others: dict[str, Any]
) -> None:
    name = type(module).__name__
    if mask is not None:
        raise ModelError(f"{name} builds its own attention mask: packing would not be respected")
    if shape[0] != 1 or shape[2] != sum(segments.lengths):
        raise ModelError(f"packed attention got {shape[0]} x {shape[2]} tokens: expected 1 x {sum(segments.lengths)}")
    for argument, _ in beyond_causal(others):
        raise ModelError(f"{name} asks attention for {argument}, which packed attention does not do")


def beyond_causal(arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments that ask for something else than causal attention."""
    for argument, given in arguments.items():
        off = given is None or (given is False and argument != "is_causal")
        if not (off or argument in HARMLESS or (argument == "is_causal" and given is True)):
            yield argument, given


def _attend_each(query: Tensor, key: Tensor, value: Tensor, rule: Rule, segments: Segments) -> Tensor:
    """One SDPA call a segment; `split` because its backward is one concatenation."""
    parts = zip(*(part.split(segments.lengths, 2) for part in (query, key, value)), strict=True)
    out: list[Tensor] = []
    for q, k, v in parts:
        narrow = rule.window is not None and rule.window < q.shape[2]
        seen = ~rule.unseen(q.shape[2], q.device) if narrow else None
        out.append(
            functional.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, dropout_p=rule.dropout, is_causal=not narrow, scale=rule.scaling
            )
        )
    return torch.cat(out, 2).transpose(1, 2)


def _attend_buckets(query: Tensor, key: Tensor, value: Tensor, rule: Rule, segments: Segments) -> Tensor:
    """Batched matrix products over segments of like length."""
    q, k, v = (part[0].transpose(0, 1) for part in (query * rule.scaling, key, value))  # [T, H, D]
    out: list[Tensor] = []
    for index, n, length in segments.buckets:
        qs, ks, vs = (p.index_select(0, index).view(n, length, *p.shape[1:]).transpose(1, 2) for p in (q, k, v))
        scores = rule.capped(torch.matmul(qs, ks.transpose(-1, -2)).float())
        weights = scores.masked_fill(rule.unseen(length, q.device), -torch.inf).softmax(-1)
        weights = functional.dropout(weights, rule.dropout) if rule.dropout else weights
        out.append(torch.matmul(weights.to(vs.dtype), vs).transpose(1, 2).reshape(n * length, *v.shape[1:]))
    return torch.cat(out).index_select(0, segments.back)[None]


# On CUDA: FlashAttention's kernel for ragged rows, as recent torch ships it; FlexAttention for what that does not take.


def _fits_varlen(query: Tensor, value: Tensor) -> bool:
    size = query.shape[-1]
    fits = query.dtype in (torch.float16, torch.bfloat16) and size == value.shape[-1] and size <= 256 and size % 8 == 0
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0) and _varlen() is not None


@functools.cache
def _varlen() -> Any:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"window_size", "enable_gqa", "scale"} <= known.keys() else None


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, rule: Rule, segments: Segments) -> Tensor:
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    offsets, longest = segments.offsets, segments.longest
    # (so many before, none after); -1 is all before. Only that tells this kernel to be causal.
    window = (-1 if rule.window is None else rule.window - 1, 0)
    grouped = query.shape[1] != key.shape[1]
    return _varlen()(
        q, k, v, offsets, offsets, longest, longest, scale=rule.scaling, window_size=window, enable_gqa=grouped
    )[None]


def _attend_flex(query: Tensor, key: Tensor, value: Tensor, rule: Rule, segments: Segments) -> Tensor:
    cap = rule.softcap

    def capped(score: Tensor, _batch: Tensor, _head: Tensor, _row: Tensor, _column: Tensor) -> Tensor:
        assert cap is not None
        return torch.tanh(score / cap) * cap

    if rule.window not in segments.block_masks:
        segments.block_masks[rule.window] = _block_mask(segments, rule.window)
    out: Any = flex_attention(query.is_cuda)(
        query, key, value, score_mod=None if cap is None else capped, block_mask=segments.block_masks[rule.window],
        scale=rule.scaling, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2)


def _block_mask(segments: Segments, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    owners, size = segments.owners, len(segments.owners)
    reach = size if window is None else window

    def sees(_batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (owners[row] == owners[column]) & (column <= row) & (row - column < reach)

    return create_block_mask(sees, None, None, size, size, device=str(segments.device))


@functools.cache
def flex_attention(compiled: bool) -> Any:
    """torch's FlexAttention: a kernel made for the mask where compiled, as it must be on CUDA to be fast."""
    from torch.nn.attention.flex_attention import flex_attention as plain

    return torch.compile(plain, dynamic=True) if compiled else plain


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)

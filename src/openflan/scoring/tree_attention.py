"""Attention inside a pass of trees: each token sees what stands before it in its own text, and nothing else.

Takes a `Pass` and what earlier passes kept, is called by the model's own code through transformers' attention
interface. Read next: `tree.py`.

What a token sees comes in parts: its own tree, and each prefix before the tree. The parts are attended to apart and
merged by their log-sum-exps, which is exact: softmax over a union is the mean of the softmaxes over its parts, weighted
by their sums of exponentials.

T = tokens of a pass, H = heads, D = head size, M = rows attended from.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from openflan.errors import ModelError
from openflan.models.packed_attention import beyond_causal, flex_attention
from openflan.scoring.plan import Tree

NAME = "openflan_tree"
CUDA_VARLEN_TYPES = (torch.float16, torch.bfloat16)


class KeysValues(NamedTuple):
    """Of one prefix in one layer: each [1, key heads, tokens, D]."""

    keys: Tensor
    values: Tensor


@dataclass(eq=False)
class PassState:
    """One pass on its way through the model; attention finds here what to do, and leaves what later passes need."""

    trees: Sequence[Tree]
    kept: dict[int, list[KeysValues]]
    """By prefix, for each layer in the order attention is called."""
    scored: Tensor
    """[M] the rows that are asked for, in order"""
    last: int | None = None
    """The attention call after which only `scored` rows matter; None where that is not made use of."""
    calls: int = 0
    """Attention calls so far."""
    module: torch.nn.Module | None = None
    """The one that attended last."""
    window: int | None = None
    """The narrowest sliding window a layer asked for."""
    token_bytes: int = 0
    """Keys and values of one token in all layers so far."""

    @property
    def size(self) -> int:
        """T"""
        return self.trees[-1].stop

    @property
    def only_scored(self) -> bool:
        """Whether the model has come to where only `scored` rows matter."""
        return self.last is not None and self.calls > self.last

    @functools.cached_property
    def every_row(self) -> "Work":
        """Attention from all rows."""
        return Work.of(self, None)

    @functools.cached_property
    def scored_rows(self) -> "Work":
        """Attention from `scored` rows only."""
        return Work.of(self, self.scored.cpu().numpy())

    @functools.cached_property
    def levels(self) -> list["Level"]:
        """The same work for kernels that take many sequences of any lengths at once."""
        return list(_levels(self.trees, self.kept, self.scored.device))

    @functools.cached_property
    def prefixes(self) -> list[int]:
        """All that the trees see, in the order of the trees."""
        return list(dict.fromkeys(name for tree in self.trees for name in tree.prefixes))

    @functools.cached_property
    def block_mask(self) -> Any:
        """The same for FlexAttention; keys are those of `prefixes`, then the pass's own."""
        return _block_mask(self)

    def keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Copies what is kept of this pass: a view would hold on to the keys of the whole pass."""
        for tree in self.trees:
            if tree.keep is not None:
                rows = slice(tree.start, tree.stop)
                layers = self.kept.setdefault(tree.keep, [])
                assert len(layers) == layer
                layers.append(KeysValues(key[:, :, rows].clone(), value[:, :, rows].clone()))


@dataclass(frozen=True, eq=False)
class Work:
    """The SDPA calls of a pass; each reads some rows of the queries and some of the keys."""

    queries: Tensor | None
    """[M] the rows attended from; None for all."""
    trees: list[tuple[slice, slice, Tensor | None]] = field(default_factory=list[Any])
    """Of the queries, of the keys, and the mask to add; None for a causal square."""
    prefixes: list[tuple[slice, int]] = field(default_factory=list[Any])
    """Of the queries, and the prefix that all of them see."""

    @staticmethod
    def of(state: PassState, rows: "np.ndarray[Any, Any] | None") -> "Work":
        device = state.scored.device
        work = Work(None if rows is None else state.scored)
        behind: dict[int, tuple[int, int]] = {}
        for tree in state.trees:
            if rows is None:
                start, stop, picked = tree.start, tree.stop, None
            else:
                start, stop = (int(at) for at in np.searchsorted(rows, (tree.start, tree.stop)))
                picked = rows[start:stop] - tree.start
            if start == stop:
                continue
            mask = None
            if picked is not None or len(tree.branches) > 1:
                seen = tree.visible()
                seen = seen if picked is None else seen[picked]
                mask = torch.from_numpy(np.where(seen, 0.0, -np.inf).astype(np.float32)).to(device)
            work.trees.append((slice(start, stop), slice(tree.start, tree.stop), mask))
            for name in tree.prefixes:
                behind[name] = (behind.get(name, (start, stop))[0], stop)
        work.prefixes.extend((slice(*span), name) for name, span in behind.items())
        return work


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    openflan_pass: PassState | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query [1, H, T, D], key and value alike or with fewer heads, to [1, T, H, D].

    Where only scored rows matter any more, the other rows are zero. Raises ModelError for any argument that would
    change the result.
    """
    if openflan_pass is None:
        raise ModelError(f"{type(module).__name__} does not hand arguments on to attention")
    state = openflan_pass
    _refuse(module, state, attention_mask, query.shape, dropout, others)
    layer = state.calls
    state.calls += 1
    state.module = module
    state.token_bytes += sum(part.shape[1] * part.shape[3] * part.element_size() for part in (key, value))
    state.keep(layer, key, value)
    if not query.is_cuda:
        return _attend_each(query, key, value, scaling, state, layer), None
    if query.dtype in CUDA_VARLEN_TYPES and _varlen() is not None:
        return _attend_levels(query, key, value, scaling, state, layer), None
    return _attend_flex(query, key, value, scaling, state, layer), None


def _refuse(
    module: torch.nn.Module,
    state: PassState,
    mask: Tensor | None,
    shape: Sequence[int],
    dropout: float,
    others: dict[str, Any],
) -> None:
    name = type(module).__name__
    if mask is not None:
        raise ModelError(f"{name} builds its own attention mask, which trees do not have")
    if shape[0] != 1 or shape[2] != state.size:
        raise ModelError(f"{name} attends from {shape[0]} x {shape[2]} tokens: expected 1 x {state.size}")
    if dropout:
        raise ModelError(f"{name} asks attention for dropout: scoring has none")
    for argument, given in beyond_causal(others):
        if argument != "sliding_window":
            raise ModelError(f"{name} asks attention for {argument}, which trees do not do")
        # Whether it is narrower than the longest text is for the caller to see.
        state.window = min(int(given), state.window or int(given))


def _attend_each(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, state: PassState, layer: int
) -> Tensor:
    """One SDPA call a tree and one a prefix: on a CPU, where a call is cheap and padding is not."""
    work = state.scored_rows if state.only_scored else state.every_row
    if work.queries is not None:
        query = query.index_select(2, work.queries)
    out = torch.empty(query.shape[2], query.shape[1], value.shape[3], dtype=torch.float32, device=query.device)
    sums = torch.empty(query.shape[2], query.shape[1], dtype=torch.float32, device=query.device)  # log-sum-exps
    for rows, columns, mask in work.trees:
        part, lse = _sdpa(query[:, :, rows], key[:, :, columns], value[:, :, columns], scaling, mask, mask is None)
        out[rows], sums[rows] = part[0].transpose(0, 1), lse[0].T
    for rows, name in work.prefixes:
        part, lse = _sdpa(query[:, :, rows], *state.kept[name][layer], scaling, None, False)
        _merge(out[rows], sums[rows], part[0].transpose(0, 1), lse[0].T)
    out = out.to(query.dtype)
    if work.queries is None:
        return out[None]
    scattered = out.new_zeros(state.size, *out.shape[1:])
    return scattered.index_copy_(0, work.queries, out)[None]


def _merge(out: Tensor, sums: Tensor, part: Tensor, lse: Tensor) -> None:
    """Attention `out` [M, H, D] and its log-sum-exps `sums` [M, H] joined, in place, by that over further keys."""
    out.lerp_(part.float(), torch.sigmoid(lse.float() - sums)[..., None])
    sums.copy_(torch.logaddexp(sums, lse.float()))


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention [1, H, M, D] and its log-sum-exps [1, H, M]."""
    # The kernel behind torch's own SDPA on a CPU, which alone gives the log-sum-exps.
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=None if mask is None else mask.to(query.dtype), scale=scaling
    )


# Kernels for many sequences of any lengths: one call a level of the trie.


@dataclass(frozen=True, eq=False)
class Level:
    """Rows and what they see at one distance from the root: sequence i of the queries sees all of i of the keys."""

    queries: Tensor
    """[M] rows"""
    keys: Tensor | None
    """Rows; None where the keys are those of `prefixes`."""
    prefixes: tuple[int, ...]
    query_offsets: Tensor
    """[sequences + 1] int32"""
    key_offsets: Tensor
    longest: tuple[int, int]
    """Of the queries' and of the keys' sequences."""


def _levels(trees: Sequence[Tree], kept: dict[int, list[KeysValues]], device: torch.device) -> "list[Level]":
    """First every branch on itself (to be taken causally), then what stands below each ancestor on that ancestor."""
    itself: list[tuple[range, range]] = []
    above: dict[int, list[tuple[range, range]]] = {}
    prefixes: dict[int, dict[int, range]] = {}
    for tree in trees:
        depths: list[int] = []
        for branch in tree.branches:
            rows = range(branch.start, branch.stop)
            itself.append((rows, rows))
            depths.append(depths[branch.parent] + 1 if branch.parent >= 0 else 0)
        for branch, depth, end in zip(tree.branches, depths, _ends(tree), strict=True):
            if end > branch.stop:
                above.setdefault(depth, []).append((range(branch.stop, end), range(branch.start, branch.stop)))
        for depth, name in enumerate(tree.prefixes):
            spans = prefixes.setdefault(depth, {})
            spans[name] = range(spans.get(name, range(tree.start, 0)).start, tree.stop)

    def level(pairs: Sequence[tuple[range, range]], names: tuple[int, ...] = ()) -> Level:
        def rows(side: int) -> Tensor:
            return torch.tensor([row for pair in pairs for row in pair[side]], device=device)

        def offsets(side: int) -> Tensor:
            return torch.tensor([0, *np.cumsum([len(p[side]) for p in pairs])], dtype=torch.int32, device=device)

        longest = (max(len(q) for q, _ in pairs), max(len(k) for _, k in pairs))
        return Level(rows(0), None if names else rows(1), names, offsets(0), offsets(1), longest)

    found = [level(itself), *(level(pairs) for _, pairs in sorted(above.items()))]
    for _, spans in sorted(prefixes.items()):
        pairs = [(rows, range(kept[name][0].keys.shape[2])) for name, rows in spans.items()]
        found.append(level(pairs, tuple(spans)))
    return found


def _attend_levels(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, state: PassState, layer: int
) -> Tensor:
    kernel, aux = _varlen()
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # [T, H, D]
    out = sums = None
    for level in state.levels:
        if level.keys is None:
            parts = [state.kept[name][layer] for name in level.prefixes]
            keys = torch.cat([part.keys[0].transpose(0, 1) for part in parts])
            values = torch.cat([part.values[0].transpose(0, 1) for part in parts])
        else:
            keys, values = k[level.keys], v[level.keys]
        first = out is None
        # A window of (all before, none after) is how this kernel is told to be causal.
        part, lse = kernel(
            q[level.queries], keys, values, level.query_offsets, level.key_offsets, *level.longest, return_aux=aux,
            scale=scaling, window_size=(-1, 0) if first else (-1, -1), enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        lse = lse.T if _heads_first(kernel, aux, part.device, part.dtype, part.shape[-1]) else lse
        if out is None or sums is None:
            # The first level is every row, in order.
            out, sums = part.float(), lse.float().clone()
            continue
        some, some_sums = out[level.queries], sums[level.queries]
        _merge(some, some_sums, part, lse)
        out[level.queries], sums[level.queries] = some, some_sums
    assert out is not None
    return out.to(query.dtype)[None]


@functools.cache
def _heads_first(kernel: Any, aux: Any, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the kernel's log-sum-exps are [H, T], not [T, H]: releases of torch differ, and say the same of both."""
    tokens, heads = 3, 2
    ones = torch.ones(tokens, heads, width, device=device, dtype=dtype)
    offsets = torch.tensor([0, tokens], device=device, dtype=torch.int32)
    _, lse = kernel(
        ones, ones, ones, offsets, offsets, tokens, tokens, return_aux=aux, scale=None, window_size=(-1, 0),
        enable_gqa=False,
    )  # fmt: skip
    return tuple(lse.shape) == (heads, tokens)


@functools.cache
def _varlen() -> Any:
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn
    except ImportError:
        return None
    import inspect

    known = inspect.signature(varlen_attn).parameters
    if not {"window_size", "enable_gqa", "scale", "return_aux"} <= known.keys():
        return None
    return varlen_attn, AuxRequest(lse=True)


# FlexAttention: one call, a walk through the trie as mask. For what the kernel above does not take (float32).


def _block_mask(state: PassState) -> Any:
    """A key is seen from what a walk through the trie, token by token, meets after it and before it leaves it again."""
    from torch.nn.attention.flex_attention import create_block_mask

    lengths = {name: state.kept[name][0].keys.shape[2] for name in state.prefixes}
    clock = 0
    met: dict[int, int] = {}
    left: dict[int, int] = {}
    below: list[int] = []
    rows_met = np.empty(state.size, np.int64)
    rows_left = np.empty(state.size, np.int64)
    for tree in state.trees:
        while below and below[-1] not in tree.prefixes:
            left[below.pop()] = clock
        for name in tree.prefixes[len(below) :]:
            met[name] = clock
            clock += lengths[name]
            below.append(name)
        offset = clock - tree.start
        for branch, end in zip(tree.branches, _ends(tree), strict=True):
            rows_met[branch.start : branch.stop] = np.arange(branch.start, branch.stop) + offset
            rows_left[branch.start : branch.stop] = end + offset
        clock += tree.stop - tree.start
    left |= dict.fromkeys(below, clock)
    all_met = [np.arange(met[name], met[name] + lengths[name]) for name in state.prefixes]
    all_left = [np.full(lengths[name], left[name]) for name in state.prefixes]
    came = torch.from_numpy(np.concatenate([*all_met, rows_met])).to(state.scored.device)
    goes = torch.from_numpy(np.concatenate([*all_left, rows_left])).to(state.scored.device)
    before = len(came) - state.size

    def sees(_batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (came[column] <= came[row + before]) & (came[row + before] < goes[column])

    return create_block_mask(sees, None, None, state.size, len(came), device=str(came.device))


def _ends(tree: Tree) -> list[int]:
    """For each branch the row behind the last that descends from it."""
    ends = [branch.stop for branch in tree.branches]
    for index in range(len(ends) - 1, -1, -1):
        if (parent := tree.branches[index].parent) >= 0:
            ends[parent] = max(ends[parent], ends[index])
    return ends


def _attend_flex(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, state: PassState, layer: int
) -> Tensor:
    before = [state.kept[name][layer] for name in state.prefixes]
    keys = torch.cat([*(part.keys for part in before), key], 2)
    values = torch.cat([*(part.values for part in before), value], 2)
    grouped = query.shape[1] != key.shape[1]
    attend = flex_attention(query.is_cuda)
    out: Any = attend(query, keys, values, block_mask=state.block_mask, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2)


ALL_ATTENTION_FUNCTIONS.register(NAME, tree_attention)

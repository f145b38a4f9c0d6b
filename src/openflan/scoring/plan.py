"""Which tokens to feed, in which order: every token of all texts once.

Takes `ScoreRequest`s, gives a `Plan`; pure arithmetic on token ids. Read next: `tree.py`, which carries a plan out.

1. The texts to feed (prompt + option without its last token, which is only predicted) are sorted; their longest common
   prefixes make a trie of *branches*, runs of tokens without a fork.
2. The trie is cut into *trees*. Attention inside a tree costs the square of its size, so a large one is cut at its
   first fork: what stands before the fork becomes a tree of one branch whose keys and values are kept (a *prefix*) for
   the trees behind it. Where to cut is decided by what attention costs, from the leaves up.
3. Trees are laid depth first into *passes*, rows of tokens that go through the model together. A prefix is dropped
   after the last pass that needs it, and prefixes alive at one time stay within a budget.

    requests   "a b c" -> "d e", "d f g"; "a b x" -> "y"          (the last token of an option is not fed)
    texts      a b c d · a b c d f · a b x
    branches   [a b] ── [c d f]     "a b c d" is read off the beginning of "a b c d f"
                     └─ [x]
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from openflan.scoring.rank import ScoreRequest

CALL = 1024
"""What one attention call costs beyond its work, in pairs of tokens: 40 µs, where a pair takes 4 x 384 operations."""
OPEN_PASSES = 4
"""A tree may fill up one of so many passes before the last."""

Ids = tuple[int, ...]
Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Branch:
    """Rows `start` to `stop` of a pass: each token sees those before it in the branch and all that `parent` sees."""

    start: int
    stop: int
    parent: int
    """Index among the tree's branches; -1 where the branch follows the tree's last prefix, or nothing."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Neighbouring rows of a pass whose tokens see each other along branches, and otherwise only the prefixes."""

    branches: tuple[Branch, ...]
    prefixes: tuple[int, ...]
    """Names of the prefixes before all of it, the outermost first."""
    keep: int | None = None
    """The name under which the keys and values of this tree (of one branch) are kept."""

    @property
    def start(self) -> int:
        """Its first row."""
        return self.branches[0].start

    @property
    def stop(self) -> int:
        """The row behind its last."""
        return self.branches[-1].stop

    def visible(self) -> npt.NDArray[np.bool_]:
        """[L, L] which of the tree's tokens (columns) each of them (rows) sees."""
        size, offset = self.stop - self.start, self.start
        seen = np.zeros((size, size), np.bool_)
        for branch in self.branches:
            start, stop = branch.start - offset, branch.stop - offset
            if branch.parent >= 0:
                seen[start:stop] = seen[self.branches[branch.parent].stop - 1 - offset]
            seen[start:stop, start:stop] = np.tri(stop - start, dtype=np.bool_)
        return seen


@dataclass(frozen=True, slots=True)
class Pass:
    """A row of trees that go through the model together."""

    start: int
    """Its first token's place in the plan."""
    stop: int
    trees: tuple[Tree, ...]
    release: tuple[int, ...]
    """Prefixes that no later pass needs."""


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """N = tokens fed, K = option tokens of all requests in order: what is asked for."""

    token_ids: Array
    """[N], pass after pass"""
    positions: Array
    """[N], each token's place in its text"""
    passes: tuple[Pass, ...]
    asked_at: Array
    """[K], the token of the plan whose logits predict it"""
    asked: Array
    """[K], the token predicted"""


def make_plan(requests: "Sequence[ScoreRequest]", *, pass_tokens: int, kept_tokens: int, call: int = CALL) -> Plan:
    """The plan for some requests, each of whose prompts and options has at least one token.

    pass_tokens: the most tokens of a pass. kept_tokens: the most tokens whose keys and values are alive at one time;
    what one text needs (all of it but its last branch) is kept in any case.
    """
    texts, host_of = _texts(requests)
    trie = _trie(texts, pass_tokens)
    whole = _cut(trie, pass_tokens, call)
    trees = list(_trees(trie, whole, pass_tokens, call))
    laid = _schedule(trees, trie, pass_tokens, kept_tokens)
    return _assemble(requests, texts, host_of, trie, trees, laid)


def unique_tokens(requests: "Sequence[ScoreRequest]") -> int:
    """How many tokens are fed where every token of all texts is computed once: no exact scorer can do with fewer."""
    texts, _ = _texts(requests)
    return sum(len(text) // WIDTH - (_shared(texts[i - 1], text) if i else 0) for i, text in enumerate(texts))


# Texts are compared as bytes, four to a token with the highest first, so that they sort as their tokens do.
WIDTH = 4


def _packed(ids: Sequence[int]) -> bytes:
    return np.array(ids, ">u4").tobytes()


def _shared(first: bytes, second: bytes) -> int:
    length = min(len(first), len(second)) // WIDTH
    if first[: length * WIDTH] == second[: length * WIDTH]:
        return length
    a, b = (np.frombuffer(text, np.uint32, length) for text in (first, second))
    return int(np.argmax(a != b))


def _texts(requests: "Sequence[ScoreRequest]") -> tuple[list[bytes], list[list[int]]]:
    """The texts to feed in order, none of which begins another; the text that each option of a request is read off."""
    asked: list[list[bytes]] = []
    for request in requests:
        prompt = _packed(request.prompt_ids)
        asked.append([prompt + _packed(option[:-1]) if len(option) > 1 else prompt for option in request.option_ids])
    host: dict[bytes, int] = {}
    kept: list[bytes] = []
    for text in sorted(set(itertools.chain.from_iterable(asked)), reverse=True):
        # From the last, so that a text meets the longest one it begins first.
        if not kept or not kept[-1].startswith(text):
            kept.append(text)
        host[text] = len(kept) - 1
    last = len(kept) - 1
    return kept[::-1], [[last - host[text] for text in texts] for texts in asked]


@dataclass(frozen=True, slots=True)
class _Trie:
    """Branches in depth-first order; S of them."""

    text: list[int] = field(default_factory=list[int])
    """A text that runs along the branch."""
    start: list[int] = field(default_factory=list[int])
    """Depth of its first token, and below the depth behind its last."""
    stop: list[int] = field(default_factory=list[int])
    parent: list[int] = field(default_factory=list[int])
    end: list[int] = field(default_factory=list[int])
    """The branch behind the last that descends from it."""
    tokens: list[int] = field(default_factory=list[int])
    """Of it and all that descend from it."""
    leaf: list[int] = field(default_factory=list[int])
    """For each text the branch it ends in."""

    def children(self, branch: int) -> Iterator[int]:
        child = branch + 1
        while child < self.end[branch]:
            yield child
            child = self.end[child]


def _trie(texts: Sequence[bytes], pass_tokens: int) -> _Trie:
    forks: list[set[int]] = [set() for _ in texts]
    owner: list[tuple[int, int]] = [(-1, -1)] * len(texts)  # of the last token shared with the texts before
    path: list[tuple[int, int]] = []  # (depth, text) whose tokens from that depth on are the text's own
    for index, text in enumerate(texts):
        depth = _shared(texts[index - 1], text) if index else 0
        while path and path[-1][0] >= depth:
            path.pop()
        if path:
            owner[index] = (path[-1][1], depth)
            forks[path[-1][1]].add(depth)
        path.append((depth, index))
    trie = _Trie()
    branch_at: dict[tuple[int, int], int] = {}
    for index, text in enumerate(texts):
        start, parent = max(owner[index][1], 0), branch_at.get(owner[index], -1)
        for fork in (*sorted(forks[index]), len(text) // WIDTH):
            while start < fork:  # a branch longer than a pass takes several
                stop = min(fork, start + pass_tokens)
                trie.text.append(index)
                trie.start.append(start)
                trie.stop.append(stop)
                trie.parent.append(parent)
                parent, start = len(trie.text) - 1, stop
            branch_at[index, fork] = parent
        trie.leaf.append(parent)
    number = len(trie.text)
    trie.end.extend(range(1, number + 1))
    trie.tokens.extend(stop - start for start, stop in zip(trie.start, trie.stop, strict=True))
    for branch in range(number - 1, -1, -1):
        if (above := trie.parent[branch]) >= 0:
            trie.end[above] = max(trie.end[above], trie.end[branch])
            trie.tokens[above] += trie.tokens[branch]
    return trie


def _cut(trie: _Trie, pass_tokens: int, call: int) -> list[bool]:
    """For each branch whether all that descends from it is best attended to as one tree."""
    number = len(trie.text)
    whole, cost = [True] * number, [0] * number
    for branch in range(number - 1, -1, -1):
        size = trie.tokens[branch]
        cost[branch] = size * size + call
        own = trie.stop[branch] - trie.start[branch]
        if own == size:
            continue
        apart = own * own + call + (size - own) * own + call
        group = 0
        for child in trie.children(branch):
            apart += cost[child]
            joins = whole[child] and _joins(group, trie.tokens[child], pass_tokens, call)
            if joins:
                apart += 2 * group * trie.tokens[child] - call
            group = (group if joins else 0) + trie.tokens[child] if whole[child] else 0
        if size > pass_tokens or apart < cost[branch]:
            whole[branch], cost[branch] = False, apart
    return whole


def _joins(group: int, size: int, pass_tokens: int, call: int) -> bool:
    """Whether a tree goes into one call with those before it, though they do not see each other."""
    return 0 < group <= pass_tokens - size and 2 * group * size < call


@dataclass(frozen=True, slots=True)
class _Cutting:
    """Branches `first` to `end`, which follow the same branch."""

    first: int
    end: int
    size: int
    kept: bool


def _trees(trie: _Trie, whole: Sequence[bool], pass_tokens: int, call: int) -> Iterator[_Cutting]:
    branch, number = 0, len(trie.text)
    while branch < number:
        if not whole[branch]:
            yield _Cutting(branch, branch + 1, trie.stop[branch] - trie.start[branch], True)
            branch += 1
            continue
        end, size = trie.end[branch], trie.tokens[branch]
        while (
            end < number
            and trie.parent[end] == trie.parent[branch]
            and whole[end]
            and _joins(size, trie.tokens[end], pass_tokens, call)
        ):
            size += trie.tokens[end]
            end = trie.end[end]
        yield _Cutting(branch, end, size, False)
        branch = end


def _schedule(trees: Sequence[_Cutting], trie: _Trie, pass_tokens: int, kept_tokens: int) -> list[list[int]]:
    """For each pass its trees, in depth-first order.

    A prefix counts as alive from its pass to the last one there is, so that a pass opened later for something behind
    it finds its place taken; a new pass begins with nothing but what its first tree needs.
    """
    passes: list[list[int]] = []
    used: list[int] = []
    alive: list[int] = []
    pass_of: dict[int, int] = {}
    for index, tree in enumerate(trees):
        above = trie.parent[tree.first]
        earliest = max(pass_of[above] + 1 if above >= 0 else 0, len(passes) - OPEN_PASSES)

        def fits(place: int, size: int = tree.size, kept: bool = tree.kept) -> bool:
            return used[place] + size <= pass_tokens and (not kept or max(alive[place:]) + size <= kept_tokens)

        place = next(filter(fits, range(earliest, len(passes))), len(passes))
        if place == len(passes):
            passes.append([])
            used.append(0)
            alive.append(trie.start[tree.first])
        passes[place].append(index)
        used[place] += tree.size
        if tree.kept:
            pass_of[tree.first] = place
            for later in range(place, len(passes)):
                alive[later] += tree.size
    return passes


def _assemble(
    requests: "Sequence[ScoreRequest]",
    texts: Sequence[bytes],
    host_of: Sequence[Sequence[int]],
    trie: _Trie,
    trees: Sequence[_Cutting],
    laid: Sequence[Sequence[int]],
) -> Plan:
    parts: list[Array] = []
    positions: list[Array] = []
    place_of = [0] * len(trie.text)  # of each branch's first token in the plan
    chains: dict[int, tuple[int, ...]] = {-1: ()}  # the prefixes down to a branch
    last_use: dict[int, int] = {}
    for tree in trees:
        if tree.kept:
            chains[tree.first] = (*chains[trie.parent[tree.first]], tree.first)
    passes: list[tuple[int, int, list[Tree]]] = []
    total = 0
    for number, indices in enumerate(laid):
        start, made = total, list[Tree]()
        for tree in (trees[index] for index in indices):
            branches: list[Branch] = []
            for branch in range(tree.first, tree.end):
                size = trie.stop[branch] - trie.start[branch]
                above = trie.parent[branch] - tree.first
                branches.append(Branch(total - start, total - start + size, max(above, -1)))
                ids = np.frombuffer(texts[trie.text[branch]], ">u4", size, trie.start[branch] * WIDTH)
                parts.append(ids.astype(np.int64))
                positions.append(np.arange(trie.start[branch], trie.stop[branch]))
                place_of[branch] = total
                total += size
            prefixes = chains[trie.parent[tree.first]]
            made.append(Tree(tuple(branches), prefixes, tree.first if tree.kept else None))
            for prefix in (*prefixes, tree.first) if tree.kept else prefixes:
                last_use[prefix] = number
        passes.append((start, total, made))
    released: list[list[int]] = [[] for _ in passes]
    for prefix, number in last_use.items():
        released[number].append(prefix)
    asked_at, asked = list[int](), list[int]()
    for request, hosts in zip(requests, host_of, strict=True):
        first = len(request.prompt_ids) - 1
        for option, host in zip(request.option_ids, hosts, strict=True):
            asked_at.extend(_places(trie, place_of, trie.leaf[host], first, first + len(option)))
            asked.extend(option)
    return Plan(
        token_ids=np.concatenate(parts),
        positions=np.concatenate(positions),
        passes=tuple(
            Pass(start, stop, tuple(made), tuple(sorted(released[number])))
            for number, (start, stop, made) in enumerate(passes)
        ),
        asked_at=np.array(asked_at, np.int64),
        asked=np.array(asked, np.int64),
    )


def _places(trie: _Trie, place_of: Sequence[int], branch: int, start: int, stop: int) -> Iterator[int]:
    """Where a text's tokens from depth `start` to `stop` stand in the plan, the text ending in `branch` or later."""
    runs: list[range] = []
    while stop > start:
        while trie.start[branch] >= stop:
            branch = trie.parent[branch]
        begin = max(start, trie.start[branch])
        offset = place_of[branch] - trie.start[branch]
        runs.append(range(begin + offset, stop + offset))
        stop = begin
    return itertools.chain.from_iterable(reversed(runs))


def chunk_borders(ordered: "Sequence[ScoreRequest]", most: int) -> list[int]:
    """Where to cut ordered requests into chunks of at most `most`: [0, ..., len(ordered)].

    Each border is where neighbours share the fewest tokens, in the second half of what a chunk may hold: tokens shared
    across a border are computed once on either side.
    """
    borders = [0]
    packed = [_packed(request.prompt_ids) for request in ordered]
    while len(ordered) - borders[-1] > most:
        candidates = range(borders[-1] + (most + 1) // 2, borders[-1] + most + 1)
        borders.append(min(candidates, key=lambda at: (_shared(packed[at - 1], packed[at]), -at)))
    return [*borders, len(ordered)]


def text_at(plan: Plan, place: int) -> Ids:
    """The text that ends with a token of the plan, as the model reads it there: what the plan promises, written out."""
    number = bisect.bisect_right([one.stop for one in plan.passes], place)
    tree_of = {tree.keep: (one, tree) for one in plan.passes for tree in one.trees if tree.keep is not None}
    here = plan.passes[number]
    row = place - here.start
    tree = next(tree for tree in here.trees if tree.start <= row < tree.stop)
    ids: list[int] = []
    for name in tree.prefixes:
        where, prefix = tree_of[name]
        ids.extend(plan.token_ids[where.start + prefix.start : where.start + prefix.stop].tolist())
    seen = tree.visible()[row - tree.start]
    ids.extend(plan.token_ids[here.start + tree.start : here.start + tree.stop][seen].tolist())
    return tuple(ids)

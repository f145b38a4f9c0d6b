"""Several examples in one row, none split, none seeing another.

Takes `Encoded`, gives `PackedRow`: ragged rows without padding. Read next: `models/packed_forward.py`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from openflan.encoding.encode import Encoded
from openflan.errors import ConfigError

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PackedRow:
    """T tokens of S whole examples, one after another. K = target tokens of all of them.

    Two examples, prompt [5 6] target [7 1] and prompt [8] target [9 1]:
        input_ids         5 6 7 1 8 9 1
        position_ids      0 1 2 3 0 1 2
        segment_lengths   4 3
        target_positions  1 2 4 5           where the hidden state predicts ...
        labels            7 1 9 1           ... this token, the one after it
    """

    input_ids: Int32s
    """[T]"""
    position_ids: Int32s
    """[T], from 0 in each example"""
    segment_lengths: Int32s
    """[S], tokens of each example"""
    target_positions: Int32s
    """[K]"""
    labels: Int32s
    """[K]"""
    row_ids: tuple[str, ...]
    """"task row_id template" of each example"""

    @property
    def target_mask(self) -> npt.NDArray[np.bool_]:
        """[T], true where the token belongs to a target."""
        mask = np.zeros(len(self.input_ids), bool)
        mask[self.target_positions + 1] = True
        return mask


def pack(encoded: Sequence[Encoded], length: int) -> list[PackedRow]:
    """Best-fit decreasing: the longest example first, each into the fullest row that still holds it.

    Rows have at most `length` tokens. They come in the order of the example that opened them, so that a mixture's
    order is kept and long examples are not tuned on first; inside a row examples keep their order. Equal input gives
    equal rows. Raises ConfigError for an example longer than `length`.
    """
    if not encoded:
        return []
    num_prompt = np.array([len(e.prompt_ids) for e in encoded], np.int64)
    num_targets = np.array([len(e.target_ids) for e in encoded], np.int64)
    sizes = num_prompt + num_targets
    if (too_long := np.flatnonzero(sizes > length)).size:
        first = int(too_long[0])
        raise ConfigError(
            f"{_name(encoded[first])} has {sizes[first]} tokens: expected at most the row length, {length}"
        )
    order, num_examples = best_fit_decreasing(sizes, length)
    return _rows([encoded[i] for i in order], num_prompt[order], num_targets[order], num_examples)


def best_fit_decreasing(sizes: Int64s, length: int) -> tuple[Int64s, Int64s]:
    """Which of N examples share a row of `length` tokens, given their sizes in tokens, none above `length`.

    Gives the examples [N] row after row, and how many each row has. Examples of one size are placed together, since a
    row that takes one of them takes the next ones too until they do not fit: the plan is the one of placing each alone.
    """
    by_size = np.argsort(-sizes, kind="stable")
    descending = sizes[by_size]
    borders = [0, *(np.flatnonzero(np.diff(descending)) + 1).tolist(), len(descending)]
    row_of: list[int] = []  # of by_size
    num_rows = 0
    open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # by free tokens
    free_sizes = 0  # bit n is set where open_rows[n] is not empty
    for start, stop in itertools.pairwise(borders):
        size, left = int(descending[start]), stop - start
        while left:
            if fitting := free_sizes >> size:
                free = size + (fitting & -fitting).bit_length() - 1
                stack = open_rows[free]
                each = free // size
                taken = min(len(stack), -(-left // each))
                rows = stack[: -taken - 1 : -1]
                del stack[-taken:]
                if not stack:
                    free_sizes &= ~(1 << free)
            else:
                free, each = length, length // size
                taken = -(-left // each)
                rows = list(range(num_rows, num_rows + taken))
                num_rows += taken
            placed = min(left, taken * each)
            last = placed - (taken - 1) * each
            for row, count in zip(rows, [each] * (taken - 1) + [last], strict=True):
                row_of += [row] * count
                open_rows[free - count * size].append(row)
            if taken > 1:
                free_sizes |= 1 << (free - each * size)
            free_sizes |= 1 << (free - last * size)
            left -= placed
    rows_by_size = np.array(row_of, np.int64)
    # Rows are numbered as they were opened: the first example of each in this order is its opener.
    opener = np.empty(num_rows, np.int64)
    opener[rows_by_size[::-1]] = by_size[::-1]
    place = np.empty(num_rows, np.int64)
    place[np.argsort(opener)] = np.arange(num_rows)
    row = np.empty(len(sizes), np.int64)
    row[by_size] = place[rows_by_size]
    return np.argsort(row, kind="stable"), np.bincount(row, minlength=num_rows)


def _name(example: Encoded) -> str:
    return f"{example.task} {example.row_id} {example.template}"


def _rows(
    examples: Sequence[Encoded], num_prompt: Int64s, num_targets: Int64s, num_examples: Int64s
) -> list[PackedRow]:
    """Examples in order, cut into rows of so many; the rows' arrays are parts of one array of all of them."""
    sizes = num_prompt + num_targets
    ends, target_ends, row_ends = np.cumsum(sizes), np.cumsum(num_targets), np.cumsum(num_examples)
    ids = itertools.chain.from_iterable(itertools.chain.from_iterable((e.prompt_ids, e.target_ids) for e in examples))
    input_ids = np.fromiter(ids, np.int32, int(sizes.sum()))
    position_ids = _counted(sizes)
    # The token before a target predicts it.
    predicting = _counted(num_targets) + np.repeat(ends - num_targets - 1, num_targets)
    labels = input_ids[predicting + 1]
    row_starts = np.concatenate([[0], ends[row_ends - 1]])[:-1]
    targets_of_row = np.diff(target_ends[row_ends - 1], prepend=0)
    target_positions = predicting - np.repeat(row_starts, targets_of_row)
    names = [_name(example) for example in examples]
    cuts = [
        itertools.pairwise([0, *border.tolist()])
        for border in (ends[row_ends - 1], target_ends[row_ends - 1], row_ends)
    ]
    int32s = [part.astype(np.int32) for part in (position_ids, sizes, target_positions)]
    return [
        PackedRow(
            input_ids=input_ids[start:stop],
            position_ids=int32s[0][start:stop],
            segment_lengths=int32s[1][first:last],
            target_positions=int32s[2][first_target:last_target],
            labels=labels[first_target:last_target],
            row_ids=tuple(names[first:last]),
        )
        for (start, stop), (first_target, last_target), (first, last) in zip(*cuts, strict=True)
    ]


def _counted(counts: Int64s) -> Int64s:
    """0 .. n - 1 for each of the counts n, one after another."""
    ends = np.cumsum(counts)
    return np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)

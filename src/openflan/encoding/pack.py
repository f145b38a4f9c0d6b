"""Several examples in one row, none split, none seeing another.

Takes `Encoded`, gives `PackedRow`: ragged rows without padding. Read next: `models/packed_forward.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from openflan.encoding.encode import Encoded
from openflan.errors import ConfigError

Int32s = npt.NDArray[np.int32]


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
    sizes = [len(e.prompt_ids) + len(e.target_ids) for e in encoded]
    for example, size in zip(encoded, sizes, strict=True):
        if size > length:
            raise ConfigError(f"{_name(example)} has {size} tokens: expected at most the row length, {length}")
    return [_row([encoded[i] for i in sorted(members)]) for members in _best_fit_decreasing(sizes, length)]


def _best_fit_decreasing(sizes: Sequence[int], length: int) -> list[list[int]]:
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # by free tokens
    free_sizes = 0  # bit n is set where open_rows[n] is not empty
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[index]
        fitting = free_sizes >> size
        if fitting:
            free = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                free_sizes &= ~(1 << free)
        else:
            free, row = length, len(rows)
            rows.append([])
        rows[row].append(index)
        open_rows[free - size].append(row)
        free_sizes |= 1 << (free - size)
    return sorted(rows, key=lambda members: members[0])


def _name(example: Encoded) -> str:
    return f"{example.task} {example.row_id} {example.template}"


def _row(members: Sequence[Encoded]) -> PackedRow:
    input_ids: list[int] = []
    position_ids: list[int] = []
    target_positions: list[int] = []
    labels: list[int] = []
    segment_lengths: list[int] = []
    for example in members:
        start, prompt, targets = len(input_ids), len(example.prompt_ids), len(example.target_ids)
        input_ids += example.prompt_ids
        input_ids += example.target_ids
        position_ids += range(prompt + targets)
        target_positions += range(start + prompt - 1, start + prompt - 1 + targets)
        labels += example.target_ids
        segment_lengths.append(prompt + targets)
    return PackedRow(
        input_ids=np.array(input_ids, np.int32),
        position_ids=np.array(position_ids, np.int32),
        segment_lengths=np.array(segment_lengths, np.int32),
        target_positions=np.array(target_positions, np.int32),
        labels=np.array(labels, np.int32),
        row_ids=tuple(map(_name, members)),
    )

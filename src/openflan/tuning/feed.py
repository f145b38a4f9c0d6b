"""From mixture blocks to optimizer steps: where each step's rows come from is a function of a cursor.

Takes `blocks`, gives steps of `PackedRow`s. Read next: `tune.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from openflan.encoding.encode import Encoded
from openflan.encoding.pack import PackedRow, pack
from openflan.errors import ModelError, SourceError
from openflan.tuning.settings import ROW_LENGTH, TuningSettings

Blocks = Callable[[int], Sequence[Encoded]]
"""The encoded examples of mixture block 0, 1, ...: the same ones each time it is asked."""

MOST_EMPTY_BLOCKS = 100


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next packed row to tune on."""

    block: int = 0
    row: int = 0


def steps_from(
    cursor: Cursor, blocks: Blocks, settings: TuningSettings, context: int
) -> Iterator[tuple[list[PackedRow], Cursor]]:
    """The rows of one optimizer step after another, each with the cursor that stands after it. Does not end.

    A step takes rows in order while they fit `tokens_per_step`, and at least one.
    """
    rows: list[PackedRow] = []
    for row, after in _rows_from(cursor, blocks, settings, context):
        if rows and _tokens(rows) + len(row.input_ids) > settings.tokens_per_step:
            yield rows, cursor
            rows = []
        rows.append(row)
        cursor = after


def row_length(encoded: Sequence[Encoded], settings: TuningSettings, context: int) -> int:
    """The packing length of a block. Raises ModelError where an example exceeds the model's context."""
    longest = max((len(e.prompt_ids) + len(e.target_ids) for e in encoded), default=0)
    if longest > context:
        raise ModelError(f"an example has {longest} tokens: the model reads at most {context}")
    if settings.row_length is not None:
        return min(settings.row_length, context)
    return max(longest, min(context, ROW_LENGTH, settings.tokens_per_step))


def _rows_from(
    cursor: Cursor, blocks: Blocks, settings: TuningSettings, context: int
) -> Iterator[tuple[PackedRow, Cursor]]:
    block, row, empty = cursor.block, cursor.row, 0
    while True:
        encoded = blocks(block)
        rows = pack(encoded, row_length(encoded, settings, context))
        empty = 0 if rows else empty + 1
        if empty >= MOST_EMPTY_BLOCKS:
            raise SourceError(f"mixture blocks {block + 1 - empty} to {block} have no example left to tune on")
        for index in range(row, len(rows)):
            last = index + 1 == len(rows)
            yield rows[index], Cursor(block + 1, 0) if last else Cursor(block, index + 1)
        block, row = block + 1, 0


def _tokens(rows: Sequence[PackedRow]) -> int:
    return sum(len(row.input_ids) for row in rows)

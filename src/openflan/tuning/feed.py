"""From mixture blocks to optimizer steps: where each step's rows come from is a function of a cursor.

Takes the mixture or other `blocks`, gives steps of `PackedRow`s; blocks do not depend on each other, so other processes
may make them ahead (`ahead.py`). Read next: `tune.py`.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openflan.artifacts import read_json, room_for, write_json
from openflan.encoding.boundary import Tokenizer, unknown_token
from openflan.encoding.encode import Encoded, encode
from openflan.encoding.pack import PackedRow, pack
from openflan.encoding.prompt_format import Lengths, PromptFormat
from openflan.errors import ModelError, Problem, SourceError
from openflan.ledger import Ledger
from openflan.mixture.mixture import Mixture
from openflan.tuning.ahead import can_be_sent, in_order
from openflan.tuning.settings import ROW_LENGTH, TuningSettings

logger = logging.getLogger(__name__)

Blocks = Callable[[int], Sequence[Encoded]]
"""The encoded examples of mixture block 0, 1, ...: the same ones each time it is asked."""

MOST_EMPTY_BLOCKS = 100


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next packed row to tune on."""

    block: int = 0
    row: int = 0

    @property
    def last_block(self) -> int:
        """The block of the row before."""
        return self.block if self.row else self.block - 1


@dataclass(frozen=True, slots=True)
class MixtureBlocks:
    """The mixture's blocks, rendered and encoded; what encoding kept, dropped and shortened goes to a file a block."""

    mixture: Mixture
    tokenizer: Tokenizer
    prompt_format: PromptFormat
    lengths: Lengths
    context: int
    counts: Path
    """The folder of those files."""

    def __call__(self, number: int) -> Sequence[Encoded]:
        counted = Ledger()
        encoded = encode(
            self.mixture.examples(number, counted),
            self.tokenizer,
            self.prompt_format,
            self.lengths,
            counted,
            context=self.context,
        )
        file = self._file(number)
        with room_for(file, 1 << 16, "the run goes on from its last checkpoint"):
            write_json(file, counted.to_json())
        return encoded

    def counted(self, last_block: int) -> Iterator[Ledger]:
        """The counts of blocks 0 to `last_block`: later ones were made ahead and not tuned on."""
        for number in range(last_block + 1):
            yield Ledger.from_json(read_json(self._file(number)))

    def _file(self, number: int) -> Path:
        return self.counts / f"block-{number:06d}.json"


@dataclass(frozen=True, slots=True)
class PackedBlocks:
    """Blocks as packed rows, a model's `prefix_ids` before each prompt.

    Raises ModelError for an id that is not below `known_tokens`, where it is given.
    """

    blocks: Blocks
    settings: TuningSettings
    context: int
    prefix_ids: tuple[int, ...] = ()
    known_tokens: int | None = None

    def __call__(self, number: int) -> list[PackedRow]:
        encoded = self.blocks(number)
        if self.known_tokens is not None:
            _check_known(encoded, self.known_tokens)
        if self.prefix_ids:
            # Imports torch, which a process that packs has no need of otherwise.
            from openflan.models.soft_prompt import prepend

            encoded = prepend(encoded, self.prefix_ids)
        return pack(encoded, row_length(encoded, self.settings, self.context))


def _check_known(encoded: Sequence[Encoded], known_tokens: int) -> None:
    for example in encoded:
        if what := unknown_token((*example.prompt_ids, *example.target_ids), known_tokens):
            hint = "tokenizer and model are not of one another: take the tokenizer the model was trained with"
            raise ModelError(Problem(f"{example.task}, row {example.row_id}", what, hint))


def steps_from(
    cursor: Cursor,
    blocks: Blocks,
    settings: TuningSettings,
    context: int,
    *,
    prefix_ids: tuple[int, ...] = (),
    known_tokens: int | None = None,
    workers: int = 0,
) -> Generator[tuple[list[PackedRow], Cursor], None, None]:
    """The rows of one optimizer step after another, each with the cursor that stands after it. Does not end; close it.

    A step takes rows in order while they fit `tokens_per_step`, and at least one. The steps are the same whatever
    `workers`, the number of processes that make blocks ahead, is.
    """
    rows: list[PackedRow] = []
    packed = PackedBlocks(blocks, settings, context, prefix_ids, known_tokens)
    with contextlib.closing(_rows_from(cursor, packed, workers)) as feed:
        for row, after in feed:
            if rows and _tokens(rows) + len(row.input_ids) > settings.tokens_per_step:
                yield rows, cursor
                rows = []
            rows.append(row)
            cursor = after


def num_workers(blocks: Blocks, settings: TuningSettings, *, on_gpu: bool) -> int:
    """How many processes make blocks ahead: as many as the settings say, else as `data_workers` describes."""
    if settings.data_workers is not None:
        return settings.data_workers
    spare = (os.cpu_count() or 1) - 1
    if not on_gpu or spare == 0:
        return 0
    if not can_be_sent(blocks):
        logger.warning("the data cannot be sent to another process, so that each step waits for it to be prepared")
        return 0
    return min(2, spare)


def row_length(encoded: Sequence[Encoded], settings: TuningSettings, context: int) -> int:
    """The packing length of a block. Raises ModelError where an example exceeds the model's context."""
    longest = max((len(e.prompt_ids) + len(e.target_ids) for e in encoded), default=0)
    if longest > context:
        raise ModelError(f"an example has {longest} tokens: the model reads at most {context}")
    if settings.row_length is not None:
        return min(settings.row_length, context)
    return max(longest, min(context, ROW_LENGTH, settings.tokens_per_step))


def _rows_from(cursor: Cursor, blocks: PackedBlocks, workers: int) -> Generator[tuple[PackedRow, Cursor], None, None]:
    row, empty = cursor.row, 0
    with contextlib.closing(in_order(blocks, cursor.block, workers=workers)) as ready:
        for block, rows in enumerate(ready, cursor.block):
            empty = 0 if rows else empty + 1
            if empty >= MOST_EMPTY_BLOCKS:
                raise SourceError(f"mixture blocks {block + 1 - empty} to {block} have no example left to tune on")
            for index in range(row, len(rows)):
                last = index + 1 == len(rows)
                yield rows[index], Cursor(block + 1, 0) if last else Cursor(block, index + 1)
            row = 0


def _tokens(rows: Sequence[PackedRow]) -> int:
    return sum(len(row.input_ids) for row in rows)

"""Steps from blocks: every row once, in order, from any cursor."""

import itertools

import pytest

from openflan.encoding import Encoded
from openflan.errors import ConfigError, ModelError, SourceError
from openflan.tuning.feed import Cursor, row_length, steps_from
from openflan.tuning.settings import TuningSettings
from tests.models.tiny import examples

SETTINGS = TuningSettings(tokens_per_step=40, row_length=16)


def blocks(block: int) -> list[Encoded]:
    return [] if block % 3 == 1 else examples(13, seed=block, task=f"block{block}")


def test_every_example_of_every_block_comes_once_and_steps_stay_in_their_size() -> None:
    seen: list[str] = []
    for rows, cursor in steps_from(Cursor(), blocks, SETTINGS, 64):
        tokens = sum(len(row.input_ids) for row in rows)
        assert tokens <= 40 and rows
        seen += [name for row in rows for name in row.row_ids]
        if cursor.block >= 6:
            break
    expected = {f"block{b} train/{i} t" for b in (0, 2, 3, 5) for i in range(13)}
    assert expected <= set(seen)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("start", [0, 3, 7])
def test_from_any_cursor_the_same_steps_follow(start: int) -> None:
    straight = list(itertools.islice(steps_from(Cursor(), blocks, SETTINGS, 64), 12))
    cursor = straight[start - 1][1] if start else Cursor()
    again = itertools.islice(steps_from(cursor, blocks, SETTINGS, 64), 12 - start)
    for (rows, after), (other, other_after) in zip(straight[start:], again, strict=True):
        assert [r.input_ids.tolist() for r in rows] == [r.input_ids.tolist() for r in other]
        assert after == other_after


def test_a_row_larger_than_a_step_is_a_step() -> None:
    (rows, _), *_ = itertools.islice(steps_from(Cursor(), blocks, TuningSettings(tokens_per_step=1), 64), 2)
    assert len(rows) == 1


def test_row_length_follows_context_step_and_longest_example() -> None:
    some = examples(30, longest=12)
    longest = max(len(e.prompt_ids) + len(e.target_ids) for e in some)
    assert row_length(some, TuningSettings(), 64) == 64
    assert row_length(some, TuningSettings(), 10_000) == 1280
    assert row_length(some, TuningSettings(tokens_per_step=4), 64) == longest
    with pytest.raises(ModelError, match="at most 8"):
        row_length(some, TuningSettings(), 8)
    with pytest.raises(ConfigError, match="row length, 4"):
        next(steps_from(Cursor(), blocks, TuningSettings(row_length=4), 64))


def test_blocks_that_stay_empty_are_an_error() -> None:
    with pytest.raises(SourceError, match="no example left"):
        next(steps_from(Cursor(), lambda block: [], SETTINGS, 64))

"""Steps from blocks: every row once, in order, from any cursor."""

import contextlib
import gc
import itertools
import tracemalloc

import pytest

from openflan.errors import ConfigError, ModelError, SourceError
from openflan.tuning.feed import Cursor, num_workers, row_length, steps_from
from openflan.tuning.settings import TuningSettings
from tests.models.tiny import examples
from tests.tuning.numbered import blocks

SETTINGS = TuningSettings(tokens_per_step=40, row_length=16)


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


@pytest.mark.slow
def test_the_steps_are_the_same_whoever_makes_the_blocks() -> None:
    start = Cursor(0, 3)
    alone = itertools.islice(steps_from(start, blocks, SETTINGS, 64), 15)
    feed = steps_from(start, blocks, SETTINGS, 64, workers=2)
    with contextlib.closing(feed):
        for (rows, after), (other, other_after) in zip(alone, feed, strict=False):
            assert after == other_after
            for ours, theirs in zip(rows, other, strict=True):
                for array in ("input_ids", "position_ids", "segment_lengths", "target_positions", "labels"):
                    mine, sent = getattr(ours, array), getattr(theirs, array)
                    assert mine.dtype == sent.dtype and mine.tolist() == sent.tolist()
                assert ours.row_ids == theirs.row_ids


def test_memory_does_not_grow_with_the_blocks_behind() -> None:
    held: list[int] = []
    tracemalloc.start()
    try:
        with contextlib.closing(steps_from(Cursor(), blocks, SETTINGS, 64)) as feed:
            for _, cursor in feed:
                if cursor.block > 30 * (len(held) + 1):
                    gc.collect()
                    held.append(tracemalloc.get_traced_memory()[0])
                if len(held) == 4:
                    break
    finally:
        tracemalloc.stop()
    assert held[3] < 1.5 * held[0] + 50_000


def test_workers_are_two_beside_a_gpu_and_none_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert num_workers(blocks, SETTINGS, on_gpu=False) == 0
    assert num_workers(blocks, SETTINGS, on_gpu=True) == 2
    assert num_workers(blocks, SETTINGS.model_copy(update={"data_workers": 5}), on_gpu=False) == 5
    assert num_workers(lambda block: [], SETTINGS, on_gpu=True) == 0
    assert "waits for it to be prepared" in caplog.text
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert num_workers(blocks, SETTINGS, on_gpu=True) == 0


def test_the_last_block_is_that_of_the_row_before() -> None:
    seen = {
        row.row_ids[0].split()[0]: after.last_block
        for rows, after in itertools.islice(
            steps_from(Cursor(), blocks, TuningSettings(tokens_per_step=1, row_length=16), 64), 30
        )
        for row in rows
    }
    assert len(seen) > 2 and all(name == f"block{block}" for name, block in seen.items())


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


def test_an_id_the_model_does_not_know_is_told_with_its_row() -> None:
    first, *_ = blocks(0)
    largest = max(max(*e.prompt_ids, *e.target_ids) for e in blocks(0))
    next(steps_from(Cursor(), blocks, SETTINGS, 64, known_tokens=largest + 1))
    with pytest.raises(ModelError, match=rf"row {first.row_id}: the tokenizer gives id \d+, the model knows 1 tokens"):
        next(steps_from(Cursor(), blocks, SETTINGS, 64, known_tokens=1))


def test_blocks_that_stay_empty_are_an_error() -> None:
    with pytest.raises(SourceError, match="no example left"):
        next(steps_from(Cursor(), lambda block: [], SETTINGS, 64))

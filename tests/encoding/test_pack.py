"""Packing loses nothing and leaks nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openflan.encoding import Encoded, PackedRow, pack
from openflan.encoding.pack import best_fit_decreasing
from openflan.errors import ConfigError
from tests.models.tiny import examples

LENGTH = 16


def made(sizes: list[tuple[int, int]]) -> list[Encoded]:
    ids = iter(range(10**6))
    return [
        Encoded("t", str(i), "x", tuple(next(ids) for _ in range(p)), tuple(next(ids) for _ in range(n)))
        for i, (p, n) in enumerate(sizes)
    ]


def unpacked(rows: list[PackedRow]) -> dict[str, tuple[list[int], list[int]]]:
    """Per example: its tokens, and those of them that are targets."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for row in rows:
        start = 0
        for name, length in zip(row.row_ids, row.segment_lengths, strict=True):
            inside = slice(start, start + int(length))
            ids, mask = row.input_ids[inside], row.target_mask[inside]
            found[name] = (ids.tolist(), ids[mask].tolist())
            start += int(length)
        assert start == len(row.input_ids)
    return found


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), max_size=40))
def test_packing_loses_nothing_and_leaks_nothing(sizes: list[tuple[int, int]]) -> None:
    given_examples = made(sizes)
    rows = pack(given_examples, LENGTH)
    expected = {f"t {e.row_id} x": ([*e.prompt_ids, *e.target_ids], [*e.target_ids]) for e in given_examples}
    assert unpacked(rows) == expected
    for row in rows:
        assert len(row.input_ids) <= LENGTH
        assert row.labels.tolist() == row.input_ids[row.target_positions + 1].tolist()
        starts = np.flatnonzero(row.position_ids == 0)
        assert starts.tolist() == [0, *np.cumsum(row.segment_lengths)[:-1].tolist()]
        assert not row.target_mask[starts].any()  # no example opens on a target: nothing is predicted across a border
        assert np.all(np.diff(row.position_ids)[np.setdiff1d(np.arange(len(row.input_ids) - 1), starts - 1)] == 1)


def placed_one_by_one(sizes: list[int], length: int) -> list[list[int]]:
    """Best-fit decreasing as it is defined; of equally full rows the one that became so last."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free tokens, row), the one that changed last at the end
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fitting = [(space, -at) for at, (space, _) in enumerate(free) if space >= sizes[index]]
        if fitting:
            space, row = free.pop(-min(fitting)[1])
        else:
            space, row = length, len(rows)
            rows.append([])
        rows[row].append(index)
        free.append((space - sizes[index], row))
    return sorted((sorted(row) for row in rows), key=lambda row: max(row, key=lambda i: (sizes[i], -i)))


@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=60))
def test_examples_of_one_size_together_are_placed_as_one_by_one(sizes: list[int]) -> None:
    order, counts = best_fit_decreasing(np.array(sizes, np.int64), LENGTH)
    rows = [part.tolist() for part in np.split(order, np.cumsum(counts)[:-1])]
    assert rows == placed_one_by_one(sizes, LENGTH)


def test_the_property_above_sees_shared_rows() -> None:
    (row,) = pack(made([(2, 2), (1, 2)]), LENGTH)
    assert row.segment_lengths.tolist() == [4, 3]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert row.target_positions.tolist() == [1, 2, 4, 5]
    assert row.row_ids == ("t 0 x", "t 1 x")


def test_equal_input_gives_equal_rows_in_the_order_of_their_openers() -> None:
    some = examples(200, longest=LENGTH)
    first, second = pack(some, LENGTH), pack(some, LENGTH)
    assert [r.input_ids.tolist() for r in first] == [r.input_ids.tolist() for r in second]
    lengths = [len(r.segment_lengths) for r in first]
    assert lengths != sorted(lengths)  # long examples are not all first


@pytest.mark.parametrize("block_size", [1_024, 10_000])
def test_rows_are_nearly_full_when_each_block_is_packed_alone(block_size: int) -> None:
    drawn = np.random.default_rng(0)
    tokens = room = 0
    for _ in range(3):
        sizes = np.clip(drawn.lognormal(np.log(130), 0.6, block_size).astype(np.int64), 20, 460)
        _, counts = best_fit_decreasing(sizes, 1_280)
        tokens += int(sizes.sum())
        room += 1_280 * len(counts)
    assert tokens / room > 0.98


def test_an_example_longer_than_a_row_is_an_error() -> None:
    with pytest.raises(ConfigError, match="t 1 x has 17 tokens"):
        pack(made([(1, 1), (9, 8)]), LENGTH)

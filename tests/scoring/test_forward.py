"""Log-probabilities read off hidden states: any grouping, any pieces of the vocabulary, the same numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from openflan.scoring import forward
from openflan.scoring.forward import HeadReader, Readout, token_nats


def _readout(head: nn.Linear, positions: int) -> Readout:
    def pieces(hidden: Tensor) -> Iterator[Tensor]:
        return forward._products(head, hidden)  # pyright: ignore[reportPrivateUsage]

    return Readout(lambda ids, _mask: ids, pieces, positions, torch.device("cpu"), None)


def _expected(head: nn.Linear, hidden: Tensor, rows: Any, tokens: Any) -> Any:
    return head(hidden).double().log_softmax(-1)[rows, tokens].float().numpy()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    positions=st.integers(1, 12),
    values=st.integers(1, 600),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_groups_and_pieces_leave_the_numbers_alone(
    sizes: list[int], positions: int, values: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    drawn = np.random.default_rng(seed)
    head = nn.Linear(5, 201, bias=bias)
    groups = [torch.randn(size, 5) * 4 for size in sizes]
    rows = [np.sort(drawn.integers(0, size, drawn.integers(0, 7))) for size in sizes]
    tokens = [drawn.integers(0, 201, len(some)) for some in rows]
    order = drawn.permutation(sum(len(some) for some in rows))
    found = np.full(len(order), np.nan, np.float32)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setitem(forward.PIECE_VALUES, "cpu", values)
        patch.setattr(forward, "SUMMED_VALUES", values)
        reader = HeadReader(_readout(head, positions), found)
        start = 0
        for group, some, asked in zip(groups, rows, tokens, strict=True):
            reader.add(group, some, asked, order[start : start + len(some)])
            start += len(some)
        reader.read()
        expected = [_expected(head, *one) for one in zip(groups, rows, tokens, strict=True)]
    assert reader.positions == sum(sizes)
    np.testing.assert_allclose(found[order], np.concatenate(expected), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("far", [-1e9, -torch.inf])
def test_entries_that_are_ruled_out_do_not_cost_the_others_their_digits(far: float) -> None:
    """Some models put all but a part of their vocabulary out of reach: whole pieces, and the first of a piece."""
    head = nn.Linear(3, 300)
    with torch.inference_mode():
        head.bias[:100] = far
        head.bias[150::2] = far
        hidden, rows, tokens = torch.randn(4, 3), np.array([0, 1, 2, 3]), np.array([101, 151, 120, 299])
        expected = _expected(head, hidden, rows, tokens)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(forward.PIECE_VALUES, "cpu", 256)
            found = token_nats(_readout(head, 64), hidden, rows, tokens)
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=2e-6)


def test_what_is_no_number_stays_none() -> None:
    head = nn.Linear(3, 300)
    hidden = torch.randn(2, 3)
    hidden[1] = torch.nan
    with torch.inference_mode():
        found = token_nats(_readout(head, 64), hidden, np.array([0, 1]), np.array([7, 7]))
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_a_head_that_does_more_is_not_taken_apart() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) / 2

    plain = forward._is_plain  # pyright: ignore[reportPrivateUsage]
    assert plain(nn.Linear(3, 4))
    assert not plain(Scaled(3, 4))
    hooked, patched = nn.Linear(3, 4), nn.Linear(3, 4)
    hooked.register_forward_hook(lambda _module, _given, found: found / 2)
    vars(patched)["forward"] = lambda hidden: hidden  # as accelerate puts hooks in
    assert not plain(hooked)
    assert not plain(patched)

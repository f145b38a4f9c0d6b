"""The loss is the by-hand one, however a step is cut into forward passes."""

from typing import get_args

import pytest
import torch

from openflan.encoding import Encoded, pack
from openflan.models.packed_forward import Way
from openflan.tuning.distributed import World
from openflan.tuning.loss import Weighting, backward, forward_passes, passes_by_process
from tests.models.tiny import EOS, FAMILIES, examples, tiny

ROWS = pack(examples(20, longest=14), 20)


def gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_loss_equals_cross_entropy_by_hand_on_three_target_tokens() -> None:
    model = tiny()
    logits = model(torch.tensor([[7, 8, 9, 10, EOS]])).logits[0].log_softmax(-1)
    by_hand = -(logits[1, 9] + logits[2, 10] + logits[3, EOS]) / 3
    rows = pack([Encoded("t", "0", "x", (7, 8), (9, 10, EOS))], 8)
    assert backward(model, rows, forward_tokens=8) == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("forward_tokens", [1, 45])
def test_accumulated_rows_give_the_gradient_of_one_batch(family: str, forward_tokens: int) -> None:
    model = tiny(family)
    whole = backward(model, ROWS, forward_tokens=10**6)
    expected = gradient(model)
    model.zero_grad(set_to_none=True)
    assert len(list(forward_passes(ROWS, forward_tokens))) > 1
    assert backward(model, ROWS, forward_tokens=forward_tokens) == pytest.approx(whole, rel=1e-5)
    assert float((gradient(model) - expected).norm() / expected.norm()) < 1e-5


def test_target_tokens_weigh_the_same_in_short_and_long_examples() -> None:
    model = tiny()
    one, two = Encoded("t", "0", "x", (7,), (8, EOS)), Encoded("t", "1", "x", (7, 9), (8, 5, 6, 4, EOS))
    losses = [backward(model, pack([e], 16), forward_tokens=99) for e in (one, two)]
    together = backward(model, pack([one, two], 16), forward_tokens=99)
    assert together == pytest.approx((2 * losses[0] + 5 * losses[1]) / 7, rel=1e-5)


def test_unpacked_and_bfloat16_agree_with_packed_float32() -> None:
    model = tiny()
    loss = backward(model, ROWS, forward_tokens=99)
    assert backward(model, ROWS, forward_tokens=99, way="alone") == pytest.approx(loss, rel=1e-5)
    assert backward(model, ROWS, forward_tokens=99, bfloat16=True) == pytest.approx(loss, rel=0.05)


def test_forward_passes_keep_every_row_in_order() -> None:
    groups = list(forward_passes(ROWS, 45))
    assert [r for group in groups for r in group] == ROWS
    assert all(sum(len(r.input_ids) for r in group) <= 45 for group in groups)


def test_examples_weigh_the_same_by_hand_on_three_target_tokens() -> None:
    model = tiny()
    one, two = (model(torch.tensor([ids])).logits[0].log_softmax(-1) for ids in ([7, EOS], [7, 8, 9, EOS]))
    by_hand = -(one[0, EOS] + (two[1, 9] + two[2, EOS]) / 2) / 2
    rows = pack([Encoded("t", "0", "x", (7,), (EOS,)), Encoded("t", "1", "x", (7, 8), (9, EOS))], 6)
    assert len(rows) == 1
    assert backward(model, rows, forward_tokens=8, weighting="example") == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("weighting", ["token", "example"])
@pytest.mark.parametrize("processes", [1, 2, 3, 50])
def test_shares_add_up_to_the_gradient_of_the_step(weighting: Weighting, processes: int) -> None:
    model = tiny()
    whole = backward(model, ROWS, forward_tokens=10**6, weighting=weighting)
    expected = gradient(model)
    model.zero_grad(set_to_none=True)
    worlds = [World(rank, processes) for rank in range(processes)]
    parts = [backward(model, ROWS, forward_tokens=25, weighting=weighting, world=world) for world in worlds]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)
    assert float((gradient(model) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("way", get_args(Way))
def test_every_process_has_as_many_passes_and_every_example_is_in_one(way: Way) -> None:
    by_process = passes_by_process(ROWS, 3, 45, way)
    assert len({len(passes) for passes in by_process}) == 1
    found = [name for passes in by_process for part in passes for row in part for name in row.row_ids]
    assert sorted(found) == sorted(name for row in ROWS for name in row.row_ids)
    tokens = [sum(len(row.input_ids) for part in passes for row in part) for passes in by_process]
    assert max(tokens) - min(tokens) <= 20  # no more than a row
    if way in ("padded", "alone"):
        assert all(len(part) <= 1 and all(len(row.row_ids) == 1 for row in part) for p in by_process for part in p)


@pytest.mark.parametrize("way", get_args(Way))
def test_recomputing_layers_gives_the_same_gradient(way: Way) -> None:
    model = tiny().train()
    backward(model, ROWS, forward_tokens=45, way=way)
    expected = gradient(model)
    model.zero_grad(set_to_none=True)
    model.activation_checkpointing_enable({"use_reentrant": False})
    backward(model, ROWS, forward_tokens=45, way=way)
    assert torch.equal(gradient(model), expected)

"""The loss is the by-hand one, however a step is cut into forward passes."""

import pytest
import torch

from openflan.encoding import Encoded, pack
from openflan.tuning.loss import backward, forward_passes
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

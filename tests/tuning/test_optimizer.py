"""Our Adafactor is transformers' where that one runs."""

import pytest
import torch
from transformers.optimization import Adafactor as Reference

from openflan.tuning.optimizer import Adafactor


@pytest.mark.reference
@pytest.mark.parametrize("scale_parameter", [False, True])
def test_adafactor_takes_the_steps_of_transformers(scale_parameter: bool) -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((7, 5), (64, 48), (9,), (3, 4, 5))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    settings = {"lr": 1e-2, "scale_parameter": scale_parameter}
    mine = Adafactor([{"params": ours, "weight_decay": 0.1}], **settings)
    groups = [{"params": theirs, "weight_decay": 0.1}]
    reference = Reference(groups, **settings, relative_step=False, warmup_init=False)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        mine.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def test_a_parameter_without_gradient_stays() -> None:
    kept, moved = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(3, 2))
    moved.grad = torch.ones(3, 2)
    Adafactor([{"params": [kept, moved]}], lr=0.1).step()
    assert torch.equal(kept, torch.ones(3, 2))
    assert torch.allclose(moved, torch.full((3, 2), 0.9))

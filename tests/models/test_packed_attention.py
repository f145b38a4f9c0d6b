"""Packed examples get the hidden states, losses and gradients they get alone."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import FalconConfig, FalconForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from openflan.encoding import pack
from openflan.errors import ModelError
from openflan.models import packed_attention
from openflan.models.packed_attention import attention, collate, hidden_states, supports_packing, target_logits
from tests.models.tiny import FAMILIES, SMALL, examples, tiny

EXAMPLES = examples(9, longest=14)
ROWS = pack(EXAMPLES, 20)


def gradients(model: PreTrainedModel, loss: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def loss_alone(model: PreTrainedModel) -> Tensor:
    """Summed cross-entropy of each example's targets by plain transformers, by hand."""
    total = torch.zeros(())
    for e in EXAMPLES:
        ids = torch.tensor([e.prompt_ids + e.target_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(e.prompt_ids) - 1 : -1]
        total = total - logits.log_softmax(-1)[range(len(e.target_ids)), list(e.target_ids)].sum()
    return total


def loss_packed(model: PreTrainedModel) -> Tensor:
    batch = collate(ROWS)
    return functional.cross_entropy(target_logits(model, batch), batch.labels, reduction="sum")


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_equal_those_of_examples_alone(family: str) -> None:
    model = tiny(family)
    alone, packed = loss_alone(model), loss_packed(model)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    expected, found = gradients(model, alone), gradients(model, packed)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_the_equality_above_would_see_a_leak() -> None:
    model = tiny()
    batch = collate(ROWS)
    with torch.no_grad():
        leaking = model(input_ids=batch.input_ids, use_cache=False).logits[0][batch.target_positions]
        loss = functional.cross_entropy(leaking, batch.labels, reduction="sum")
        assert abs(loss.item() - loss_alone(model).item()) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_no_gradient_flows_between_packed_examples(family: str) -> None:
    model = tiny(family)
    batch = collate(ROWS)
    first = batch.segments.lengths[0]
    embedded: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    hook = model.get_input_embeddings().register_forward_hook(keep)
    hidden_states(model, batch)[first:].square().sum().backward()
    hook.remove()
    assert embedded[0].grad is not None
    assert float(embedded[0].grad[0, :first].abs().max()) == 0.0
    assert float(embedded[0].grad[0, first:].abs().min(-1).values.max()) > 0.0


def test_bucketed_products_equal_calls_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    batch = collate(pack(examples(40, longest=19), 64))
    assert len(batch.segments.buckets) > 2
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        bucketed = target_logits(model, batch).float()
        monkeypatch.setattr(packed_attention, "SHORT", 0)
        each = target_logits(model, batch).float()
    assert float((bucketed - each).norm() / each.norm()) < 0.05
    q, k, v = (torch.randn(1, 4, sum(batch.segments.lengths), 8, requires_grad=True) for _ in range(3))
    one = packed_attention._attend_buckets(q, k, v, 0.3, 0.0, batch.segments)
    two = packed_attention._attend_each(q, k, v, 0.3, 0.0, batch.segments)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    pull = torch.randn_like(one)
    for ours, theirs in zip(
        torch.autograd.grad(one, (q, k, v), pull), torch.autograd.grad(two, (q, k, v), pull), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_unpacked_path_gives_the_same_logits() -> None:
    model = tiny("gpt2")
    batch = collate(ROWS)
    with torch.no_grad():
        torch.testing.assert_close(
            target_logits(model, batch, packed=False), target_logits(model, batch), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_self_check_passes_the_families_we_pack(family: str) -> None:
    assert supports_packing(tiny(family)) is None


def test_self_check_names_what_cannot_be_packed() -> None:
    window = MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=4))
    assert "sliding_window" in str(supports_packing(window))
    wide = MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=32))
    assert supports_packing(wide) is None
    assert "window of 32" in str(supports_packing(wide, longest=33))
    falcon = FalconForCausalLM(FalconConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, vocab_size=50))
    assert "FalconForCausalLM" in str(supports_packing(falcon))


@pytest.mark.parametrize(("argument", "given"), [("softcap", 30.0), ("s_aux", torch.ones(4)), ("is_causal", False)])
def test_unknown_arguments_are_refused_by_name(argument: str, given: object) -> None:
    segments = collate(ROWS).segments
    q = torch.randn(1, 4, sum(segments.lengths), 8)
    with pytest.raises(ModelError, match=argument):
        packed_attention.packed_attention(
            torch.nn.Identity(), q, q, q, None, openflan_segments=segments, **{argument: given}
        )


def test_the_models_own_attention_comes_back_even_after_an_error() -> None:
    model = tiny()
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError), attention(model, packed_attention.NAME):
        assert model.config._attn_implementation == packed_attention.NAME
        raise RuntimeError
    assert model.config._attn_implementation == before


def test_collate_shifts_target_positions() -> None:
    batch = collate(ROWS)
    assert batch.labels.tolist() == batch.input_ids[0, batch.target_positions + 1].tolist()
    assert np.concatenate([r.labels for r in ROWS]).tolist() == batch.labels.tolist()

"""Packed examples get the logits and gradients they get alone, in whichever way a model takes them."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from openflan.encoding import Encoded, pack
from openflan.encoding.pack import PackedRow
from openflan.errors import ModelError
from openflan.models import packed_attention
from openflan.models.packed_attention import Rule, Segments, attention
from openflan.models.packed_forward import Way, attending, collate, target_logits
from openflan.models.packing import packing_of
from openflan.tuning.loss import backward
from tests.models.tiny import EOS, FAMILIES, MASKED, RAGGED, RECURRENT, WINDOW, examples, tiny

EXAMPLES = examples(9, longest=14)
ROWS = pack(EXAMPLES, 20)
WAYS: dict[str, Way] = dict.fromkeys(RAGGED, "ragged") | dict.fromkeys(MASKED, "block_mask")
WAYS |= dict.fromkeys(RECURRENT, "padded")
lengths = st.lists(st.integers(2, 14), min_size=2, max_size=5)


def of_lengths(sizes: Sequence[int]) -> list[Encoded]:
    """Examples of so many tokens each; about half of them are targets."""
    ids = itertools.cycle(range(2, 290))
    made = [[next(ids) for _ in range(size)] for size in sizes]
    return [
        Encoded("toy", f"train/{n}", "t", tuple(some[: (len(some) + 1) // 2]), (*some[(len(some) + 1) // 2 : -1], EOS))
        for n, some in enumerate(made)
    ]


def gradients(model: PreTrainedModel, loss: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def loss_alone(model: PreTrainedModel, encoded: Sequence[Encoded]) -> Tensor:
    """Summed cross-entropy of each example's targets by plain transformers, by hand."""
    total = torch.zeros(())
    for e in encoded:
        ids = torch.tensor([e.prompt_ids + e.target_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(e.prompt_ids) - 1 : -1]
        total = total - logits.log_softmax(-1)[range(len(e.target_ids)), list(e.target_ids)].sum()
    return total


def loss_of(model: PreTrainedModel, rows: Sequence[PackedRow], way: Way) -> Tensor:
    batch = collate(rows)
    return functional.cross_entropy(target_logits(model, batch, way), batch.labels, reduction="sum")


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("family", [*RAGGED, *MASKED])
def test_each_family_goes_the_way_it_can(family: str) -> None:
    model = tiny(family)
    found = packing_of(model, longest=60, ways=("ragged", "block_mask"))
    assert found.way == WAYS[family], str(found)
    assert found.difference < 1e-5
    if family in MASKED:
        assert packing_of(model).way == "padded"  # the cheaper one on a CPU


@pytest.mark.parametrize("family", WAYS)
def test_loss_and_gradients_equal_those_of_examples_alone(family: str) -> None:
    model = tiny(family)

    @settings(max_examples=3, deadline=None, derandomize=True, database=None)
    @given(lengths)
    def equal(sizes: list[int]) -> None:
        encoded = of_lengths(sizes)
        alone, packed = loss_alone(model, encoded), loss_of(model, pack(encoded, 20), WAYS[family])
        torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
        assert relative(gradients(model, packed), gradients(model, alone)) < 1e-5

    equal()


@pytest.mark.parametrize("way", ["block_mask", "padded", "alone"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_every_way_gives_the_same_logits(family: str, way: Way) -> None:
    model, batch = tiny(family), collate(ROWS)
    with torch.no_grad():
        torch.testing.assert_close(target_logits(model, batch, way), target_logits(model, batch), rtol=1e-4, atol=1e-4)


def test_the_equality_above_would_see_a_leak() -> None:
    model, batch = tiny(), collate(ROWS)
    alone = loss_alone(model, EXAMPLES)
    leaking = model(input_ids=batch.input_ids, use_cache=False).logits[0][batch.target_positions]
    loss = functional.cross_entropy(leaking, batch.labels, reduction="sum")
    assert relative(gradients(model, loss), gradients(model, alone)) > 0.1


@pytest.mark.parametrize("family", [*RAGGED, *MASKED])
def test_no_gradient_flows_between_packed_examples(family: str) -> None:
    """Neither from an example to those before it nor to those after it, through the hidden states the head gets."""
    model, batch = tiny(family), collate([row for row in ROWS if len(row.segment_lengths) > 1][:1])
    embedded: list[Tensor] = []
    hidden: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    hooks = [
        model.get_input_embeddings().register_forward_hook(keep),
        model.get_output_embeddings().register_forward_hook(lambda head, inputs, output: hidden.append(inputs[0])),
    ]
    with attending(model, WAYS[family]):
        target_logits(model, batch, WAYS[family])
    for hook in hooks:
        hook.remove()
    owners = batch.segments.owners
    for segment in owners.unique():
        inside = owners[batch.target_positions] == segment
        (gradient,) = torch.autograd.grad(hidden[0][0, inside].square().sum(), embedded[0], retain_graph=True)
        assert float(gradient[0, owners != segment].abs().max()) == 0.0
        assert float(gradient[0, owners == segment].abs().max()) > 0.0


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(lengths)
def test_no_example_predicts_the_first_token_of_the_next(sizes: list[int]) -> None:
    encoded = of_lengths(sizes)
    batch = collate(pack(encoded, 20))
    owners = batch.segments.owners
    assert owners[batch.target_positions].tolist() == owners[batch.target_positions + 1].tolist()
    assert batch.labels.tolist() == batch.input_ids[0, batch.target_positions + 1].tolist()
    assert len(batch.labels) == sum(len(e.target_ids) for e in encoded)
    assert sum(batch.row_lengths) == len(owners) == sum(sizes)


@pytest.mark.parametrize("places", [1, -3])
def test_a_leak_too_small_for_logits_is_found_by_its_gradient(places: int) -> None:
    """Into the next example, and into the one before."""
    model = tiny()

    def leak(layer: torch.nn.Module, given: object, output: Tensor) -> Tensor:
        return output + 1e-8 * output.roll(places, 1)

    model.model.layers[0].register_forward_hook(leak)
    found = packing_of(model)
    assert found.way == "padded" and "see each other" in found.refused["ragged"]
    assert "see each other" in packing_of(model, ways=["block_mask"]).refused["block_mask"]


@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_models_are_not_packed_and_named(family: str) -> None:
    model = tiny(family)
    found = packing_of(model)
    assert found.way == "padded" and list(found.refused) == ["ragged"]
    assert packing_of(model, ways=["block_mask"]).way == "alone"
    assert str(found).startswith(type(model).__name__) and "examples are not packed" in str(found)


def test_what_matters_in_long_rows_only_is_found_there() -> None:
    # Chunked attention, of which attention's interface is told nothing.
    chunked = tiny("llama")
    own = packed_attention.packed_attention

    def shortsighted(*given: Any, sliding_window: None = None, **others: Any) -> Any:
        return own(*given, sliding_window=30, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(packed_attention.ALL_ATTENTION_FUNCTIONS._global_mapping, packed_attention.NAME, shortsighted)
        assert packing_of(chunked).way == "ragged"
        assert "in long rows" in packing_of(chunked, longest=60).refused["ragged"]
    # Falcon rounds its distances to bfloat16, so that those of far rows are others than alone.
    rounded = packing_of(tiny("falcon_alibi"), longest=600, ways=["block_mask", "padded"])
    assert rounded.way == "padded" and "in long rows" in rounded.refused["block_mask"]


def test_a_model_that_does_not_run_is_an_error() -> None:
    model = tiny()
    model.model.layers[0].self_attn.q_proj = torch.nn.Linear(3, 3)
    with pytest.raises(ModelError, match="LlamaForCausalLM does not run"):
        packing_of(model)


def test_the_check_leaves_no_trace() -> None:
    model = tiny().train()
    before = [p.clone() for p in model.parameters()]
    packing_of(model)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (None, 0.5), (3, 0.5), (99, None)])
def test_all_kernels_of_the_ragged_way_agree(window: int | None, softcap: float | None) -> None:
    segments = collate(pack(examples(40, longest=19), 64)).segments
    assert len(segments.buckets) > 2
    rule = Rule(0.3, window=window, softcap=softcap)
    q, k, v = (torch.randn(1, 4, sum(segments.lengths), 8, requires_grad=True) for _ in range(3))
    by_hand = torch.cat([plainly(q[:, :, at], k[:, :, at], v[:, :, at], rule) for at in slices(segments)], 1)
    pull = torch.randn_like(by_hand)
    expected = torch.autograd.grad(by_hand, (q, k, v), pull)
    for attend in (packed_attention._attend_buckets, packed_attention._attend_each):
        if softcap is not None and attend is packed_attention._attend_each:
            continue  # SDPA knows no soft cap
        found = attend(q, k, v, rule, segments)
        torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(torch.autograd.grad(found, (q, k, v), pull), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # FlexAttention has no backward pass on a CPU.
    found = packed_attention._attend_flex(*(part.detach() for part in (q, k, v)), rule, segments)
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-5)


def slices(segments: Segments) -> list[slice]:
    ends = list(itertools.accumulate(segments.lengths))
    return [slice(end - length, end) for end, length in zip(ends, segments.lengths, strict=True)]


def plainly(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
    """Attention of one segment [1, H, L, D], to [1, L, H, D], as the formulas have it."""
    scores = q @ k.transpose(-1, -2) * rule.scaling
    if rule.softcap is not None:
        scores = rule.softcap * (scores / rule.softcap).tanh()
    distance = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
    seen = (distance >= 0) & (distance < (rule.window or 99))
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_bfloat16_products_equal_calls_one_by_one(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    batch = collate(pack(examples(40, longest=19), 64))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        bucketed = target_logits(model, batch).float()
        monkeypatch.setattr(packed_attention, "SHORT", 0)
        each = target_logits(model, batch).float()
    assert relative(bucketed, each) < 0.05


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_checkpointed_gradients_are_the_same(family: str) -> None:
    """The backward pass attends again, when the forward pass is long over."""
    model, way = tiny(family).train(), WAYS[family]
    expected = gradients(model, loss_of(model, ROWS, way))
    model.gradient_checkpointing_enable()
    model.zero_grad(set_to_none=True)
    backward(model, ROWS, forward_tokens=10**6, way=way)
    targets = sum(len(row.labels) for row in ROWS)
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert relative(found * targets, expected) < 1e-5
    if way == "ragged":
        with pytest.raises(ModelError, match="attending"):
            loss_of(model, ROWS, way)


@pytest.mark.parametrize(
    ("argument", "asked"), [("position_bias", 1.0), ("s_aux", torch.ones(4)), ("is_causal", False)]
)
def test_unknown_arguments_are_refused_by_name(argument: str, asked: object) -> None:
    segments = collate(ROWS).segments
    q = torch.randn(1, 4, sum(segments.lengths), 8)
    with pytest.raises(ModelError, match=argument):
        packed_attention.packed_attention(
            torch.nn.Identity(), q, q, q, None, openflan_segments=segments, **{argument: asked}
        )


def test_the_models_own_attention_and_masks_come_back_even_after_an_error() -> None:
    model = tiny("falcon")
    before, mask = model.config._attn_implementation, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    with pytest.raises(RuntimeError), attention(model, packed_attention.NAME):
        assert model.config._attn_implementation == packed_attention.NAME
        raise RuntimeError
    model.transformer.h[1].register_forward_pre_hook(lambda layer, given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        target_logits(model, collate(ROWS), "block_mask")
    assert model.config._attn_implementation == before
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is mask
    assert not model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [*RAGGED, *MASKED])
def test_packing_on_a_gpu(family: str, dtype: torch.dtype) -> None:
    model = tiny(family).to("cuda", dtype)
    assert packing_of(model, longest=60).way == WAYS[family]  # on CUDA the mask comes before padding


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, WINDOW, 40])
@pytest.mark.parametrize("kernel", ["varlen", "flex"])
def test_cuda_kernels_agree_with_calls_one_by_one(kernel: str, window: int | None) -> None:
    segments = Segments((33, 7, 120, 2, 64), torch.device("cuda"))
    drawn = torch.Generator("cuda").manual_seed(0)
    dtype = torch.bfloat16 if kernel == "varlen" else torch.float32
    q, k, v = (
        torch.randn(1, heads, 226, 16, device="cuda", dtype=dtype, generator=drawn).requires_grad_()
        for heads in (4, 2, 2)
    )
    rule = Rule(0.3, window=window)
    assert kernel != "varlen" or packed_attention._fits_varlen(q, v)
    attend = packed_attention._attend_varlen if kernel == "varlen" else packed_attention._attend_flex
    found = attend(q, k, v, rule, segments)
    every = (q.float(), *(part.float().repeat_interleave(2, 1) for part in (k, v)))
    expected = packed_attention._attend_each(*every, rule, segments)
    pull = torch.randn_like(expected)
    allowed = 2e-2 if kernel == "varlen" else 1e-4
    assert relative(found.float(), expected) < allowed
    ours, theirs = torch.autograd.grad(found, (q, k, v), pull.to(dtype)), torch.autograd.grad(expected, (q, k, v), pull)
    assert all(relative(a.float(), b.float()) < allowed for a, b in zip(ours, theirs, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_of_float32_weights_takes_the_ragged_kernel(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    own = packed_attention._attend_varlen
    monkeypatch.setattr(packed_attention, "_attend_varlen", lambda *given: calls.append(1) or own(*given))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        target_logits(tiny(family).to("cuda"), collate(ROWS, "cuda"))
    assert len(calls) == 2

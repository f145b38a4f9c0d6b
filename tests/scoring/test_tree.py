"""Trees on models of many architectures, their kernels, and the check that decides."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from openflan.errors import ModelError
from openflan.models.soft_prompt import add_soft_prompt
from openflan.scoring import tree, tree_attention
from openflan.scoring.forward import inference, readout
from openflan.scoring.generate import GenerationRequest, generate
from openflan.scoring.plan import make_plan
from openflan.scoring.rank import ScoreRequest, ScoringCost, score
from openflan.scoring.tree import check_tree

from .conftest import AS_TREES, CONFIGS, naive, tiny
from .test_rank import assert_same, requests_like


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_check_says_what_it_compared(architecture):
    check = check_tree(tiny(architecture))
    if architecture in AS_TREES:
        assert check.reason is None and check.pruned
        assert check.difference < 3e-5
        assert check.tokens == 2 * (3 + 4 + 1 + 4 + 3 + 1)
        assert "differ by at most" in str(check)
    else:
        assert check.reason is not None and str(check) == check.reason


def test_a_sliding_window_is_allowed_for_texts_that_fit_it(caplog):
    lm = tiny("gemma3_text")
    assert check_tree(lm).window == 64
    short, long = ScoreRequest("a", (5,) * 63, ((6, 7), (8,))), ScoreRequest("b", (5,) * 64, ((6, 7), (8,)))
    costs: list[ScoringCost] = []
    assert_same(score(lm, [short], report=costs.append), lm, [short])
    assert costs[-1].engine == "trees"
    assert_same(score(lm, [short, long], report=costs.append), lm, [short, long])
    assert "its sliding window of 64 tokens is shorter than a text of 65" in caplog.text


SMALL = CONFIGS["llama"] | {"pad_token_id": 0}
OF_THEIR_OWN = {
    "llama4_text": {"attention_chunk_size": 32, "num_local_experts": 2, "intermediate_size_mlp": 48,
                    "head_dim": 8, "no_rope_layers": [1, 0]},
    "phimoe": {"sliding_window": 32, "num_local_experts": 4},
}  # fmt: skip


@pytest.mark.parametrize("architecture", OF_THEIR_OWN)
def test_a_window_that_only_the_models_own_mask_knows_is_kept_to(architecture):
    lm = tiny(architecture, **SMALL | OF_THEIR_OWN[architecture])
    assert check_tree(lm).window == 32
    short, long = ScoreRequest("a", tuple(range(20)), ((6, 7), (8,))), ScoreRequest("b", tuple(range(60)), ((6, 7),))
    assert_same(score(lm, [short, long]), lm, [short, long])


TURNED = {
    "phi3": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 8.0, 16.0]},
    "llama": {"rope_type": "dynamic", "factor": 4.0},
}


@pytest.mark.parametrize("architecture", TURNED)
def test_positions_that_turn_with_the_longest_text_of_a_batch(architecture):
    given = {"rope_theta": 10000.0, "original_max_position_embeddings": 32} | TURNED[architecture]
    lm = tiny(architecture, **SMALL, eos_token_id=1, original_max_position_embeddings=32, rope_parameters=given)
    prompts = [tuple(range(3, 20)), tuple(range(3, 90))]
    requests = [ScoreRequest(str(len(prompt)), prompt, ((6, 7), (8,))) for prompt in prompts]
    assert_same(score(lm, requests), lm, requests)
    asked = [GenerationRequest(request.id, request.prompt_ids) for request in requests]
    assert generate(lm, asked, max_new_tokens=4) == [generate(lm, [one], max_new_tokens=4)[0] for one in asked]


def test_positions_that_are_counted_from_the_padding():
    # Not as transformers' own generation has it, which counts from 0 whatever the model does.
    given = SMALL | {"max_position_embeddings": 98, "is_decoder": True, "pad_token_id": 1}
    lm = tiny("roberta", **given)
    requests = [ScoreRequest("a", tuple(range(2, 9)), ((6, 7), (8,))), ScoreRequest("b", (5, 4), ((6, 7, 8),))]
    assert_same(score(lm, requests), lm, requests)
    for one, request in zip(
        generate(lm, [GenerationRequest(r.id, r.prompt_ids) for r in requests], max_new_tokens=4, stops=[]),
        requests,
        strict=True,
    ):
        ids = [*request.prompt_ids, *one.token_ids]
        with torch.inference_mode():
            likeliest = lm.model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        assert likeliest[len(request.prompt_ids) - 1 : -1] == list(one.token_ids)


def test_a_model_that_attends_otherwise_than_it_says_is_found_out():
    # As if a bias were in the scores that the interface is not told of.
    lm = tiny("llama")
    for layer in lm.model.model.layers:
        layer.self_attn.scaling *= 1.0
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def biased(module, query, key, value, mask, **others):
        return original(module, query * 1.05, key, value, mask, **others)

    ALL_ATTENTION_FUNCTIONS.register("biased", biased)
    lm.model.config._attn_implementation = "biased"
    try:
        assert "differ by up to" in str(check_tree(lm).reason)
    finally:
        ALL_ATTENTION_FUNCTIONS._local_mapping.pop("biased", None)


def test_a_model_whose_logits_know_what_follows_is_refused():
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = AutoConfig.for_model("bert", vocab_size=260, initializer_range=0.3, **small)
    lm = dataclasses.replace(tiny("llama"), model=AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(ModelError, match="BertLMHeadModel is no causal language model"):
        score(lm, requests_like(0, number=2))
    config.is_decoder = True
    lm = dataclasses.replace(lm, model=AutoModelForCausalLM.from_config(config).eval())
    requests = requests_like(0, number=2)
    assert_same(score(lm, requests), lm, requests)


def test_a_layer_that_mixes_tokens_outside_attention_is_not_pruned():
    lm = tiny("llama")
    mlp = lm.model.model.layers[-1].mlp
    forward = mlp.forward
    mlp.forward = lambda hidden: forward(hidden) + 0.1 * hidden.mean(-2, keepdim=True)
    assert check_tree(lm).reason is not None  # it leaks in packed rows, whatever is pruned
    mlp.forward = lambda hidden: forward(hidden) * (1 if hidden.shape[-2] > 15 else 1.01)
    check = check_tree(lm)
    assert not check.pruned


def values(lm, requests, *, pruned=True, **limits):
    with inference(lm.model):
        model = readout(lm.model, requests[0].prompt_ids)
        check, scorer = tree.set_up_tree(lm, model)
        assert check.reason is None and scorer is not None
        scorer = scorer if pruned else tree.TreeScorer(model)
        plan = make_plan(requests, **{"pass_tokens": 100, "kept_tokens": 300, "call": 0} | limits)
        with scorer.ready(lm.model):
            found, spent = scorer.score(plan)
        assert not scorer.kept
        assert spent.tokens == len(plan.token_ids)
        return found


def expected(lm, requests):
    return np.array([value for request in requests for option in naive(lm, request) for value in option])


@pytest.mark.parametrize("architecture", sorted(AS_TREES - {"granite"}))
@pytest.mark.parametrize("pruned", [True, False])
def test_pruning_changes_nothing(architecture, pruned):
    lm, requests = tiny(architecture), requests_like(10, number=6)
    assert values(lm, requests, pruned=pruned) == pytest.approx(expected(lm, requests), abs=2e-5)


@pytest.mark.parametrize("call", [0, 30, 1024])
@pytest.mark.parametrize("pass_tokens", [7, 40, 500])
def test_however_the_trie_is_cut(llama, call, pass_tokens):
    requests = requests_like(11)
    found = values(llama, requests, call=call, pass_tokens=pass_tokens)
    assert found == pytest.approx(expected(llama, requests), abs=2e-5)


def test_the_model_is_left_as_it_was(llama):
    before = llama.model.config._attn_implementation
    values(llama, requests_like(12, number=3))
    assert llama.model.config._attn_implementation == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.model.modules())


def test_soft_prompts_and_adapters(llama):
    from openflan.models.adapters import LoraSettings, add_lora

    requests = requests_like(13, number=4)
    soft = add_soft_prompt(tiny("llama"), num_tokens=3)
    assert check_tree(soft).reason is None
    adapted = add_lora(tiny("llama"), LoraSettings(rank=4)).lm
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    assert check_tree(adapted).pruned
    assert_same(score(adapted, requests), adapted, requests)
    moved = np.subtract(score(adapted, requests)[0].sums, score(llama, requests)[0].sums)
    assert np.abs(moved).max() > 0.1


def test_half_precision_on_a_cpu_is_near_float32():
    lm, half = tiny("llama"), tiny("llama")
    half.model.to(torch.bfloat16)
    requests = requests_like(14, number=4)
    assert check_tree(half).reason is None
    found, wanted = values(half, requests), expected(lm, requests)
    assert np.abs(found - wanted).mean() < 0.1


# The kernels for CUDA, by a stand-in for the one and by the other's own slow path.


def varlen_by_hand(
    q, k, v, offsets_q, offsets_k, _longest_q, _longest_k, *, return_aux, scale, window_size, enable_gqa
):
    """What `varlen_attn` promises, sequence by sequence."""
    assert return_aux.lse
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) if enable_gqa else part for part in (k, v))
    out, sums = torch.empty_like(q), torch.empty(q.shape[:2])
    for (a, b), (c, d) in zip(offsets_q.unfold(0, 2, 1).tolist(), offsets_k.unfold(0, 2, 1).tolist(), strict=True):
        weights = torch.einsum("qhd,khd->hqk", q[a:b], k[c:d]) * (scale or q.shape[-1] ** -0.5)
        if window_size == (-1, 0):
            weights += torch.full((b - a, d - c), -torch.inf).triu(1)
        else:
            assert window_size == (-1, -1)
        out[a:b] = torch.einsum("hqk,khd->qhd", weights.softmax(-1), v[c:d])
        sums[a:b] = weights.logsumexp(-1).T
    return out, sums


@pytest.mark.parametrize("kernel", ["varlen", "varlen, sums by head", "flex"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_kernels_for_cuda_agree_with_those_for_a_cpu(architecture, kernel, monkeypatch):
    lm, requests = tiny(architecture), requests_like(15, number=6)
    used = []

    def other(*given):
        used.append(kernel)
        return (tree_attention._attend_flex if kernel == "flex" else tree_attention._attend_levels)(*given)

    def by_head(*given, **named):
        out, sums = varlen_by_hand(*given, **named)
        return out, sums.T

    from torch.nn.attention.varlen import AuxRequest

    monkeypatch.setattr(
        tree_attention, "_varlen", lambda: (by_head if "head" in kernel else varlen_by_hand, AuxRequest(lse=True))
    )
    monkeypatch.setattr(tree_attention, "_attend_each", other)
    for call in (0, 30, 1024):
        found = values(lm, requests, call=call)
        assert found == pytest.approx(expected(lm, requests), abs=2e-5)
    assert used


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", sorted(AS_TREES))
def test_trees_on_a_gpu(architecture, dtype):
    lm = tiny(architecture)
    lm.model.to("cuda", dtype)
    check = check_tree(lm)
    assert check.reason is None
    requests = requests_like(16, number=8)
    on_cpu = score(tiny(architecture), requests)
    difference = [np.abs(np.subtract(a.sums, b.sums)) for a, b in zip(score(lm, requests), on_cpu, strict=True)]
    assert np.concatenate(difference).max() < (1e-3 if dtype == torch.float32 else 1.0)


def test_checks_are_records():
    check = tree.TreeCheck(None, 1e-6, 32, window=4096)
    assert "4,096 tokens" in str(check)
    assert str(dataclasses.replace(check, reason="no")) == "no"

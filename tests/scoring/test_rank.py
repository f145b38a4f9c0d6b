"""Rank classification against one sequence at a time, on models of several architectures."""

import dataclasses
import gc
import random
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openflan.errors import ModelError
from openflan.models.soft_prompt import add_soft_prompt
from openflan.scoring import gemm, tree
from openflan.scoring.forward import readout
from openflan.scoring.padded import texts_to_read
from openflan.scoring.rank import OptionScores, ScoreRequest, ScoringCost, score, unconditional_requests

from .conftest import AS_TREES, CONFIGS, naive, tiny


def requests_like(seed: int, number: int = 12, words: int = 256, longest: int = 40) -> list[ScoreRequest]:
    """Mixes of 2, 3 and 26 options; some options begin others, some prompts begin others."""
    rng = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(2, words) for _ in range(length))

    shared = ids(longest // 2)
    found: list[ScoreRequest] = []
    for index in range(number):
        prompt = ids(rng.randrange(1, longest // 2)) if index % 3 else shared + ids(rng.randrange(longest // 2))
        options = [ids(rng.randrange(1, 8)) for _ in range(rng.choice([2, 3, 26]))]
        options[1] = options[0] + ids(2)
        found.append(ScoreRequest(str(index), prompt, tuple(options)))
    return found


def assert_same(found: list[OptionScores], lm, requests: list[ScoreRequest], tolerance: float = 2e-5) -> None:
    assert [one.id for one in found] == [request.id for request in requests]
    for one, request in zip(found, requests, strict=True):
        for logprobs, expected in zip(one.logprobs, naive(lm, request), strict=True):
            assert logprobs == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_scores_equal_one_sequence_at_a_time(architecture):
    lm = tiny(architecture)
    requests = requests_like(0)
    assert_same(score(lm, requests), lm, requests)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_trees_where_they_are_right_and_a_warning_where_they_are_not(architecture, caplog):
    costs: list[ScoringCost] = []
    score(tiny(architecture), requests_like(0, number=2), report=costs.append)
    warned = [record.getMessage() for record in caplog.records if "padded texts" in record.getMessage()]
    if architecture in AS_TREES:
        assert costs[-1].engine == "trees" and not warned
        assert costs[-1].tokens == costs[-1].floor_tokens
    else:
        assert costs[-1].engine.startswith("padded texts (")
        assert len(warned) == 1 and architecture in warned[0]


def test_the_test_above_sees_context(llama):
    # With the prompt's first half cut, every score moves: an engine that ignored it would not pass.
    request = requests_like(0)[0]
    cut = dataclasses.replace(request, prompt_ids=request.prompt_ids[len(request.prompt_ids) // 2 :])
    found, other = score(llama, [request])[0].sums, score(llama, [cut])[0].sums
    assert np.abs(np.subtract(found, other)).mean() > 0.1


@pytest.mark.parametrize("batch_tokens", [1, 50, 300, 100_000])
def test_scores_do_not_depend_on_the_batch(llama, batch_tokens):
    requests = requests_like(1)
    expected = score(llama, requests)
    for one, other in zip(score(llama, requests, batch_tokens=batch_tokens), expected, strict=True):
        for logprobs, wanted in zip(one.logprobs, other.logprobs, strict=True):
            assert logprobs == pytest.approx(wanted, abs=1e-5)


def test_order_and_company_do_not_matter(llama):
    requests = requests_like(2)
    expected = {one.id: one for one in score(llama, requests)}
    for request in (requests[3], requests[-1]):
        (alone,) = score(llama, [request])
        assert alone.sums == pytest.approx(expected[request.id].sums, abs=1e-5)
    assert [one.id for one in score(llama, requests[::-1])] == [request.id for request in requests[::-1]]


TREES = st.lists(
    st.tuples(
        st.lists(st.sampled_from([5, 6]), min_size=1, max_size=4).map(tuple),
        st.lists(st.lists(st.sampled_from([5, 6]), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=5,
)


@given(TREES)
def test_padded_scoring_feeds_no_text_twice_and_asks_for_every_token_once(tree):
    requests = [ScoreRequest(str(i), prompt, tuple(options)) for i, (prompt, options) in enumerate(tree)]
    sequences = texts_to_read(requests)
    fed = [sequence.ids for sequence in sequences]
    assert not any(a == b[: len(a)] for i, a in enumerate(fed) for j, b in enumerate(fed) if i != j)
    asked = sorted((place, s.ids[: position + 1], token) for s in sequences for position, token, place in s.wanted)
    expected = [
        (request.prompt_ids + option[:k], token)
        for request in requests
        for option in request.option_ids
        for k, token in enumerate(option)
    ]
    assert [(text, token) for _, text, token in asked] == expected
    assert [place for place, _, _ in asked] == list(range(len(expected)))


@settings(max_examples=20, deadline=None)
@given(tree=TREES)
def test_random_trees_score_as_one_by_one(llama, tree):
    requests = [ScoreRequest(str(i), prompt, tuple(options)) for i, (prompt, options) in enumerate(tree)]
    assert_same(score(llama, requests), llama, requests)


def test_single_token_options_cost_their_prompt_and_nothing_else(llama):
    costs: list[ScoringCost] = []
    requests = [ScoreRequest("a", (5, 6, 7, 8), ((9,), (10,), (11,))), ScoreRequest("b", (5, 6), ((7,),))]
    score(llama, requests, report=costs.append)
    # "b" is read off "a", whose beginning it is.
    assert costs == [
        ScoringCost(
            engine="trees",
            requests=2,
            options=4,
            tokens=4,
            positions=2,
            row_per_option_tokens=3 * 4 + 2,
            floor_tokens=4,
        )
    ]
    assert "3.5x fewer" in str(costs[0])


def test_a_soft_prompt_stands_before_every_prompt():
    lm = add_soft_prompt(tiny("llama"), num_tokens=3)
    requests = requests_like(3, number=4)
    found = score(lm, requests)
    assert_same(found, lm, requests)
    without = score(dataclasses.replace(lm, prefix_ids=()), requests)
    assert np.abs(np.subtract(found[0].sums, without[0].sums)).mean() > 0.1


@pytest.mark.parametrize("architecture", ["gemma2", "granite"])
def test_a_model_that_does_more_than_body_and_head_is_scored_whole(architecture, caplog):
    readout(tiny(architecture).model, tuple(range(2, 20)))
    assert "body and head alone give other logits" in caplog.text
    caplog.clear()
    readout(tiny("llama").model, tuple(range(2, 20)))
    assert not caplog.text


def test_bad_requests_are_reported_together(llama):
    long = tuple([5] * 96)
    bad = [
        ScoreRequest("twice", (5,), ((6,),)),
        ScoreRequest("twice", (5,), ((6,),)),
        ScoreRequest("empty option", (5,), ((6,), ())),
        ScoreRequest("empty prompt", (), ((6,),)),
        ScoreRequest("no option", (5,), ()),
        ScoreRequest("too long", long, ((6, 7),)),
        # The last token is predicted, not fed, so these 97 tokens fit.
        ScoreRequest("just fits", long, ((6,),)),
    ]
    with pytest.raises(ModelError) as error:
        score(llama, bad)
    assert [problem.where for problem in error.value.problems] == [
        "twice", "empty option", "empty prompt", "no option", "too long"
    ]  # fmt: skip
    assert len(score(llama, bad[-1:])[0].logprobs) == 1


def test_tokens_the_model_does_not_know_are_refused_and_not_given_a_number(llama):
    # A tokenizer with tokens added, whose model's embedding was not resized.
    words = llama.model.config.vocab_size
    last = ScoreRequest("only predicted", (5, 6), ((7,), (words,)))
    read = ScoreRequest("read", (5, words + 1), ((7,),))
    with pytest.raises(ModelError) as error:
        score(llama, [last, read, ScoreRequest("known", (5,), ((words - 1,),))])
    assert [str(problem) for problem in error.value.problems] == [
        f"{request}: the tokenizer gives id {largest}, the model knows {words} tokens"
        for request, largest in (("only predicted", words), ("read", words + 1))
    ]
    prompted = add_soft_prompt(tiny("llama"), num_tokens=2)
    with pytest.raises(ModelError, match=f"gives id {words}"):  # an id of the soft prompt, which it does know
        score(prompted, [ScoreRequest("vector", (5, words), ((7,),))])


def test_no_requests_no_work(llama):
    assert score(llama, []) == []


def test_a_value_that_is_not_finite_is_an_error_and_loses_nothing_else(tmp_path):
    lm = tiny("llama")
    good, bad = ScoreRequest("good", (5, 6), ((8,), (9,))), ScoreRequest("bad", (5, 6, 7), ((8,), (9,)))
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[7] = 0
        lm.model.get_input_embeddings().weight[7] = float("nan")
    with pytest.raises(ModelError, match=r"bad: .*not finite"):
        score(lm, [good, bad], chunk_requests=1, store=tmp_path)
    # The other chunk and the finding itself are kept: to ask again costs nothing.
    costs: list[ScoringCost] = []
    found = score(lm, [good, bad], chunk_requests=1, store=tmp_path, skip=True, report=costs.append)
    assert costs[-1].stored == 2
    assert found[0].logprobs and not found[0].problem
    assert not found[1].logprobs and "not finite" in found[1].problem


def test_bad_requests_can_be_skipped_and_are_named(llama):
    requests = [
        ScoreRequest("long", (5,) * 97, ((6,),)),
        ScoreRequest("good", (5,), ((6,), (7,))),
        ScoreRequest("empty", (), ((6,),)),
    ]
    long, good, empty = score(llama, requests, skip=True)
    assert (long.id, good.id, empty.id) == ("long", "good", "empty")
    assert "97 tokens" in long.problem and "at least one token" in empty.problem
    assert good == score(llama, requests[1:2])[0]
    with pytest.raises(ModelError, match="two requests"):
        score(llama, [requests[1]] * 2, skip=True)


def test_every_normalisation_comes_of_one_pass():
    options = ("é", "no", "oui oui")
    scores = OptionScores("a", ((-3.0,), (-1.0, -1.5), (-1.0, -1.0, -1.0, -1.0)))
    alone = OptionScores("a", ((-4.0,), (-1.0, -1.0), (-5.0, -1.0, -1.0, -1.0)))
    assert scores.sums == (-3.0, -2.5, -4.0)
    assert scores.per_token == (-3.0, -1.25, -1.0)
    assert scores.per_byte(options) == (-1.5, -1.25, pytest.approx(-4 / 7))
    assert scores.pmi(alone) == (1.0, -0.5, 4.0)
    with pytest.raises(ModelError, match="other options"):
        scores.pmi(OptionScores("b", alone.logprobs))


def test_unconditional_requests_change_nothing_but_what_they_are_for(llama):
    requests = requests_like(5, number=4)
    alone = score(llama, unconditional_requests(requests, (0,)))
    given = score(llama, requests)
    for one, request, without in zip(given, requests, alone, strict=True):
        expected = naive(llama, ScoreRequest("", (0,), request.option_ids))
        assert without.sums == pytest.approx([sum(tokens) for tokens in expected], abs=1e-4)
        assert one.pmi(without) == pytest.approx(np.subtract(one.sums, without.sums))


def test_ties_and_close_decisions_are_counted(llama):
    lm = tiny("llama")
    with torch.no_grad():
        head = lm.model.get_output_embeddings().weight
        head[11] = head[10]
        head[12] = head[10] * (1 + 5e-5)
    costs: list[ScoringCost] = []
    requests = [
        ScoreRequest("tie", (5, 6), ((10,), (11,))),
        ScoreRequest("close", (5, 6), ((10,), (12,))),
        ScoreRequest("twice the same", (5, 6), ((10,), (10,))),
        ScoreRequest("far", (5, 6), ((10,), (20,))),
    ]
    score(lm, requests, report=costs.append)
    assert (costs[-1].ties, costs[-1].close) == (1, 1)


def test_strict_is_torchs_own_products_and_onednn_is_close(llama, monkeypatch):
    monkeypatch.setattr(gemm, "onednn_is_faster", lambda: True)
    products: list[int] = []
    plain = gemm._is_plain
    monkeypatch.setattr(gemm, "_is_plain", lambda *parts: products.append(1) or plain(*parts))
    requests = requests_like(6)
    costs: list[ScoringCost] = []
    strict = score(llama, requests, strict=True, report=costs.append)
    assert costs[-1].engine == "trees" and not products
    faster = score(llama, requests, report=costs.append)
    assert costs[-1].engine == "trees with oneDNN" and len(products) > 20
    for one, other in zip(faster, strict, strict=True):
        assert one.sums == pytest.approx(other.sums, abs=1e-4)


@pytest.mark.parametrize("kept_bytes", [0, 5_000, 1 << 28])
def test_scores_do_not_depend_on_what_is_kept(llama, kept_bytes):
    requests = requests_like(1, number=30)
    for one, other in zip(
        score(llama, requests, kept_bytes=kept_bytes, batch_tokens=60), score(llama, requests), strict=True
    ):
        for logprobs, wanted in zip(one.logprobs, other.logprobs, strict=True):
            assert logprobs == pytest.approx(wanted, abs=1e-5)


def test_scoring_leaves_the_model_as_it_was():
    lm = tiny("llama")
    lm.model.train()
    score(lm, requests_like(4, number=2))
    assert lm.model.training
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_a_model_is_checked_once_in_each_precision_and_let_go_of(monkeypatch):
    checked: list[str] = []
    check = tree.set_up_tree

    def counted(lm, model):
        checked.append(str(lm.dtype))
        return check(lm, model)

    monkeypatch.setattr(tree, "set_up_tree", counted)
    lm, requests = tiny("llama"), requests_like(0, number=3)
    first = score(lm, requests)
    assert score(lm, requests) == first and checked == ["torch.float32"]
    lm.model.to(torch.float64)
    assert_same(score(lm, requests), lm, requests)
    assert checked == ["torch.float32", "torch.float64"]
    gone = weakref.ref(lm.model)
    del lm
    gc.collect()
    assert gone() is None


def test_half_precision_models_are_scored_in_float32():
    lm = tiny("llama")
    lm.model.to(torch.bfloat16)
    (one,) = score(lm, [ScoreRequest("a", (5, 6, 7), tuple((token,) for token in range(2, 250)))])
    # bfloat16 has 8 bits: as many options would share a few dozen values.
    assert len(set(one.sums)) > 200

"""One boundary for tuning and scoring: nothing lost, never empty, the same point for every option."""

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openflan.encoding import split, split_many
from openflan.encoding.boundary import WHITESPACE, added_prefix, without_transformers
from tests.models.tiny import BOS, EOS, bpe

PLAIN = bpe()
MERGING = bpe("positive", "\n\n", ": C", " the", "a b", "ab", add_bos=True)
BARE = bpe("positive", " a", add_bos=False)
texts = st.text(alphabet="ab :C\n positve\u00e9\u4e2d", max_size=12)
tokenizers = st.sampled_from([PLAIN, MERGING, BARE])


@given(tokenizers, texts, st.lists(texts.filter(bool), min_size=1, max_size=4))
def test_nothing_is_lost_and_nothing_is_empty(tokenizer: Any, prompt: str, options: list[str]) -> None:
    found = split(tokenizer, prompt, options)
    assert all(found.continuation_ids)
    assert found.prompt_ids
    for option, ids in zip(options, found.continuation_ids, strict=True):
        whole = tokenizer.decode(found.prompt_ids + ids).removeprefix("<s>")
        assert whole == prompt + option


@given(tokenizers, texts, st.lists(texts.filter(bool), min_size=1, max_size=4))
def test_every_option_is_split_at_the_same_point(tokenizer: Any, prompt: str, options: list[str]) -> None:
    together = split(tokenizer, prompt, options)
    for option, ids in zip(options, together.continuation_ids, strict=True):
        alone = split(tokenizer, prompt, [option])
        assert len(alone.prompt_ids) >= len(together.prompt_ids)
        joint = together.prompt_ids + ids
        assert joint == alone.prompt_ids + alone.continuation_ids[0]


def test_a_token_over_the_join_backs_the_split_up_where_slicing_would_leave_nothing() -> None:
    whole, prompt = MERGING("positive").input_ids, MERGING("posit").input_ids
    assert whole[len(prompt) :] == []  # what slicing at the prompt's length gives
    found = split(MERGING, "posit", ["ive", "ion"])
    assert found.merged
    assert found.prompt_ids == (BOS,)
    assert [MERGING.decode(ids) for ids in found.continuation_ids] == ["positive", "position"]
    assert not split(MERGING, "posit", ["or"]).merged


def test_trailing_spaces_move_and_line_breaks_move_on_request() -> None:
    assert PLAIN.decode(split(PLAIN, "is:  ", ["yes"]).continuation_ids[0]) == "  yes"
    assert PLAIN.decode(split(PLAIN, "is:\n", ["yes"]).continuation_ids[0]) == "yes"
    assert PLAIN.decode(split(PLAIN, "is: \n", ["yes"], moved=WHITESPACE).continuation_ids[0]) == " \nyes"


@pytest.mark.parametrize(("prompt", "starts"), [("Hi", 1), ("<s>Hi", 1), ("", 1)])
def test_exactly_one_bos_where_the_tokenizer_adds_one(prompt: str, starts: int) -> None:
    found = split(PLAIN, prompt, ["yes"])
    assert (*found.prompt_ids, *found.continuation_ids[0]).count(BOS) == starts
    assert found.prompt_ids[0] == BOS


def test_no_bos_where_the_tokenizer_adds_none_or_the_format_forbids_it() -> None:
    assert BOS not in split(BARE, "Hi", ["yes"]).prompt_ids
    assert BOS not in split(PLAIN, "Hi", ["yes"], bos="never").prompt_ids


def test_eos_that_the_tokenizer_appends_never_ends_a_prompt() -> None:
    closing = bpe(add_eos=True)
    assert added_prefix(closing) == (BOS,)
    found = split(closing, "Hi", ["yes"])
    assert EOS not in found.prompt_ids + found.continuation_ids[0]


@pytest.mark.parametrize("tokenizer", [PLAIN, BARE])
def test_between_two_empty_texts_there_is_no_token(tokenizer: Any) -> None:
    with_one = split(tokenizer, "", ["yes"])
    assert split(tokenizer, "", ["yes", ""]).continuation_ids == (*with_one.continuation_ids, ())
    assert split(tokenizer, "", [""]).continuation_ids == ((),)


def test_an_earlier_call_with_truncation_does_not_cut_ours() -> None:
    tokenizer = bpe()
    tokenizer("a long text", truncation=True, max_length=4)
    assert len(split(tokenizer, "a long text", ["yes"]).prompt_ids) == 12


def test_many_are_split_as_one_by_one() -> None:
    items = [("posit", ["ive", "ion"]), ("Hi ", ["a b"]), ("", ["x"]), ("posit", [])]
    assert split_many(MERGING, items) == [split(MERGING, prompt, options) for prompt, options in items]


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("prompt", ["Is it so? ", "Is it so?\n", "Answer:", "a\n\nb c"])
@pytest.mark.parametrize("option", [" yes", "no", "the cat"])
def test_equal_to_lm_eval_where_no_token_spans_the_join(prompt: str, option: str) -> None:
    model = pytest.importorskip("lm_eval.api.model")
    harness = SimpleNamespace(backend="causal", tok_encode=lambda text: PLAIN(text).input_ids)
    context, continuation = model.TemplateLM._encode_pair(harness, prompt, option)
    found = split(PLAIN, prompt, [option], moved=WHITESPACE)
    assert (list(found.prompt_ids), list(found.continuation_ids[0])) == (context, continuation)


@given(tokenizers, texts, st.lists(texts.filter(bool), min_size=1, max_size=4))
def test_without_transformers_the_ids_are_the_same_also_in_another_process(
    tokenizer: Any, prompt: str, options: list[str]
) -> None:
    sent = pickle.loads(pickle.dumps(without_transformers(tokenizer)))
    assert split(sent, prompt, options) == split(tokenizer, prompt, options)
    assert (sent.bos_token_id, sent.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_tokenizer_set_to_truncate_stays_whole() -> None:
    truncating = bpe()
    truncating.backend_tokenizer.enable_truncation(3)
    assert without_transformers(truncating) is truncating
    slow = SimpleNamespace(bos_token_id=0, eos_token_id=1)
    assert without_transformers(slow) is slow  # pyright: ignore[reportArgumentType]

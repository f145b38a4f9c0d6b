"""Parts encoded apart have the ids of the whole, wherever a text may be cut."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from openflan.encoding import split
from openflan.encoding.boundary import plain_ids
from openflan.encoding.cut import PATTERNS, can_be_cut, last_place
from tests.models.tiny import bpe

TEXT = "Is it so? it isn't a set of 12 tea cups,  said the seaside\n\ntester's aunt. It's 2024 now; \t no, not yet "
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def trained(pre_tokenizer: Any, *, added: AddedToken | None = None) -> PreTrainedTokenizerFast:
    """A BPE of words, spaces and line breaks that are merged as far as the pre-tokenizer lets them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT, TEXT.upper(), "a\n\n\nb    c é 中文 éa"] * 5, trainer)
    if added is not None:
        tokenizer.add_tokens([added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def isolated(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


KNOWN = [
    trained(WORDS),
    trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS])),
    *(trained(pre_tokenizers.Sequence([isolated(pattern), BYTES])) for pattern in sorted(PATTERNS)),
    trained(WORDS, added=AddedToken("tea", normalized=False)),
]
texts = st.text(alphabet="aste A12'.\n\t\u00e9\u4e2d", max_size=20)


@given(st.sampled_from(KNOWN), texts, st.lists(texts.filter(bool), min_size=1, max_size=2))
def test_cut_texts_have_the_ids_of_whole_ones(tokenizer: Any, prompt: str, continuations: list[str]) -> None:
    cut = last_place(prompt)
    for text in (prompt, *(prompt + continuation for continuation in continuations)):
        whole, head, tail = plain_ids(tokenizer, [text, text[:cut], text[cut:]])
        assert head + tail == whole


@given(st.sampled_from(KNOWN), texts, st.lists(texts.filter(bool), min_size=1, max_size=2))
def test_a_boundary_is_the_same_with_and_without_cuts(tokenizer: Any, prompt: str, continuations: list[str]) -> None:
    prompt = "a b" + prompt
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    whole.backend_tokenizer.normalizer = normalizers.Replace("never there", "x")
    assert can_be_cut(tokenizer)
    try:
        assert not can_be_cut(whole)
        found = split(whole, prompt, continuations)
    finally:
        whole.backend_tokenizer.normalizer = None
    assert split(tokenizer, prompt, continuations) == found


def test_there_are_texts_that_are_cut() -> None:
    assert last_place(TEXT) == len(TEXT.rstrip()) - len(" yet")
    assert (last_place(""), last_place(" a"), last_place("a1 b"), last_place("a  b")) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        BYTES,
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Sequence([isolated(r"\w+ \w+"), BYTES]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(min(PATTERNS)), "removed"), BYTES]),
        pre_tokenizers.Sequence([isolated(min(PATTERNS)), WORDS]),
        pre_tokenizers.Sequence([BYTES, WORDS]),
    ],
)
def test_others_are_not_cut(pre_tokenizer: Any) -> None:
    assert not can_be_cut(trained(pre_tokenizer))


def test_added_tokens_that_take_spaces_forbid_it() -> None:
    for added in (AddedToken("tea", lstrip=True), AddedToken("a set"), AddedToken("tea", single_word=True)):
        assert not can_be_cut(trained(WORDS, added=added))
    assert not can_be_cut(bpe())

"""Tokens laid on text: every start that is told is the true one, whichever way a server writes tokens."""

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openflan.encoding.boundary import split
from openflan.models.load import load_tokenizer
from openflan.scoring.echo import Echo, lay, shared_border

from .conftest import byte_tokenizer

TEXTS = st.text(st.sampled_from("ab .\n:é你😀▁ĠÂ"), min_size=1, max_size=12)
WRITINGS = ("replaced", "ignored", "hexadecimal", "byte")


@st.composite
def tokenized(draw):
    """A text as UTF-8 in pieces, cut anywhere, with the character each piece truly begins at (None: within one)."""
    text = draw(TEXTS)
    data = text.encode()
    cuts = draw(st.sets(st.integers(1, len(data) - 1))) if len(data) > 1 else set()
    edges = [0, *sorted(cuts), len(data)]
    at = {len(text[:i].encode()): i for i in range(len(text) + 1)}
    return text, [data[a:b] for a, b in itertools.pairwise(edges)], [at.get(edge) for edge in edges[:-1]]


def mixed(piece: bytes) -> bool:
    """Whether it holds whole characters and parts of others."""
    whole = piece.decode(errors="ignore")
    return bool(whole) and whole.encode() != piece


def written(piece: bytes, way: str) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        if way == "ignored":
            return piece.decode(errors="ignore")
        if way == "hexadecimal" and len(piece) == 1:
            return f"<0x{piece[0]:02X}>"
        if way == "byte":
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
        return piece.decode(errors="replace")


@given(tokenized(), st.sampled_from(WRITINGS), st.sampled_from([[], ["<s>"], [""], ["<|x|>", "<s>"]]))
def test_every_start_that_is_told_is_true(made, way, special):
    text, pieces, true = made
    # A token that loses part of itself without a trace looks whole: nobody could tell.
    assume(way != "ignored" or not any(mixed(piece) for piece in pieces))
    tokens = [*special, *(written(piece, way) for piece in pieces)]
    starts = lay(text, tokens)
    if starts is None:
        assert None in true  # only parts of split characters may be past telling
        return
    if None not in true:
        assert [start for start in starts if start is not None] == true
    for start, truth in zip(starts[len(special) :], true, strict=True):
        assert start is None or start == truth


def test_spellings_of_vocabularies():
    assert lay("yes, no", ["<s>", "yes", ",", " no"]) == (None, 0, 3, 4)
    assert lay("yes, no", ["▁yes", ",", "▁no"]) == (0, 3, 4)
    assert lay("yes, no", ["<s>", "▁", "yes", ",", "▁no"]) == (None, None, 0, 3, 4)
    assert lay("yes\n no", ["yes", "Ċ", "Ġno"]) == (0, 3, 4)
    assert lay("Q:\nyes", ["<s>", "▁Q", ":", "<0x0A>", "yes"]) == (None, 0, 1, 2, 3)
    assert lay("a 😀 b", ["a", " \ufffd", "\ufffd", "\ufffd", " b"]) == (0, 1, None, None, 3)
    assert lay("a é b", ["a", " ", "", "é", " b"]) == (0, 1, 2, None, 3)
    assert lay("aé你b", ["a", *["\ufffd"] * 5, "b"]) == (0, 1, None, 2, None, None, 3)
    assert lay("aé你b", ["a", *["\ufffd"] * 4, "b"]) == (0, 1, None, None, None, 3)
    assert lay("a \ufffd b", ["a", " ", "\ufffd", " b"]) == (0, 1, 2, 3)


def test_a_vocabulary_without_capitals_or_spaces():
    assert lay("Is it?\n Yes", ["<eos>", "is", "it", "?", "\n", "yes"]) == (None, 0, 2, 5, 6, 7)
    assert lay("Is it?\n Yes", ["<eos>", "is", "it", "?", "<unk>", "yes"]) is None
    assert lay("It is.  Is  it?", ["<s>", "▁It", "▁is", ".", "▁Is", "▁it", "?"]) == (None, 0, 2, 5, 6, 10, 14)


def test_a_first_token_that_is_not_told_is_measured_by_the_others():
    assert lay("yes, no", [None, "yes", ",", " no"]) == (None, 0, 3, 4)
    assert lay("yes, no", [None, ",", " no"]) == (0, 3, 4)


@pytest.mark.parametrize(
    "tokens",
    [["yes"], ["yes", ",", " no", " more"], [",", " no"], ["YES", ",", " NO"], ["no", ",", " yes"], []],
    ids=["cut", "longer", "beginning lost", "capitals", "another order", "nothing"],
)
def test_tokens_that_are_not_the_text_are_refused(tokens):
    assert lay("yes, no", tokens) is None


# The border


def echo(text: str, tokens: list[str]) -> Echo:
    starts = lay(text, tokens)
    assert starts is not None
    return Echo(tuple(tokens), (None, *[-1.0] * (len(tokens) - 1)), starts)


def test_the_border_is_the_join_where_no_token_spans_it():
    echoes = [echo("Q: yes", ["<s>", "Q", ":", " yes"]), echo("Q: no", ["<s>", "Q", ":", " no"])]
    assert shared_border(echoes, len("Q:")) == 3


def test_a_token_over_the_join_takes_all_options_back_with_it():
    echoes = [echo("is positive", ["<s>", "is", " positive"]), echo("is posit", ["<s>", "is", " posit"])]
    assert shared_border(echoes, len("is posit")) == 2


def test_without_a_token_in_front_there_is_no_border():
    assert shared_border([echo("yes", ["yes"]), echo("no", ["no"])], 0) is None
    assert shared_border([echo("yes", ["<s>", "yes"]), echo("no", ["<s>", "no"])], 0) == 1


def test_an_option_that_is_another_ones_beginning_keeps_a_token():
    echoes = [echo("Q yes", ["Q", " yes"]), echo("Q yes no", ["Q", " yes", " no"])]
    assert shared_border(echoes, 1) == 1


TOKENIZERS = {
    "words": byte_tokenizer("positive", "posit", ": ", ":\n", "\n\n", "b:"),
    "world": load_tokenizer("world:small-early"),
}
PARTS = {
    "words": st.text(st.sampled_from("ab :\npositve"), min_size=1, max_size=10),
    "world": st.lists(st.sampled_from([" The", " key", " in", ":", "\n", " no", "?", " "]), min_size=1).map("".join),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None)
@given(data=st.data())
def test_the_border_is_the_local_scorers(name, data):
    tokenizer = TOKENIZERS[name]
    prompt, options = "a" + data.draw(PARTS[name]), data.draw(st.lists(PARTS[name], min_size=1, max_size=4))
    assume(all(option.strip(" ") for option in options))  # the world's tokenizer reads nothing there
    boundary = split(tokenizer, prompt, options)
    ids = [tokenizer(prompt + option).input_ids for option in options]
    pieces = [[tokenizer.decode([one]) for one in some] for some in ids]
    assume(not any("<unk>" in some for some in pieces))
    echoes = [echo(prompt + option, some) for option, some in zip(options, pieces, strict=True)]
    border = shared_border(echoes, len(prompt.rstrip(" ")))
    alone = tuple(tokenizer(prompt.rstrip(" ")).input_ids)
    if border is None:
        assert len(boundary.prompt_ids) == 1  # no token is shared, and an endpoint has no BOS to put there
    elif tuple(ids[0][:border]) == alone[:border]:
        assert border == len(boundary.prompt_ids)
    else:
        # Alone, the prompt is read in other tokens, which an endpoint's echo of the whole does not show.
        assert border > len(boundary.prompt_ids)

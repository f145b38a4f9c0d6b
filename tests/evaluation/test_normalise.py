"""Answer normalisation against the benchmark's own rule, written out literally."""

import collections
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openflan.evaluation import normalise

WORDS = st.lists(
    st.sampled_from(["the", "a", "An", "Cat", "cat", "dog.", "U.S.", "3,000", "«né»", "_x", ""]), max_size=6
)
TEXTS = WORDS.map(" ".join) | st.text(max_size=20)


def squad_normalise(s):
    """The SQuAD 2.0 evaluation script's `normalize_answer`, step by step."""

    def remove_articles(text):
        return re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def squad_f1(a_gold, a_pred):
    """The SQuAD 2.0 evaluation script's `compute_f1`."""
    gold_toks = squad_normalise(a_gold).split() if a_gold else []
    pred_toks = squad_normalise(a_pred).split() if a_pred else []
    common = collections.Counter(gold_toks) & collections.Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


def trivia_normalise(text):
    """T5's `normalize_trivia_qa`, step by step."""
    to_replace = set(string.punctuation + "‘’´`_")
    text = "".join(" " if ch in to_replace else ch for ch in text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split()).strip()


@given(TEXTS)
def test_normalisation_equals_the_scripts(text):
    assert normalise.squad(text) == squad_normalise(text)
    assert normalise.trivia(text) == trivia_normalise(text)


@given(TEXTS, TEXTS)
def test_f1_and_exact_match_equal_the_squad_script(prediction, reference):
    assert normalise.token_f1(prediction, reference, normalise.squad) == pytest.approx(squad_f1(reference, prediction))
    expected = int(squad_normalise(reference) == squad_normalise(prediction))
    assert normalise.exact(prediction, reference, normalise.squad) == expected


def test_the_two_rules_differ_where_they_should():
    assert normalise.squad("Rock-and-roll") == "rockandroll"
    assert normalise.trivia("Rock-and-roll") == "rock and roll"
    assert normalise.trivia("‘snake_case’") == "snake case"
    assert normalise.squad("‘snake_case’") == "‘snakecase’"

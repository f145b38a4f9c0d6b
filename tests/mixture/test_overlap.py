"""Tuning rows that repeat evaluated text are found whatever stands around it, and others are not."""

import random
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openflan.ledger import Ledger
from openflan.mixture.ngrams import HashSet, ngrams, whole_texts, words_of
from openflan.mixture.overlap import RUN_WORDS, SHORTEST_TEXT, EvaluatedText, without_overlap
from openflan.rendering.render import ReadRow

WORDS = [f"w{i}" for i in range(40)]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), max_size=12)


def rows(texts: Sequence[str]) -> list[ReadRow]:
    return [ReadRow(f"train/{i}", {"text": text}, {}, (), (), (), "") for i, text in enumerate(texts)]


def by_hand(text: str) -> set[tuple[str, ...]]:
    """The runs by which a text is compared, word by word."""
    words = re.findall(r"\w+", text.lower())
    if len(words) < RUN_WORDS:
        return {tuple(words)} if len(words) >= SHORTEST_TEXT else set()
    return {tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)}


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_the_vectorised_rule_is_the_rule(evaluated: list[str], tuning: list[str]) -> None:
    seen = {run for text in evaluated for run in by_hand(text)}
    expected = {i for i, text in enumerate(tuning) if by_hand(text) & seen}
    assert set(EvaluatedText({"rte": [rows(evaluated)]}).overlap(rows(tuning))) == expected


def test_planted_overlaps_are_all_found_and_named() -> None:
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(5_000)]

    def text(length: int) -> str:
        return " ".join(rng.choice(vocabulary) for _ in range(length))

    held_out = {name: [rows([text(60) for _ in range(50)])] for name in ("cb", "rte")}
    tuning = [text(80) for _ in range(400)]
    planted: dict[int, str] = {}
    for place in range(0, 400, 16):
        task = "cb" if place % 32 else "rte"
        words = str(held_out[task][0][place % 50].columns["text"]).split()
        start = rng.randrange(len(words) - RUN_WORDS)
        run = " ".join(words[start : start + RUN_WORDS]).upper().replace(" ", ", ", 1)
        tuning[place] = f"{text(30)} {run}! {text(20)}"
        planted[place] = task
    assert EvaluatedText(held_out).overlap(rows(tuning)) == planted
    one_short = [re.sub(r"\S+$", "", " ".join(str(held_out["rte"][0][3].columns["text"]).split()[:RUN_WORDS]))]
    assert EvaluatedText(held_out).overlap(rows(one_short)) == {}


def test_runs_do_not_cross_columns_or_texts() -> None:
    half = "one two three four five six seven"
    split = ReadRow("train/0", {"a": half, "b": half}, {}, (), (), (), "")
    assert EvaluatedText({"rte": [rows([f"{half} {half}"])]}).overlap([split]) == {}


def test_lists_of_texts_are_compared_and_drops_are_counted() -> None:
    long_text = "Once upon a time there was a king who had three daughters and one of them sang."
    row = ReadRow("train/0", {"choices": ["no", long_text], "label": 1}, {}, (), (), (), "")
    ledger = Ledger()
    kept = without_overlap("copa", [row, *rows(["short"])], EvaluatedText({"rte": [rows([long_text])]}), ledger)
    assert [one.id for one in kept] == ["train/0"] and kept[0].columns == {"text": "short"}
    assert ledger.dropped == {("overlap", "copa", "repeats text that rte evaluates"): 1}
    assert ledger.kept["overlap", "copa"] == 1


LONG = "Once upon a time there was a king who had three daughters and one of them sang."
SHORT = ReadRow("train/1", {"text": "short"}, {}, ("no", "yes"), (0,), (), "")


@pytest.mark.parametrize(
    "row",
    [
        ReadRow("train/0", {"text": ""}, {}, (), (), (LONG,), ""),
        ReadRow("train/0", {"text": ""}, {}, ("no", LONG), (0,), (), ""),
        ReadRow("train/0", {"passages": [[LONG]]}, {}, (), (), (), ""),
        ReadRow("train/0", {"passages": [{"text": LONG}]}, {}, (), (), (), ""),
    ],
    ids=["target", "option", "list in a list", "mapping"],
)
def test_no_place_in_a_row_hides_a_text(row: ReadRow) -> None:
    assert EvaluatedText({"rte": [rows([LONG])]}).overlap([row, SHORT]) == {0: "rte"}
    assert EvaluatedText({"rte": [[row, SHORT]]}).overlap(rows(["", LONG])) == {1: "rte"}


def test_the_words_of_a_task_are_not_text_of_its_rows() -> None:
    labels = ("It can not be said from what is told here.", "no")
    asked = [ReadRow(f"train/{i}", {"text": text}, {}, labels, (i,), (), "") for i, text in enumerate(("a", "b"))]
    assert EvaluatedText({"rte": [asked]}).overlap(asked) == {}


def test_the_options_of_every_row_are_compared_where_not_all_have_the_same() -> None:
    few, long = ("no", "yes"), ("no", LONG)
    text = EvaluatedText({"copa": [rows([LONG])]})
    for options, found in (((few, few, long, few), [2]), ((long, long, few, long), [0, 1, 3])):
        asked = [ReadRow(f"train/{i}", {"text": "short"}, {}, own, (0,), (), "") for i, own in enumerate(options)]
        assert text.overlap(asked) == dict.fromkeys(found, "copa")
        assert EvaluatedText({"copa": [asked]}).overlap(rows(["", LONG])) == {1: "copa"}


def test_writing_without_spaces_and_other_spellings_are_compared() -> None:
    chinese = "从前有一个国王他有三个女儿其中一个会唱歌"
    accents = "É uma canção que não começa nem acaba, à noite, além das três ilhas."
    spelled = unicodedata.normalize("NFD", accents)
    assert spelled != accents
    text = EvaluatedText({"xnli": [rows([chinese, accents])]})
    assert text.overlap(rows([f"他说:{chinese}。", spelled, "从前有一个国王"])) == {0: "xnli", 1: "xnli"}


def test_runs_of_different_length_never_meet() -> None:
    words = words_of(["a b c d e f g h i j k l m n"])
    shorter, longer = ngrams(words, 8)[0], ngrams(words, 13)[0]
    assert not set(shorter.tolist()) & set(longer.tolist())
    assert len(shorter) == 7 and len(longer) == 2
    assert len(whole_texts(words, shortest=8, longest=12)[0]) == 0


@given(st.sets(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_a_hash_set_finds_what_is_in_it(members: set[int], asked: list[int]) -> None:
    values = np.array(sorted(members), np.uint64)
    question = np.array([*asked, *sorted(members)], np.uint64)
    found, owners = SMALL([values], [np.arange(len(values))]).find(question)
    assert found.tolist() == [i for i, value in enumerate(question.tolist()) if value in members]
    assert [sorted(members)[owner] for owner in owners] == question[found].tolist()


class SMALL(HashSet):
    """The set itself, with a table that is quick to make."""

    FILTER_BITS = 10


def test_the_decision_for_stored_rows_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.rendering.test_store import stored

    monkeypatch.setenv("OPENFLAN_CACHE", str(tmp_path / "cache"))
    long_text = "Once upon a time there was a king who had three daughters and one of them sang."
    tuning = stored(tmp_path / "tuning", ["short", long_text, "another one"])
    evaluated = stored(tmp_path / "evaluated", [long_text])
    first = EvaluatedText({"rte": [evaluated]})
    assert first.overlap(tuning) == {1: "rte"}
    monkeypatch.setattr(EvaluatedText, "_build", lambda self: pytest.fail("decided anew"))
    assert EvaluatedText({"rte": [evaluated]}).overlap(tuning) == {1: "rte"}
    kept = without_overlap("copa", tuning, EvaluatedText({"rte": [evaluated]}), Ledger())
    assert [row.columns["premise"] for row in kept] == ["short", "another one"]

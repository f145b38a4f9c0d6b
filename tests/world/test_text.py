"""The pretraining text: what its documents are, and what they never hold."""

import itertools
import random
from collections import Counter

import pytest

from openflan.world.text import DOCUMENT_SEPARATOR, NONSENSE, STAGES, Patterns, Stage, document, documents
from openflan.world.tokenizer import tokens


@pytest.mark.parametrize("patterns", ["short", "exercises"])
@pytest.mark.parametrize("stage", STAGES)
def test_documents_fit_the_window_and_mark_answers_inside_the_text(stage: Stage, patterns: Patterns) -> None:
    rng = random.Random(1)
    lengths: list[int] = []
    marked = 0
    for _ in range(1500):
        made = document(rng, stage, patterns=patterns)
        assert not set("\x02\x03{}_") & set(made.text)
        assert "  " not in made.text
        end = 0
        for start, stop in made.answers:
            assert end <= start < stop <= len(made.text)
            assert made.text[start:stop].strip() == made.text[start:stop]
            end = stop
        marked += bool(made.answers)
        lengths.append(len(tokens(made.text)))
    assert sum(length > 255 for length in lengths) < 0.02 * len(lengths)
    assert marked > 0.5 * len(lengths)


def test_the_stream_depends_on_the_generator_alone() -> None:
    first, second = random.Random(5), random.Random(5)
    assert [documents(first, "full") for _ in range(200)] == [documents(second, "full") for _ in range(200)]
    assert documents(first, "full") != documents(second, "early")


def test_without_patterns_no_label_is_made_up() -> None:
    def words(patterns: Patterns) -> set[str]:
        rng = random.Random(6)
        return {word for _ in range(1500) for word in tokens(document(rng, "full", patterns=patterns).text)}

    assert set(NONSENSE) <= words("short")
    assert set(NONSENSE) <= words("exercises")
    assert not set(NONSENSE) & words("none")


def test_joined_documents_keep_their_answer_spans() -> None:
    rng = random.Random(2)
    joined = [text for text in (documents(rng, "full") for _ in range(800)) if DOCUMENT_SEPARATOR in text.text]
    assert joined
    for text in joined:
        answers = [text.text[start:stop] for start, stop in text.answers]
        assert all(answer and DOCUMENT_SEPARATOR not in answer for answer in answers)


def test_yes_and_no_are_balanced_where_verification_is_learned() -> None:
    rng = random.Random(3)
    counts: Counter[str] = Counter()
    for _ in range(3000):
        made = document(rng, "focus")
        counts.update(made.text[start:stop].lower() for start, stop in made.answers)
    for one, other in (("yes", "no"), ("true", "false")):
        assert 0.9 < counts[one] / counts[other] < 1.1


def test_the_bare_question_form_stays_rare() -> None:
    """A question at the end of a line and the answer on the next: at most a sixth of the exchanges."""
    rng = random.Random(4)
    bare = asked = 0
    for _ in range(6000):
        made = document(rng, "full")
        asked += sum("?" in made.text[max(0, start - 60) : start] for start, _ in made.answers)
        bare += sum(made.text[:start].endswith("?\n") for start, _ in made.answers)
    assert asked > 2000
    assert bare < asked / 6


def test_no_option_lists_with_a_question_before_them() -> None:
    rng = random.Random(6)
    for _ in range(4000):
        lines = document(rng, "full").text.split("\n")
        for line, following in itertools.pairwise(lines):
            if line.lower().startswith("options"):
                assert "?" not in line
                assert following.startswith("- ")

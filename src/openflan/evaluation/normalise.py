"""Answer texts brought to a common form before they are compared, as the question-answering benchmarks do it.

Takes answers as text, gives F1 and exact match of two of them. Read next: `metrics.py`.
"""

import re
import string
from collections import Counter
from collections.abc import Callable

ARTICLES = re.compile(r"\b(a|an|the)\b")
TRIVIA_PUNCTUATION = string.punctuation + "‘’´`_"


def squad(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (the SQuAD script's `normalize_answer`).

    >>> squad("The  Eiffel-Tower.")
    'eiffeltower'
    """
    return _normalise(text, string.punctuation, "")


def trivia(text: str) -> str:
    """As `squad`, but punctuation becomes a space, and typographic quotes and underscores count as punctuation.

    >>> trivia("The  Eiffel-Tower.")
    'eiffel tower'
    """
    return _normalise(text, TRIVIA_PUNCTUATION, " ")


def exact(prediction: str, reference: str, normalise: Callable[[str], str]) -> float:
    """1.0 where both are equal once normalised, else 0.0."""
    return float(normalise(prediction) == normalise(reference))


def token_f1(prediction: str, reference: str, normalise: Callable[[str], str]) -> float:
    """F1 of the two bags of words; two empty answers agree (the SQuAD 2.0 script's `compute_f1`)."""
    predicted, gold = normalise(prediction).split(), normalise(reference).split()
    if not predicted or not gold:
        return float(predicted == gold)
    shared = (Counter(predicted) & Counter(gold)).total()
    return 2 * shared / (len(predicted) + len(gold))


def _normalise(text: str, punctuation: str, replacement: str) -> str:
    removed = text.lower().translate({ord(char): replacement for char in punctuation})
    return " ".join(ARTICLES.sub(" ", removed).split())

"""DROP's own comparison of answers: their spans as bags of words, matched one to one, numbers by value.

Takes a prediction and a reference as text, gives F1 and exact match. Source: Dua et al. 2019 section 5 and the
evaluator published with the data, whose rounding of F1 to two digits is kept. Read next: `metrics.py`.

The evaluator is given the spans of an answer apart; here an answer is one text whose spans are parted by ", ", as the
task writes its targets and a model its answers. Of 508 validation rows at hand one has a span with such a comma in it.
"""

import re
import string

import numpy as np
from scipy.optimize import linear_sum_assignment

from openflan.evaluation.normalise import ARTICLES

SPAN_SEPARATOR = ", "

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TOKEN_END = re.compile(" |-")

Bag = frozenset[str]


def f1_and_exact(prediction: str, reference: str) -> tuple[float, float]:
    """F1 and exact match of two answers, each 0..1.

    >>> f1_and_exact("Rice, the oats", "oats, rice"), f1_and_exact("14", "14.0 yards"), f1_and_exact("15 yd", "14 yd")
    ((1.0, 1.0), (0.67, 0.0), (0.0, 0.0))
    """
    predicted, gold = _spans(prediction), _spans(reference)
    exact = float(set(predicted) == set(gold) and len(predicted) == len(gold))
    f1 = _aligned_f1([_bag(span) for span in predicted], [_bag(span) for span in gold])
    return float(np.round(f1, 2)), exact  # numpy's rounding, as the evaluator's: 0.325 goes to 0.32


def normalised(span: str) -> str:
    """Lower case, no articles, numbers in one form, no punctuation elsewhere; hyphens part words.

    >>> normalised("The 3-yard touchdown, 1,000.")
    '3.0 yard touchdown 1000.0'
    """
    words = (" ".join(ARTICLES.sub(" ", _plain(token.lower())).split()) for token in _TOKEN_END.split(span))
    return " ".join(word for word in words if word)


def _spans(answer: str) -> list[str]:
    return [normalised(span) for span in answer.split(SPAN_SEPARATOR)]


def _bag(span: str) -> Bag:
    return frozenset(span.split())


def _plain(token: str) -> str:
    """A number as Python writes it, anything else without punctuation; what is a number only then, too."""
    kept = token if _is_number(token) else token.translate(_PUNCTUATION)
    return str(float(kept)) if _is_number(kept) else kept


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _aligned_f1(predicted: list[Bag], gold: list[Bag]) -> float:
    """The mean F1 of the best one-to-one match of spans; spans without a partner count as 0."""
    scores = np.array([[_f1(one, other) if _numbers_agree(other, one) else 0.0 for one in predicted] for other in gold])
    rows, columns = linear_sum_assignment(-scores)
    matched = np.zeros(max(scores.shape))
    matched[rows] = scores[rows, columns]
    return float(matched.mean())


def _f1(predicted: Bag, gold: Bag) -> float:
    shared = len(predicted & gold)
    precision = shared / len(predicted) if predicted else 1.0
    recall = shared / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _numbers_agree(gold: Bag, predicted: Bag) -> bool:
    numbers = {word for word in gold if _is_number(word)}
    return not numbers or not numbers.isdisjoint(predicted)

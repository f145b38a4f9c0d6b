"""How differently a task's templates ask: the lexical diversity that `openflan catalog check` reports."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from openflan.catalog.task import Task, Template

_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_WORD = re.compile(r"\w+(?:'\w+)?")


@dataclass(frozen=True, slots=True)
class Diversity:
    """Over all pairs of a task's direct templates, how few of their own words they share."""

    mean: float
    """1 minus the mean Jaccard similarity of the pairs' word sets, 0..1; 1 for fewer than two templates."""
    closest: tuple[str, str] | None
    """The ids of the most similar pair."""
    closest_similarity: float


def words(template: Template) -> frozenset[str]:
    """The template's own words, lower case: what it says outside its Jinja fields."""
    return frozenset(_WORD.findall(_JINJA.sub(" ", template.inputs).lower()))


def diversity(task: Task) -> Diversity:
    """The lexical diversity of a task's direct templates."""
    return _diversity([(template.id, words(template)) for template in task.of_kind("direct")])


def _diversity(texts: Sequence[tuple[str, frozenset[str]]]) -> Diversity:
    pairs = [(_similarity(a, b), (first, second)) for (first, a), (second, b) in combinations(texts, 2)]
    if not pairs:
        return Diversity(1.0, None, 0.0)
    similarity, closest = max(pairs, key=lambda pair: pair[0])
    return Diversity(1 - sum(value for value, _ in pairs) / len(pairs), closest, similarity)


def _similarity(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second) if first | second else 1.0

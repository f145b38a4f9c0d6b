"""An invented workload for the tuning benchmark: tokens to tune on, and rows of a task to prepare them from.

Nothing is downloaded, equal seeds give equal values. The models are those of `scoring_workload.py`.
"""

import math
import random

from scoring_workload import KINDS, VOCABULARY, Words, example

from openflan.catalog.task import Task
from openflan.encoding.encode import Encoded
from openflan.sources.read import Row

SPECIAL = 10
"""Ids below are not drawn: special tokens are among them."""
TEMPLATES = {
    "passage_first": "{{ passage }}\n\n{{ question }}?\n\n{{ options_ }}",
    "judge": "{{ passage }}\n\nWith the text above in mind: {{ question }}?\n\n{{ options_ }}\n\nWhich one is right?",
    "then": "Read this.\n\n{{ passage | trimmable }}\n\nNow choose. {{ question }}?\n{{ options_ }}",
    "question_first": "{{ question }}?\n\nThe text: {{ passage }}\n\n{{ options_ }}",
    "numbered": "{{ passage }}\n{{ question }}?\n{% for o in options %}({{ loop.index }}) {{ o }}\n{% endfor %}",
}


def examples(number: int, seed: int, vocabulary: int = VOCABULARY) -> list[Encoded]:
    """Prompts of 20 to 400 tokens (log-normal, median 120) and targets of 1 to 60 (median 7), ids drawn evenly."""
    drawn = random.Random(f"examples {seed}")

    def ids(median: int, spread: float, fewest: int, most: int) -> tuple[int, ...]:
        length = min(most, max(fewest, int(drawn.lognormvariate(math.log(median), spread))))
        return tuple(drawn.randrange(SPECIAL, vocabulary) for _ in range(length))

    return [Encoded("invented", str(i), "one", ids(120, 0.7, 20, 400), ids(7, 0.9, 1, 60)) for i in range(number)]


def invented_task() -> Task:
    """A task of multiple choice with five templates, as a catalog would hold it."""
    return Task.model_validate(
        {
            "name": "invented",
            "title": "Invented",
            "clusters": ["reading_comprehension"],
            "licence": "none",
            "cite": "none",
            "form": "multiple_choice",
            "metrics": ["accuracy"],
            "source": {"obtain": "made here"},
            "columns": {"passage": "passage", "question": "question"},
            "answer": {"options": "options", "gold": "label"},
            "template": [{"id": name, "inputs": text} for name, text in TEMPLATES.items()],
        }
    )


def rows(words: Words, number: int, seed: int) -> list[Row]:
    """Rows of that task; passages and options are as long as in the scoring benchmark."""
    made: list[Row] = []
    kinds = list(KINDS)
    for index in range(number):
        drawn = random.Random(f"rows {seed} {index}")
        passage, question, options = example(words, drawn, kinds[index % len(kinds)])
        label = drawn.randrange(len(options))
        fields = {"passage": passage, "question": question, "options": list(options), "label": label}
        made.append(Row(f"train/{index}", fields))
    return made

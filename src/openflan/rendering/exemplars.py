"""Exemplars: answered rows of the same task, read through the same template, shown before the one that is asked.

Takes a task's rows to choose from, gives examples with exemplars in front. By default the exemplars of a (task,
template) are the same for all rows, so that prompts share their beginning; drawn for every row anew they depend on its
id, never on which other rows are asked, in what order or by how many workers. A row is never among its own exemplars:
not by its id, not as another row with its text, not as another row of its group (a second question about its passage).
Read next: `encoding/encode.py`.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from openflan.catalog.task import Task, Template
from openflan.ledger import Ledger
from openflan.rendering.environment import variables
from openflan.rendering.example import Example
from openflan.rendering.render import ReadRow, Wording, render
from openflan.seeding import generator

Draw = Literal["fixed", "per_item"]
"""`fixed`: one draw for each (task, template, seed). `per_item`: one for each (task, template, row, count, seed), as in
FLAN's code."""

STAGE = "exemplars"
MOST_ROWS = 1_000
"""Rows exemplars are drawn from; a task's rows are read in a shuffled order, so the first ones are a random part."""
MOST_KEPT = 512
"""Rendered candidates of a task kept in memory: all that fixed draws show, a part of what drawing for each row does."""

_WORD = re.compile(r"\w+")

TextKey = tuple[str, ...]


class _Candidate(NamedTuple):
    row: ReadRow
    key: TextKey
    inputs: str
    targets: str


class ExemplarSource:
    """The rows of one task that exemplars may be taken from, and how they are drawn."""

    def __init__(
        self,
        task: Task,
        rows: Sequence[ReadRow],
        *,
        seed: int,
        draw: Draw = "fixed",
        wording: Wording = "instructions",
    ) -> None:
        """`wording`: how exemplars read, which must be how the example that follows them does."""
        self.task, self.seed, self.draw = task, seed, draw
        self._wording: Wording = wording
        self.rows = rows
        self._rows = list(rows)
        self._orders: dict[str, list[int]] = {}
        self._candidates: dict[tuple[str, int], _Candidate] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def before(self, example: Example, row: ReadRow, template: Template, count: int, ledger: Ledger) -> Example | None:
        """`example`, which is `row` read through `template`, with `count` exemplars in front.

        Fewer where there are no more rows, None where there is none; `ledger` counts both, and the examples that one of
        the exemplars drawn would have repeated, in whose place the next one stands.
        """
        own = text_key(self.task, row, template)
        chosen: list[_Candidate] = []
        shown: set[TextKey] = {own}
        repeated = False
        for candidate in self._drawn(row, template, count):
            if candidate.row.id == row.id:
                continue
            if candidate.key == own or candidate.row.group == row.group:
                repeated = True
            elif candidate.key not in shown:
                shown.add(candidate.key)
                chosen.append(candidate)
            if len(chosen) == count:
                break
        if not chosen:
            ledger.drop(STAGE, self.task.name, row.id, "no row to take exemplars from")
            return None
        ledger.keep(STAGE, self.task.name)
        if repeated:
            ledger.shorten(STAGE, self.task.name, row.id, "an exemplar repeats the row, the next one stands in")
        if len(chosen) < count:
            ledger.shorten(STAGE, self.task.name, row.id, f"no more than {len(chosen)} rows to take exemplars from")
        return dataclasses.replace(
            example,
            exemplars=tuple((one.inputs, one.targets) for one in chosen),
            exemplar_rows=tuple(one.row.id for one in chosen),
        )

    def _drawn(self, row: ReadRow, template: Template, count: int) -> Iterator[_Candidate]:
        """All candidates in the order in which they are taken."""
        if self.draw == "per_item":
            order = self._shuffled(template.id, row.id, count)
        else:
            order = self._orders.get(template.id) or self._orders.setdefault(template.id, self._shuffled(template.id))
        for index in order:
            yield self._candidate(index, template)

    def _shuffled(self, *names: str | int) -> list[int]:
        return generator(self.seed, "exemplars", self.task.name, *names).permutation(len(self._rows)).tolist()

    def _candidate(self, index: int, template: Template) -> _Candidate:
        found = self._candidates.get((template.id, index))
        if found is None:
            row = self._rows[index]
            example = render(self.task, row, template, self._wording)
            if len(self._candidates) == MOST_KEPT:
                del self._candidates[next(iter(self._candidates))]
            found = _Candidate(row, text_key(self.task, row, template), example.inputs, example.targets)
            self._candidates[template.id, index] = found
        return found


def text_key(task: Task, row: ReadRow, template: Template) -> TextKey:
    """What a template shows of a row, as words: rows with equal keys ask the same thing.

    Case, punctuation and order play no part, so that two sentences in turn, or permuted choices, are the same row.
    """
    used = [row.columns[name] for name in sorted(variables(template.inputs) & task.columns.keys())]
    texts = [text for value in [*(used or row.columns.values()), list(row.options)] for text in _texts(value)]
    return tuple(sorted(" ".join(_WORD.findall(text.lower())) or text.strip() for text in texts))


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]

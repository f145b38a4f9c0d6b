"""Tuning rows that repeat evaluation text are taken out before the mixture is made.

A row is its columns, nested ones too, its answer, and options of its own. It overlaps if one of these texts has a run
of 13 words in common with one of an evaluated row (the n of GPT-3's and FLAN's contamination checks), or is a text of 8
to 12 words that is one of an evaluated row's too. Shorter texts (a label, a name, a stock phrase) coincide without
being the same row. Case and punctuation play no part.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from openflan.artifacts import cache_folder, fingerprint, read_json, write_json
from openflan.ledger import Ledger
from openflan.mixture.ngrams import Hashes, HashSet, Positions, Words, in_batches, ngrams, whole_texts
from openflan.rendering.render import ReadRow
from openflan.rendering.store import RowStore
from openflan.sources.texts import texts_within

RUN_WORDS = 13
SHORTEST_TEXT = 8

RULE = f"words-{SHORTEST_TEXT}-{RUN_WORDS}-3"
"""Names the rule in the keys of kept decisions."""


class EvaluatedText:
    """The text of all evaluated rows, asked which tuning rows repeat some of it; built when first asked."""

    def __init__(self, rows: Mapping[str, Sequence[Sequence[ReadRow]]]) -> None:
        """`rows`: for each evaluated task, the rows of its splits."""
        self._rows = rows
        self._tasks = sorted(rows)
        self._index: HashSet | None = None
        shas = {task: [part.sha if isinstance(part, RowStore) else None for part in rows[task]] for task in self._tasks}
        self._sha = None if any(None in parts for parts in shas.values()) else fingerprint(shas)

    def overlap(self, rows: Sequence[ReadRow]) -> dict[int, str]:
        """Position of each row that repeats evaluated text, and the evaluated task it repeats.

        The answer for stored rows is kept in the cache folder, named by the contents of both sides.
        """
        if self._sha is None or not isinstance(rows, RowStore):
            return self._overlap(rows)
        file = cache_folder() / "overlap" / f"{fingerprint([RULE, self._sha, rows.sha])}.json"
        if not file.exists():
            write_json(file, {str(position): task for position, task in self._overlap(rows).items()})
        return {int(position): task for position, task in read_json(file).items()}

    def _overlap(self, rows: Sequence[ReadRow]) -> dict[int, str]:
        if self._index is None:
            self._index = self._build()
        found: dict[int, str] = {}
        for owners, words in in_batches(_texts(rows)):
            for hashes, text in _keys(words):
                positions, tasks = self._index.find(hashes)
                rows_found, first = np.unique(owners[text[positions]], return_index=True)
                for row, task in zip(rows_found.tolist(), tasks[first].tolist(), strict=True):
                    found.setdefault(row, self._tasks[task])
        return dict(sorted(found.items()))

    def _build(self) -> HashSet:
        hashes: list[Hashes] = []
        owners: list[Positions] = []
        for number, task in enumerate(self._tasks):
            for part in self._rows[task]:
                for _, words in in_batches(_texts(part)):
                    for keys, _ in _keys(words):
                        unique = np.unique(keys)
                        hashes.append(unique)
                        owners.append(np.full(len(unique), number))
        return HashSet(hashes, owners)


def _keys(words: Words) -> Iterator[tuple[Hashes, Positions]]:
    yield ngrams(words, RUN_WORDS)
    yield whole_texts(words, shortest=SHORTEST_TEXT, longest=RUN_WORDS - 1)


def _texts(rows: Sequence[ReadRow]) -> Iterator[tuple[int, str]]:
    """The texts of each row that can be long enough, with the row's position."""
    # Options that all rows have in common are the task's words, not text of a row.
    common = rows[0].options if len(rows) > 1 else ()
    own = len(rows) < 2
    for position, row in enumerate(rows):
        if not own and row.options != common:
            own = True
            yield from ((before, text) for before in range(position) for text in _long([common]))
        yield from ((position, text) for text in _long([row.columns, row.texts, row.options if own else ()]))


def _long(value: Any) -> list[str]:
    return [text for text in dict.fromkeys(texts_within(value)) if len(text) >= SHORTEST_TEXT]


def without_overlap(task: str, rows: Sequence[ReadRow], evaluated: EvaluatedText, ledger: Ledger) -> Sequence[ReadRow]:
    """The rows that share no run of words with evaluation; the others are counted in `ledger` (stage "overlap")."""
    overlap = evaluated.overlap(rows)
    for position, other in overlap.items():
        ledger.drop("overlap", task, rows[position].id, f"repeats text that {other} evaluates")
    ledger.keep("overlap", task, len(rows) - len(overlap))
    if not overlap:
        return rows
    clean = np.array([position for position in range(len(rows)) if position not in overlap], np.int64)
    return rows.choose(clean) if isinstance(rows, RowStore) else [rows[position] for position in clean]

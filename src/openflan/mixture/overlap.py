"""Tuning rows that repeat evaluation text word for word are taken out before the mixture is made."""

import hashlib
import re
from collections.abc import Iterable, Sequence

from openflan.ledger import Ledger
from openflan.rendering.render import ReadRow

MIN_WORDS = 8
"""Shorter texts (a label, a name, a stock phrase) coincide without being the same row."""

_WORD = re.compile(r"\w+")


def text_keys(row: ReadRow) -> set[bytes]:
    """One key for each column of the row that holds a text of at least MIN_WORDS words, case and punctuation aside."""
    keys: set[bytes] = set()
    for value in row.columns.values():
        for text in value if isinstance(value, list | tuple) else [value]:
            words = _WORD.findall(str(text).lower()) if isinstance(text, str) else []
            if len(words) >= MIN_WORDS:
                keys.add(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest())
    return keys


def evaluation_keys(rows: Iterable[ReadRow]) -> frozenset[bytes]:
    """The keys of all evaluation rows."""
    return frozenset(key for row in rows for key in text_keys(row))


def without_overlap(task: str, rows: Sequence[ReadRow], evaluation: frozenset[bytes], ledger: Ledger) -> list[ReadRow]:
    """The rows that share no long text with evaluation; the others are counted in `ledger` (stage "overlap")."""
    clean: list[ReadRow] = []
    for row in rows:
        if text_keys(row) & evaluation:
            ledger.drop("overlap", task, row.id, "a text of this row is also evaluated")
        else:
            clean.append(row)
    ledger.keep("overlap", task, len(clean))
    return clean

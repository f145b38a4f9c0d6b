"""Word n-grams of many texts as hashes, and a set of them that is asked for millions at a time.

Texts are lower-cased and cut into words, so case and punctuation play no part. Everything is vectorised: no text is
walked word by word in Python. Read next: `overlap.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

BATCH_CHARS = 4_000_000
"""Characters whose words are in memory at one time: some 150 MB of words and hashes."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of several texts, laid end to end."""

    hashes: Hashes
    """[num_words]"""
    text: Positions
    """[num_words]: which text a word is of"""
    lengths: Positions
    """[num_texts]: words in each text"""


_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[{_UNSPACED}]\p{{M}}*|[\w--[{_UNSPACED}]]+"
"""A word; of writing without spaces between words, a character."""


def split_words(texts: Sequence[str]) -> pl.Series:
    """The lower-case words of each text, in order: a series of lists. Composed and decomposed letters are the same."""
    series = pl.Series("text", texts, dtype=pl.String())
    other = (series.str.len_bytes() != series.str.len_chars()).arg_true()
    if len(other):
        series = series.scatter(other, series.gather(other).str.normalize("NFC"))
    return series.str.to_lowercase().str.extract_all(_WORD)


def words_of(texts: Sequence[str] | pl.Series) -> Words:
    """The words of each text as hashes, in order. Texts may also be given as `split_words` returns them."""
    lists = texts if isinstance(texts, pl.Series) else split_words(texts)
    lengths = lists.list.len().to_numpy().astype(np.int64)
    words = lists.filter(pl.Series(lengths > 0)).explode()
    hashes = words.hash(seed=1).to_numpy() if len(words) else np.zeros(0, np.uint64)
    return Words(hashes, np.repeat(np.arange(len(texts)), lengths), lengths)


def run_hashes(hashes: Hashes, n: int, starts: Positions | None = None) -> Hashes:
    """The hash of the run of `n` words from each of `starts`; without them, from every word with n - 1 behind it."""
    count = max(len(hashes) - n + 1, 0)
    runs = np.full(count if starts is None else len(starts), np.uint64(n))
    for offset in range(n):
        runs = runs * _BASE + (hashes[offset : offset + count] if starts is None else hashes[starts + offset])
    runs ^= runs >> np.uint64(31)
    runs *= _MIX
    runs ^= runs >> np.uint64(29)
    return runs


def starts_within(text: Positions, n: int) -> npt.NDArray[np.bool_]:
    """For every word with n - 1 behind it, whether the run of `n` words from it lies within one text."""
    return text[: max(len(text) - n + 1, 0)] == text[n - 1 :]


def ngrams(words: Words, n: int) -> tuple[Hashes, Positions]:
    """The hash of every run of `n` words that lies within one text, and the text it lies in."""
    within = starts_within(words.text, n)
    return run_hashes(words.hashes, n)[within], words.text[: len(within)][within]


def whole_texts(words: Words, *, shortest: int, longest: int) -> tuple[Hashes, Positions]:
    """The hash of every text of `shortest` to `longest` words as one run, and which text it is."""
    parts = [ngrams(_only(words, words.lengths == n), n) for n in range(shortest, longest + 1)]
    return np.concatenate([runs for runs, _ in parts]), np.concatenate([text for _, text in parts])


def _only(words: Words, texts: npt.NDArray[np.bool_]) -> Words:
    keep = texts[words.text]
    return Words(words.hashes[keep], words.text[keep], words.lengths)


def in_batches(texts: Iterable[tuple[int, str]]) -> Iterator[tuple[Positions, Words]]:
    """(owner, text) pairs as batches of bounded size: the owners of a batch's texts [num_texts], and its words."""
    owners: list[int] = []
    batch: list[str] = []
    chars = 0
    for owner, text in texts:
        owners.append(owner)
        batch.append(text)
        chars += len(text)
        if chars >= BATCH_CHARS:
            yield np.array(owners, np.int64), words_of(batch)
            owners, batch, chars = [], [], 0
    if batch:
        yield np.array(owners, np.int64), words_of(batch)


class HashSet:
    """A fixed set of hashes, each with the number of its owner (the first, where several have it)."""

    FILTER_BITS = 26

    def __init__(self, hashes: Sequence[Hashes], owners: Sequence[Positions]) -> None:
        everything = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        everyone = np.concatenate(owners) if owners else np.zeros(0, np.int64)
        self._hashes, first = np.unique(everything, return_index=True)
        self._owners = everyone[first].astype(np.int32)
        # Most questions are answered no by one look into this table, which costs a tenth of a binary search.
        self._filter = np.zeros(1 << self.FILTER_BITS, np.bool_)
        self._filter[self._bucket(self._hashes)] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, hashes: Hashes) -> tuple[Positions, npt.NDArray[np.int32]]:
        """Positions in `hashes` of those in the set, ascending, and their owners."""
        if not len(self._hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        maybe = np.flatnonzero(self._filter[self._bucket(hashes)])
        asked = hashes[maybe]
        places = np.minimum(np.searchsorted(self._hashes, asked), len(self._hashes) - 1)
        found = self._hashes[places] == asked
        return maybe[found], self._owners[places[found]]

    def _bucket(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        return (hashes >> np.uint64(64 - self.FILTER_BITS)).astype(np.int64)

"""Evaluated text in a corpus: which runs of words are looked for, where they stand, and which rows they make dirty.

Takes the rows of evaluated tasks and the blocks of a corpus; gives each row's verdict under two rules, and the places.

`paper`: a row is dirty if any n-gram of it occurs in the corpus, n being the 5th percentile of the row lengths of its
dataset in words, at least 8 and at most 13 (GPT-3's rule, which FLAN's appendix follows). A row of 8 to n - 1 words is
one run. `strict`: any run of 8 words, and whole rows of 4 to 7 words.

A row is its texts one after the other: the columns that its templates show, save single words, options of its own, and
right answers that are texts. Case and punctuation play no part. Read next: `../studies/contamination.py`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from openflan.catalog.task import Task
from openflan.mixture.ngrams import (
    BATCH_CHARS,
    Hashes,
    HashSet,
    Positions,
    Words,
    run_hashes,
    split_words,
    starts_within,
    words_of,
)
from openflan.rendering.environment import variables
from openflan.rendering.render import ReadRow
from openflan.sources.corpus import Block

Rule = Literal["paper", "strict"]
RULES: tuple[Rule, ...] = ("paper", "strict")
SHORTEST_RUN, LONGEST_RUN = 8, 13
"""Bounds of n under the rule `paper` (Brown et al. 2020, appendix C)."""
STRICT_RUN = SHORTEST_RUN
SHORTEST_ROW = 4
"""Words of the shortest row that is looked for as a whole under the rule `strict`."""
PERCENTILE = 5
PLACES_KEPT = 3
"""Places in the corpus that are remembered for each run of words."""
SPANS_KEPT = 3
"""Stretches of a row that are shown for each rule."""
OPTION, ANSWER, ACROSS = "option", "answer", "across"
"""Names of what a run lies in beside the columns' own: one of the options, an answer, or more than one text."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowWords:
    """Some rows of a task as words: R rows, W words, P names of texts."""

    rows: range
    """Their places in the task's rows."""
    words: Words
    """`text` is the row, from 0"""
    part: Positions
    """[W]: which of `parts` a word is of"""
    piece: Positions
    """[W]: which text a word is of; options are texts of their own"""
    parts: tuple[str, ...]
    spelled: pl.Series
    """[W]"""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was found of some rows: R rows."""

    dirty: Mapping[Rule, Bools]
    """[R] each"""
    coverage: npt.NDArray[np.float64]
    """[R]: share of a row's words that lie in a run found in the corpus (rule `strict`)"""
    lengths: Positions
    """[R], in words"""
    where: Mapping[Rule, Counter[str]]
    """Rows by where in them a run was found; a row counts once for each place."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One stretch of a row that is in the corpus, and one of the places where its first run is."""

    row: int
    """Its place in the task's rows."""
    rule: Rule
    part: str
    """The text of the row that the stretch lies in, or `ACROSS`."""
    ngram: str
    """The stretch's first run of words."""
    span: str
    """The whole stretch; it need not be in one piece in the corpus."""
    count: int
    """Occurrences of the n-gram in all corpora."""
    part_number: int
    """Of the file, as it was given to `Found`."""
    line: int


def row_words(task: Task, rows: Sequence[ReadRow]) -> Iterator[RowWords]:
    """The task's rows as words, in batches of bounded size."""
    columns = shown_columns(task)
    own_options = isinstance(task.answer.options, str)
    parts = (*columns, OPTION, ANSWER, ACROSS)
    texts: list[str] = []
    owners: list[int] = []
    labels: list[int] = []
    first = chars = 0
    for place, row in enumerate(rows):
        seen: set[str] = set()
        for label, text in _row_texts(row, columns, own_options=own_options):
            if text not in seen:  # an answer that a column shows too is no second text
                seen.add(text)
                texts.append(text)
                owners.append(place - first)
                labels.append(parts.index(label))
                chars += len(text)
        if chars >= BATCH_CHARS or place == len(rows) - 1:
            yield _row_batch(range(first, place + 1), texts, np.array(owners, np.int64), np.array(labels), parts)
            texts, owners, labels, first, chars = [], [], [], place + 1, 0


def shown_columns(task: Task) -> tuple[str, ...]:
    """The columns that some direct template shows, in the task's order.

    Values of a single word (a kind of question, a label) are left out of the row: no corpus has them between its texts.
    """
    used = frozenset[str]().union(*(variables(template.inputs) for template in task.of_kind("direct")))
    return tuple(name for name in task.columns if name in used)


def _row_texts(row: ReadRow, columns: Sequence[str], *, own_options: bool) -> Iterator[tuple[str, str]]:
    for name in columns:
        value = row.columns[name]
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, str) and len(item.split()) > 1:
                yield name, item
    if own_options:
        yield from ((OPTION, option) for option in row.options)
    yield from ((ANSWER, text) for text in row.texts)


def _row_batch(
    rows: range, texts: Sequence[str], owners: Positions, labels: Positions, parts: tuple[str, ...]
) -> RowWords:
    lists = split_words(texts)
    words = words_of(lists)
    spelled = lists.filter(lists.list.len() > 0).explode()
    row = owners[words.text] if len(words.text) else np.zeros(0, np.int64)
    lengths = np.bincount(row, minlength=len(rows)).astype(np.int64)
    part = labels[words.text] if len(words.text) else np.zeros(0, np.int64)
    return RowWords(rows, Words(words.hashes, row, lengths), part, words.text, parts, spelled)


def run_length(lengths: Positions) -> int:
    """n of the rule `paper`, for a dataset whose rows have these numbers of words.

    >>> run_length(np.array([30] * 99 + [2])), run_length(np.array([9] * 10 + [40] * 90)), run_length(np.array([3]))
    (13, 9, 8)
    """
    percentile = int(np.percentile(lengths, PERCENTILE, method="lower")) if len(lengths) else 0
    return min(max(percentile, SHORTEST_RUN), LONGEST_RUN)


def looked_for(words: Words, n: int) -> Iterator[tuple[tuple[Rule, ...], int, Positions]]:
    """Every run that decides about a row: (the rules it counts for, its length, its first words [K])."""
    runs = np.flatnonzero(starts_within(words.text, STRICT_RUN))
    yield ("paper", "strict") if n == STRICT_RUN else ("strict",), STRICT_RUN, runs
    if n != STRICT_RUN:
        yield ("paper",), n, np.flatnonzero(starts_within(words.text, n))
    starts = np.cumsum(words.lengths) - words.lengths
    for length in range(SHORTEST_ROW, n):
        rule: Rule = "strict" if length < SHORTEST_RUN else "paper"
        yield (rule,), length, starts[words.lengths == length]


class Wanted:
    """All runs of words that are looked for in a corpus."""

    def __init__(self, hashes: Hashes, sizes: Sequence[int]) -> None:
        """`hashes`: distinct and ascending. `sizes`: the lengths of the runs among them."""
        self.hashes = hashes
        self._set = HashSet([hashes], [np.arange(len(hashes))])
        self._anchored = tuple(size for size in sizes if size > STRICT_RUN)
        self._others = tuple(size for size in sizes if size <= STRICT_RUN)

    def find(self, words: Hashes, document: Positions) -> Iterator[tuple[int, Positions, Positions]]:
        """(length, starts, numbers of the runs) for each length, over words [W] and the document each is of [W]."""
        strict = np.zeros(0, np.int64)
        for size in self._others:
            starts = np.flatnonzero(starts_within(document, size))
            found, numbers = self._set.find(run_hashes(words, size)[starts])
            yield size, starts[found], numbers.astype(np.int64)
            if size == STRICT_RUN:
                strict = starts[found]
        # A longer run can only stand where its first eight words do, and these are looked for too.
        for size in self._anchored:
            starts = strict[strict + size <= len(words)]
            starts = starts[document[starts] == document[starts + size - 1]]
            found, numbers = self._set.find(run_hashes(words, size, starts))
            yield size, starts[found], numbers.astype(np.int64)


FOUND_SCHEMA: dict[str, pl.DataType] = {
    "run": pl.Int64(),
    "count": pl.Int64(),
    "part": pl.List(pl.Int64()),
    "line": pl.List(pl.Int64()),
}
"""Runs found: number, occurrences, and the first places (part of the corpus and line, side by side)."""
_MOST_PENDING = 2_000_000


class Found:
    """Runs found so far; places are kept in the order in which they were added."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self._pending = 0

    def add(self, frame: pl.DataFrame, *, part: int = 0, lines_before: int = 0) -> None:
        """More runs found; `frame` has the columns of `FOUND_SCHEMA`, all its places in one part.

        `part`: the number to give that part. `lines_before`: lines of the same file that stand before it.
        """
        if part or lines_before:
            numbered = pl.element() * 0 + part
            frame = frame.with_columns(
                pl.col("part").list.eval(numbered), pl.col("line").list.eval(pl.element() + lines_before)
            )
        if not frame.is_empty():
            self._frames.append(frame)
            self._pending += frame.height
            if self._pending > _MOST_PENDING:
                self.frame()

    def frame(self) -> pl.DataFrame:
        """One row for each run, ascending."""
        if not self._frames:
            return pl.DataFrame(schema=FOUND_SCHEMA)
        places = (pl.col(name).explode().head(PLACES_KEPT) for name in ("part", "line"))
        joined = pl.concat(self._frames).group_by("run").agg(pl.col("count").sum(), *places).sort("run")
        self._frames, self._pending = [joined], 0
        return joined


class Scan:
    """Looks for runs of words in the blocks of one part of a corpus, in order."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._words, self._document, self._line = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._found = Found()
        self.num_words = 0
        """Words of the part, those that belong to the next one left out."""

    def add(self, block: Block) -> None:
        """The next block."""
        words = words_of(block.texts)
        carried = len(self._words)
        hashes = np.concatenate([self._words, words.hashes])
        document = np.concatenate([self._document, np.array(block.documents, np.int64)[words.text]])
        line = np.concatenate([self._line, np.array(block.lines, np.int64)[words.text]])
        self.num_words += int((line[carried:] > 0).sum())
        for size, starts, numbers in self._wanted.find(hashes, document):
            # What ends among the carried words was found with the block before.
            new = (starts + size > carried) & (line[starts] > 0)
            self._found.add(_places(numbers[new], line[starts[new]]))
        keep = slice(max(len(hashes) - (LONGEST_RUN - 1), 0), None)
        self._words, self._document, self._line = hashes[keep], document[keep], line[keep]

    def frame(self) -> pl.DataFrame:
        """What was found; every place is in part 0, the only one there is here."""
        return self._found.frame()


def _places(numbers: Positions, lines: Positions) -> pl.DataFrame:
    frame = pl.DataFrame({"run": numbers, "line": lines}, schema={"run": pl.Int64(), "line": pl.Int64()})
    firsts = (pl.col(name).head(PLACES_KEPT) for name in ("part", "line"))
    counted = frame.with_columns(pl.lit(0, pl.Int64()).alias("part")).group_by("run")
    return counted.agg(pl.len().cast(pl.Int64).alias("count"), *firsts)


def wanted_hashes(batch: RowWords, n: int) -> Iterator[tuple[int, Hashes]]:
    """The hashes of every run looked for, by length."""
    for _, size, starts in looked_for(batch.words, n):
        if len(starts):
            yield size, np.unique(run_hashes(batch.words.hashes, size, starts))


class Judge:
    """Decides which rows are dirty, from what was found in the corpora."""

    def __init__(self, hashes: Hashes, found: pl.DataFrame) -> None:
        """`hashes`: those of `Wanted`; `found` has the columns of `FOUND_SCHEMA`."""
        self._hashes = hashes
        self._frame = found
        self._row_of = np.full(len(hashes), -1, np.int64)
        self._row_of[found["run"].to_numpy()] = np.arange(found.height)

    def judge(self, batch: RowWords, n: int) -> tuple[Verdicts, list[Hit]]:
        """Verdicts for a batch's rows, and where what was found of them is."""
        words, num_rows = batch.words, len(batch.rows)
        covered = np.zeros(len(words.hashes) + 1, np.int64)
        starts_of: dict[Rule, list[tuple[int, Positions, Positions]]] = {rule: [] for rule in RULES}
        for rules, size, starts in looked_for(words, n):
            places = self._row_of[np.searchsorted(self._hashes, run_hashes(words.hashes, size, starts))]
            there = places >= 0
            starts, places = starts[there], places[there]
            for rule in rules:
                starts_of[rule].append((size, starts, places))
            np.add.at(covered, starts, 1)
            np.add.at(covered, starts + size, -1)
        inside = np.cumsum(covered)[:-1] > 0
        share = np.bincount(words.text[inside], minlength=num_rows) / np.maximum(words.lengths, 1)
        dirty: dict[Rule, Bools] = {}
        where: dict[Rule, Counter[str]] = {}
        hits: list[Hit] = []
        for rule in RULES:
            dirty[rule] = np.zeros(num_rows, np.bool_)
            pairs: list[Positions] = []
            for size, starts, _ in starts_of[rule]:
                dirty[rule][words.text[starts]] = True
                pairs.append(words.text[starts] * len(batch.parts) + self._label(batch, starts, size))
            labels = np.unique(np.concatenate(pairs)) % len(batch.parts)
            where[rule] = Counter(batch.parts[label] for label in labels.tolist())
            hits += self._hits(batch, rule, starts_of[rule])
        return Verdicts(dirty, share, words.lengths, where), hits

    @staticmethod
    def _label(batch: RowWords, starts: Positions, size: int) -> Positions:
        alone = batch.piece[starts] == batch.piece[starts + size - 1]
        return np.where(alone, batch.part[starts], batch.parts.index(ACROSS))

    def _hits(self, batch: RowWords, rule: Rule, found: Sequence[tuple[int, Positions, Positions]]) -> Iterator[Hit]:
        sizes = np.concatenate([np.full(len(starts), size) for size, starts, _ in found])
        starts = np.concatenate([starts for _, starts, _ in found])
        places = np.concatenate([places for _, _, places in found])
        order = np.argsort(starts, kind="stable")
        sizes, starts, places = sizes[order], starts[order], places[order]
        row = batch.words.text[starts]
        # A stretch goes on while the next run begins at the next word of the same row.
        opens = np.flatnonzero(np.r_[True, (np.diff(starts) > 1) | (np.diff(row) > 0)]) if len(starts) else row
        closes = np.r_[opens[1:], len(starts)] - 1 if len(starts) else row
        shown: Counter[int] = Counter()
        for opened, closed in zip(opens.tolist(), closes.tolist(), strict=True):
            number = int(row[opened])
            shown[number] += 1
            if shown[number] > SPANS_KEPT:
                continue
            start, size, end = int(starts[opened]), int(sizes[opened]), int(starts[closed] + sizes[closed])
            _, count, parts, lines = self._frame.row(int(places[opened]))
            label = int(self._label(batch, np.array([start]), end - start)[0])
            span = batch.spelled[start:end].to_list()
            for part_number, line in zip(parts, lines, strict=True):
                yield Hit(
                    row=batch.rows[number],
                    rule=rule,
                    part=batch.parts[label],
                    ngram=" ".join(span[:size]),
                    span=" ".join(span),
                    count=count,
                    part_number=part_number,
                    line=line,
                )

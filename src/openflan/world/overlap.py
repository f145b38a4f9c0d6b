"""Checks that pretraining text and tasks keep apart: `python -m openflan.world.overlap --documents 60000`.

Over documents from the generator that pretraining itself uses, it looks for

- evaluation rows: a row occurs if one document holds all its texts of four tokens and more (passage, claim, question),
  each word for word and in one piece;
- stated, denied or asked facts of the evaluation and tuning realms, in any of their sentence forms;
- questions about knowledge kept for evaluation;
- pieces of task templates: four words in a row, except those that the patterns of the language itself contain.

It also lists words of templates that the text has too rarely to be learned. Documents are read once; look-ups are by
hash.
"""

import argparse
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openflan.errors import SourceError
from openflan.world import language as lang
from openflan.world import rows as task_rows
from openflan.world.language import Realm
from openflan.world.text import STAGES, Patterns, document
from openflan.world.tokenizer import TASKS_FOLDER, template_pieces, template_words, tokens

__all__ = ["Findings", "check", "main"]

PIECE = 4
"""Words in a row of a template that must not occur in the text."""

_PATTERNS: tuple[Patterns, ...] = ("short", "exercises")
"""With each of these the text is read; without patterns it is a part of the first."""

RARE = 20e-6
"""Share of the tokens under which a template word counts as rare."""


@dataclass(frozen=True)
class Findings:
    """What a check found. Empty collections mean that text and tasks keep apart."""

    documents: int
    tokens: int
    facts: dict[str, int] = field(default_factory=dict[str, int])
    """Sentence about a fact of another realm -> occurrences."""
    asked: dict[str, int] = field(default_factory=dict[str, int])
    """Question about knowledge kept for evaluation -> occurrences."""
    rows: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(task generator, row text) of evaluation rows that occur."""
    pieces: dict[str, int] = field(default_factory=dict[str, int])
    """Piece of a task template -> occurrences."""
    rare_words: dict[str, int] = field(default_factory=dict[str, int])
    """Template word that is rare -> occurrences."""

    @property
    def clean(self) -> bool:
        """Whether nothing leaks (rare words are no leak)."""
        return not (self.facts or self.asked or self.rows or self.pieces)


def _sentence_index(sentences: Iterable[str]) -> dict[str, str]:
    """Token text of a sentence -> the sentence."""
    return {" ".join(tokens(sentence)): sentence for sentence in sentences}


def _fact_sentences(realm: Realm) -> Iterator[str]:
    """Every statement, denial and yes-or-no question of every fact of a realm."""
    for name, relation in lang.RELATIONS.items():
        patterns = (*relation.statements, *relation.denials, *relation.yes_no_questions)
        for subject in relation.subjects:
            for value in relation.values:
                if lang.realm_of(name, subject, value) is realm:
                    yield from (pattern.format(s=subject, v=value) for pattern in patterns)


def _knowledge_questions() -> Iterator[str]:
    """Every question about a line of a table kept for evaluation."""
    for known in lang.known_facts(Realm.EVALUATION):
        yield from (pattern.format(s=known.subject, v="") for pattern in known.table.questions)
        if known.table.invertible:
            yield from (pattern.format(s="", v=known.value) for pattern in known.table.inverse_questions)


def _parts(text: str) -> list[str]:
    """The sentences of a text (split after full stops, question marks and line breaks), as token texts."""
    parts: list[str] = []
    current: list[str] = []
    for token in tokens(text):
        if token not in {"\n", "<eos>", '"'}:
            current.append(token)
        if token in {".", "?", "!", "\n", "<eos>", ":"} and current:
            parts.append(" ".join(current))
            current = []
    if current:
        parts.append(" ".join(current))
    return parts


def _row_texts(row: Mapping[str, Any]) -> list[str]:
    """The texts of a row that its prompt shows: passage, claim, question (not options, which every text may name)."""
    hidden = {"label", "facts", "about", "options", "choices", "answer", "target"}
    return [value for key, value in row.items() if key not in hidden and isinstance(value, str)]


def _row_keys(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The token texts of a row, those of four tokens and more; empty if the whole row is a single sentence."""
    texts = tuple(" ".join(tokens(text)) for text in _row_texts(row) if len(tokens(text)) >= PIECE)
    return texts if sum(len(_parts(text)) for text in texts) >= 2 else ()


def _template_grams(folder: Path) -> dict[tuple[str, ...], str]:
    """Every piece of template text, `PIECE` words long, that the language's own patterns do not contain."""
    own = {gram for pattern in _own_patterns() for gram in _grams(tokens(pattern))}
    grams: dict[tuple[str, ...], str] = {}
    for task, piece in template_pieces(folder):
        for line in piece.split("\n"):
            for gram in _grams(tokens(line)):
                if gram not in own:
                    grams[gram] = task
    return grams


def _grams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for start in range(len(words) - PIECE + 1):
        gram = tuple(words[start : start + PIECE])
        if all(word.isalpha() for word in gram):
            yield gram


def _own_patterns() -> Iterator[str]:
    for relation in lang.RELATIONS.values():
        for patterns in (relation.statements, relation.denials, relation.wh_questions, relation.inverse_questions,
                         relation.yes_no_questions):  # fmt: skip
            yield from patterns
    for table in lang.TABLES.values():
        yield from (*table.statements, *table.denials, *table.questions, *table.inverse_questions)


def evaluation_rows(seeds: Sequence[int], count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(generator, row) of dev and test rows of every task, `count` of each split or fewer if there are not so many."""
    for generator in task_rows.GENERATORS:
        for seed in seeds:
            for split in ("dev", "test"):
                yield from ((generator, row) for row in _at_most(generator, split, count, seed))


def _at_most(generator: str, split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows, or half as many (again and again) where the generator has not got so many different ones."""
    while count:
        try:
            return task_rows.generate(generator, split, count, seed)
        except SourceError:
            count //= 2
    return []


def check(documents: int, seed: int = 0, row_seeds: Sequence[int] = (0,), rows_per_split: int = 60,
          folder: Path = TASKS_FOLDER) -> Findings:  # fmt: skip
    """Makes `documents` documents of the full stage (and a quarter as many of the others) and looks for everything.

    Args:
        seed: of the documents; any seed stands for the endless stream that pretraining reads.
        row_seeds: seeds of the evaluation rows.
        rows_per_split: rows of each task from dev and from test.
    """
    forbidden_facts = _sentence_index(
        sentence for realm in (Realm.TUNING, Realm.EVALUATION) for sentence in _fact_sentences(realm)
    )
    forbidden_questions = _sentence_index(_knowledge_questions())
    grams = _template_grams(folder)
    by_sentence: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for generator, row in evaluation_rows(row_seeds, rows_per_split):
        if keys := _row_keys(row):
            by_sentence.setdefault(max(_parts(max(keys, key=len)), key=len), []).append((keys, generator))
    counts: Counter[str] = Counter()
    facts: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    pieces: Counter[str] = Counter()
    found: set[tuple[str, str]] = set()
    for patterns, stage in itertools.product(_PATTERNS, STAGES):
        rng = random.Random(f"overlap {patterns} {stage} {seed}")
        for _ in range(documents if stage == "full" else documents // 4):
            text = document(rng, stage, patterns=patterns).text
            words = tokens(text)
            counts.update(words)
            for gram in _grams(words):
                if gram in grams:
                    pieces[" ".join(gram)] += 1
            sentences = set(_parts(text))
            for part in sentences:
                if part in forbidden_facts:
                    facts[forbidden_facts[part]] += 1
                if part in forbidden_questions:
                    asked[forbidden_questions[part]] += 1
                for keys, generator in by_sentence.get(part, ()):
                    whole = " ".join(words)
                    if all(key in whole for key in keys):
                        found.add((generator, " / ".join(keys)))
    total = sum(counts.values())
    rare = {word: counts[word] for word in sorted(template_words(folder)) if counts[word] < total * RARE}
    return Findings(documents, total, dict(facts), dict(asked), sorted(found), dict(pieces), rare)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 1 if anything leaks."""
    parser = argparse.ArgumentParser(description="Check that pretraining text and world tasks keep apart.")
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=60, help="rows of each task per split")
    chosen = parser.parse_args(arguments)
    findings = check(chosen.documents, chosen.seed, chosen.row_seeds, chosen.rows)
    report = [f"{findings.documents} documents, {findings.tokens} tokens"]
    for title, entries in (
        ("facts of other realms", findings.facts),
        ("questions kept for evaluation", findings.asked),
        ("evaluation rows", findings.rows),
        ("template pieces", findings.pieces),
        ("rare template words", findings.rare_words),
    ):
        report += [f"{title}: {len(entries)}", *(f"  {entry}" for entry in list(entries)[:20])]
    sys.stdout.write("\n".join(report) + "\n")
    return 0 if findings.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
